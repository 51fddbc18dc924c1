"""The statuses certified and converged follow from the residual of the whole observed update.

Each residual is computed here again from the reconstruction. Certified reconstructions are compared with the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from conftest import refusal
from support.defense_cases import DEFENSE_CASES
from support.outputs import LOSSES, TwoHeads, batch_of, network, observed, seeded
from torch import Tensor, nn

import leakgauge as lg
from leakgauge.core import CERTIFIED_WITHIN, CONVERGED_WITHIN, ChangedExamples, effects_of
from leakgauge.inversion.objectives.distances import relative_residual
from leakgauge.inversion.search.judgment import faintest, residual_of, status_of
from leakgauge.threats import SeveralRounds

A = lg.attacks
CODED = (torch.float16, torch.bfloat16)
ATTACKS: list[lg.Attack] = [
    A.LinearLayer(),
    A.CocktailParty(rounds=1),
    A.Spear(rounds=10),
    A.RGAP(),
    A.Peeling(rough=10, steps=20),
    A.IDLG(steps=3),
    A.SoftmaxUnmixing(warm=1, iterations=5, stages=1),
    A.OneGradient(attack=A.LinearLayer()),
]


class Unused(nn.Module):
    """A network whose last registered layer is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.answer = nn.Linear(64, 48), nn.Linear(48, 10)
        self.unused = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.answer(self.body(x.flatten(1)).relu())
        return answer


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(8, 8, 3, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "tanh": lambda: network(nn.Tanh),
    "gelu": lambda: network(nn.GELU),
    "two heads": TwoHeads,
    "unused head": Unused,
    "convolutions": convolutional,
}


def twins() -> lg.Batch:
    return lg.Batch(batch_of(1, 3).inputs.repeat(2, 1, 1, 1), torch.tensor([4, 7]))


BATCHES: dict[str, Callable[[], lg.Batch]] = {
    "one": lambda: batch_of(1, 1),
    "three": lambda: batch_of(3, 2),
    "twins": twins,
}
STEPS = lg.FedAvg(learning_rate=0.01, epochs=2)
CASES = [
    *(("tanh", loss, "one", lg.FedSGD()) for loss in LOSSES),
    *(
        (model, loss, "one", lg.FedSGD())
        for model in list(MODELS)[1:]
        for loss in ("mean", "focal")
    ),
    *((model, "mean", "one", STEPS) for model in ("tanh", "two heads")),
    *(
        (model, loss, batch, lg.FedSGD())
        for model in ("tanh", "unused head")
        for loss in ("mean", "sum", "class weights")
        for batch in ("three", "twins")
    ),
]


def check(observation: lg.Observation, batch: lg.Batch, found: lg.Reconstruction) -> bool:
    """Assert that a reconstruction keeps the promise of its status. Return whether the status promises anything."""
    if found.status not in (lg.Status.CERTIFIED, lg.Status.CONVERGED):
        return False
    assert found.targets is not None
    made = observation.training(observation.model, observation.loss, found.inputs, found.targets)
    seen = observation.update.tensors
    size = max(float(t.abs().max()) for t in seen.values())
    gap = torch.cat([((made[n] - t).double() / size).flatten() for n, t in seen.items()])
    whole = torch.cat([(t.double() / size).flatten() for t in seen.values()])
    residual = float(gap.norm() / whole.norm())
    assert residual <= 1.1 * CONVERGED_WITHIN
    if found.status is lg.Status.CERTIFIED:
        assert residual <= 1.1 * CERTIFIED_WITHIN
        order = lg.metrics.assign(batch.inputs, found.inputs)
        assert float(lg.metrics.psnr(batch.inputs, found.inputs[order]).min()) > 40
        assert torch.equal(found.targets[order], batch.targets)
    return True


@pytest.mark.parametrize(("model", "loss", "batch", "training"), CASES)
def test_a_status_is_kept(model: str, loss: str, batch: str, training: lg.LocalTraining) -> None:
    private = BATCHES[batch]()
    observation = observed(seeded(MODELS[model]), private, LOSSES[loss], training=training)
    able = [a for a in ATTACKS if refusal(a, observation) is None]
    kept = [check(observation, private, a(observation, seeds=lg.Seeds(1))) for a in able]
    # With any loss, some attack must recover one example and claim it.
    assert batch != "one" or training is STEPS or any(kept)


THREATS: dict[str, lg.Server] = {
    "aggregator": lg.Aggregator(clients=2),
    "outsider": lg.Outsider(clients=2),
    "several rounds": SeveralRounds(rounds=2),
    "neighbor": lg.Neighbor(nodes=3, listening=2),
    "defended": lg.Server(defense=True),
    "steps withheld": lg.Server(hyperparameters=False),
}
DEFENSES = {"defended": lg.defenses.TopK(sparsity=0.3)}


@pytest.mark.parametrize(
    ("name", "training"),
    [(name, lg.FedSGD()) for name in THREATS]
    # A neighbor receives gradients only.
    + [(name, STEPS) for name in THREATS if name != "neighbor"],
)
def test_a_status_is_kept_under_every_threat(name: str, training: lg.LocalTraining) -> None:
    private = batch_of(2, 4)
    client = lg.Client(
        model=seeded(Unused).eval(),
        loss=nn.CrossEntropyLoss(),
        domain=lg.ImageDomain(1, 8, 8),
        classes=10,
        training=training,
        defense=DEFENSES.get(name),
    )
    observation = THREATS[name].observe(client, private, seeds=lg.Seeds(0))
    for attack in ATTACKS:
        if refusal(attack, observation) is None:
            found = attack(observation, seeds=lg.Seeds(1))
            kept = found.status in (lg.Status.CERTIFIED, lg.Status.CONVERGED)
            residual = residual_of(observation, found)
            assert not kept or (residual is not None and residual <= 1.1 * CONVERGED_WITHIN)
            if found.status is lg.Status.CERTIFIED:
                order = lg.metrics.assign(private.inputs, found.inputs)
                assert float(lg.metrics.psnr(private.inputs, found.inputs[order]).min()) > 40


def test_a_faint_example_is_not_certified_by_a_small_residual() -> None:
    """The network always answers 0. So an image of label 0 has almost no gradient, and a wrong one matches, too."""
    model = network(nn.ReLU)
    with torch.no_grad():
        model[-1].bias[0] = 16.0  # type: ignore[index, union-attr]
    batch = batch_of(2, 5)
    batch = lg.Batch(batch.inputs, torch.tensor([0, 1]))
    observation = observed(model, batch)
    wrong = batch.inputs.clone()
    wrong[0] = 1 - wrong[0]
    found = lg.Reconstruction(
        inputs=wrong,
        targets=batch.targets,
        found=torch.ones(2, dtype=torch.bool),
        status=lg.Status.CERTIFIED,
    )
    residual = residual_of(observation, found)
    assert residual is not None
    assert residual < CERTIFIED_WITHIN
    assert faintest(observation, wrong, batch.targets) < 1e-4
    arguments = (observation, wrong, batch.targets, residual)
    assert status_of(*arguments, proven=True) is lg.Status.CONVERGED
    true = replace(found, inputs=batch.inputs)
    assert (residual_of(observation, true) or 0.0) < 1e-6


@pytest.mark.parametrize("loss", ["mean", "class weights"])
@pytest.mark.parametrize("attack", [A.Auto(attacks=(A.LinearLayer(), A.SecondOrder(iterations=5)))])
def test_losses_that_hold_tensors(loss: str, attack: lg.Attack) -> None:
    """The loss holds float32 tensors, and the adversary's copy of the model computes in float64."""
    batch = batch_of(2, 1)
    for own in (LOSSES[loss], lambda z, y: LOSSES[loss](z, y)):
        observation = observed(network(nn.Tanh), batch, own)
        found = attack(observation, seeds=lg.Seeds(0))
        assert found.residual is not None


def test_the_tolerances_leave_room_for_rounding_and_no_more() -> None:
    """The true batch in another order is certified in float32.

    An update rounded to float16 is converged only. One rounded to bfloat16 is not converged.
    """

    def deep() -> nn.Module:
        layers = [m for _ in range(8) for m in (nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU())]
        return nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), *layers, nn.Flatten(), nn.Linear(256, 10))

    batch, order = batch_of(4, 1), torch.tensor([2, 0, 3, 1])
    observation = observed(seeded(deep), batch)
    seen = observation.update.tensors
    again = observation.training(
        observation.model, observation.loss, batch.inputs[order], batch.targets[order]
    )
    assert float(relative_residual(again, seen)) < CERTIFIED_WITHIN / 3
    coded = {dtype: {n: t.to(dtype).float() for n, t in seen.items()} for dtype in CODED}
    residuals = {dtype: float(relative_residual(seen, held)) for dtype, held in coded.items()}
    assert CERTIFIED_WITHIN < residuals[torch.float16] < CONVERGED_WITHIN
    assert residuals[torch.bfloat16] > CONVERGED_WITHIN


def test_class_weights_of_unknown_labels_hide_nothing_from_directions() -> None:
    """Class weights change the size of an example's gradient with the labels of others, but not its direction."""
    batch = batch_of(3, 2)
    observation = observed(seeded(Unused), batch, LOSSES["class weights"])
    assert "class weights" in str(refusal(A.LinearLayer(), observation))
    found = A.Spear(rounds=10)(observation, seeds=lg.Seeds(1))
    assert found.status is lg.Status.CERTIFIED
    assert check(observation, batch, found)


@dataclass(frozen=True)
class Liar(lg.BaseAttack):
    """A user's attack that returns gray images and calls them exact."""

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: lg.Observation) -> lg.Plan | lg.Inapplicable:
        return lg.Plan(evaluations=1, search=partial(self.guess, observation))

    def guess(self, observation: lg.Observation, *_: object) -> lg.Reconstruction:
        batch = observation.batch_size
        return lg.Reconstruction(
            inputs=torch.full((batch, *observation.domain.shape), 0.5),
            targets=torch.zeros(batch, dtype=torch.long),
            found=torch.ones(batch, dtype=torch.bool),
            status=lg.Status.CERTIFIED,
            residual=0.0,
        )


def test_an_audit_computes_the_residual_of_a_user_s_own_attack() -> None:
    (cell,) = lg.audit(audited([Liar()])).cells
    assert cell.status == "unconverged"
    assert cell.residual > 0.1


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    "defense",
    [case.defense for case in DEFENSE_CASES if effects_of(case.defense, ChangedExamples)],
    ids=lambda defense: type(defense).__name__,
)
def test_what_a_defense_made_of_the_batch_is_not_certified(
    defense: lg.Defense, known: bool
) -> None:
    """The closed form recovers the changed examples exactly. They are not the private examples."""
    case = audited([lg.attacks.LinearLayer()], defenses=[defense], threat=lg.Server(defense=known))
    (cell,) = lg.audit(case).cells
    assert cell.status != "certified"
    (bare,) = lg.audit(audited([lg.attacks.LinearLayer()])).cells
    assert bare.status == "certified"


def audited(tried: list[lg.Attack], **changes: Any) -> lg.Case:
    """Return a case of random images at batch size 1."""
    generator = torch.Generator().manual_seed(0)
    data = lg.Dataset(
        "random",
        torch.rand((12, 1, 16, 16), generator=generator),
        torch.arange(12) % 4,
        lg.ImageDomain(1, 16, 16),
        4,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 4))
    return lg.Case(name="case", data=data, model=model, attacks=tried, **changes)
