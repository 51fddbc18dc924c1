"""Inputs that stand for the client's own: labeled ones that the adversary has, or dummies drawn for the domain.

Dummy images are noise whose amplitude falls as 1 / frequency, as in natural images (Field 1987), with the
brightness and contrast of photographs: networks answer them much as photographs, uniform noise they do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leakgauge.analytic.last_layer import layer_name
from leakgauge.core import ImageDomain, Observation, trainable
from leakgauge.federated.training import stateless

BRIGHTNESS = (0.47, 0.12)
"""Mean and standard deviation of a photograph's mean brightness."""
CONTRAST = (0.20, 0.06)
"""The same of its pixels' standard deviation."""
COLOR = 0.3
"""Amplitude of what each channel adds to what all share."""


@dataclass(frozen=True)
class Auxiliary:
    """Labeled examples that are not the client's: inputs (N, *shape) in the domain's units, targets (N,)."""

    inputs: Tensor
    targets: Tensor


def uniform(observation: Observation, count: int, generator: torch.Generator) -> Tensor:
    """Inputs (count, *shape) drawn uniformly from the domain."""
    unit = torch.rand((count, *observation.domain.shape), generator=generator)
    return observation.domain.from_unit(unit)


def natural(observation: Observation, count: int, generator: torch.Generator) -> Tensor:
    """Images (count, C, H, W) with a natural image's spectrum; for other domains uniform draws."""
    domain = observation.domain
    if not isinstance(domain, ImageDomain):
        return uniform(observation, count, generator)
    spectrum = torch.fft.fft2(torch.randn((count, *domain.shape), generator=generator))
    across, down = torch.fft.fftfreq(domain.width), torch.fft.fftfreq(domain.height)
    frequency = (down.square().unsqueeze(1) + across.square()).sqrt()
    floor = 1 / max(domain.height, domain.width)
    image = torch.fft.ifft2(spectrum / frequency.clamp_min(floor)).real
    image = image[:, :1] + COLOR * image
    image = image - image.mean((1, 2, 3), keepdim=True)
    image = image / image.std((1, 2, 3), keepdim=True).clamp_min(1e-12)

    def each(law: tuple[float, float]) -> Tensor:
        return law[0] + law[1] * torch.randn((count, 1, 1, 1), generator=generator)

    return domain.from_unit((each(BRIGHTNESS) + each(CONTRAST) * image).clamp(0, 1))


def features_of(observation: Observation, inputs: Tensor) -> Tensor:
    """What the last linear layer takes (N, d) of inputs (N, *shape) in the domain's units; float64."""
    name = layer_name(observation)
    assert name is not None, "last_layer() found it"
    like = next(observation.model.parameters())
    seen: list[Tensor] = []

    def note(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(arguments[0])

    hook = observation.model.get_submodule(name).register_forward_pre_hook(note)
    try:
        with torch.no_grad():
            for some in torch.split(inputs.to(like), 64):
                stateless(observation.model, trainable(observation.model), some)
    finally:
        hook.remove()
    return torch.cat(seen).double().cpu()
