"""The scenarios of `robustness.py`: for each exact attack a small model and batch that it reconstructs exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge import attacks, models
from leakgauge.analytic.hidden import deep_layer
from leakgauge.analytic.last_layer import recover_features

Result = dict[str, Any]
GRAY = lg.ImageDomain(1, 8, 8)
EXACT = 60.0
"""PSNR (dB) from which an image counts as exact: an error below an eighth of a gray level."""


@dataclass(frozen=True)
class Scenario:
    """An attack on batches drawn by a seed.

    Args:
        attack: The attack.
        network: Returns the model of a seed.
        batch: Returns the batch of a seed.
        domain: Domain of the inputs.
        classes: Number of classes.
        least: PSNR (dB) that every image must reach.
        features: Whether only the features of the last linear layer are read. Their relative error must
            stay below 1e-3.
        labels: Whether labels are granted.
        status: Whether the status must be certified or converged.
        dtype: Type of weights and inputs.
    """

    attack: lg.BaseAttack
    network: Callable[[int], nn.Module]
    batch: Callable[[int], lg.Batch]
    domain: lg.ImageDomain = GRAY
    classes: int = 4
    least: float = EXACT
    features: bool = False
    labels: bool = False
    status: bool = True
    dtype: torch.dtype = torch.float32

    @property
    def asks(self) -> str:
        """What counts as success, in words."""
        if self.features:
            return "features certified, and right to 1e-3"
        proven = "certified or converged, and " if self.status else ""
        return f"{proven}every image at {self.least:g} dB"


def attacked(scenario: Scenario, seed: int, moved: int) -> Result:
    """Attack one draw.

    `moved` is the number of the draw of signs by which entries are moved, or 0 if none is moved.
    """
    generator = torch.Generator().manual_seed(1000 * moved + seed)
    model, batch = scenario.network(seed).to(scenario.dtype), scenario.batch(seed)
    batch = replace(batch, inputs=batch.inputs.to(scenario.dtype))
    if moved:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(shifted(parameter, generator))
        batch = replace(batch, inputs=shifted(batch.inputs, generator).clamp(0, 1))
    client = lg.Client(
        model=model,
        loss=functional.cross_entropy,
        domain=scenario.domain,
        classes=scenario.classes,
    )
    seen = lg.Server(labels=scenario.labels).observe(client, batch, seeds=lg.Seeds(seed))
    if moved:
        seen = replace(seen, update=seen.update.map(partial(shifted, generator=generator)))
    return (
        features_read(seen, batch, seed)
        if scenario.features
        else judged(scenario, seen, batch, seed)
    )


def shifted(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return the tensor with every entry moved to the next number, up or down.

    Zeros stay, since they do not come from rounding.
    """
    up = torch.rand(tensor.shape, generator=generator) < 0.5
    aim = torch.where(up, torch.inf, -torch.inf).to(tensor)
    return torch.where(tensor == 0, tensor, torch.nextafter(tensor.detach(), aim))


def judged(scenario: Scenario, seen: lg.Observation, batch: lg.Batch, seed: int) -> Result:
    """Return the status, and the lowest PSNR (dB) of an image."""
    guess = scenario.attack(seen, seeds=lg.Seeds(seed))
    order = lg.metrics.assign(batch.inputs, guess.inputs)
    least = float(lg.metrics.psnr(batch.inputs, guess.inputs[order]).min())
    proven = guess.status in (lg.Status.CERTIFIED, lg.Status.CONVERGED)
    success = least >= scenario.least and (proven or not scenario.status)
    return {
        "success": success,
        "status": str(guess.status),
        "psnr": least,
        "residual": guess.residual,
    }


def features_read(seen: lg.Observation, batch: lg.Batch, seed: int) -> Result:
    """Return whether softmax unmixing certifies, and the largest relative error of an example's features."""
    found = recover_features(seen, lg.Seeds(seed).generator("unmixing"))
    layer = deep_layer(seen)
    if isinstance(found, lg.Inapplicable) or isinstance(layer, lg.Inapplicable):
        return {"success": False, "status": str(found), "error": None}
    truth = layer.feature(batch.inputs.double()).detach()
    error = float((torch.cdist(truth, found.features).min(1).values / truth.norm(dim=1)).max())
    return {
        "success": found.certified and error < 1e-3,
        "status": str(found.certified),
        "error": error,
    }


def built(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    """Make a network from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


def chain(seed: int, activation: str) -> nn.Module:
    """Build two convolutions without bias and a linear layer."""
    return models.build(
        models.cnn,
        GRAY,
        4,
        seed=seed,
        channels=(16, 24),
        kernels=(3, 3),
        strides=(1, 2),
        paddings=(1, 1),
        bias=False,
        activation=activation,
    )


def pooled(seed: int) -> nn.Module:
    """Build two convolutions, a ReLU and a max pool after each, and a linear layer."""
    return built(
        seed,
        lambda: nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(24, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 10),
        ),
    )


def hidden(seed: int) -> nn.Module:
    """Build a convolution, a hidden linear layer and a last one, with ReLUs between."""
    return built(
        seed,
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 96),
            nn.ReLU(),
            nn.Linear(96, 4),
        ),
    )


def smooth(seed: int, classes: int = 10) -> nn.Module:
    """Build two convolutions with sigmoids and a linear layer, with all weights from U(-0.5, 0.5)."""
    model = built(
        seed,
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.Sigmoid(),
            nn.Conv2d(8, 8, 3, padding=1, stride=2),
            nn.Sigmoid(),
            nn.Flatten(),
            nn.Linear(128, classes),
        ),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5)
    return model


def mlp(seed: int, width: int, classes: int = 4, domain: lg.ImageDomain = GRAY) -> nn.Module:
    """Build a ReLU network on flattened inputs."""
    return models.build(models.mlp, domain, classes, seed=seed, width=width, depth=3)


def vit(seed: int, style: str) -> nn.Module:
    """Build a small vision transformer with a learned positional embedding."""
    return models.build(models.vit, GRAY, 4, seed=seed, patch=2, dim=24, heads=2, style=style)


def random(seed: int, size: int, classes: int = 4, label: int | None = None) -> lg.Batch:
    """Return uniform random images, with labels 0, 1, 2, ... or all of one label."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand((size, *GRAY.shape), generator=generator)
    targets = torch.arange(size) % classes if label is None else torch.full((size,), label)
    return lg.Batch(inputs, targets)


@cache
def data(name: str) -> lg.Dataset:
    """Return images that come with the library."""
    return lg.data.digits() if name == "digits" else lg.data.photos()


def real(seed: int, name: str, size: int, label: int | None = None) -> lg.Batch:
    """Return random images of a data set, with their own labels or all of one label."""
    held = data(name)
    chosen = torch.randperm(len(held), generator=torch.Generator().manual_seed(seed))[:size]
    targets = held.targets[chosen] if label is None else torch.full((size,), label)
    return lg.Batch(held.inputs[chosen], targets)


PHOTOS = lg.ImageDomain(3, 32, 32)
SCENARIOS: dict[str, Scenario] = {
    "R-GAP, ReLU": Scenario(
        attacks.RGAP(), partial(chain, activation="relu"), partial(random, size=1)
    ),
    "R-GAP, leaky ReLU": Scenario(
        attacks.RGAP(), partial(chain, activation="leaky_relu"), partial(random, size=1)
    ),
    "peeling": Scenario(
        attacks.Peeling(rough=60, steps=120),
        pooled,
        partial(real, name="digits", size=1),
        classes=10,
        least=50.0,
    ),
    "linear layer, one image": Scenario(
        attacks.LinearLayer(), partial(mlp, width=48), partial(random, size=1)
    ),
    "linear layer, 8 images of one label": Scenario(
        attacks.LinearLayer(), partial(mlp, width=128), partial(random, size=8, label=2)
    ),
    "SPEAR, 12 images of one label": Scenario(
        attacks.Spear(), partial(mlp, width=128), partial(random, size=12, label=2)
    ),
    "SPEAR++, 26 images": Scenario(
        attacks.SpearPlusPlus(starts=30, steps=80),
        partial(mlp, width=256),
        partial(random, size=26),
    ),
    "cocktail party, 16 photographs of one label": Scenario(
        attacks.CocktailParty(),
        partial(mlp, width=96, domain=PHOTOS),
        partial(real, name="photos", size=16, label=2),
        domain=PHOTOS,
    ),
    "cocktail party, 5 images of one label": Scenario(
        attacks.CocktailParty(), partial(mlp, width=96), partial(random, size=5, label=3)
    ),
    "feature inversion, 4 images of one label": Scenario(
        attacks.FeatureInversion(steps=200, smoothness=0.0),
        hidden,
        partial(random, size=4, label=1),
        least=25.0,
        status=False,
    ),
    "softmax unmixing, features of 4 images of one label": Scenario(
        attacks.SoftmaxUnmixing(),
        smooth,
        partial(real, name="digits", size=4, label=3),
        classes=10,
        features=True,
    ),
    "softmax unmixing, features of 5 images": Scenario(
        attacks.SoftmaxUnmixing(),
        smooth,
        partial(real, name="digits", size=5),
        classes=10,
        features=True,
    ),
    "softmax unmixing, 2 images of one label": Scenario(
        attacks.SoftmaxUnmixing(iterations=60, stages=4),
        partial(smooth, classes=4),
        partial(random, size=2, label=1),
        least=30.0,
        labels=True,
    ),
    "APRIL, attention, float64": Scenario(
        attacks.April(),
        partial(vit, style="plain"),
        partial(random, size=1),
        dtype=torch.float64,
    ),
    "APRIL, embedding": Scenario(
        attacks.April(equations="embedding"),
        partial(vit, style="pre_norm"),
        partial(random, size=1),
    ),
}
