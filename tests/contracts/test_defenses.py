"""The contract of all defenses, chains of defenses, and the four methods that a defense may override."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields

import pytest
import torch
from conftest import client, images, mlp
from support.defense_cases import DEFENSE_CASES, DefenseCase, Exact, without_case
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge import defenses
from leakgauge.core import (
    Effect,
    HiddenModel,
    Loss,
    Misleading,
    Noise,
    Tensors,
    drop_update_units,
    effect,
    parts_of,
)
from leakgauge.defenses import (
    Chain,
    Clipping,
    GaussianNoise,
    LaplacianNoise,
    TopK,
    Undefended,
)


def raw(dtype: torch.dtype = torch.float32) -> lg.Update:
    """Return the update of three examples on a small network. No entry is exactly zero."""
    batch = images(3)
    update = lg.FedSGD()(mlp(), functional.cross_entropy, batch.inputs, batch.targets)
    generator = torch.Generator().manual_seed(1)
    return lg.Update(
        {
            n: (t + 1e-4 * torch.randn(t.shape, generator=generator)).to(dtype)
            for n, t in update.items()
        }
    )


def test_every_exported_defense_has_one_case() -> None:
    missing = without_case(defenses.__all__)
    assert missing is None, missing
    assert sorted(case.name for case in DEFENSE_CASES) == sorted(defenses.__all__)


def test_a_defense_without_a_case_is_told() -> None:
    said = without_case(["TopK", "Novel"])
    assert (
        said
        == "no case for Novel: add DefenseCase(defense=Novel()) to DEFENSE_CASES in tests/support/defense_cases.py"
    )


@pytest.mark.parametrize("case", DEFENSE_CASES, ids=lambda case: case.name)
class TestContract:
    def test_is_a_defense_whose_repr_is_its_configuration(self, case: DefenseCase) -> None:
        defense = case.defense
        assert isinstance(defense, lg.Defense)
        made = eval(repr(defense), {name: getattr(defenses, name) for name in defenses.__all__})
        assert made == defense
        assert hash(made) == hash(defense)

    def test_its_strength_names_a_field(self, case: DefenseCase) -> None:
        defense = case.defense
        strength = getattr(defense, "strength")  # noqa: B009
        own = [field.name for field in fields(defense)]  # type: ignore[arg-type]
        assert (strength is not None) == case.strength
        assert strength is None or strength in own

    def test_the_seed_decides(self, case: DefenseCase) -> None:
        defense = case.defense
        one, same, other = (
            defense.on_update(raw(), seeds=lg.Seeds(root)).tensors for root in (0, 0, 1)
        )
        assert all(torch.equal(one[n], same[n]) for n in one)
        assert all(torch.equal(one[n], other[n]) for n in one) == (not case.random)

    def test_it_says_what_it_hides_from_whom_and_who_sees_through(self, case: DefenseCase) -> None:
        claim = getattr(case.defense, "claim")  # noqa: B009
        assert all((claim.hides, claim.whom, claim.adversary))
        assert (claim == Undefended.claim) == (type(case.defense) is Undefended)

    def test_its_weakest_setting_changes_nothing(self, case: DefenseCase) -> None:
        if case.neutral is None:
            pytest.skip("has no setting that does nothing")
        client_ = client(mlp(), defense=case.neutral)
        plain, batch = client(mlp()), images(3)
        found, expected = (
            one.share(one.global_model(seeds=lg.Seeds(0)), batch, seeds=lg.Seeds(0))
            for one in (client_, plain)
        )
        for n, tensor in expected.tensors.items():
            assert torch.allclose(found.tensors[n], tensor, rtol=1e-6, atol=1e-20)

    def test_batch_and_model_are_left_as_they_were(self, case: DefenseCase) -> None:
        batch, model = images(3), mlp()
        held = client(model, defense=case.defense)
        before = {n: t.clone() for n, t in model.state_dict().items()}
        inputs, targets = batch.inputs.clone(), batch.targets.clone()
        held.share(held.global_model(seeds=lg.Seeds(0)), batch, seeds=lg.Seeds(0))
        assert torch.equal(batch.inputs, inputs)
        assert torch.equal(batch.targets, targets)
        assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())

    def test_tensors_of_one_shape_are_drawn_apart(self, case: DefenseCase) -> None:
        twins = lg.Update({"a": torch.ones(50), "b": torch.ones(50)})
        found = case.defense.on_update(twins, seeds=lg.Seeds(0)).tensors
        assert torch.equal(found["a"], found["b"]) == (not case.random)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_names_shapes_and_types_are_kept(self, case: DefenseCase, dtype: torch.dtype) -> None:
        update = lg.Update(raw(dtype).tensors, "delta")
        found = case.defense.on_update(update, seeds=lg.Seeds(0))
        assert found.kind == "delta"
        assert list(found.tensors) == list(update.tensors)
        for n, tensor in found.tensors.items():
            assert tensor.shape == update.tensors[n].shape
            assert tensor.dtype == dtype
            assert torch.isfinite(tensor).all()

    def test_its_input_is_left_as_it_was(self, case: DefenseCase) -> None:
        update, expected = raw(), raw()
        case.defense.on_update(update, seeds=lg.Seeds(0))
        assert all(torch.equal(t, expected.tensors[n]) for n, t in update.tensors.items())

    def test_the_global_generator_is_untouched(self, case: DefenseCase) -> None:
        update, before = raw(), torch.random.get_rng_state()
        case.defense.on_update(update, seeds=lg.Seeds(0))
        assert torch.equal(before, torch.random.get_rng_state())

    def test_zeros_and_single_entries_pass(self, case: DefenseCase) -> None:
        edges = lg.Update({"zero": torch.zeros(3), "one": torch.tensor(2.0), "none": torch.ones(0)})
        found = case.defense.on_update(edges, seeds=lg.Seeds(0))
        found.check(edges.tensors)

    def test_who_knows_it_explains_what_was_observed(self, case: DefenseCase) -> None:
        """If the defense is a mask or a bound, `adapt(observed)` takes the undefended update to the observed one."""
        update, defense = raw(), case.defense
        observed = defense.on_update(update, seeds=lg.Seeds(0))
        adapted = defense.adapt(observed)(update.tensors)
        assert adapted.keys() == observed.tensors.keys()
        equal = all(torch.equal(adapted[n], t) for n, t in observed.tensors.items())
        assert equal == (case.exact is not Exact.NOTHING)

    def test_the_adaptation_is_differentiable(self, case: DefenseCase) -> None:
        update, defense = raw(), case.defense
        adapt = defense.adapt(defense.on_update(update, seeds=lg.Seeds(0)))
        tensors = {n: t.clone().requires_grad_() for n, t in update.tensors.items()}
        torch.stack([t.square().sum() for t in adapt(tensors).values()]).sum().backward()
        assert any(t.grad is not None and bool(t.grad.any()) for t in tensors.values())

    def test_the_client_s_own_batch_is_found_through_it(
        self, case: DefenseCase, observe: Callable[..., lg.Observation]
    ) -> None:
        """The update of the true batch is nearer to the observed one if the simulation knows the defense."""
        from leakgauge.federated.layers.dropout import mean_network
        from leakgauge.inversion.objectives.distances import relative_residual
        from leakgauge.inversion.simulation.simulator import drop_misleading, simulator

        batch = images(2)
        known, unknown = (
            float(
                relative_residual(
                    simulator(seen, create_graph=False)(batch.inputs, batch.targets),
                    seen.update.tensors,
                )
            )
            for told in (True, False)
            for held in [observe(mlp(), batch, under=case.defense, defense=told)]
            for seen in [drop_misleading(mean_network(held))]
        )
        assert known <= unknown
        assert (known == 0) == (case.exact is Exact.BATCH)


class TestChain:
    def test_is_each_part_in_its_order(self) -> None:
        update = raw()
        first, second = TopK(sparsity=0.5), Clipping(norm=0.1)
        by_hand = second.on_update(first.on_update(update, seeds=lg.Seeds(0)), seeds=lg.Seeds(0))
        for defenses_, same in (((first, second), True), ((second, first), False)):
            found = Chain(defenses=defenses_).on_update(update, seeds=lg.Seeds(0)).tensors
            norm = torch.stack([t.norm() for t in found.values()]).norm()
            equal = all(torch.equal(found[n], t) for n, t in by_hand.tensors.items())
            assert equal == same
            assert (float(norm) == pytest.approx(0.1)) == same

    def test_parts_of_one_kind_draw_apart(self) -> None:
        zeros = lg.Update({"a": torch.zeros(2000)})
        twice = Chain(defenses=(GaussianNoise(std=0.3), GaussianNoise(std=0.3)))
        spread = twice.on_update(zeros, seeds=lg.Seeds(0)).tensors["a"].std()
        assert float(spread) == pytest.approx(0.3 * 2**0.5, rel=0.1)

    def test_noises_add_and_units_are_left_behind(self) -> None:
        chain = Chain(
            defenses=(Chain(defenses=(GaussianNoise(std=3.0),)), LaplacianNoise(std=4.0), TopK())
        )
        assert parts_of(chain) == (GaussianNoise(std=3.0), LaplacianNoise(std=4.0), TopK())
        assert effect(chain, Noise) == Noise(std=5.0)
        assert effect(LaplacianNoise(std=4.0), Noise) == Noise(std=4.0, law="laplacian")
        assert effect(TopK(), Noise) is None
        assert drop_update_units(chain) == Chain(defenses=(TopK(),))
        assert drop_update_units(Clipping()) is None
        assert drop_update_units(None) is None


class Silenced(Undefended):
    """A defense that replaces the last tensor of the update, says so in its effects, and hides the last parameter."""

    @property
    def effects(self) -> tuple[Effect, ...]:
        return Misleading(believed=self.believed), HiddenModel(shown=self.shown)

    def on_update(self, update: lg.Update, *, seeds: lg.Seeds) -> lg.Update:
        *_, last = update.tensors
        return lg.Update({**update.tensors, last: torch.ones_like(update.tensors[last])})

    def adapt(self, observed: lg.Update) -> Callable[[Tensors], Tensors]:
        *_, last = observed.tensors
        return lambda simulated: {**simulated, last: torch.zeros_like(simulated[last])}

    def believed(self, observed: lg.Update) -> lg.Update:
        *_, last = observed.tensors
        return lg.Update({**observed.tensors, last: torch.zeros_like(observed.tensors[last])})

    def shown(self, model: nn.Module, *, seeds: lg.Seeds) -> nn.Module:
        other = copy.deepcopy(model)
        with torch.no_grad():
            list(other.parameters())[-1].zero_()
        return other


class TestWhatIsHidden:
    @pytest.mark.parametrize(
        "defense", [Silenced(), Chain(defenses=(TopK(sparsity=0.0), Silenced()))]
    )
    def test_who_knows_leaves_out_what_says_nothing(
        self, defense: lg.Defense, observe: Callable[..., lg.Observation]
    ) -> None:
        batch = images(1)
        attack = lg.attacks.IDLG(steps=1)
        told, untold = (
            attack(observe(mlp(), batch, under=defense, defense=known), seeds=lg.Seeds(0)).residual
            for known in (True, False)
        )
        assert told is not None
        assert untold is not None
        assert told < untold

    def test_the_server_holds_what_it_is_shown(
        self, observe: Callable[..., lg.Observation]
    ) -> None:
        plain, hidden = (
            list(observe(mlp(), images(1), under=under).model.parameters())[-1]
            for under in (None, Silenced())
        )
        assert bool(plain.any())
        assert not bool(hidden.any())


@dataclass(frozen=True)
class DoubledBatch(Undefended):
    """A defense of the data. It halves every input and adds one to every label."""

    def on_batch(
        self, inputs: Tensor, targets: Tensor, *, seeds: lg.Seeds
    ) -> tuple[Tensor, Tensor]:
        return inputs / 2, (targets + 1) % 4


@dataclass(frozen=True)
class WiderModel(Undefended):
    """A defense of the model. It scales the first parameter in place."""

    def on_model(self, model: nn.Module, *, seeds: lg.Seeds) -> nn.Module:
        with torch.no_grad():
            next(model.parameters()).mul_(3)
        return model


@dataclass(frozen=True)
class Clipped:
    """A local training that clamps each entry of the update to 1e-3."""

    base: lg.LocalTraining

    @property
    def kind(self) -> str:
        return "delta"

    def __call__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        *,
        create_graph: bool = False,
    ) -> Tensors:
        whole = self.base(model, loss, inputs, targets, create_graph=create_graph)
        return {n: t.clamp(-1e-3, 1e-3) for n, t in whole.items()}


@dataclass(frozen=True)
class ClippedTraining(Undefended):
    """A defense of the gradient computation."""

    def on_training(self, training: lg.LocalTraining, *, seeds: lg.Seeds) -> lg.LocalTraining:
        return Clipped(training)  # type: ignore[return-value]


@dataclass(frozen=True)
class Negated(Undefended):
    """A defense of the finished update."""

    def on_update(self, update: lg.Update, *, seeds: lg.Seeds) -> lg.Update:
        return update.map(torch.neg)


class TestSeams:
    """Each method alone gives the same as the step written out."""

    def seen(self, defense: lg.Defense) -> lg.Observation:
        return lg.Server().observe(client(mlp(), defense=defense), images(3), seeds=lg.Seeds(0))

    def expect(self, observation: lg.Observation, expected: Tensors) -> None:
        for name, tensor in observation.update.tensors.items():
            assert torch.allclose(tensor, expected[name], rtol=1e-5, atol=1e-8)

    def plain(self, model: nn.Module, batch: lg.Batch) -> Tensors:
        return lg.FedSGD()(model, functional.cross_entropy, batch.inputs, batch.targets)

    def test_the_batch(self) -> None:
        batch = images(3)
        trained_on = lg.Batch(batch.inputs / 2, (batch.targets + 1) % 4)
        self.expect(self.seen(DoubledBatch()), self.plain(mlp(), trained_on))
        assert torch.equal(batch.inputs, images(3).inputs)

    def test_the_model_that_is_observed_is_the_one_after_the_seam(self) -> None:
        model = mlp()
        observation = lg.Server().observe(
            client(model, defense=WiderModel()), images(3), seeds=lg.Seeds(0)
        )
        wide = mlp()
        with torch.no_grad():
            next(wide.parameters()).mul_(3)
        for found, expected in zip(observation.model.parameters(), wide.parameters(), strict=True):
            assert torch.equal(found, expected)
        self.expect(observation, self.plain(wide, images(3)))
        # The defense must write to a copy, not to the client's own network.
        assert torch.equal(next(model.parameters()), next(mlp().parameters()))

    def test_the_training(self) -> None:
        observation = self.seen(ClippedTraining())
        whole = self.plain(mlp(), images(3))
        self.expect(observation, {n: t.clamp(-1e-3, 1e-3) for n, t in whole.items()})
        assert observation.update.kind == "delta"

    def test_the_update(self) -> None:
        whole = self.plain(mlp(), images(3))
        self.expect(self.seen(Negated()), {n: -t for n, t in whole.items()})

    def test_each_seam_is_given_seeds_of_its_own(self) -> None:
        told: list[lg.Seeds] = []

        @dataclass(frozen=True)
        class Listening(Undefended):
            def on_batch(
                self, inputs: Tensor, targets: Tensor, *, seeds: lg.Seeds
            ) -> tuple[Tensor, Tensor]:
                told.append(seeds)
                return inputs, targets

            def on_model(self, model: nn.Module, *, seeds: lg.Seeds) -> nn.Module:
                told.append(seeds)
                return model

            def on_training(
                self, training: lg.LocalTraining, *, seeds: lg.Seeds
            ) -> lg.LocalTraining:
                told.append(seeds)
                return training

            def on_update(self, update: lg.Update, *, seeds: lg.Seeds) -> lg.Update:
                told.append(seeds)
                return update

        owner = client(mlp(), defense=Listening())
        # No threat model takes part: it would undo the run's changes to the caller's list.
        model = owner.global_model(seeds=lg.Seeds(0))
        owner.share(model, images(3), seeds=lg.Seeds(0))
        assert len(told) == 4
        assert {seeds.root for seeds in told} == {0}
        assert all("defense" in seeds.path for seeds in told)

    def test_undefended_is_no_defense(self) -> None:
        self.expect(self.seen(Undefended()), self.plain(mlp(), images(3)))
