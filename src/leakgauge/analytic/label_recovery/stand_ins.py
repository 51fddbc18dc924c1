"""Stand-ins for the client's inputs: labeled examples of the adversary, or dummies drawn for the domain.

Dummy images come in two kinds. One is noise with a spectrum of 1 / frequency, as in natural images
(Field 1987), and the brightness and contrast of photographs. The other is dead leaves (`leaves.py`)
under noise of a similar spectrum. Networks respond to both much as to photographs, but not to uniform noise. A
result that both kinds share is less likely to be an artifact of one.

References:
    Field. Relations between the Statistics of Natural Images and the Response Properties of
    Cortical Cells. Journal of the Optical Society of America A 4, 1987.
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
"""Mean and standard deviation, over photographs, of the standard deviation of the pixels."""
FLAT = 0.03
"""Lowest contrast of a dummy image, as a standard deviation of its pixels."""
VARIED = 1.3
"""Factor of the standard deviations of brightness and contrast for images of leaves."""
COLOR = 0.3
"""Amplitude of each channel's own part, relative to the part that all channels share."""
MOST_COLOR = 0.8
"""Largest amplitude of each channel's own part among images of leaves."""
SLOPES = (0.7, 1.7)
"""Range of the exponent of the noise on leaves."""
GRAIN = 2.0
"""Largest amplitude of the noise on leaves, relative to the leaves."""


@dataclass(frozen=True)
class Auxiliary:
    """Labeled examples of the adversary's own.

    Args:
        inputs: `(N, *shape)`, in the domain's units.
        targets: (N,), class labels.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.analytic.label_recovery import Auxiliary
        >>> own = lg.data.digits()
        >>> Auxiliary(own.inputs[100:110], own.targets[100:110]).inputs.shape
        torch.Size([10, 1, 8, 8])
    """

    inputs: Tensor
    targets: Tensor


def uniform(observation: Observation, count: int, generator: torch.Generator) -> Tensor:
    """Return inputs `(count, *shape)` drawn uniformly from the domain."""
    unit = torch.rand((count, *unit_shape(observation.domain)), generator=generator)
    return observation.domain.from_unit(unit)


def natural(observation: Observation, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` images (count, C, H, W) with the spectrum of natural images, or uniform draws on other domains."""
    domain = observation.domain
    grid = image_grid(domain)
    if grid is None:
        return uniform(observation, count, generator)
    ones = torch.ones(count, 1, 1, 1)
    image = _noise(grid, ones, COLOR * ones, generator)
    return domain.from_unit(_with_contrast(image, 1.0, generator))


def scenes(observation: Observation, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` varied images of leaves (count, C, H, W), or uniform draws on other domains."""
    domain = observation.domain
    grid = image_grid(domain)
    if grid is None:
        return uniform(observation, count, generator)
    channels, height, width = grid

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((count, 1, 1, 1), generator=generator)

    color = MOST_COLOR * draw(0, 1).square()
    saturation = color.view(-1, 1).expand(-1, channels)
    image = leaves((height, width), saturation, generator)
    noise = _noise(grid, draw(*SLOPES), color, generator)
    return domain.from_unit(
        _with_contrast(image + GRAIN * draw(0, 1).square() * noise, VARIED, generator)
    )


def _noise(
    grid: tuple[int, int, int], slope: Tensor, color: Tensor, generator: torch.Generator
) -> Tensor:
    """Return noise (N, C, H, W) of mean 0 and variance 1, with amplitude frequency^-slope.

    Slope and color are (N, 1, 1, 1), one of each for an image.
    """
    _, height, width = grid
    spectrum = torch.fft.fft2(torch.randn((len(slope), *grid), generator=generator))
    across, down = torch.fft.fftfreq(width), torch.fft.fftfreq(height)
    frequency = (down.square().unsqueeze(1) + across.square()).sqrt()
    floor = 1 / max(height, width)
    image = torch.fft.ifft2(spectrum / frequency.clamp_min(floor) ** slope).real
    return _standard(image[:, :1] + color * image)


def _standard(image: Tensor) -> Tensor:
    """Return images with mean 0 and variance 1 each."""
    image = image - image.mean((1, 2, 3), keepdim=True)
    return image / image.std((1, 2, 3), keepdim=True).clamp_min(1e-12)


def _with_contrast(image: Tensor, varied: float, generator: torch.Generator) -> Tensor:
    """Return images with the brightness and contrast of photographs, from 0 to 1."""

    def each(law: tuple[float, float]) -> Tensor:
        drawn = torch.randn((len(image), 1, 1, 1), generator=generator)
        return law[0] + varied * law[1] * drawn

    brightness, contrast = each(BRIGHTNESS), each(CONTRAST).clamp_min(FLAT)
    return (brightness + contrast * _standard(image)).clamp(0, 1)


def features_of(observation: Observation, head: Head, inputs: Tensor) -> Tensor:
    """Return the features (N, d) that the head takes for inputs `(N, *shape)` in the domain's units, in float64."""
    like = next(observation.model.parameters())
    seen: list[Tensor] = []

    def note(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(head.features(observation.model, arguments[0]))

    hook = observation.model.get_submodule(head.name).register_forward_pre_hook(note)
    try:
        with torch.no_grad():
            # Tokens stay whole numbers.
            given = inputs.to(like) if inputs.is_floating_point() else inputs.to(like.device)
            for some in torch.split(given, 64):
                stateless(observation.model, trainable(observation.model), some)
    finally:
        hook.remove()
    return torch.cat(seen).double().cpu()
