"""A variational bottleneck. Scheliga, Mäder, Seeland: PRECODE - A Generic Model Extension to Prevent Deep Gradient
Leakage, WACV 2022, section 3; Alemi, Fischer, Dillon, Murphy: Deep Variational Information Bottleneck, ICLR 2017.

    (mu, log s^2) = E(h)      z = mu + s e,  e ~ N(0, I)      h' = D(z)
    loss + beta KL(N(mu, s^2) || N(0, I)),    KL = mean over examples of  1/2 sum (mu^2 + s^2 - log s^2 - 1)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from leakgauge.core import copied


class VariationalBottleneck(nn.Module):
    """h (..., F) to D(z) (..., F), z of `latent` values drawn anew in each forward, in train and in eval mode.

    Drawn from torch's global generator on the CPU. Where `sampling` is off, e = 0. The KL term joins whatever
    loss is differentiated: it needs no loss of its own, and shows in gradients alone.
    """

    def __init__(self, features: int, latent: int, beta: float) -> None:
        super().__init__()
        self.encoder = nn.Linear(features, 2 * latent)
        self.decoder = nn.Linear(latent, features)
        self.beta = beta
        self.sampling = True

    def forward(self, inputs: Tensor) -> Tensor:
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
    """The values as they are; the gradient of any loss of them is that of the loss plus `term`, a scalar."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, term: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient.new_ones(())

    @staticmethod
    def jvp(ctx: Any, values: Tensor, term: Tensor) -> Tensor:
        return values.clone()


def is_sampling(model: nn.Module) -> bool:
    """Whether a variational bottleneck of the model draws."""
    return any(isinstance(m, VariationalBottleneck) and m.sampling for m in model.modules())


def at_mean(model: nn.Module) -> nn.Module:
    """A copy of the model whose variational bottlenecks draw nothing."""
    after = copied(model)
    for module in after.modules():
        if isinstance(module, VariationalBottleneck):
            module.sampling = False
    return after
