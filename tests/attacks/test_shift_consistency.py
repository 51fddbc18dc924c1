"""ShiftConsistency on small networks: what it certifies, and why it refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.attack_cases import convolutional
from torch import nn

import leakgauge as lg
from leakgauge.analytic.convolutions.span import Consistency, row_space, span_of
from leakgauge.analytic.convolutions.tracing import trace

ATTACK = lg.attacks.ShiftConsistency(steps=15, rounds=1)


def network(between: nn.Module | None = None, activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    """Return two convolutions and a pooled head for 8x8 digits, from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            between or nn.Identity(),
            activation(),
            nn.Conv2d(16, 64, 3, padding=1),
            activation(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 10),
        )
        return model.eval()


def apart(found: lg.Reconstruction, batch: int) -> float:
    """Return the largest mean squared error of the reconstructions, each beside the nearest private image."""
    truth = lg.examples.batch(batch).inputs
    errors = (found.inputs[:, None] - truth[None]).square().flatten(2).mean(2)
    return float(errors.amin(1).max())


@pytest.mark.parametrize("batch", [1, 2])
def test_batches_are_certified(batch: int) -> None:
    observation = lg.examples.observation(batch_size=batch, model=network())
    found = ATTACK(observation, seeds=lg.Seeds(0))
    assert found.status is lg.Status.CERTIFIED
    assert apart(found, batch) < 1e-6


@pytest.mark.parametrize(
    ("model", "batch"),
    [
        (network(nn.GroupNorm(4, 16)), 1),
        (network(nn.GroupNorm(4, 16)), 2),
        (network(activation=nn.GELU), 1),
    ],
)
def test_images_behind_a_normalization_are_right_but_not_certified(
    model: nn.Module, batch: int
) -> None:
    """A normalization may lose the contrast, so the residual alone proves no image."""
    observation = lg.examples.observation(batch_size=batch, model=model)
    found = ATTACK(observation, seeds=lg.Seeds(0))
    assert found.status is lg.Status.CONVERGED
    assert any("not certified" in note for note in found.notes)
    assert apart(found, batch) < 1e-6


def test_batch_norm_in_train_mode_hides_no_image() -> None:
    """Its eps alone tells the contrast of the batch, so no image is certified."""
    model = network(nn.BatchNorm2d(16)).train()
    observation = lg.examples.observation(batch_size=2, model=model)
    attack = lg.attacks.ShiftConsistency(steps=60, rounds=1)
    found = attack(observation, seeds=lg.Seeds(0))
    assert found.status in (lg.Status.CONVERGED, lg.Status.UNCONVERGED)
    assert apart(found, 2) < 1e-3


WAVE = torch.exp(-(torch.arange(-3.0, 4.0) ** 2) / 4)
BLUR = torch.outer(WAVE, WAVE)[None, None] / WAVE.sum() ** 2


class Blurred(nn.Module):
    """A network that pools, scales, or mixes its input before the first convolution."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.rest = how, network()
        self.register_buffer("dark", torch.tensor([1.0, 1.0, 1.0, 1e-5, 1.0, 1.0, 1.0, 1.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lost = {
            "pool": lambda: nn.functional.interpolate(
                nn.functional.max_pool2d(x, 2), scale_factor=2
            ),
            "contrast": lambda: x / x.flatten(1).norm(dim=1).view(-1, 1, 1, 1),
            "sign": lambda: (x - 0.5).abs(),
            "column": lambda: nn.functional.pad(x[..., :7], (0, 1)),
            "batch": lambda: x - x.mean(0),
            # It keeps all in real numbers, and loses a column up to the rounding of float32.
            "dark": lambda: x * self.dark,
        }
        return self.rest(lost[self.how]())


@pytest.mark.parametrize("how", ["pool", "contrast", "sign", "column", "batch", "dark"])
def test_no_image_is_certified_that_the_network_does_not_tell(how: str) -> None:
    observation = lg.examples.observation(batch_size=2, model=Blurred(how).eval())
    plan = ATTACK.plan(observation)
    if isinstance(plan, lg.Inapplicable):
        assert how == "batch"
        assert "mixes the examples" in plan.reason
        return
    assert plan.run(lg.Seeds(0)).status is not lg.Status.CERTIFIED


def test_a_head_without_weights_leaves_nothing_to_read() -> None:
    model = network()
    with torch.no_grad():
        model[7].weight.zero_()
    found = ATTACK(lg.examples.observation(batch_size=2, model=model), seeds=lg.Seeds(0))
    assert found.status is lg.Status.INAPPLICABLE


def test_a_projection_on_the_shortcut_does_not_hide_the_last_convolution() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Conv2d(1, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1))
            self.short, self.head = nn.Conv2d(16, 16, 1), nn.Linear(16, 10)
            self.norm, self.other = nn.BatchNorm2d(16), nn.BatchNorm2d(16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            u = self.first(x).relu()
            y = self.norm(self.second(u))
            return self.head((y + self.other(self.short(u))).relu().mean((2, 3)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Residual().eval()
    found = ATTACK(lg.examples.observation(batch_size=1, model=model), seeds=lg.Seeds(0))
    assert any("second.weight" in note for note in (*found.notes, found.message))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "no convolution"),
        (network(activation=nn.GELU), "its input comes from 'gelu', not from a ReLU"),
        (network(nn.InstanceNorm2d(16)), "one batch size alone"),
        (
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)),
            "4 channels for 36 positions",
        ),
    ],
)
def test_refusals_say_why(model: nn.Module, reason: str) -> None:
    plan = ATTACK.plan(lg.examples.observation(batch_size=2, model=model.eval()))
    assert isinstance(plan, lg.Inapplicable)
    assert reason in plan.reason


def test_nothing_above_the_layer_enters() -> None:
    """The span of the inputs is the same below another convolution and another head, which change every signal."""
    model, other = network(), network()
    with torch.no_grad():
        for layer in (other[3], other[7]):
            layer.weight.copy_(
                torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(1))
            )
    bases = []
    for each in (model, other):
        observation = lg.examples.observation(batch_size=2, model=each)
        graph = trace(each, observation.domain)
        assert not isinstance(graph, lg.Inapplicable)
        layer = graph.convolutions[1]
        space = row_space(observation.update.tensors[layer.name].double(), error=1e-7)
        generator = torch.Generator().manual_seed(0)
        found = span_of(Consistency(space, layer.geometry, layer.channels), 2, generator=generator)
        bases.append(found.basis.flatten(1))
    cosines = torch.linalg.svdvals(bases[0] @ bases[1].T)
    assert float(cosines.min()) > 1 - 1e-6


def test_progress_moves_through_the_algebra_and_the_images() -> None:
    observation = lg.examples.observation(batch_size=2, model=network())
    moments: list[lg.Moment] = []
    ATTACK.plan(observation).run(lg.Seeds(0), moments.append)  # type: ignore[union-attr]
    fractions = [moment.fraction for moment in moments]
    assert fractions == sorted(fractions)
    assert len({f for f in fractions if f < 0.15}) > 5  # span, examples, scales
    assert len({f for f in fractions if 0.15 < f < 0.3}) > 1  # descent
    assert len({f for f in fractions if 0.3 < f < 1}) > 50  # images


def test_a_stop_between_two_stages_keeps_the_images_so_far() -> None:
    observation = lg.examples.observation(batch_size=2, model=network())
    best = 0

    def stop(moment: lg.Moment) -> None:
        nonlocal best
        best += moment.best is not None
        if best > 3:  # The first moment of a stage has images. Those behind it are beats.
            raise lg.StopAttack

    plan = ATTACK.plan(observation)
    assert isinstance(plan, lg.Plan)
    found = plan.run(lg.Seeds(0), stop)
    assert bool(found.found.all())


@pytest.mark.parametrize(("batch", "rounds"), [(1, 4), (2, 4), (2, 1)])
def test_the_estimate_is_far_below_the_most(batch: int, rounds: int) -> None:
    """An evaluation of activations takes a fraction of a simulated update."""
    observation = lg.examples.observation(batch_size=batch, model=network())
    plan = lg.attacks.ShiftConsistency(rounds=rounds).plan(observation)
    assert isinstance(plan, lg.Plan)
    assert 30 < plan.usual < min(3, rounds) * 600
    assert plan.usual < plan.evaluations


def test_circular_padding_and_unread_places_are_told() -> None:
    attack = lg.attacks.ShiftConsistency(steps=5, rounds=1)
    circular = lg.examples.observation(model=convolutional(10, padding_mode="circular"))
    assert attack(circular, seeds=lg.Seeds(0)).status is lg.Status.CONVERGED
    sparse = lg.examples.observation(model=convolutional(10, stride=4))
    notes = attack(sparse, seeds=lg.Seeds(0)).notes
    assert any("reads none of 39 of its 64 input places" in note for note in notes)


def test_values_that_are_not_finite_are_refused() -> None:
    seen = lg.examples.observation(model=lg.models.resnet20(lg.ImageDomain(1, 8, 8), 10))
    broken = {name: t.clone() for name, t in seen.update.tensors.items()}
    name = next(iter(broken))
    broken[name].view(-1)[0] = math.nan
    plan = lg.attacks.ShiftConsistency().plan(
        replace(seen, update=replace(seen.update, tensors=broken))
    )
    assert isinstance(plan, lg.Inapplicable)
    assert name in plan.reason


def test_a_batch_in_train_mode_can_be_watched() -> None:
    """A watcher may ask for the best reconstruction at any moment, also between Gauss-Newton steps."""
    with lg.Seeds(0).isolated("weights"):
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 10),
        ).train()
    plan = lg.attacks.ShiftConsistency(steps=5, rounds=1).plan(
        lg.examples.observation(batch_size=2, model=model)
    )
    assert not isinstance(plan, lg.Inapplicable)
    asked: list[lg.Reconstruction] = []

    def watch(moment: Any) -> None:
        if moment.best is not None:
            asked.append(moment.best())

    found = plan.run(lg.Seeds(0), watch)
    assert len(asked) > 10
    assert found.inputs.shape == (2, 1, 8, 8)


def test_a_loss_of_another_kind_is_refused_in_plain_words() -> None:
    client = lg.Client(
        model=network(),
        loss=nn.functional.multi_margin_loss,
        domain=lg.ImageDomain(1, 8, 8),
        classes=10,
    )
    observation = lg.Server().observe(client, lg.examples.batch(2), seeds=lg.Seeds(0))
    plan = ATTACK.plan(observation)
    assert isinstance(plan, lg.Inapplicable)
    assert "neither cross-entropy (softmax or binary) nor squared error" in plan.reason
