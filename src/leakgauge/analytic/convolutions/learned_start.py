"""A start for the search of an image: a small network learns to undo the layers in front of known activations.

Behind ten layers or more, a search from plain colors ends in local minima. But the adversary knows
these layers. So it makes any number of images, computes their activations, and trains a small network
to tell the image from the activations. What this makes of the known activations is right up to
details, and the search adds them. Later images resemble the present guess, so that the network learns
most about its neighborhood. No data is needed.

References:
    Ours. Networks that invert activations are from Dosovitskiy, Brox. Inverting Visual Representations
    with Convolutional Networks. CVPR 2016, arXiv:1506.02753. There, they learn from data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, conv2d, conv3d

from leakgauge.analytic.convolutions.made_images import made_images
from leakgauge.analytic.convolutions.terms import Term, Terms
from leakgauge.core.pulse import Beat, quiet

WIDTH, WIDE, NARROW = 48, 5, 3
"""Channels of the small network, and the widths of its first kernel and of the others."""
BLOCKS = 2
"""Number of its residual blocks."""
TRAINING, BATCH, RATE, RENEWED = 400, 32, 2e-3, 20
"""Steps of training, images of each, the learning rate, and the steps after which the guess is renewed."""
MORE = 120
"""Steps of training in front of each further start."""
WORK, FEWEST = 2.5e12, 100
"""Largest number of multiplications of the training, and the fewest steps that are worth it."""
GENERAL, GUESSED = 0.25, 0.5
"""Fraction of images of any color, and of the training after which images resemble the guess."""
SPREAD = 0.1
"""Deviation of the mean color of an image from the known one."""
FAINT = 0.1
"""Least deviation of a channel by which it is divided, in units of the median."""
CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: conv1d, 2: conv2d, 3: conv3d}


@dataclass(eq=False)
class Decoder:
    """A small network from activations `(B, C, *small)` to images `(B, channels, *size)`.

    Args:
        channels: Channels of the activations and of the images.
        ratios: Pixels for each place of the activations, along each axis.
        generator: Source of the first weights.
    """

    channels: tuple[int, int]
    ratios: tuple[int, ...]
    generator: torch.Generator
    weights: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        taps, end = len(self.ratios), self.channels[1] * math.prod(self.ratios)
        sizes = [(WIDTH, self.channels[0], WIDE), *[(WIDTH, WIDTH, NARROW)] * (2 * BLOCKS)]
        for outputs, inputs, width in (*sizes, (end, WIDTH, NARROW)):
            draws = torch.randn(outputs, inputs, *[width] * taps, generator=self.generator)
            self.weights += [draws / (inputs * width**taps * 3) ** 0.5, torch.zeros(outputs)]
        for weight in self.weights:
            weight.requires_grad_()

    def __call__(self, activations: Tensor) -> Tensor:
        """Return images in unit coordinates."""
        pairs = list(zip(self.weights[::2], self.weights[1::2], strict=True))
        value = self._convolved(activations, *pairs[0])
        for block in range(BLOCKS):
            inner = self._convolved(value.relu(), *pairs[1 + 2 * block])
            value = value + self._convolved(inner.relu(), *pairs[2 + 2 * block])
        return 0.5 + self._spread(self._convolved(value.relu(), *pairs[-1]))

    def products(self, places: int) -> int:
        """Return the number of multiplications of one image, for this number of places."""
        return places * sum(weight.numel() for weight in self.weights[::2])

    def _convolved(self, value: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        padding = weight.shape[-1] // 2
        return CONVOLUTIONS[len(self.ratios)](value, weight, bias, padding=padding)

    def _spread(self, value: Tensor) -> Tensor:
        """Return channels that are spread over pixels: `(B, C r, *small)` to `(B, C, *size)`."""
        axes, small = len(self.ratios), value.shape[2:]
        value = value.reshape(len(value), -1, *self.ratios, *small)
        order = [0, 1]
        for axis in range(axes):
            order += [2 + axes + axis, 2 + axis]
        size = [r * n for r, n in zip(self.ratios, small, strict=True)]
        return value.permute(order).reshape(len(value), -1, *size)


@dataclass(eq=False)
class Pupil:
    """A decoder in training, for the image of one example.

    Args:
        decoder: The decoder.
        activations: Map from images to activations.
        aim: The known activations `(1, C, *small)`.
        shape: Shape `(C, *size)` of one example.
        color: The image's mean (C,) over places, or None.
        generator: Source of the images.
        beat: Called in each step.
    """

    decoder: Decoder
    activations: Callable[[Tensor], Tensor]
    aim: Tensor
    shape: tuple[int, ...]
    color: Tensor | None
    generator: torch.Generator
    beat: Beat = quiet

    def __post_init__(self) -> None:
        first = self.activations(self._images(None))
        spread = [0, *range(2, first.ndim)]
        self.mean, size = first.mean(spread, keepdim=True), first.std(spread, keepdim=True)
        self.size = size.clamp_min(FAINT * float(size.median())).clamp_min(1e-12)

    def guess(self) -> Tensor:
        """Return the present guess `(1, C, *size)` of the image in unit coordinates."""
        with torch.no_grad():
            return self.decoder((self.aim - self.mean) / self.size).clamp(0, 1)

    def train(self, steps: int, rate: float, guess: Tensor | None = None) -> Tensor:
        """Return the guess `(1, C, *size)` after more steps.

        Args:
            steps: Number of steps.
            rate: First learning rate. It falls to 0 in the second half.
            guess: An image that half of the images resemble. By default it is that of the decoder,
                in the second half of the steps.
        """
        weights, fixed = self.decoder.weights, guess is not None
        optimizer = torch.optim.Adam(weights, lr=rate)
        for step in range(steps):
            self.beat()
            late = step >= GUESSED * steps
            if late and not fixed and (guess is None or step % RENEWED == 0):
                guess = self.guess()
            images = self._images(guess)
            optimizer.param_groups[0]["lr"] = rate * min(1.0, 2 * (1 - step / steps))
            given = (self.activations(images) - self.mean) / self.size
            with torch.enable_grad():
                loss = (self.decoder(given) - images).square().mean()
                slopes = torch.autograd.grad(loss, weights)
            for weight, slope in zip(weights, slopes, strict=True):
                weight.grad = slope
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
        return self.guess()

    def _images(self, guess: Tensor | None) -> Tensor:
        """Return images to learn from: of any color, of the known one, and like the guess `(1, C, *size)`."""
        images, space = (
            made_images(BATCH, self.shape, generator=self.generator),
            [1] * (len(self.shape) - 1),
        )
        general = images[: round(GENERAL * BATCH)]
        others = images[len(general) :]
        middle = others.flatten(2).mean(2).reshape(*others.shape[:2], *space)
        gain = 0.5 + torch.rand(len(others), 1, *space, generator=self.generator)
        moved = SPREAD * torch.randn(middle.shape, generator=self.generator)
        apart = moved + gain * (others - middle)
        if self.color is not None:
            middle = self.color.to(images).reshape(1, -1, *space).expand_as(middle)
        if guess is None:
            return torch.cat([general, middle + apart]).clamp(0, 1)
        near = len(apart) // 2
        share = torch.rand(near, 1, *space, generator=self.generator)
        alike = guess.to(images) + share * apart[:near]
        return torch.cat([general, alike, middle[near:] + apart[near:]]).clamp(0, 1)


@dataclass(eq=False)
class LearnedStart:
    """The decoders of some examples.

    Args:
        terms: The terms of all examples.
        shape: Shape `(C, *size)` of one example.
        which: Indices (n,) of the examples.
        generator: Source of the training.
        color: The images' mean (C,) over places, or None.
    """

    terms: Terms
    shape: tuple[int, ...]
    which: Tensor
    generator: torch.Generator
    color: Tensor | None = None
    pupils: list[Pupil] = field(default_factory=list)

    def first(self) -> Tensor | None:
        """Return starts `(n, C, *size)` in unit coordinates, or None if a training does not suit the terms."""
        known = self._known()
        if not known or len(self.shape) - 1 not in CONVOLUTIONS:
            return None
        small, size = known[0].aim.shape[2:], self.shape[1:]
        if any(pixels % places for pixels, places in zip(size, small, strict=True)):
            return None
        ratios = tuple(p // n for p, n in zip(size, small, strict=True))
        aim = torch.cat([t.aim[self.which] for t in known], 1).float()
        for one in aim:
            decoder = Decoder((len(one), self.shape[0]), ratios, self.generator)
            steps = self._steps(known, decoder.products(math.prod(small)))
            if steps < FEWEST:
                return None
            activations = self._activations([t.node for t in known])
            self.pupils.append(
                Pupil(
                    decoder,
                    activations,
                    one[None],
                    self.shape,
                    self.color,
                    self.generator,
                    self.terms.beat,
                )
            )
        return torch.cat([pupil.train(steps, RATE) for pupil in self.pupils])

    def again(self, guesses: Tensor, left: Tensor) -> Tensor:
        """Return other starts `(n, C, *size)`, after more training near guesses.

        Args:
            guesses: Images `(n, C, *size)` of some of the examples.
            left: Their places (n,) among the examples.
        """
        pairs = zip(left.tolist(), guesses, strict=True)
        return torch.cat([self.pupils[i].train(MORE, RATE, guess[None]) for i, guess in pairs])

    def _known(self) -> list[Term]:
        """Return the terms of activations that are known everywhere, of the earliest one's size."""
        whole = [
            t
            for t in self.terms.terms
            if t.matrix is None and t.weight.ndim == 1 and t.aim.ndim == len(self.shape) + 1
        ]
        return [t for t in whole if t.aim.shape[2:] == whole[0].aim.shape[2:]]

    def _steps(self, known: list[Term], products: int) -> int:
        """Return the number of steps of the training of each example."""
        network = self.terms.network
        needed = network.between([t.node for t in known], [network.entry])
        layers = sum(
            math.prod(c.node.meta["val"].shape[1:]) * math.prod(c.weight.shape[1:])
            for c in network.convolutions
            if c.node in needed
        )
        return min(TRAINING, int(WORK / (BATCH * len(self.which) * (layers + 3 * products))))

    def _activations(self, nodes: list[torch.fx.Node]) -> Callable[[Tensor], Tensor]:
        """Return the map from images to the activations of nodes, in float32."""
        network, enter = self.terms.network, self.terms.enter
        state = {
            name: t.float() if t.is_floating_point() else t for name, t in network.state.items()
        }

        def activations(images: Tensor) -> Tensor:
            with torch.no_grad():
                values = network.evaluate(nodes, {network.entry: enter(images)}, state)
            return torch.cat([values[node] for node in nodes], 1)

        return activations
