"""ShiftConsistency on altered updates: noise, rounding, sparsity, clipping, local steps and several clients."""

from __future__ import annotations

import pytest
from support.attack_cases import convolutional
from torch import nn

import leakgauge as lg
from leakgauge import defenses

ATTACK = lg.attacks.ShiftConsistency(steps=15, rounds=1)


def network() -> nn.Module:
    """Return two convolutions and a pooled head for 8x8 digits, from a fixed seed."""
    return convolutional(10)


def apart(found: lg.Reconstruction, batch: int) -> float:
    """Return the largest mean squared error of the reconstructions, each beside the nearest private image."""
    truth = lg.examples.batch(batch).inputs
    errors = (found.inputs[:, None] - truth[None]).square().flatten(2).mean(2)
    return float(errors.amin(1).max())


@pytest.mark.parametrize(
    ("defense", "most"),
    [
        (defenses.GaussianNoise(std=1e-6), 1e-5),
        (defenses.GaussianNoise(std=1e-5), 1e-2),
        (defenses.Quantization(format="fp16"), 1e-4),
        (defenses.Quantization(format="bf16"), 1e-3),
        (defenses.Quantization(format="int8"), 5e-2),
        (defenses.Clipping(norm=0.01), 1e-6),
        (defenses.DPSGD(max_norm=0.01, noise_multiplier=0.0), 1e-6),
    ],
)
def test_altered_updates_are_read_up_to_their_errors(defense: lg.Defense, most: float) -> None:
    observation = lg.examples.observation(batch_size=2, model=network(), defense=defense)
    found = ATTACK(observation, seeds=lg.Seeds(0))
    assert apart(found, 2) < most


def test_noise_that_nobody_announced_is_estimated() -> None:
    observation = lg.examples.observation(
        batch_size=2,
        model=network(),
        defense=defenses.GaussianNoise(std=1e-6),
        threat=lg.Server(defense=False),
    )
    assert observation.noise is None
    found = ATTACK(observation, seeds=lg.Seeds(0))
    assert "expected error" in found.notes[0]
    assert apart(found, 2) < 1e-5


def test_too_much_noise_is_refused_in_numbers() -> None:
    defense = defenses.GaussianNoise(std=1.0)
    observation = lg.examples.observation(batch_size=2, model=network(), defense=defense)
    found = ATTACK(observation, seeds=lg.Seeds(0))
    assert found.status is lg.Status.INAPPLICABLE
    assert "of its gradient hide 32 of 32 positions" in found.message


def test_local_steps_are_one_gradient_at_a_model_on_the_way() -> None:
    training = lg.FedAvg(epochs=5, learning_rate=0.01)
    observation = lg.examples.observation(batch_size=1, model=network(), training=training)
    found = ATTACK(observation, seeds=lg.Seeds(0))
    assert apart(found, 1) < 1e-2
