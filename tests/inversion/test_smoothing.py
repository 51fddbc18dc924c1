"""Searching a ReLU network through a smooth copy: the copy, the coefficients, the logarithm, the attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from conftest import images, mlp, psnr
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge import attacks
from leakgauge.core import LocalTraining, Loss, SingleGradient, Tensors
from leakgauge.inversion import Candidate, Cosine, Direct, Known, Logarithm, Spectral, Term
from leakgauge.inversion.evaluation.compilation import Compiled
from leakgauge.inversion.evaluation.problem import Problem
from leakgauge.inversion.evaluation.step import DoubleBackward
from leakgauge.inversion.simulation.smoothing import SmoothReLU, runs_relu, smooth_relus

Observe = Callable[..., lg.Observation]
RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "functional": functional.relu,
    "torch": torch.relu,
    "method": Tensor.relu,
    "module": nn.ReLU(),
    "keyword": lambda z: functional.relu(input=z),
}
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "functional": functional.relu_,
    "torch": torch.relu_,
    "method": Tensor.relu_,
    "module": nn.ReLU(inplace=True),
    "positional": lambda z: functional.relu(z, True),
}


CLIPPED: dict[str, Callable[[Tensor], Tensor]] = {
    "relu6": functional.relu6,
    "module relu6": nn.ReLU6(),
    "in place": nn.ReLU6(inplace=True),
    "hardtanh": lambda z: functional.hardtanh(z, -2.0, 3.0),
    "hardtanh_": functional.hardtanh_,
    "module hardtanh": nn.Hardtanh(-1, 4),
}


def relu_cnn(channels: int = 1) -> nn.Module:
    """Return two convolutions with a ReLU after each."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, stride=2),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(8 * 4 * 4, 4),
        )


class Delta:
    """A training whose protocol does not state that the update is one gradient."""

    kind = "delta"

    def __call__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        *,
        create_graph: bool = False,
    ) -> Tensors:
        return {"out": functional.relu(inputs)}


class TestSmoothReLU:
    values = torch.linspace(-2, 2, 9)

    @pytest.mark.parametrize("relu", RELUS.values(), ids=RELUS.keys())
    def test_replaces_every_form(self, relu: Callable[[Tensor], Tensor]) -> None:
        with SmoothReLU(0.5):
            found = relu(self.values)
        assert torch.allclose(found, 0.5 * functional.softplus(self.values / 0.5))

    @pytest.mark.parametrize("relu", IN_PLACE.values(), ids=IN_PLACE.keys())
    def test_writes_where_the_relu_would(self, relu: Callable[[Tensor], Tensor]) -> None:
        written = self.values.clone()
        with SmoothReLU(0.5):
            found = relu(written)
        assert found is written
        assert torch.allclose(written, 0.5 * functional.softplus(self.values / 0.5))

    @pytest.mark.parametrize("clipped", CLIPPED.values(), ids=CLIPPED.keys())
    def test_clipped_on_both_sides(self, clipped: Callable[[Tensor], Tensor]) -> None:
        values = torch.linspace(-3, 9, 25)
        real = clipped(values.clone())
        with SmoothReLU(1e-3):
            found = clipped(values.clone())
        assert torch.allclose(found, real, atol=1e-3)
        with SmoothReLU(0.5):
            far = (clipped(values.clone()) - real).abs().max()
        assert 0.1 < float(far) < 0.5

    def test_outside_all_is_as_before(self) -> None:
        with SmoothReLU(0.5):
            assert torch.equal(self.values.sigmoid(), torch.sigmoid(self.values))
        assert torch.equal(functional.relu(self.values), self.values.clamp_min(0))

    def test_stays_within_width_log_2(self) -> None:
        with SmoothReLU(0.1):
            gap = functional.relu(self.values) - self.values.clamp_min(0)
        assert float(gap.min()) >= 0
        assert float(gap.max()) == pytest.approx(0.1 * 0.6931, rel=1e-3)


class Functional(nn.Module):
    """A network whose activation is a function, not a module."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(64, 4), nn.BatchNorm1d(4)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 4)."""
        out: Tensor = self.norm(self.activation(self.linear(x.flatten(1))))
        return out


class TestBends:
    @pytest.mark.parametrize("activation", [functional.relu, functional.relu6])
    def test_functions_are_seen(
        self, observe: Observe, activation: Callable[[Tensor], Tensor]
    ) -> None:
        assert runs_relu(observe(Functional(activation).eval(), images(1)))

    def test_smooth_networks_have_none(self, observe: Observe) -> None:
        assert not runs_relu(observe(Functional(torch.sigmoid).eval(), images(1)))

    def test_the_model_is_left_as_it_was(self, observe: Observe) -> None:
        model = Functional(functional.relu).train()
        seen = observe(model, images(2))
        before = {name: value.clone() for name, value in model.state_dict().items()}
        runs_relu(seen)
        assert all(torch.equal(before[n], value) for n, value in model.state_dict().items())


class TestSmoothed:
    def test_zero_is_the_observation_itself(self, observe: Observe) -> None:
        seen = observe(relu_cnn(), images(1))
        assert smooth_relus(seen, 0.0) is seen

    def test_protocols_of_the_training_are_kept(self, observe: Observe) -> None:
        seen = observe(relu_cnn(), images(1))
        assert isinstance(smooth_relus(seen, 0.1).training, SingleGradient)
        wrapped = smooth_relus(replace(seen, training=Delta()), 0.1).training
        assert isinstance(wrapped, LocalTraining)
        assert not isinstance(wrapped, SingleGradient)
        assert wrapped.kind == "delta"
        out = wrapped(nn.Identity(), functional.cross_entropy, torch.zeros(1), torch.zeros(1))
        assert float(out["out"]) == pytest.approx(0.1 * 0.6931, rel=1e-3)

    def test_update_tends_to_the_real_one(self, observe: Observe) -> None:
        seen = observe(relu_cnn(), images(1))
        batch = images(1)

        def far(width: float) -> float:
            training = smooth_relus(seen, width).training
            update = training(seen.model, seen.loss, batch.inputs, batch.targets)
            real = seen.training(seen.model, seen.loss, batch.inputs, batch.targets)
            return max(float((update[n] - real[n]).abs().max()) for n in real)

        assert far(1e-5) < 1e-4 < far(0.5)

    def test_compiled_and_eager_steps_agree(self, observe: Observe) -> None:
        seen = smooth_relus(observe(relu_cnn(), images(1)), 0.2)
        objective = Logarithm(Cosine())
        problem = Problem(seen, objective, Spectral(center=0.5), Known(), images(1).targets)
        at = (0.1 * torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)),)
        value, gradient = DoubleBackward(problem)(at, 0.0)
        other, traced = Compiled.of(problem)(at, 0.0)
        assert torch.allclose(value, other, rtol=1e-4)
        assert torch.allclose(gradient[0], traced[0], rtol=1e-3, atol=1e-5)


class TestSpectral:
    def test_first_coefficient_is_brightness(self) -> None:
        one = torch.zeros(2, 3, 6, 8)
        one[:, :, 0, 0] = 1
        unit = Spectral(center=0.5, spread=2.0).decode(one)
        assert torch.allclose(unit, torch.full_like(unit, 0.5 + 2 / (6 * 8) ** 0.5))

    def test_energy_falls_with_frequency(self) -> None:
        high, low = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
        low[..., 0, 1], high[..., 3, 4] = 1, 1
        part = Spectral(center=0.0, spread=3.0)
        assert float(part.decode(low).norm()) == pytest.approx(3 / 2, rel=1e-5)
        assert float(part.decode(high).norm()) == pytest.approx(3 / 6, rel=1e-5)

    def test_tables_are_direct(self) -> None:
        values = torch.arange(6.0).reshape(2, 3)
        direct = Direct(center=0.5, spread=2.0).decode(values)
        assert torch.equal(Spectral(center=0.5).decode(values), direct)

    def test_has_no_box(self) -> None:
        with pytest.raises(ValueError, match="InRange"):
            Spectral(box=True)


class _Given(Term):
    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, candidate: Candidate) -> Tensor:
        return torch.tensor(self.value)


class TestLogarithm:
    nothing = Candidate(torch.zeros(1), torch.zeros(1), {}, {})

    def test_is_zero_at_a_match_and_grows_by_factors(self) -> None:
        value = [float(Logarithm(_Given(v), floor=1e-3)(self.nothing)) for v in (0.0, 1.0, 10.0)]
        assert value[0] == 0
        assert value[2] - value[1] == pytest.approx(2.3026, abs=2e-3)

    def test_rounding_below_zero_is_a_match(self) -> None:
        assert float(Logarithm(_Given(-1e-7))(self.nothing)) == 0


class TestSmoothedMatching:
    def test_finds_an_image_from_a_relu_network(self, observe: Observe) -> None:
        batch = images(1)
        seen = observe(relu_cnn(), batch, labels=True)
        attack = attacks.SmoothedMatching(steps=250, smoothing=0.02, tv=0.0)
        guess = attack(seen, seeds=lg.Seeds(0))
        assert float(psnr(batch.inputs, guess.inputs)) > 20

    def test_residual_is_that_of_the_real_network(self, observe: Observe) -> None:
        batch = images(1)
        seen = observe(mlp(), batch, labels=True)
        attack = attacks.SmoothedMatching(steps=3, smoothing=0.5)
        guess = attack(seen, seeds=lg.Seeds(0))
        real = seen.training(seen.model, seen.loss, guess.inputs, batch.targets)
        observed = seen.update.tensors
        gap = sum(float((real[n] - observed[n]).square().sum()) for n in observed)
        norm = sum(float(t.square().sum()) for t in observed.values())
        assert guess.residual == pytest.approx((gap / norm) ** 0.5, rel=1e-4)
