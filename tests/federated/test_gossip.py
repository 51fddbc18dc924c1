"""Gossip: nodes average with the given weights. A listener learns only what the equations determine."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from conftest import client, images, mlp, psnr, sigmoid_cnn
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import leakgauge as lg
from leakgauge.analytic.overhearing import View, estimate
from leakgauge.attacks import LinearLayer
from leakgauge.core import trainable
from leakgauge.federated.aggregation.vectors import flat, shaped
from leakgauge.federated.clients.gossip import Gossip, circulant, distances, metropolis

SEEDS = lg.Seeds(0)
GRAPHS = [(2, 1), (3, 2), (8, 2), (8, 4), (8, 3), (5, 4)]


def error(seen: lg.Observation, batch: lg.Batch) -> float:
    """Return the relative error of the computed gradient, at the computed model."""
    owner = client(nn.Identity())
    true = flat(owner.training(seen.model, owner.loss, batch.inputs, batch.targets))
    return float((flat(seen.update.tensors) - true).norm() / true.norm())


class TestGraphs:
    @pytest.mark.parametrize(("nodes", "degree"), GRAPHS)
    def test_regular_connected_and_mixing_to_the_mean(self, nodes: int, degree: int) -> None:
        joined = circulant(nodes, degree)
        assert joined.sum(1).tolist() == [degree] * nodes
        assert torch.equal(joined, joined.T)
        assert min(distances(joined, 0)) == 0
        weights = metropolis(joined)
        assert torch.allclose(weights, weights.T)
        assert torch.allclose(weights.sum(1), torch.ones(nodes, dtype=torch.float64))
        assert (weights.diagonal() > 0).all()
        values = torch.arange(nodes, dtype=torch.float64)
        mixed = torch.linalg.matrix_power(weights, 500) @ values
        assert torch.allclose(mixed, values.mean().expand(nodes))

    def test_weights_of_an_irregular_graph(self) -> None:
        """In a star of four nodes, the center's weight for each leaf is 1 / (1 + 3)."""
        joined = torch.zeros((4, 4), dtype=torch.bool)
        joined[0, 1:] = joined[1:, 0] = True
        weights = metropolis(joined)
        assert weights[0].tolist() == [0.25] * 4
        assert weights[1].tolist() == [0.25, 0.75, 0, 0]
        assert distances(joined, 1) == [1, 0, 2, 2]

    @pytest.mark.parametrize(("nodes", "degree"), [(8, 0), (8, 8), (7, 3), (4, 1), (1, 1)])
    def test_graphs_that_there_are_not(self, nodes: int, degree: int) -> None:
        with pytest.raises(lg.SpecificationError, match="connected graph") as caught:
            circulant(nodes, degree)
        assert "\n" not in str(caught.value)


class TestTraining:
    def test_equals_the_rounds_written_out(self) -> None:
        model, joined = sigmoid_cnn(), circulant(4, 2)
        batches = [images(2, seed=i) for i in range(4)]
        happened = Gossip(joined, 0.1).run(client(model), model, batches, rounds=3, seeds=SEEDS)
        weights, owner = metropolis(joined), client(model)
        states = [flat(trainable(model)) for _ in range(4)]
        for t in range(3):
            sent = []
            for i, (state, batch) in enumerate(zip(states, batches, strict=True)):
                twin = copy.deepcopy(model)
                nn.utils.vector_to_parameters(state, twin.parameters())
                owner.loss(twin(batch.inputs), batch.targets).backward()
                assert torch.allclose(happened.models[t, i], state, atol=1e-6)
                gradients = [p.grad for p in twin.parameters() if p.grad is not None]
                sent.append(state - 0.1 * torch.cat([g.flatten() for g in gradients]))
                assert torch.allclose(happened.messages[t, i], sent[-1], atol=1e-6)
            mixed = weights.float() @ torch.stack(sent)
            states = list(mixed)

    def test_leaves_the_model_as_it_was(self) -> None:
        model = sigmoid_cnn()
        before = flat(trainable(model)).clone()
        Gossip(circulant(2, 1), 1.0).run(
            client(model), model, [images(1), images(1, seed=1)], rounds=2, seeds=SEEDS
        )
        assert torch.equal(flat(trainable(model)), before)

    def test_vectors_go_back_and_forth(self) -> None:
        like = trainable(sigmoid_cnn())
        for name, tensor in shaped(flat(like), like).items():
            assert torch.equal(tensor, like[name])


def linear_view(
    nodes: int, degree: int, *, start: int, rounds: int, drift: float, size: int = 400
) -> tuple[View, Tensor, Tensor]:
    """Simulate a gossip with random, drifting steps in float64.

    Returns:
        The view of node 0, and the models and steps (T, N, d) of all nodes.
    """
    generator = torch.Generator().manual_seed(nodes + degree)
    joined = circulant(nodes, degree)
    mixing = metropolis(joined)
    step = torch.randn((nodes, size), generator=generator, dtype=torch.float64)
    state = torch.randn(size, generator=generator, dtype=torch.float64).expand(nodes, -1)
    models, steps = [], []
    for _ in range(start + rounds):
        models.append(state)
        steps.append(step)
        state = mixing @ (state - step)
        noise = torch.randn((nodes, size), generator=generator, dtype=torch.float64)
        step = step + drift * noise
    x, h = torch.stack(models), torch.stack(steps)
    neighbors = tuple(joined[0].nonzero().flatten().tolist())
    sent = (x - h)[start:]
    own = x[start:, 0], sent[:, 0]
    return View(mixing, 0, neighbors, x[0, 0], *own, sent[:, list(neighbors)], start), x, h


class TestOverhearing:
    @given(
        st.sampled_from(GRAPHS),
        st.integers(1, 5),
        st.sampled_from([0.0, 0.3]),
        st.sampled_from([0, 2]),
    )
    @settings(max_examples=25, deadline=None)
    def test_what_is_called_certain_is_true(
        self, graph: tuple[int, int], rounds: int, drift: float, start: int
    ) -> None:
        nodes, degree = graph
        view, x, h = linear_view(nodes, degree, start=start, rounds=rounds, drift=drift)
        for victim in range(1, nodes):
            found = estimate(view, victim)
            assert 0 <= found.uncertainty <= 1
            if found.uncertainty < 1e-4:
                true = h[found.round, victim]
                assert (found.step - true).norm() < 1e-2 * true.norm()
                assert torch.allclose(found.model, x[found.round, victim], atol=1e-2)

    @pytest.mark.parametrize(("nodes", "degree"), GRAPHS)
    def test_from_the_start_neighbors_are_certain_at_any_degree(
        self, nodes: int, degree: int
    ) -> None:
        view, _, h = linear_view(nodes, degree, start=0, rounds=3, drift=0.5)
        for victim in view.neighbors:
            found = estimate(view, victim)
            assert found.uncertainty < 1e-4
            assert torch.allclose(found.step, h[found.round, victim], atol=1e-3)

    def test_who_hears_all_knows_all_at_any_time(self) -> None:
        view, _, h = linear_view(5, 4, start=6, rounds=3, drift=0.5)
        found = estimate(view, 2)
        assert found.uncertainty < 1e-4
        # In the first round that is heard, the model before the step is unknown.
        assert found.round >= 7
        assert torch.allclose(found.step, h[found.round, 2], atol=1e-3)

    def test_two_hops_away_steady_steps_are_told_and_moving_ones_worse(self) -> None:
        wrong = []
        for drift in (0.0, 0.05, 0.5):
            view, _, h = linear_view(8, 2, start=0, rounds=6, drift=drift)
            found = estimate(view, 2)
            true = h[found.round, 2]
            wrong.append(float((found.step - true).norm() / true.norm()))
        assert wrong[0] < 1e-2
        assert wrong[0] < wrong[1] < wrong[2]

    def test_late_and_partly_deaf_moving_steps_are_not_certain(self) -> None:
        view, _, h = linear_view(8, 2, start=6, rounds=8, drift=0.5)
        found = estimate(view, 1)
        true = h[found.round, 1]
        assert found.uncertainty > 0.1
        # The stated uncertainty is close to the real error.
        wrong = float((found.step - true).norm() / true.norm())
        assert 0.3 * wrong < found.uncertainty < 3 * wrong

    def test_where_nothing_moves_nothing_breaks(self) -> None:
        view, _, h = linear_view(4, 2, start=0, rounds=2, drift=0.0)
        still = replace(
            view,
            own_models=view.initial.expand(2, -1),
            own_messages=view.initial.expand(2, -1),
            heard=view.initial.expand(2, 2, -1),
        )
        found = estimate(still, 1)
        assert torch.equal(found.step, torch.zeros_like(h[0, 1]))
        assert torch.equal(found.model, view.initial)


class TestNeighbor:
    @pytest.mark.parametrize(("nodes", "degree"), [(2, 1), (8, 2), (8, 4)])
    def test_from_the_start_it_reads_its_neighbors(self, nodes: int, degree: int) -> None:
        batch = images(2)
        threat = lg.Neighbor(nodes=nodes, degree=degree, listening=2)
        seen = threat.observe(client(mlp(width=96)), batch, seeds=SEEDS)
        assert error(seen, batch) < 1e-3
        guess = LinearLayer()(seen, seeds=SEEDS)
        assert psnr(batch.inputs, guess.inputs).min() > 30

    def test_joining_late_a_pair_still_reads_and_a_ring_does_not(self) -> None:
        batch, wrong = images(1), []
        for nodes, degree in ((2, 1), (8, 2)):
            threat = lg.Neighbor(nodes=nodes, degree=degree, start=3, listening=4)
            wrong.append(error(threat.observe(client(mlp()), batch, seeds=SEEDS), batch))
        assert wrong[0] < 1e-3
        assert wrong[1] > 0.1

    def test_the_model_observed_is_the_victim_s_at_that_round(self) -> None:
        owner, batch = client(mlp()), images(1)
        seen = lg.Neighbor(nodes=2, degree=1, start=3, listening=3).observe(
            owner, batch, seeds=SEEDS
        )
        first = flat(trainable(owner.model))
        assert not torch.allclose(flat(trainable(seen.model)), first, atol=1e-6)
        assert seen.update.kind == "gradient"
        assert seen.batch_size == 1

    def test_bystanders_may_be_given(self) -> None:
        owner, batch = client(mlp()), images(1)
        given = lg.Neighbor(nodes=4, hops=2, listening=3, bystanders=images(6, seed=3))
        random = replace(given, bystanders=None)
        one, other = (t.observe(owner, batch, seeds=SEEDS).update.tensors for t in (given, random))
        assert any(not torch.equal(one[name], other[name]) for name in one)

    @pytest.mark.parametrize(
        ("threat", "match"),
        [
            (lg.Neighbor(nodes=8, degree=4, hops=3), "threat.hops: expected at most 2"),
            (lg.Neighbor(nodes=8, degree=1), "degree 1 needs exactly 2"),
            (lg.Neighbor(bystanders=images(6)), "each of 7 nodes; found 6"),
        ],
    )
    def test_networks_that_cannot_be(self, threat: lg.Neighbor, match: str) -> None:
        with pytest.raises(lg.UserError, match=match) as caught:
            threat.observe(client(mlp()), images(1), seeds=SEEDS)
        assert "\n" not in str(caught.value)

    def test_training_of_several_steps_is_refused(self) -> None:
        class Delta(lg.FedSGD):
            @property
            def kind(self) -> str:  # type: ignore[override]
                return "delta"

        owner = replace(client(mlp()), training=Delta())
        with pytest.raises(lg.SpecificationError, match="one gradient in each round"):
            lg.Neighbor().observe(owner, images(1), seeds=SEEDS)

    def test_same_seed_same_observation(self) -> None:
        threat = lg.Neighbor(nodes=4, hops=2, start=1, listening=3)
        one, other = (threat.observe(client(mlp()), images(1), seeds=SEEDS) for _ in range(2))
        for name, tensor in one.update.tensors.items():
            assert torch.equal(tensor, other.update.tensors[name])
