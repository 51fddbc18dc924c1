"""APRIL is exact if the positional embedding's gradient has full rank, and claims nothing otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import client, images, psnr, refusal, sigmoid_cnn
from torch import Tensor, nn

import leakgauge as lg
from leakgauge.analytic.patch_embedding import PatchEquations, patch_equations
from leakgauge.attacks import April, AprilMatching
from leakgauge.inversion import Candidate, TensorCosine

Observe = Callable[..., lg.Observation]
GRAY = lg.ImageDomain(1, 8, 8)


def vit(**options: Any) -> nn.Module:
    chosen = {"patch": 2, "dim": 24, "heads": 2, "style": "plain", **options}
    return lg.models.build(lg.models.vit, GRAY, 4, **chosen)


def observation_of(
    model: nn.Module, label: int = 0, *, double: bool = True, **granted: bool
) -> lg.Observation:
    dtype = torch.float64 if double else torch.float32
    batch = lg.Batch(images(1).inputs.to(dtype), torch.tensor([label]))
    return lg.Server(**granted).observe(client(model.to(dtype)), batch, seeds=lg.Seeds(7))


def psnr_of(guess: lg.Reconstruction) -> float:
    return float(psnr(images(1).inputs.double(), guess.inputs.double()).min())


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("readout", ["mean", "class_token"])
@pytest.mark.parametrize("equations", ["attention", "embedding"])
def test_exact_in_float64(fused: bool, readout: str, equations: Any) -> None:
    observation = observation_of(vit(fused=fused, readout=readout), label=2)
    guess = April(equations=equations)(observation, seeds=lg.Seeds(0))
    assert guess.status is lg.Status.CERTIFIED
    assert psnr_of(guess) > 60
    assert guess.targets is not None
    assert guess.targets.tolist() == [2]


@pytest.mark.parametrize("readout", ["mean", "class_token"])
def test_behind_a_normalization_the_embedding_tells_even_in_float32(readout: str) -> None:
    observation = observation_of(vit(style="pre_norm", readout=readout), double=False)
    assert "does not read the tokens" in (refusal(April(), observation) or "")
    guess = April(equations="embedding")(observation, seeds=lg.Seeds(0))
    assert guess.status is lg.Status.CERTIFIED
    assert psnr_of(guess) > 60


@pytest.mark.parametrize("equations", ["attention", "embedding"])
def test_more_tokens_than_dimensions_are_not_determined(equations: Any) -> None:
    guess = April(equations=equations)(observation_of(vit(dim=8)), seeds=lg.Seeds(0))
    assert guess.status is not lg.Status.CERTIFIED
    assert "for 16 tokens" in guess.message
    assert psnr_of(guess) < 40


def test_patches_larger_than_their_embedding_are_told() -> None:
    """Four patches of 16 numbers in 8 dimensions: the tokens are recovered, the patches are not."""
    model = vit(patch=4, dim=8)
    guess = April()(observation_of(model), seeds=lg.Seeds(0))
    assert "patches of 16 numbers are embedded in 8" in guess.message
    assert guess.status is not lg.Status.CERTIFIED
    assert psnr_of(April(equations="embedding")(observation_of(model), seeds=lg.Seeds(0))) > 60


class Torch(nn.Module):
    """A network with PyTorch's own attention after a normalization of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = lg.models.Normalize(torch.tensor([0.3]), torch.tensor([0.5]))
        self.cut = nn.Conv2d(1, 24, 2, stride=2)
        self.places = nn.Parameter(torch.randn(1, 16, 24))
        self.look = nn.MultiheadAttention(24, 2, batch_first=True)
        self.read = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = self.cut(self.scale(x)).flatten(2).transpose(1, 2) + self.places
        output: Tensor = self.read(self.look(z, z, z)[0].square().mean(1))
        return output


def test_finds_the_parts_of_a_users_own_model() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Torch().eval()
    found = patch_equations(model, GRAY)
    assert isinstance(found, PatchEquations)
    assert (found.position, found.embedding) == ("places", "cut")
    assert found.attention == ("look.in_proj_weight",)
    guess = April()(observation_of(model), seeds=lg.Seeds(0))
    assert psnr_of(guess) > 60


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (sigmoid_cnn(), "does not cut the image into patches"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), "no convolution"),
        (
            nn.Sequential(nn.Conv2d(1, 8, 2, stride=2), nn.Flatten(), nn.Linear(128, 4)),
            "no trained positional embedding",
        ),
    ],
)
def test_says_why_it_does_not_apply(model: nn.Module, reason: str, observe: Observe) -> None:
    for attack in (April(), April(equations="embedding"), AprilMatching()):
        assert reason in (refusal(attack, observe(model, images(1))) or "")
        assert "one example only, and the batch has 2" in (
            refusal(attack, observe(model, images(2))) or ""
        )


def test_a_frozen_positional_embedding_is_told() -> None:
    model = vit()
    position = model.get_parameter("position")
    position.requires_grad_(False)
    assert "no trained positional embedding" in (refusal(April(), observation_of(model)) or "")


def test_the_direction_of_one_tensor() -> None:
    observed = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([5.0])}
    simulated = {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([-5.0])}
    candidate = Candidate(torch.zeros(1), torch.zeros(1), simulated, observed)
    term = TensorCosine("a")
    assert float(term(candidate)) == pytest.approx(1 - 0.5**0.5)
    assert float(term.residuals(candidate).square().sum()) == pytest.approx(1 - 0.5**0.5)
    assert "'c'" in (TensorCosine("c").inapplicable(observation_of(vit())) or "")


def test_matching_improves_with_the_positional_embeddings_direction() -> None:
    observation = observation_of(vit(style="pre_norm"))
    short, long = (AprilMatching(steps=n)(observation, seeds=lg.Seeds(0)) for n in (2, 60))
    assert psnr_of(long) > psnr_of(short) + 3
    assert long.objectives[0] < short.objectives[0]
    named = AprilMatching(steps=2, position="position")(observation, seeds=lg.Seeds(0))
    assert torch.equal(named.inputs, short.inputs)
    assert "'other'" in (refusal(AprilMatching(position="other"), observation) or "")


def test_the_same_bits_twice_and_the_model_as_it_was() -> None:
    observation = observation_of(vit(), double=False)
    before = {name: tensor.clone() for name, tensor in observation.model.state_dict().items()}
    state = torch.random.get_rng_state()
    first, second = (April()(observation, seeds=lg.Seeds(0)) for _ in range(2))
    assert torch.equal(first.inputs, second.inputs)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[n], t) for n, t in observation.model.state_dict().items())
    assert all(parameter.grad is None for parameter in observation.model.parameters())


def test_the_truth_is_not_seen_and_noise_costs_the_certificate() -> None:
    guess = April(equations="embedding")(observation_of(vit()), seeds=lg.Seeds(0))
    other = April(equations="embedding")(observation_of(vit(), labels=True), seeds=lg.Seeds(0))
    assert psnr_of(other) == pytest.approx(psnr_of(guess), abs=1)
    noisy = client(vit(style="pre_norm"), defense=lg.defenses.GaussianNoise(std=1e-2))
    observation = lg.Server().observe(noisy, images(1), seeds=lg.Seeds(0))
    blurred = April(equations="embedding")(observation, seeds=lg.Seeds(0))
    assert blurred.status is lg.Status.UNCONVERGED
    assert psnr_of(blurred) < 40


@pytest.mark.parametrize(
    ("options", "words"),
    [({"patch": 3}, "patches of 3"), ({"heads": 5}, "5 heads"), ({"style": "none"}, "'none'")],
)
def test_mistakes_of_a_vit(options: dict[str, Any], words: str) -> None:
    with pytest.raises(lg.ModelError, match=words):
        vit(**options)
