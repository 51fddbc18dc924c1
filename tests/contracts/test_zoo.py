"""The contract of every attack on every ordinary module and loss.

A check returns a reason or None, and never raises. A run returns a reconstruction, or raises a LeakGaugeError with a
reason. An AttackError is a defect, except on the few modules that are hostile on purpose.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import refusal
from support.attack_cases import ATTACK_CASES, LOCAL, AttackCase
from torch import Tensor, nn
from torch.nn import functional
from zoo.animals import IMAGE, TABLE, ZOO, Animal, batch_of, client_of
from zoo.goals import GOALS
from zoo.modules import Heads, mlp, segmenter

import leakgauge as lg
from leakgauge import attacks

SEEDS = lg.Seeds(0)
LINEAR = AttackCase(attacks.LinearLayer())


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Silence warnings of PyTorch about things that the zoo does on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def observed(
    animal: Animal, case: AttackCase, count: int, *, granted: bool = False
) -> lg.Observation | lg.LeakGaugeError:
    """Return the server's observation of the case's client, or the LeakGaugeError with which the client refuses."""
    goal = GOALS[animal.goal]
    client = client_of(animal, goal, training=case.training, defense=case.defense)
    try:
        return lg.Server(labels=granted).observe(client, batch_of(animal, goal, count), seeds=SEEDS)
    except lg.LeakGaugeError as error:
        return error


class Seen:
    """The observations of one module, by case and batch size."""

    def __init__(self, animal: Animal, granted: bool) -> None:
        self.animal, self.granted = animal, granted
        self.made: dict[tuple[object, ...], lg.Observation | lg.LeakGaugeError] = {}

    def by(self, case: AttackCase, count: int) -> lg.Observation | lg.LeakGaugeError:
        """Return the observation of a batch of `count` examples, or the client's error."""
        key = (repr(case.defense), repr(case.training), count)
        if key not in self.made:
            self.made[key] = observed(self.animal, case, count, granted=self.granted)
        return self.made[key]


def broken(animal: Animal, case: AttackCase, seen: lg.Observation, *, run: bool) -> str | None:
    """Return how an attack breaks the contract on an observation, or None if it holds."""
    count = seen.batch_size
    where = f"{case.name} on {animal.name}, batch {count}"
    try:
        reason = refusal(case.attack, seen)
    except lg.KnowledgeError as error:
        missing = case.attack.requires - seen.knowledge.granted()
        return None if missing else f"{where}: its check raised {error!r}"
    except Exception as error:  # noqa: BLE001 - this test looks for any exception of a check
        return f"{where}: its check raised {error!r}"
    if reason is not None:
        return None if isinstance(reason, str) and reason else f"{where}: gave {reason!r}"
    if not run:
        return None
    try:
        found = case.attack(seen, seeds=SEEDS)
    except (lg.UserError, lg.core.ProbeError):
        return None  # The error is a LeakGaugeError with its reason.
    except lg.AttackError as error:
        told = animal.hostile is not None and animal.hostile in str(error)
        ours = error.__cause__ is None  # Auto raises it if each of its attacks gave a reason.
        return None if ours or told else f"{where}: raised {error!r}"
    except Exception as error:  # noqa: BLE001 - every other exception breaks the contract
        return f"{where}: raised {error!r}"
    fits = found.inputs.shape == (count, *animal.domain.shape)
    if not fits or not bool(torch.isfinite(found.inputs).all()):
        return f"{where}: inputs of shape {tuple(found.inputs.shape)}, finite or not"
    if not isinstance(found.status, lg.core.Status) or not found.message:
        return f"{where}: status {found.status!r}, message {found.message!r}"
    return None


def test_the_zoo_is_large() -> None:
    assert len(ZOO) >= 30
    assert len(GOALS) >= 10


def test_no_check_raises_on_any_module() -> None:
    failures = []
    for number, animal in enumerate(ZOO.values()):
        sight = Seen(animal, granted=False)
        for other, case in enumerate(ATTACK_CASES):
            # The runs of the next test check the other batch size.
            seen = sight.by(case, 1 + (number + other + 1) % 2)
            if isinstance(seen, lg.Observation):
                failures.append(broken(animal, case, seen, run=False))
    assert [failure for failure in failures if failure] == []


@pytest.mark.parametrize("number", range(len(ZOO)), ids=list(ZOO))
def test_every_run_on_every_module(number: int) -> None:
    """Each attack runs on each module at one of its batch sizes. The sizes alternate.

    Labels of batches of two are granted.
    """
    animal = list(ZOO.values())[number]
    alone, pair = Seen(animal, granted=False), Seen(animal, granted=True)
    failures, runs = [], 0
    for other, case in enumerate(ATTACK_CASES):
        count = case.batch_sizes[(number + other) % len(case.batch_sizes)]
        seen = (alone if count == 1 else pair).by(case, count)
        if isinstance(seen, lg.Observation):
            runs += 1
            failures.append(broken(animal, case, seen, run=True))
    assert [failure for failure in failures if failure] == []
    assert runs or animal.name in REFUSED


REFUSED = {"lazy": "is lazy", "scripted": "TorchScript", "traced": "TorchScript"}
"""Modules that a client refuses, with a word of its error."""


@pytest.mark.parametrize(("name", "said"), REFUSED.items())
def test_what_cannot_be_audited_is_refused_in_one_line(name: str, said: str) -> None:
    animal = ZOO[name]
    with pytest.raises(lg.ModelError, match=said) as caught:
        client_of(animal, GOALS[animal.goal]).check(batch_of(animal, GOALS[animal.goal], 1))
    assert "\n" not in str(caught.value)


def animals_for(goal: str) -> list[Animal]:
    """Return two modules with outputs that the loss takes."""
    chosen = GOALS[goal]
    if chosen.plane:
        return [
            Animal("segmenter", segmenter, goal=goal),
            Animal("wide", lambda: nn.Conv2d(1, 4, 3, padding=1), goal=goal),
        ]
    if goal in ("tuple", "keyed"):
        kinds = ("tuple", "named") if goal == "tuple" else ("dict", "dict")
        return [Animal(kind, lambda kind=kind: Heads(kind), goal=goal) for kind in kinds]
    end = [nn.Softmax(1)] if goal == "nll" else []
    width = chosen.outputs
    return [
        Animal("mlp", lambda: nn.Sequential(mlp(36, width), *end), TABLE, goal),
        Animal(
            "cnn",
            lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), mlp(72, width), *end),
            IMAGE,
            goal,
        ),
    ]


@pytest.mark.parametrize("goal", GOALS)
def test_every_attack_with_every_loss(goal: str) -> None:
    """Each attack runs with each loss on two modules. Labels are withheld on the first and granted on the second."""
    failures = []
    for number, animal in enumerate(animals_for(goal)):
        sight = Seen(animal, granted=number == 1)
        for other, case in enumerate(ATTACK_CASES):
            for count in case.batch_sizes:
                seen = sight.by(case, count)
                if isinstance(seen, lg.Observation):
                    run = count == case.batch_sizes[(number + other) % len(case.batch_sizes)]
                    failures.append(broken(animal, case, seen, run=run))
    assert [failure for failure in failures if failure] == []


@pytest.mark.parametrize(
    "goal", ["mse", "mse_one", "bce_one", "bce_many", "divergence", "pixelwise"]
)
def test_granted_targets_of_any_kind_let_matching_run(goal: str) -> None:
    for animal in animals_for(goal):
        for attack in (
            attacks.InvertingGradients(steps=30, tv=0.0),
            attacks.SecondOrder(warm=1, iterations=4, stages=1, smoothness=0.0),
        ):
            seen = observed(animal, AttackCase(attack), 2, granted=True)
            assert isinstance(seen, lg.Observation), seen
            reason = refusal(attack, seen)
            if isinstance(attack, attacks.SecondOrder) and reason is not None:
                # PyTorch's mean squared error lacks a derivative that second order needs.
                assert "second order" in reason
                continue
            assert reason is None
            found = attack(seen, seeds=SEEDS)
            assert found.residual is not None
            assert found.residual < 1.5
            assert found.targets is not None
            assert len(found.targets) == 2


@pytest.mark.parametrize("goal", ["mse_one", "mse_flat", "l1", "bce_one", "bce_many", "hinge"])
def test_the_linear_layer_needs_no_labels_for_one_example(goal: str) -> None:
    animal = animals_for(goal)[0]
    seen = observed(animal, LINEAR, 1)
    assert isinstance(seen, lg.Observation), seen
    found = attacks.LinearLayer()(seen, seeds=SEEDS)
    truth = batch_of(animal, GOALS[goal], 1).inputs
    assert torch.allclose(found.inputs, truth, atol=1e-3)


class Pairs(nn.Module):
    """A loss that returns one value per example."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets, reduction="none")


@pytest.mark.parametrize(
    "loss",
    [Pairs(), lambda z, y: functional.cross_entropy(z, y).reshape(1)],
    ids=["vector", "(1,)"],
)
def test_a_loss_that_is_no_scalar_is_refused_in_one_line(loss: object) -> None:
    client = lg.Client(model=ZOO["mlp"].module(), loss=loss, domain=IMAGE, classes=4)
    with pytest.raises(lg.ModelError, match="a scalar tensor") as caught:
        client.check(batch_of(ZOO["mlp"], GOALS["cross_entropy"], 2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["compiled", "parallel"])
def test_a_wrapper_comes_off(name: str) -> None:
    plain, wrapped = (observed(ZOO[n], LINEAR, 1) for n in ("mlp", name))
    assert isinstance(plain, lg.Observation)
    assert isinstance(wrapped, lg.Observation)
    assert list(plain.update.tensors) == list(wrapped.update.tensors)
    for key, tensor in plain.update.tensors.items():
        assert torch.equal(tensor, wrapped.update.tensors[key])


@pytest.mark.parametrize("name", ["weight_norm_hook", "spectral_norm_hook"])
def test_a_module_that_keeps_a_result_with_a_graph_can_be_copied(name: str) -> None:
    model = ZOO[name].module()
    batch = batch_of(ZOO[name], GOALS["cross_entropy"], 1)
    model(batch.inputs)
    twin = lg.core.deep_copy(model)
    assert torch.equal(twin(batch.inputs), model(batch.inputs))
    with torch.no_grad():
        next(iter(twin.parameters())).add_(1.0)
    assert not torch.equal(twin(batch.inputs), model(batch.inputs))


@pytest.mark.parametrize("name", ["in_place_scale", "in_place_shift"])
def test_a_model_that_writes_to_its_input_leaves_the_batch_as_it_is(name: str) -> None:
    batch = batch_of(ZOO[name], GOALS["cross_entropy"], 2)
    before = batch.inputs.clone()
    client = client_of(ZOO[name], GOALS["cross_entropy"])
    client.check(batch)
    lg.Server().observe(client, batch, seeds=SEEDS)
    assert torch.equal(batch.inputs, before)
    one = lg.Batch(batch.inputs[:1], batch.targets[:1])
    found = attacks.LinearLayer()(lg.Server().observe(client, one, seeds=SEEDS), seeds=SEEDS)
    assert torch.allclose(found.inputs, before[:1], atol=1e-4)


class OwnSteps:
    """A user's own local training: two steps of gradient descent. The update is a weight difference."""

    kind = "delta"

    def __call__(
        self,
        model: nn.Module,
        loss: object,
        inputs: Tensor,
        targets: Tensor,
        *,
        create_graph: bool = False,
    ) -> dict[str, Tensor]:
        start = dict(model.named_parameters())
        held = start
        for _ in range(2):
            value = loss(torch.func.functional_call(model, held, (inputs,)), targets)
            slopes = torch.autograd.grad(
                value, list(held.values()), create_graph=create_graph, materialize_grads=True
            )
            held = {n: p - 0.05 * g for (n, p), g in zip(held.items(), slopes, strict=True)}
        return {n: held[n] - start[n] for n in start}


@pytest.mark.parametrize(
    "name", ["mlp", "lstm", "batch_norm", "tuple_heads", "regression", "segmenter"]
)
@pytest.mark.parametrize("training", [LOCAL, OwnSteps()], ids=["fedavg", "own"])
def test_several_local_steps(name: str, training: lg.LocalTraining) -> None:
    animal, failures = ZOO[name], []
    for case in (replace(case, defense=None, training=training) for case in ATTACK_CASES):
        seen = observed(animal, case, case.batch_sizes[-1])
        assert isinstance(seen, lg.Observation), seen
        failures.append(broken(animal, case, seen, run=True))
    assert [failure for failure in failures if failure] == []


class Failing(lg.core.BaseAttack):
    """An attack that fails in its check or in its search."""

    def __init__(self, *, check: bool) -> None:
        self.check = check

    @property
    def requires(self) -> frozenset[str]:
        return frozenset()

    def prepare(self, observation: lg.Observation) -> lg.Plan | lg.Inapplicable:
        if self.check:
            raise ZeroDivisionError("in the check")
        return lg.Plan(evaluations=1, search=partial(self.guess, observation))

    def guess(self, observation: lg.Observation, *_: object) -> lg.Reconstruction:
        raise ZeroDivisionError("in the search")


class TestAuto:
    @pytest.mark.parametrize(("check", "said"), [(False, "in the search"), (True, "in the check")])
    def test_goes_on_when_an_attack_fails(self, check: bool, said: str) -> None:
        seen = observed(ZOO["mlp"], LINEAR, 1)
        auto = attacks.Auto(attacks=(Failing(check=check), attacks.LinearLayer()))
        assert refusal(auto, seen) is None
        found = auto(seen, seeds=SEEDS)
        assert found.status is lg.core.Status.CERTIFIED
        assert any("Failing" in note and said in note for note in found.notes)

    def test_tells_when_all_fail(self) -> None:
        seen = observed(ZOO["mlp"], LINEAR, 1)
        with pytest.raises(lg.AttackError, match="in the search"):
            attacks.Auto(attacks=(Failing(check=False),))(seen, seeds=SEEDS)

    def test_gives_the_reasons_when_none_applies(self) -> None:
        seen = observed(ZOO["segmenter"], LINEAR, 1)
        auto = attacks.Auto(attacks=(attacks.LinearLayer(), attacks.RGAP()))
        reason = refusal(auto, seen)
        assert reason is not None
        assert "LinearLayer: " in reason
        assert "RGAP: " in reason


def test_r_gap_reads_a_network_of_linear_layers_without_bias() -> None:
    seen = observed(ZOO["mlp_no_bias"], AttackCase(attacks.RGAP()), 1)
    found = attacks.RGAP()(seen, seeds=SEEDS)
    assert found.status is lg.core.Status.CERTIFIED
    truth = batch_of(ZOO["mlp_no_bias"], GOALS["cross_entropy"], 1).inputs
    assert torch.allclose(found.inputs, truth, atol=1e-5)
