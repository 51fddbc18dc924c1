"""The closed form of linear layers is exact where it claims to be, and claims nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import images, mlp, planned, psnr, refusal, sigmoid_cnn
from torch import nn
from torch.nn import functional

import leakgauge as lg
from leakgauge import defenses
from leakgauge.analytic.linear import inverse_of_affine
from leakgauge.attacks import LinearLayer, linear_layer

Observe = Callable[..., lg.Observation]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 8])
@pytest.mark.parametrize("labels", ["distinct", "equal"])
def test_whole_batches_and_their_labels(observe: Observe, batch_size: int, labels: str) -> None:
    batch = images(batch_size)
    if labels == "equal":
        batch = lg.Batch(batch.inputs, torch.full((batch_size,), 2))
    guess = LinearLayer()(observe(mlp(width=128), batch), seeds=lg.Seeds(0))
    assert guess.status is lg.Status.CERTIFIED
    order = lg.metrics.assign(batch.inputs, guess.inputs)
    assert psnr(batch.inputs, guess.inputs).min() > 60
    assert guess.targets is not None
    assert guess.targets[order].tolist() == batch.targets.tolist()


def test_what_it_claims_found_is_true(observe: Observe) -> None:
    """The batch has far more examples than outputs can isolate. The few verified ones must be right."""
    batch = images(40)
    guess = LinearLayer()(observe(mlp(width=24), batch), seeds=lg.Seeds(0))
    assert guess.status is lg.Status.UNCONVERGED
    found = guess.inputs[guess.found]
    distance = (found.unsqueeze(1) - batch.inputs.unsqueeze(0)).flatten(2).norm(dim=-1)
    verified = int(guess.message.split(" of ")[0]) if guess.message[0].isdigit() else 0
    assert verified < 40
    assert (distance.min(dim=1).values[:verified] < 1e-2).all()


def test_the_longest_run_is_planned(observe: Observe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest run adds one chance match per round at every tolerance, and drops all of them at its end."""
    peeling = linear_layer._Peeling

    def one_more(self: Any, found: list[Any], tolerance: float, *, alone: bool) -> list[Any]:
        self.evaluations += 4
        full = len(found) == self.observation.batch_size
        chance = linear_layer._Example(torch.zeros(64), 0, torch.zeros(48))
        return [chance] if alone and not full else []

    monkeypatch.setattr(peeling, "verified", one_more)
    monkeypatch.setattr(peeling, "left_over", lambda self, found: float(len(found)))
    plan = planned(LinearLayer(), observe(mlp(), images(3)))
    assert plan.run(lg.Seeds(0)).cost.evaluations == plan.evaluations - 1


def test_an_ordinary_run_is_expected(observe: Observe) -> None:
    """An audit estimates its time from two rounds, not from the longest run."""
    plan = planned(LinearLayer(), observe(mlp(), images(3)))
    spent = plan.run(lg.Seeds(0)).cost.evaluations
    assert spent <= plan.usual + 4
    assert plan.usual < plan.evaluations
    auto = planned(lg.attacks.Auto(attacks=(LinearLayer(),)), observe(mlp(), images(3)))
    assert auto.usual == plan.usual


def test_the_gradient_is_the_outer_product(observe: Observe) -> None:
    observation = observe(mlp(), images(1))
    weight = observation.update.tensors["1.weight"]
    bias = observation.update.tensors["1.bias"]
    row = int(bias.abs().argmax())
    assert torch.allclose(weight[row] / bias[row], images(1).inputs.flatten(), atol=1e-4)


def test_undoes_normalization_and_a_general_affine_entry(observe: Observe) -> None:
    batch = images(2)
    normalize = lg.models.Normalize(torch.tensor([0.3]), torch.tensor([0.2]))
    guess = LinearLayer()(observe(nn.Sequential(normalize, mlp()), batch), seeds=lg.Seeds(0))
    assert psnr(batch.inputs, guess.inputs).min() > 60
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        blurred = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), mlp(128))
    guess = LinearLayer()(observe(blurred, images(1)), seeds=lg.Seeds(0))
    assert psnr(images(1).inputs, guess.inputs).min() > 60


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (sigmoid_cnn(), "does not see an invertible affine map"),
        (nn.Sequential(nn.AvgPool2d(2), mlp(16)), "does not see an invertible affine map"),
        (nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten()), "no linear layer"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False)), "no trainable bias"),
        (nn.Sequential(nn.Linear(8, 4), nn.Flatten(), nn.Linear(32, 4)), "axes an example"),
    ],
)
def test_says_why_it_does_not_apply(observe: Observe, model: nn.Module, reason: str) -> None:
    found = refusal(LinearLayer(), observe(model, images(1)))
    assert found is not None
    assert reason in found


@pytest.mark.parametrize("sparsity", [0.2, 0.5])
def test_a_known_sparsification_is_seen_through(observe: Observe, sparsity: float) -> None:
    batch = images(1)
    defense = defenses.RandomSparsification(sparsity=sparsity)
    known, unknown = (
        LinearLayer()(observe(mlp(), batch, under=defense, defense=told), seeds=lg.Seeds(0))
        for told in (True, False)
    )
    assert psnr(batch.inputs, known.inputs).min() > 60
    assert psnr(batch.inputs, known.inputs).min() > psnr(batch.inputs, unknown.inputs).min() + 20


def test_noise_blurs_it_and_more_noise_more(observe: Observe) -> None:
    batch = images(1)
    scores = [
        float(
            psnr(
                batch.inputs,
                LinearLayer()(
                    observe(mlp(), batch, under=defenses.GaussianNoise(std=std)),
                    seeds=lg.Seeds(0),
                ).inputs,
            ).min()
        )
        for std in (1e-4, 1e-2, 1.0)
    ]
    assert scores[0] > scores[1] > scores[2]


def test_a_patients_record(observe: Observe) -> None:
    """Columns of very different size are each recovered to their own precision, in data units."""
    data = lg.data.diabetes()
    case = lg.Case(
        name="patients",
        data=data,
        model=lg.models.build(lg.models.mlp, data.domain, 2, width=32),
        attacks=[LinearLayer()],
        examples=[5, 17],
        batch_sizes=[1, 2],
    )
    for cell in lg.audit(case).cells:
        assert cell.status == "certified"
        assert min(cell.scores["columns_read"]) == 1.0
        assert max(cell.control.scores["columns_read"]) < 1.0
        truth = data.inputs[torch.tensor(cell.data.examples)]
        assert torch.allclose(torch.tensor(cell.rows.reconstruction), truth, rtol=1e-3, atol=1e-2)


def test_update_of_another_kind_is_refused(observe: Observe) -> None:
    class Delta(lg.FedSGD):
        @property
        def kind(self) -> str:  # type: ignore[override]
            return "delta"

    owner = lg.Client(
        model=mlp(),
        loss=functional.cross_entropy,
        domain=lg.ImageDomain(1, 8, 8),
        classes=4,
        training=Delta(),
    )
    observation = lg.Server().observe(owner, images(1), seeds=lg.Seeds(0))
    assert "kind 'delta'" in (refusal(LinearLayer(), observation) or "")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("batch_size", [8, 16, 24])
def test_nothing_is_claimed_by_chance(observe: Observe, seed: int, batch_size: int) -> None:
    """Equal labels make mixtures similar. Each example that is called isolated must still be a true one."""
    inputs = images(batch_size, seed=seed).inputs
    batch = lg.Batch(inputs, torch.ones(batch_size, dtype=torch.long))
    guess = LinearLayer()(observe(mlp(width=64, seed=seed), batch), seeds=lg.Seeds(0))
    if "likely" in guess.message or not guess.message[0].isdigit():
        return  # The attack does not claim that its examples are exact.
    found = guess.inputs[guess.found]
    apart = (found.unsqueeze(1) - inputs.unsqueeze(0)).flatten(2).norm(dim=-1).min(dim=1).values
    assert (apart < 1e-2 * found.flatten(1).norm(dim=1)).all()


def test_a_network_is_known_not_to_be_affine_without_its_jacobian() -> None:
    """The Jacobian of a wide network for all pixels at once would not fit into memory."""
    seen: list[int] = []

    def feature(unit: torch.Tensor) -> torch.Tensor:
        seen.append(len(unit))
        return unit.flatten(1).square()[:, :32]

    assert inverse_of_affine(feature, lg.ImageDomain(1, 8, 8)) is None
    assert max(seen) <= 2


@pytest.mark.parametrize("seed", range(4))
def test_noise_makes_no_chance_match_an_example(seed: int) -> None:
    batch = images(8, seed=seed)
    client = lg.Client(
        model=mlp(width=400),
        loss=functional.cross_entropy,
        domain=lg.ImageDomain(1, 8, 8),
        classes=4,
        defense=defenses.GaussianNoise(std=1e-4),
    )
    guess = LinearLayer()(
        lg.Server().observe(client, batch, seeds=lg.Seeds(seed)), seeds=lg.Seeds(seed)
    )
    claimed = "examples isolated" in guess.message
    order = lg.metrics.assign(batch.inputs, guess.inputs)
    right = lg.metrics.psnr(batch.inputs, guess.inputs[order])[guess.found[order]]
    assert not claimed or float(right.median()) > 20
