r"""The scale and the label of each example, from the gradient of the shift behind a convolution.

The inputs of single examples are known up to their scales :math:`t_b`. Let :math:`\hat V_b` be the patches
of the unscaled input of example b. Least squares on :math:`dW = \sum_b \hat\Delta_b \hat V_b` gives
:math:`\hat\Delta_b = t_b \Delta_b`, since the patches are linearly independent. A shift that is added to
every position of an output channel has the gradient

.. math::

    d\beta = \sum_b \sum_p \Delta_{b p} = \sum_b \frac{1}{t_b} \sum_p \hat\Delta_{b p}

This is linear in the inverse scales. It has as many equations as output channels, and needs no layer
above. Then the signal :math:`\Delta_b` of each example alone is known. Of all labels, one makes the
network send this signal down. Features that are nearly equal for all examples, as in untrained
networks, do no harm.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.examples import Examples
from leakgauge.analytic.convolutions.network import Convolution, Network, arguments_of
from leakgauge.analytic.convolutions.propagation import Propagation, is_steady_norm
from leakgauge.analytic.convolutions.scaling import FITS, Scaled, slopes_of
from leakgauge.analytic.last_layer import HeadGradient
from leakgauge.core import Inapplicable

PRESENT = 0.3
"""Number of examples of a class, as the last bias's gradient tells it, from which on the class is tried."""
MOST = 128
"""Largest number of classes that are tried for each example."""


@dataclass(frozen=True, eq=False)
class Shift:
    """The gradient of a shift that is added behind a convolution.

    Args:
        name: Name of the parameter.
        factor: (O,), factor from the convolution's output to the place where the shift is added.
    """

    name: str
    factor: Tensor


def shift_behind(network: Network, layer: Convolution) -> Shift | None:
    """Return the shift behind a convolution: its bias, or that of BatchNorm in eval mode, or None."""
    bias = network.names.get(arguments_of(layer.node)[2])
    if bias is not None:
        return Shift(bias, torch.ones(len(layer.weight), dtype=torch.float64))
    users = network.users(layer.node)
    if len(users) != 1 or not is_steady_norm(users[0]):
        return None
    name = network.names.get(arguments_of(users[0])[2])
    if name is None:
        return None
    return Shift(name, Propagation(network, 1).slope(users[0]).flatten())


def signals_of(dweight: Tensor, values: Tensor, layer: Convolution) -> Tensor:
    """Return the signals (B, O, P) at a convolution's output that explain the gradient of its weight.

    Args:
        dweight: The gradient `(O, C, *kernel)`.
        values: Inputs (B, C, N) of single examples.
        layer: The convolution.
    """
    geometry = layer.geometry
    patches = geometry.unfold(values).movedim(1, 2).flatten(2)  # (B, P, C K)
    found = torch.linalg.lstsq(
        patches.flatten(0, 1).T, dweight.flatten(1).T, driver="gelsd"
    ).solution
    signals: Tensor = found.unflatten(0, (len(values), geometry.positions)).movedim(2, 1)
    return signals


def scale_by_shift(signals: Tensor, shift: Tensor) -> tuple[Tensor, float]:
    """Return the scales (B,) of inputs, and the relative misfit of the shift's gradient.

    Args:
        signals: Signals (B, O, P) that belong to inputs of scale 1.
        shift: The gradient (O,) of the shift, times its factor.

    Example:
        >>> import torch
        >>> from leakgauge.analytic.convolutions.shift_scale import scale_by_shift
        >>> draws = torch.Generator().manual_seed(0)
        >>> signals = torch.randn(2, 8, 4, generator=draws, dtype=torch.float64)
        >>> scales = torch.tensor([2.0, 5.0], dtype=torch.float64)
        >>> shift = (signals / scales[:, None, None]).sum((0, 2))
        >>> found, misfit = scale_by_shift(signals, shift)
        >>> [round(float(scale), 6) for scale in found], misfit < 1e-12
        ([2.0, 5.0], True)
    """
    columns = signals.sum(2).T
    inverse = torch.linalg.lstsq(columns, shift[:, None], driver="gelsd").solution[:, 0]
    gap = columns @ inverse - shift
    tiny = torch.finfo(torch.float64).tiny
    return 1 / inverse, float(gap.norm() / shift.norm().clamp_min(tiny))


@dataclass(frozen=True, eq=False)
class ShiftScaling:
    """Scales and labels from the shift behind one convolution.

    Args:
        network: The network.
        layer: The convolution.
        features: The node of the last layer's input.
        head: The last layer and its gradient.
    """

    network: Network
    layer: Convolution
    features: fx.Node
    head: HeadGradient

    def run(self, examples: Examples, dweight: Tensor, shift: Tensor) -> Scaled | Inapplicable:
        """Return the scales and labels of examples, or the reason why none fit.

        Args:
            examples: Inputs of single examples.
            dweight: The gradient `(O, C, *kernel)` of the convolution's weight.
            shift: The gradient (O,) of the shift, times its factor.
        """
        signals = signals_of(dweight, examples.values, self.layer)
        scales, misfit = scale_by_shift(signals, shift)
        if misfit > FITS or not bool(scales.isfinite().all()):
            return Inapplicable(
                f"no scales of the examples fit the shift behind it (relative misfit {misfit:.0e})"
            )
        signals = signals / scales[:, None, None]
        value = (examples.values * scales[:, None, None]).reshape(
            len(scales), *self.layer.source.meta["val"].shape[1:]
        )
        return self.labeled(scales, value, signals)

    def labeled(self, scales: Tensor, value: Tensor, signals: Tensor) -> Scaled | Inapplicable:
        """Return the scales with the labels whose signals are nearest to those of the examples.

        Args:
            scales: (B,).
            value: The scaled input `(B, ...)` of the convolution.
            signals: The signals (B, O, P) at its output.
        """
        source, node, layer = self.layer.source, self.layer.node, self.head.layer
        value = value.detach().requires_grad_()
        with torch.enable_grad():
            found = self.network.evaluate([node, self.features], {source: value})
            features, output = found[self.features].flatten(1), found[node]
            tried = self.candidates(features.detach())
            if len(tried) > MOST:
                return Inapplicable(f"the last layer leaves {len(tried)} classes to try")
            gaps = []
            for label in tried:
                labels = torch.full((len(scales),), label)
                slopes = slopes_of(layer, self.head.link, features.detach(), labels)
                (back,) = torch.autograd.grad(
                    features, [output], slopes @ layer.weight, retain_graph=True
                )
                gaps.append((back.flatten(2) - signals).flatten(1).norm(dim=1))
        labels = torch.tensor(tried)[torch.stack(gaps).argmin(0)]
        misfit = self.misfit(features.detach(), labels)
        if misfit > FITS:
            return Inapplicable(
                "no labels of the examples fit the last layer, with scales from the shift behind the convolution "
                f"(relative misfit {misfit:.0e})"
            )
        return Scaled(scales, labels, misfit, torch.ones_like(scales))

    def candidates(self, features: Tensor) -> list[int]:
        """Return the classes that the batch has, as the gradient of the last bias tells, or all classes."""
        layer, link = self.head.layer, self.head.link
        classes = list(range(len(layer.weight)))
        if layer.dbias is None:
            return classes
        targets = link.targets.to(features)
        # The slopes are those of label 0 plus the difference of its target and the label's.
        zero = slopes_of(layer, link, features, torch.zeros(len(features), dtype=torch.long)).sum(0)
        rest = (zero - layer.dbias) * len(features) + len(features) * targets[0]
        counts = torch.linalg.lstsq(targets.T, rest[:, None], driver="gelsd").solution[:, 0]
        return [label for label in classes if float(counts[label]) > PRESENT] or classes

    def misfit(self, features: Tensor, labels: Tensor) -> float:
        """Return the relative misfit of the last layer's gradient."""
        layer = self.head.layer
        slopes = slopes_of(layer, self.head.link, features, labels)
        gap, size = layer.dweight - slopes.T @ features, layer.dweight.square().sum()
        total = gap.square().sum()
        if layer.dbias is not None:
            total = total + (layer.dbias - slopes.sum(0)).square().sum()
            size = size + layer.dbias.square().sum()
        return float((total / size).sqrt())
