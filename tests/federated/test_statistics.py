"""BatchNorm in train mode: what running statistics reveal of a batch, who sees them, and how a search uses them."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch
from conftest import client, images, mlp, trained
from torch import Tensor, nn

import leakgauge as lg
from leakgauge import attacks
from leakgauge.audit import Source, parse
from leakgauge.audit.resolve import resolve
from leakgauge.federated.layers.statistics import (
    Moments,
    average_statistics,
    batch_statistics,
    middle,
)
from leakgauge.inversion import (
    L2,
    LBFGS,
    BatchStatistics,
    Candidate,
    Cosine,
    Direct,
    GradientMatching,
    Known,
    LeastSquares,
)
from leakgauge.inversion.evaluation.step import DoubleBackward, ForwardOverReverse
from leakgauge.inversion.search.restart import Restart
from leakgauge.inversion.simulation.simulator import simulator

SEEDS = lg.Seeds(0)


def normed(momentum: float | None = 0.1, *, seed: int = 0, train: bool = True) -> nn.Module:
    """Return a network with two BatchNorm layers whose running statistics come from other data."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4, momentum=momentum),
            nn.Sigmoid(),
            nn.Conv2d(4, 4, 3, stride=2),
            nn.BatchNorm2d(4, momentum=momentum),
            nn.Sigmoid(),
            nn.Flatten(),
            nn.Linear(16, 4),
        ).train()
        for _ in range(3):
            model(torch.rand(5, 1, 8, 8))
    return model.train(train)


def inputs_of_layers(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Return the input of each BatchNorm layer, recorded by hooks."""
    twin, seen = copy.deepcopy(model), {}
    for name, layer in twin.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x[0]}))
    with torch.no_grad():
        twin(inputs)
    return seen


def buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def observe_with(
    threat: lg.ThreatModel, model: nn.Module, batch: lg.Batch, training: lg.LocalTraining
) -> lg.Observation:
    return threat.observe(client(model, training=training), batch, seeds=SEEDS)


def observe_granted(
    model: nn.Module, batch: lg.Batch, training: lg.LocalTraining | None = None
) -> lg.Observation:
    """Return the observation of a server with labels and statistics granted."""
    threat = lg.Server(statistics=True, labels=True)
    return observe_with(threat, model, batch, training or lg.FedSGD())


EVERY = [*itertools.product([0.1, 0.7, 1.0, None], [1, 3], [None, 2], [0.0, 0.9])]


class TestRunningStatistics:
    @pytest.mark.parametrize(("momentum", "epochs", "minibatch", "velocity"), EVERY)
    def test_they_are_those_of_a_plain_training_loop(
        self, momentum: float | None, epochs: int, minibatch: int | None, velocity: float
    ) -> None:
        model, batch = normed(momentum), images(5)
        training = lg.FedAvg(
            epochs=epochs,
            minibatch=minibatch,
            learning_rate=0.2,
            momentum=velocity,
            weight_decay=0.01,
            decay=0.9,
        )
        before = buffers(model)
        statistics = client(model, training=training).statistics(model, batch, seeds=SEEDS)
        twin = trained(model, training, batch)
        assert list(statistics) == list(before)
        for name, buffer in twin.named_buffers():
            assert torch.allclose(statistics[name], buffer, rtol=1e-4, atol=1e-6)
            assert torch.equal(model.get_buffer(name), before[name])
        update = observe_with(lg.Server(), model, batch, training).update.tensors
        for (name, start), end in zip(model.named_parameters(), twin.parameters(), strict=True):
            assert torch.allclose(update[name], end - start, rtol=1e-3, atol=1e-6)

    def test_one_gradient_moves_them_once(self) -> None:
        model, batch = normed(), images(3)
        statistics = client(model).statistics(model, batch, seeds=SEEDS)
        twin = copy.deepcopy(model)
        twin(batch.inputs)
        for name, buffer in twin.named_buffers():
            assert torch.equal(statistics[name], buffer)

    def test_a_layer_in_eval_mode_shares_none(self) -> None:
        model = normed()
        model[1].eval()
        statistics = client(model).statistics(model, images(3), seeds=SEEDS)
        assert {name.partition(".")[0] for name in statistics} == {"4"}

    def test_the_mean_of_clients_weighs_examples(self) -> None:
        one, other = ({"r": torch.tensor([v]), "n": torch.tensor(4)} for v in (1.0, 5.0))
        mean = average_statistics([one, other], [3, 1])
        assert mean["r"].tolist() == [2.0]
        assert mean["n"] == 4


class TestBatchStatistics:
    @pytest.mark.parametrize("momentum", [0.1, 0.7, 1.0, None])
    def test_one_step_tells_the_private_batch_s_exactly(self, momentum: float | None) -> None:
        model, batch = normed(momentum).double(), images(3)
        inputs = batch.inputs.double()
        after = client(model).statistics(model, lg.Batch(inputs, batch.targets), seeds=SEEDS)
        found = batch_statistics(model, after)
        for name, given in inputs_of_layers(model, inputs).items():
            assert torch.allclose(found[name].mean, given.mean((0, 2, 3)), rtol=1e-10)
            assert torch.allclose(found[name].variance, given.var((0, 2, 3)), rtol=1e-10)
            # torch normalizes by the biased variance.
            n = given.numel() // given.shape[1]
            biased = given.var((0, 2, 3), unbiased=False)
            assert torch.allclose(found[name].variance * (n - 1) / n, biased, rtol=1e-10)

    @pytest.mark.parametrize("momentum", [0.1, 0.7, None])
    def test_several_steps_tell_a_mean_of_theirs(self, momentum: float | None) -> None:
        """With a tiny learning rate, all steps see the same moments, so their weights do not matter."""
        model, batch = normed(momentum), images(4)
        training = lg.FedAvg(epochs=5, learning_rate=1e-7)
        found = batch_statistics(
            model, client(model, training=training).statistics(model, batch, seeds=SEEDS)
        )
        for name, given in inputs_of_layers(model, batch.inputs).items():
            assert torch.allclose(found[name].mean, given.mean((0, 2, 3)), atol=1e-4)
            assert torch.allclose(found[name].variance, given.var((0, 2, 3)), atol=1e-4)

    def test_a_layer_that_keeps_nothing_says_nothing(self) -> None:
        model = normed(0.0)
        after = client(model).statistics(model, images(3), seeds=SEEDS)
        assert batch_statistics(model, after) == {}
        assert batch_statistics(normed(), buffers(normed())) == {}

    def test_where_on_the_way_they_were_taken(self) -> None:
        assert middle(0.1, 1) == 0
        assert middle(None, 5) == pytest.approx(2 / 5)
        assert middle(1.0, 5) == pytest.approx(4 / 5)
        assert 2 / 5 < middle(0.1, 5) < 4 / 5


class TestThreats:
    @pytest.mark.parametrize("training", [lg.FedSGD(), lg.FedAvg(epochs=2)])
    def test_they_are_told_where_they_are_granted_alone(self, training: lg.LocalTraining) -> None:
        model, batch = normed(), images(4)
        withheld = observe_with(lg.Server(), model, batch, training)
        granted = observe_with(lg.Server(statistics=True), model, batch, training)
        assert withheld.knowledge.statistics is None
        assert granted.knowledge.statistics is not None
        assert "statistics" in granted.knowledge.granted()
        for name, tensor in withheld.update.tensors.items():
            assert torch.equal(tensor, granted.update.tensors[name])
        for observation in (withheld, granted):
            for name, buffer in observation.model.named_buffers():
                assert torch.equal(buffer, model.get_buffer(name))

    @pytest.mark.parametrize("model", [mlp(), normed(train=False)])
    def test_a_model_that_keeps_none_is_told_of_in_one_line(self, model: nn.Module) -> None:
        with pytest.raises(lg.KnowledgeError, match=r"model\.train = true") as caught:
            observe_granted(model, images(3))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("threat", [lg.Neighbor, lg.MaskedUpdate, lg.EncryptedUpdate])
    def test_who_never_sees_them_cannot_be_told(self, threat: type[lg.Server]) -> None:
        with pytest.raises(lg.SpecificationError, match=r"threat\.statistics"):
            threat(statistics=True)
        assert "statistics" not in threat().grants

    @pytest.mark.parametrize("threat", [lg.Aggregator, lg.SecureAggregator])
    def test_of_several_clients_the_mean(self, threat: type[lg.Aggregator]) -> None:
        model, batch = normed(), images(6)
        seen = threat(clients=3, statistics=True).observe(client(model), batch, seeds=SEEDS)
        parts = batch.inputs.tensor_split(3)
        each = [inputs_of_layers(model, part)["1"].mean((0, 2, 3)) for part in parts]
        assert seen.knowledge.statistics is not None
        found = batch_statistics(model, seen.knowledge.statistics)["1"].mean
        assert torch.allclose(found, torch.stack(each).mean(0), atol=1e-5)

    def test_several_rounds_tell_each_one_s(self) -> None:
        model, batch = normed(), images(4)
        threat = lg.SeveralRounds(rounds=3, rate=0.5, statistics=True, labels=True)
        seen = threat.observe(client(model), batch, seeds=SEEDS)
        statistics = seen.knowledge.statistics
        assert statistics is not None
        assert len(statistics) == 3 * len(buffers(model))
        later = seen.training.models[0]  # type: ignore[attr-defined]
        assert torch.equal(later.get_buffer("1.running_mean"), statistics["1.running_mean"])
        term = BatchStatistics.of(seen)
        assert repr(term) == "BatchStatistics(6 layers)"
        assert value(term, batch.inputs) < 1e-8

    def test_poisoning_the_batch_afterwards_changes_nothing(self) -> None:
        batch = images(3)
        seen = observe_granted(normed(), batch)
        assert seen.knowledge.statistics is not None
        before = {name: t.clone() for name, t in seen.knowledge.statistics.items()}
        assert all(t.grad_fn is None for t in seen.knowledge.statistics.values())
        first = search(1.0)(seen, seeds=SEEDS).inputs
        batch.inputs.fill_(math.nan)
        batch.targets.fill_(0)
        for name, tensor in seen.knowledge.statistics.items():
            assert torch.equal(tensor, before[name])
        assert torch.equal(search(1.0)(seen, seeds=SEEDS).inputs, first)


class TestOutsider:
    @pytest.mark.parametrize("training", [lg.FedSGD(), lg.FedAvg(epochs=2)])
    def test_it_sees_the_mean_to_the_rounding_of_models(self, training: lg.LocalTraining) -> None:
        model, batch = normed(), images(4)
        seen = observe_with(lg.Outsider(clients=2), model, batch, training)
        mean = observe_with(lg.Aggregator(clients=2, statistics=True), model, batch, training)
        apart = [seen.update.tensors[n] - t for n, t in mean.update.tensors.items()]
        assert 0 < max(float(t.abs().max()) for t in apart) < 1e-5
        assert seen.knowledge.granted() == {"batch_size", "hyperparameters", "statistics"}
        for name, tensor in mean.knowledge.statistics.items():  # type: ignore[union-attr]
            assert torch.equal(tensor, seen.knowledge.statistics[name])  # type: ignore[index]

    def test_a_model_without_statistics_tells_none(self) -> None:
        seen = lg.Outsider(clients=2).observe(client(mlp()), images(4), seeds=SEEDS)
        assert seen.knowledge.statistics is None


def value(term: LeastSquares, unit: Tensor) -> float:
    return float(term(Candidate(unit, torch.zeros(0), {}, {})))


class TestTerm:
    def test_it_is_zero_at_the_batch_and_positive_elsewhere(self) -> None:
        model, batch = normed(), images(4)
        term = BatchStatistics.of(observe_granted(model, batch))
        before = buffers(model)
        assert value(term, batch.inputs) < 1e-9
        assert value(term, batch.inputs.flip(0)) < 1e-9
        assert value(term, images(4, seed=1).inputs) > 1e-4
        assert value(term, torch.full_like(batch.inputs, 0.5)) > 1e-2
        for name, buffer in model.named_buffers():
            assert torch.equal(buffer, before[name])

    def test_a_layer_that_is_called_twice(self) -> None:
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm, self.linear = nn.BatchNorm2d(1), nn.Linear(64, 4)

            def forward(self, x: Tensor) -> Tensor:
                return self.linear(self.norm(self.norm(x).sigmoid()).flatten(1))  # type: ignore[no-any-return]

        batch = images(3)
        assert value(BatchStatistics.of(observe_granted(Twice(), batch)), batch.inputs) < 1e-9

    def test_several_steps_are_met_on_the_way(self) -> None:
        """The term is closer to zero at a model between start and end than at the model that was sent."""
        model, batch = normed(), images(4)
        seen = observe_granted(model, batch, lg.FedAvg(epochs=6, learning_rate=0.1))
        way, start = BatchStatistics.of(seen), BatchStatistics.of(seen).moments[0]
        at_start = replace(way, moments=(replace(start, model=model),))
        assert value(way, batch.inputs) < value(at_start, batch.inputs) / 4

    def test_the_prior_is_the_model_s_own_memory(self) -> None:
        model = normed(1.0)
        inputs = images(5).inputs
        model(inputs)
        seen = observe_with(lg.Server(), model.eval(), images(3), lg.FedSGD())
        term = BatchStatistics.prior(seen)
        assert term.inapplicable(seen) is None
        # In eval mode, the input of the second layer depends on the running statistics of the first.
        first = value(
            replace(term, moments=(replace(term.moments[0], targets=first_layer(term)),)), inputs
        )
        assert first < 1e-9
        assert value(term, torch.zeros_like(inputs)) > 0.1

    def test_nothing_to_compare_is_said(self) -> None:
        seen = observe_with(lg.Server(), mlp(), images(2), lg.FedSGD())
        reason = BatchStatistics.prior(seen).inapplicable(seen)
        assert reason is not None
        assert "BatchNorm" in reason

    @pytest.mark.parametrize("step", [DoubleBackward, ForwardOverReverse])
    def test_every_step_has_its_slope(self, step: type) -> None:
        matching = search(1.0)
        seen = observe_granted(normed().double(), double(images(3)))
        matching = replace(matching, objective=matching.informed(seen))
        labels = matching.labels.prepare(seen)
        assert not isinstance(labels, lg.Inapplicable)
        restart = Restart.start(matching, labels, seen, SEEDS)
        assert restart.request is not None
        variables = tuple(v.double() for v in restart.request.variables)
        at, (slope,) = step(restart.problem)(variables, 0.0)
        along = torch.randn(slope.shape, generator=torch.Generator().manual_seed(0)).double()
        ends = [step(restart.problem)((variables[0] + h * along,), 0.0)[0] for h in (1e-5, -1e-5)]
        assert float((slope * along).sum()) == pytest.approx(
            float(ends[0] - ends[1]) / 2e-5, rel=1e-5
        )
        compiled = lg.inversion.evaluation.step.Compiled.of(restart.problem)
        value, (traced,) = compiled(variables, 0.0)
        assert torch.allclose(value, at)
        assert torch.allclose(traced, slope)


def first_layer(term: BatchStatistics) -> dict[str, Moments]:
    """Return only the moments of the first layer."""
    return {"1": term.moments[0].targets["1"]}


def double(batch: lg.Batch) -> lg.Batch:
    return lg.Batch(batch.inputs.double(), batch.targets)


def search(weight: float, steps: int = 30) -> GradientMatching:
    return GradientMatching(
        objective=Cosine(),
        parametrization=Direct(center=0.5, spread=0.25),
        labels=Known(),
        descent=LBFGS(steps=steps, line_search="strong_wolfe"),
        statistics=weight,
    )


class TestSearch:
    def test_the_simulated_update_is_the_client_s(self) -> None:
        for training in (lg.FedSGD(), lg.FedAvg(epochs=3, minibatch=2)):
            batch = images(4)
            seen = observe_granted(normed(), batch, training)
            simulated = simulator(seen, create_graph=False)(batch.inputs, batch.targets)
            for name, tensor in seen.update.tensors.items():
                assert torch.equal(simulated[name], tensor)

    def test_statistics_are_used_where_granted(self) -> None:
        batch = images(3)
        seen, matching = observe_granted(normed(), batch), search(1.0)
        assert "BatchStatistics(2 layers)" in repr(matching.informed(seen))
        # The statistics of several steps are an estimate, so their weight vanishes.
        several = matching.informed(observe_granted(normed(), batch, lg.FedAvg(epochs=3)))
        first, last = (several.parts(progress)[-1][0] for progress in (0.0, 1.0))
        assert last == pytest.approx(1e-4 * first)
        blind = replace(seen, knowledge=replace(seen.knowledge, statistics=None))
        assert matching.informed(blind) is matching.objective
        silent = observe_granted(normed(0.0), batch)
        assert matching.informed(silent) is matching.objective

    def test_their_weight_follows_the_distance_s_scale(self) -> None:
        seen = observe_granted(normed(), images(3))
        norm = sum(float(t.square().sum()) for t in seen.update.tensors.values())
        for objective, scale in ((Cosine(), 1.0), (L2(), norm), (3.0 * L2(), 3 * norm)):
            matching = replace(search(0.5), objective=objective)
            weights = [weight for weight, _ in matching.informed(seen).parts(1.0)]
            assert weights[-1] == pytest.approx(0.5 * scale, rel=1e-5)

    def test_a_search_with_them_sees_more(self) -> None:
        batch = images(4)
        seen = observe_granted(normed(), batch)
        errors = []
        for weight in (0.0, 1.0):
            guess = search(weight)(seen, seeds=SEEDS)
            order = lg.metrics.assign(batch.inputs, guess.inputs)
            errors.append(float(lg.metrics.mse(batch.inputs, guess.inputs[order]).mean()))
        assert errors[1] < errors[0]

    def test_every_recipe_takes_them(self) -> None:
        seen = observe_granted(normed(), images(3))
        for attack in (attacks.DLG(steps=2), attacks.InvertingGradients(steps=4)):
            blind = replace(seen, knowledge=replace(seen.knowledge, statistics=None))
            with_them, without = (attack(o, seeds=SEEDS) for o in (seen, blind))
            assert not torch.equal(with_them.inputs, without.inputs)


SPECIFICATION = """
[data]
name = "photos"
[model]
name = "convnet"
width = 2
{train}
[training]
batch_size = 2
[threat]
{threat}
[[attacks]]
name = "dlg"
steps = 1
"""


class TestSpecification:
    def test_train_mode_and_statistics_are_options(self) -> None:
        text = SPECIFICATION.format(train="train = true", threat="statistics = true")
        (case,) = resolve(parse(Source(text)))
        assert case.model.training
        assert case.threat.grants == {"batch_size", "defense", "hyperparameters", "statistics"}
        assert case.model_name == "convnet(width=2, train=True)"
        (still,) = resolve(parse(Source(SPECIFICATION.format(train="", threat=""))))
        assert not any(module.training for module in still.model.modules())

    def test_a_mode_that_is_none(self) -> None:
        text = SPECIFICATION.format(train='train = "yes"', threat="")
        with pytest.raises(lg.SpecificationError, match=r"model\.train"):
            resolve(parse(Source(text)))

    def test_statistics_of_a_model_in_eval_mode(self) -> None:
        (case,) = resolve(parse(Source(SPECIFICATION.format(train="", threat="statistics = true"))))
        with pytest.raises(lg.KnowledgeError, match=r"model\.train = true"):
            lg.audit(case, seed=0)

    def test_an_outsider_by_name(self) -> None:
        text = SPECIFICATION.format(train="train = true", threat='name = "outsider"\nclients = 2')
        (case,) = resolve(parse(Source(text)))
        assert isinstance(case.threat, lg.Outsider)
