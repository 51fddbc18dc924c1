"""SPEAR and SPEAR++ recover whole batches exactly where they claim to. Elsewhere they say why they cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from conftest import images, mlp, psnr, refusal
from torch import nn
from torch.nn import functional

import leakgauge as lg
from leakgauge import defenses
from leakgauge.analytic.linear import LinearEntry
from leakgauge.analytic.relu_layer import (
    Factors,
    factorize,
    factors_of,
    from_patterns,
    invert,
    relu_entry,
)
from leakgauge.analytic.sparse_directions import (
    Allowed,
    descend,
    null_vectors,
    settle,
    sortable,
)
from leakgauge.attacks import OneGradient, Spear, SpearPlusPlus

Observe = Callable[..., lg.Observation]
BOTH = pytest.mark.parametrize("attack", [Spear(), SpearPlusPlus()], ids=["spear", "plus_plus"])


def right_labels(batch: lg.Batch, guess: lg.Reconstruction) -> bool:
    """Return whether every image has its own label."""
    order = lg.metrics.assign(batch.inputs, guess.inputs)
    assert guess.targets is not None
    return guess.targets[order].tolist() == batch.targets.tolist()


@BOTH
@pytest.mark.parametrize("batch_size", [1, 2, 5, 12])
@pytest.mark.parametrize("labels", ["drawn", "equal"])
def test_whole_batches_and_their_labels(
    observe: Observe, attack: lg.Attack, batch_size: int, labels: str
) -> None:
    batch = images(batch_size)
    if labels == "equal":
        batch = lg.Batch(batch.inputs, torch.full((batch_size,), 2))
    guess = attack(observe(mlp(width=128), batch), seeds=lg.Seeds(0))
    assert guess.status is lg.Status.CERTIFIED, guess.message
    assert guess.found.all()
    assert psnr(batch.inputs, guess.inputs).min() > 60
    assert right_labels(batch, guess)


def test_a_batch_beyond_exact_search(observe: Observe) -> None:
    batch = images(26)
    observation = observe(mlp(width=256), batch)
    assert "batch 26 > 25" in (refusal(Spear(), observation) or "")
    guess = SpearPlusPlus(starts=30, steps=80)(observation, seeds=lg.Seeds(0))
    assert guess.status is lg.Status.CERTIFIED
    assert psnr(batch.inputs, guess.inputs).min() > 60
    assert right_labels(batch, guess)


def test_two_classes_make_differences_of_examples_sparse_too(observe: Observe) -> None:
    """With two classes, the deltas of two examples differ by a factor only. The layer's weights must separate them."""
    batch = images(6, classes=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 2))
    client = lg.Client(
        model=model, loss=functional.cross_entropy, domain=lg.ImageDomain(1, 8, 8), classes=2
    )
    guess = Spear()(lg.Server().observe(client, batch, seeds=lg.Seeds(0)), seeds=lg.Seeds(0))
    assert guess.status is lg.Status.CERTIFIED, guess.message
    assert psnr(batch.inputs, guess.inputs).min() > 60


def test_undoes_normalization_and_sees_a_functional_relu(observe: Observe) -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.normalize = lg.models.Normalize(torch.tensor([0.3]), torch.tensor([0.2]))
            self.parts = mlp(width=96)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            hidden = self.parts[1](self.normalize(inputs).flatten(1))
            return self.parts[5](functional.relu(self.parts[3](functional.relu(hidden))))

    batch = images(6)
    guess = Spear()(observe(Functional(), batch), seeds=lg.Seeds(0))
    assert guess.status is lg.Status.CERTIFIED
    assert psnr(batch.inputs, guess.inputs).min() > 60


def test_patients_records() -> None:
    data = lg.data.diabetes()
    case = lg.Case(
        name="patients",
        data=data,
        model=lg.models.build(lg.models.mlp, data.domain, data.classes or 2, width=64),
        attacks=[Spear()],
        examples=[3, 5, 17, 40],
        batch_sizes=[4],
    )
    for cell in lg.audit(case).cells:
        assert cell.status == "certified"
        assert min(cell.scores["columns_read"]) == 1.0


def test_the_targets_of_a_regression_are_solved_for(observe: Observe) -> None:
    owner = lg.Client(
        model=mlp(classes=1),
        loss=lambda output, target: (output.squeeze(1) - target).square().mean(),
        domain=lg.ImageDomain(1, 8, 8),
        classes=None,
    )
    batch = lg.Batch(images(4).inputs, torch.tensor([0.3, -1.0, 2.0, 0.7]))
    guess = Spear()(lg.Server().observe(owner, batch, seeds=lg.Seeds(0)), seeds=lg.Seeds(0))
    assert guess.status is lg.Status.CONVERGED
    assert guess.targets is not None
    order = lg.metrics.assign(batch.inputs, guess.inputs)
    assert torch.allclose(guess.targets[order], batch.targets, atol=1e-4)
    assert psnr(batch.inputs, guess.inputs).min() > 60


def layered(*parts: nn.Module) -> nn.Module:
    """Return a linear layer, these parts, and a linear layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), *parts, nn.Linear(32, 4))


@BOTH
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (layered(nn.Sigmoid()), "no ReLU follows the first linear layer, '1'"),
        (layered(nn.LeakyReLU()), "no ReLU follows"),
        (layered(nn.GELU()), "no ReLU follows"),
        (layered(), "no ReLU follows"),
        (mlp(width=2), "batch 3 > 2, the largest rank of the gradient of layer '1'"),
        (nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten()), "no linear layer"),
        (nn.Sequential(nn.AvgPool2d(2), mlp(16)), "does not see an invertible affine map"),
    ],
)
def test_says_why_it_does_not_apply(
    observe: Observe, attack: lg.Attack, model: nn.Module, reason: str
) -> None:
    assert reason in (refusal(attack, observe(model, images(3))) or "")


def test_equal_examples_are_told_by_the_rank(observe: Observe) -> None:
    batch = images(4)
    batch.inputs[3] = batch.inputs[1]
    guess = Spear()(observe(mlp(width=64), batch), seeds=lg.Seeds(0))
    assert guess.status is lg.Status.INAPPLICABLE
    assert "rank 3 of the layer's gradient < batch 4" in guess.message
    assert not guess.found.any()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("width", "batch_size"), [(24, 10), (20, 16), (48, 24)])
def test_nothing_is_certified_wrongly(
    observe: Observe, seed: int, width: int, batch_size: int
) -> None:
    """The layer has too few outputs for the batch. A result that the zeros leave open must not be certified."""
    batch = images(batch_size, seed=seed)
    attack = Spear(samples=32, rounds=4)
    guess = attack(observe(mlp(width=width, seed=seed), batch), seeds=lg.Seeds(0))
    if guess.status is lg.Status.CERTIFIED:
        assert psnr(batch.inputs, guess.inputs).min() > 60
    else:
        assert guess.message


@pytest.mark.parametrize("std", [1e-6, 1e-2])
def test_noise_is_never_certified(observe: Observe, std: float) -> None:
    batch = images(4)
    observation = observe(mlp(width=96), batch, under=defenses.GaussianNoise(std=std))
    guess = Spear(rounds=6)(observation, seeds=lg.Seeds(0))
    exact = bool(guess.found.all()) and float(psnr(batch.inputs, guess.inputs).min()) > 60
    assert guess.status is not lg.Status.CERTIFIED or exact


def factors(observe: Observe, batch: lg.Batch, width: int = 96) -> tuple[lg.Observation, Factors]:
    """Return the observation of an MLP, and the factors of its first layer's gradient."""
    observation = observe(mlp(width=width), batch)
    found = relu_entry(observation)
    assert isinstance(found, LinearEntry)
    made = factors_of(observation, found)
    assert isinstance(made, Factors)
    return observation, made


def test_factors_rebuild_the_gradient_and_the_layer(observe: Observe) -> None:
    observation, made = factors(observe, images(5))
    gradient = torch.cat(
        [
            observation.update.tensors["1.weight"],
            observation.update.tensors["1.bias"].unsqueeze(1),
        ],
        dim=1,
    ).double()[made.live]
    assert torch.allclose(made.scale * (made.rows @ made.right), gradient, rtol=0, atol=1e-7)
    turned = made.rho.unsqueeze(1) * (made.rows @ made.basis)
    assert torch.allclose(turned, made.unit)
    assert torch.allclose(made.unit.square().sum(1), torch.full((len(made.unit),), 5.0).double())
    scatter = made.unit.T @ made.unit / len(made.unit)
    assert torch.allclose(scatter, torch.eye(5).double(), atol=0.05)


def test_a_sampled_null_vector_is_zero_where_it_should_be(observe: Observe) -> None:
    _, made = factors(observe, images(5))
    drawn = null_vectors(made, 16, torch.Generator().manual_seed(0))
    assert (made.zeros(drawn).sum(1) >= 4).all()
    assert torch.allclose(drawn.norm(dim=1), torch.ones(16).double())


def test_descent_settles_on_the_zeros_of_one_example(observe: Observe) -> None:
    batch = images(5)
    observation, made = factors(observe, batch)
    model = observation.model
    assert isinstance(model, nn.Sequential)
    above = (model[1](model[0](batch.inputs)) > 0)[:, made.live]
    allowed = Allowed.beside(made, torch.zeros((0, 5), dtype=torch.float64))
    starts, weights = allowed.draw(made, 20, torch.Generator().manual_seed(0))
    found = settle(made, descend(made, starts, steps=80, planes=allowed.planes, weights=weights))
    zero = made.zeros(found)
    matches = (zero.unsqueeze(1) == ~above.unsqueeze(0)).all(2).any(1)
    assert matches.double().mean() > 0.5
    assert (sortable(allowed.planes, zero[matches]) == 1).all()
    shuffled = zero[:, torch.randperm(zero.shape[1], generator=torch.Generator().manual_seed(1))]
    assert (sortable(allowed.planes, shuffled) < 0.97).all()


def test_zeros_are_told_from_small_outputs_by_their_noise(observe: Observe) -> None:
    """On a true direction, exactly the zero outputs lie within a few standard deviations of their noise."""
    batch = images(5)
    observation, made = factors(observe, batch)
    model = observation.model
    assert isinstance(model, nn.Sequential)
    below = (model[1](model[0](batch.inputs)) <= 0)[:, made.live]
    found = settle(made, from_patterns(made, below))
    output = (found @ made.unit.T).abs() / made.noise(found)
    assert made.clean
    assert output[below].max() < made.within
    assert output[~below].min() > made.within


def test_a_gradient_of_noise_has_no_factors() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((40, 65), generator=generator, dtype=torch.float64)
    reason = factorize(noise, noise, 6, 2.0**-24)
    assert isinstance(reason, lg.Inapplicable)
    assert "below the noise" in reason.reason
    assert "only 0 outputs" in str(factorize(0 * noise, noise, 6, 2.0**-24))


def test_granted_labels_are_used(observe: Observe) -> None:
    batch = images(3)
    observation = observe(mlp(width=96), batch, labels=True)
    guess = Spear()(observation, seeds=lg.Seeds(0))
    assert (
        guess.cost.evaluations == 4
    )  # Three granted classes of four are tried, and the update is compared once.
    assert right_labels(batch, guess)


def test_an_update_of_another_kind_is_refused(observe: Observe) -> None:
    observation = observe(mlp(), images(2))
    delta = replace(observation, training=Delta())
    assert "kind 'delta'" in (refusal(Spear(), delta) or "")


class Delta(lg.FedSGD):
    """A local training that claims to share a weight difference."""

    @property
    def kind(self) -> str:  # type: ignore[override]
        return "delta"


def test_local_steps_move_a_few_signs_and_it_reads_the_batch_all_the_same(observe: Observe) -> None:
    batch = images(6)
    seen = observe(
        mlp(width=256), batch, training=lg.FedAvg(epochs=5, learning_rate=0.3), labels=True
    )
    guess = OneGradient(attack=Spear())(seen, seeds=lg.Seeds(0))
    assert guess.status is not lg.Status.CERTIFIED
    assert psnr(batch.inputs, guess.inputs).min() > 40


def test_hopeless_noise_ends_the_search_early(observe: Observe) -> None:
    seen = observe(mlp(width=128), images(4), under=defenses.GaussianNoise(std=1e-3))
    guess = Spear()(seen, seeds=lg.Seeds(0))
    assert not guess.found.any()
    assert "after 20 rounds" in guess.message


def test_directions_that_coincide_end_nothing() -> None:
    """Under noise a search may find one direction twice. Then the matrix of directions has no inverse."""
    twice = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)
    assert torch.isfinite(invert(twice)).all()
    assert torch.equal(invert(2 * torch.eye(3)), 0.5 * torch.eye(3))


@pytest.mark.parametrize("seed", range(6))
def test_noise_ends_no_search(seed: int) -> None:
    digits = lg.data.digits()
    model = lg.models.build(lg.models.mlp, digits.domain, 10, width=32, seed=seed)
    client = lg.Client(
        model=model,
        loss=functional.cross_entropy,
        domain=digits.domain,
        classes=10,
        defense=defenses.GaussianNoise(std=1e-3),
    )
    batch = lg.Batch(
        digits.inputs[2 * seed : 2 * seed + 2], digits.targets[2 * seed : 2 * seed + 2]
    )
    seen = lg.Server().observe(client, batch, seeds=lg.Seeds(seed))
    assert Spear(rounds=20)(seen, seeds=lg.Seeds(seed)).status is not lg.Status.CERTIFIED
