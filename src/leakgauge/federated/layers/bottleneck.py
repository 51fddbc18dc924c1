"""A variational bottleneck: a layer that encodes features as random codes and decodes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from leakgauge.core import deep_copy


class VariationalBottleneck(nn.Module):
    r"""A layer from features h (..., F) to decoded features (..., F), through random codes.

    .. math::

        (\mu, \log \sigma^2) = E(h), \qquad z = \mu + \sigma \epsilon, \quad
        \epsilon \sim \mathcal{N}(0, I), \qquad h' = D(z)

    The encoder :math:`E` and the decoder :math:`D` are linear. The noise :math:`\epsilon` is drawn in
    each forward pass, in train mode and in eval mode, from torch's global generator on the CPU. If
    `sampling` is False, :math:`\epsilon = 0`.

    .. math::

        \mathrm{loss} + \beta \, \mathrm{KL}, \qquad
        \mathrm{KL} = \frac{1}{2} \sum (\mu^2 + \sigma^2 - \log \sigma^2 - 1)

    The KL term is the mean over examples. The layer adds its gradient to that of any loss. The value
    of the loss does not change.

    Args:
        features: Number of features F.
        latent: Number of values of a code z.
        beta: Weight of the KL term.

    References:
        Scheliga, Mäder, Seeland. PRECODE - A Generic Model Extension to Prevent Deep Gradient Leakage.
        WACV 2022, section 3. arXiv:2108.04725.

        Alemi, Fischer, Dillon, Murphy. Deep Variational Information Bottleneck. ICLR 2017.
        arXiv:1612.00410.
    """

    def __init__(self, features: int, latent: int, beta: float) -> None:
        super().__init__()
        self.encoder = nn.Linear(features, 2 * latent)
        self.decoder = nn.Linear(latent, features)
        self.beta = beta
        self.sampling = True

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the decoded features (..., F)."""
        mean, log_variance = self.encoder(inputs).chunk(2, dim=-1)
        code = mean
        if self.sampling:
            noise = torch.randn(mean.shape, dtype=mean.dtype).to(mean.device)
            code = mean + (0.5 * log_variance).exp() * noise
        divergence = mean.square() + log_variance.exp() - log_variance - 1
        term = 0.5 * self.beta * divergence.sum(-1).mean()
        output: Tensor = _Joined.apply(self.decoder(code), term)  # type: ignore[no-untyped-call]
        return output

    def extra_repr(self) -> str:
        return f"beta={self.beta:g}"


class _Joined(torch.autograd.Function):
    """A function that returns its values unchanged, and adds the gradient of `term`, a scalar, to any loss."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, term: Tensor) -> Tensor:
        """Return a copy of `values`."""
        return values.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient for `values`, and 1 for `term`."""
        return gradient, gradient.new_ones(())

    @staticmethod
    def jvp(ctx: Any, values: Tensor, term: Tensor) -> Tensor:
        """Return the tangent of `values`."""
        return values.clone()


def is_sampling(model: nn.Module) -> bool:
    """Return whether a variational bottleneck of the model draws random codes."""
    return any(isinstance(m, VariationalBottleneck) and m.sampling for m in model.modules())


def at_mean(model: nn.Module) -> nn.Module:
    """Return a copy of the model whose variational bottlenecks use the mean of each code."""
    after = deep_copy(model)
    for module in after.modules():
        if isinstance(module, VariationalBottleneck):
            module.sampling = False
    return after
