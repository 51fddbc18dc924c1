"""Inputs that stand for the client's own: labeled ones that the adversary has, or dummies drawn for the domain.

Dummy images are noise whose amplitude falls as 1 / frequency, as in natural images (Field 1987), with the
brightness and contrast of photographs, or leaves (`leaves.py`) under such noise: networks answer them much as
photographs, uniform noise they do not. Two kinds, since what they tell alike is less likely their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leakgauge.analytic.label_recovery.leaves import leaves
from leakgauge.core import Observation, image_grid, trainable, unit_shape
from leakgauge.federated.training.fedsgd import stateless
from leakgauge.output import Head

BRIGHTNESS = (0.47, 0.12)
"""Mean and standard deviation of a photograph's mean brightness."""
CONTRAST = (0.20, 0.06)
"""The same of its pixels' standard deviation."""
FLAT = 0.03
"""The least of it."""
VARIED = 1.3
"""How much more brightness and contrast vary among leaves."""
COLOR = 0.3
"""Amplitude of what each channel adds to what all share; among leaves it varies up to MOST_COLOR."""
MOST_COLOR = 0.8
SLOPES = (0.7, 1.7)
"""Exponents of the noise upon leaves."""
GRAIN = 2.0
"""Its amplitude against the leaves', at most."""


@dataclass(frozen=True)
class Auxiliary:
    """Labeled examples that are not the client's: inputs (N, *shape) in the domain's units, targets (N,)."""

    inputs: Tensor
    targets: Tensor


def uniform(observation: Observation, count: int, generator: torch.Generator) -> Tensor:
    """Inputs (count, *shape) drawn uniformly from the domain."""
    unit = torch.rand((count, *unit_shape(observation.domain)), generator=generator)
    return observation.domain.from_unit(unit)


def natural(observation: Observation, count: int, generator: torch.Generator) -> Tensor:
    """Images (count, C, H, W) with a natural image's spectrum; for other domains uniform draws."""
    domain = observation.domain
    grid = image_grid(domain)
    if grid is None:
        return uniform(observation, count, generator)
    ones = torch.ones(count, 1, 1, 1)
    image = _noise(grid, ones, COLOR * ones, generator)
    return domain.from_unit(_lit(image, 1.0, generator))


def scenes(observation: Observation, count: int, generator: torch.Generator) -> Tensor:
    """Images (count, C, H, W) of leaves, varied; for other domains uniform draws."""
    domain = observation.domain
    grid = image_grid(domain)
    if grid is None:
        return uniform(observation, count, generator)
    channels, height, width = grid

    def drawn(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((count, 1, 1, 1), generator=generator)

    color = MOST_COLOR * drawn(0, 1).square()
    saturation = color.view(-1, 1).expand(-1, channels)
    image = leaves((height, width), saturation, generator)
    noise = _noise(grid, drawn(*SLOPES), color, generator)
    return domain.from_unit(_lit(image + GRAIN * drawn(0, 1).square() * noise, VARIED, generator))


def _noise(
    grid: tuple[int, int, int], slope: Tensor, color: Tensor, generator: torch.Generator
) -> Tensor:
    """Of amplitude frequency^-slope, mean 0 and variance 1, for each slope and color (N, 1, 1, 1)."""
    _, height, width = grid
    spectrum = torch.fft.fft2(torch.randn((len(slope), *grid), generator=generator))
    across, down = torch.fft.fftfreq(width), torch.fft.fftfreq(height)
    frequency = (down.square().unsqueeze(1) + across.square()).sqrt()
    floor = 1 / max(height, width)
    image = torch.fft.ifft2(spectrum / frequency.clamp_min(floor) ** slope).real
    return _standard(image[:, :1] + color * image)


def _standard(image: Tensor) -> Tensor:
    image = image - image.mean((1, 2, 3), keepdim=True)
    return image / image.std((1, 2, 3), keepdim=True).clamp_min(1e-12)


def _lit(image: Tensor, varied: float, generator: torch.Generator) -> Tensor:
    """Images with a photograph's brightness and contrast, 0 to 1."""

    def each(law: tuple[float, float]) -> Tensor:
        drawn = torch.randn((len(image), 1, 1, 1), generator=generator)
        return law[0] + varied * law[1] * drawn

    brightness, contrast = each(BRIGHTNESS), each(CONTRAST).clamp_min(FLAT)
    return (brightness + contrast * _standard(image)).clamp(0, 1)


def features_of(observation: Observation, head: Head, inputs: Tensor) -> Tensor:
    """Return what the head takes (N, d) of inputs (N, *shape) in the domain's units, in float64."""
    like = next(observation.model.parameters())
    seen: list[Tensor] = []

    def note(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(head.features(observation.model, arguments[0]))

    hook = observation.model.get_submodule(head.name).register_forward_pre_hook(note)
    try:
        with torch.no_grad():
            for some in torch.split(inputs.to(like), 64):
                stateless(observation.model, trainable(observation.model), some)
    finally:
        hook.remove()
    return torch.cat(seen).double().cpu()
