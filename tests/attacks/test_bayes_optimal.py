"""The Bayes optimal attack: its objective, and its reconstructions under known noise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import images, mlp, psnr, refusal

import leakgauge as lg
from leakgauge import attacks, defenses
from leakgauge.inversion import L1, L2, Candidate, Smoothness

Observe = Callable[..., lg.Observation]
NOISY = {
    "gaussian": defenses.GaussianNoise(std=0.5),
    "laplacian": defenses.LaplacianNoise(std=0.5),
}


def candidate(seen: lg.Observation, unit: torch.Tensor, off: float) -> Candidate:
    """Return a candidate whose update differs by `off` from the observed one in every entry."""
    observed = seen.update.tensors
    return Candidate(
        unit, torch.zeros(1), {n: t + off for n, t in observed.items()}, dict(observed)
    )


class TestObjective:
    @pytest.mark.parametrize("law", NOISY)
    def test_is_minus_the_log_posterior(self, law: str, observe: Observe) -> None:
        seen = observe(mlp(), images(1), under=NOISY[law])
        count = sum(t.numel() for t in seen.update.tensors.values())
        flat = torch.full((1, 1, 8, 8), 0.5)
        far = torch.distributions.Normal(0.0, 0.5) if law == "gaussian" else None
        far = far or torch.distributions.Laplace(0.0, 0.5 / 2**0.5)
        drop = far.log_prob(torch.tensor(0.0)) - far.log_prob(torch.tensor(0.3))
        found = attacks.BayesOptimal().objective(seen)(candidate(seen, flat, 0.3))
        assert float(found) == pytest.approx(count * float(drop) / 64, rel=1e-4)

    def test_prior_is_a_nat_a_mean_difference(self, observe: Observe) -> None:
        seen = observe(mlp(), images(1), under=NOISY["gaussian"])
        rows = torch.zeros(1, 1, 8, 8)
        rows[..., ::2, :] = 0.1
        found = attacks.BayesOptimal(neighbors=0.1).objective(seen)(candidate(seen, rows, 0.0))
        assert float(found) == pytest.approx(1.0, rel=1e-4)

    def test_distances(self, observe: Observe) -> None:
        seen = observe(mlp(), images(1))
        count = sum(t.numel() for t in seen.update.tensors.values())
        off = candidate(seen, torch.zeros(1), -0.5)
        assert float(L1()(off)) == pytest.approx(0.5 * count, rel=1e-4)
        assert float(L2()(off)) == pytest.approx(0.25 * count, rel=1e-4)


class TestAttack:
    def test_strong_noise_leaves_the_prior(self, observe: Observe) -> None:
        seen = observe(mlp(), images(1), under=defenses.GaussianNoise(std=100.0))
        guess = attacks.BayesOptimal(steps=200)(seen, seeds=lg.Seeds(0))
        differences = guess.inputs.diff(dim=-1).abs().mean()
        assert float(differences) < 0.02

    @pytest.mark.parametrize("descent", ["signed_adam", "lbfgs"])
    def test_weak_noise_leaves_the_image(self, descent: str, observe: Observe) -> None:
        batch = images(1)
        seen = observe(mlp(), batch, under=defenses.GaussianNoise(std=1e-4), labels=True)
        attack = attacks.BayesOptimal(steps=400, neighbors=0.3, descent=descent)  # type: ignore[arg-type]
        guess = attack(seen, seeds=lg.Seeds(0))
        assert float(psnr(batch.inputs, guess.inputs)) > 20

    def test_smoothness_as_a_prior_is_gaussian(self, observe: Observe) -> None:
        """The prior is log p = -S / (2 r) in nats a value. The likelihood does not change."""
        seen = observe(mlp(), images(1), under=NOISY["gaussian"], labels=True)
        flat = torch.full((1, 1, 8, 8), 0.5)
        rough = flat + 0.2 * torch.eye(8)
        attack = attacks.BayesOptimal(prior="smoothness", roughness=0.25)
        objective = attack.objective(seen)
        apart = objective(candidate(seen, rough, 0.3)) - objective(candidate(seen, flat, 0.3))
        expected = 2 * Smoothness()(candidate(seen, rough, 0.3))
        assert float(apart) == pytest.approx(float(expected), rel=1e-4)
        assert float(expected) > 0.01

    def test_needs_to_know_noise(self, observe: Observe) -> None:
        attack = attacks.BayesOptimal(steps=1)
        reason = refusal(attack, observe(mlp(), images(1), under=defenses.TopK()))
        assert reason is not None
        assert "noise" in reason
        chain = defenses.Chain(defenses=(defenses.Clipping(), NOISY["gaussian"]))
        assert refusal(attack, observe(mlp(), images(1), under=chain)) is None
        for unknown in (
            observe(mlp(), images(1)),
            observe(mlp(), images(1), under=chain, defense=False),
        ):
            with pytest.raises(lg.KnowledgeError):
                attack(unknown, seeds=lg.Seeds(0))
