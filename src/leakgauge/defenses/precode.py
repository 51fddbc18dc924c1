"""PRECODE: a variational bottleneck before the last linear layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from leakgauge.core import Claim, Effect, Misleading, Seeds, Tensors, Update
from leakgauge.core.ranges import Count, NonNegative
from leakgauge.defenses.base import Undefended, zero_named
from leakgauge.defenses.last_linear import find_last_linear, insert_before_last_linear
from leakgauge.federated.layers.bottleneck import VariationalBottleneck

MARK = "precode"
"""Name of the bottleneck within the module that replaces the last layer."""


@dataclass(frozen=True, kw_only=True)
class Precode(Undefended):
    r"""Put a variational bottleneck before the last linear layer (PRECODE).

    It acts on the model before training. The gradients of the bottleneck and of the last layer then
    depend on random numbers that only the client knows. "Last" is meant in the order in which the
    model registers its layers.

    .. math::

        &(\mu, \log s^2) = E(h), \qquad z = \mu + s \odot \epsilon, \quad \epsilon \sim \mathcal{N}(0, I),
        \qquad \hat h = D(z) \\
        &\min \; L + \beta \, \mathrm{KL}\left(\mathcal{N}(\mu, s^2) \,\|\, \mathcal{N}(0, I)\right)

    Here :math:`h` are the features before the last layer, and :math:`E` and :math:`D` are linear
    layers. The latent :math:`z` has `latent` values, with mean :math:`\mu` and variance
    :math:`s^2`. The client's loss is :math:`L`, and :math:`\beta` is `beta`. The KL term is added
    to any loss.

    An adaptive adversary leaves the bottleneck and the last layer out of the matching. The attack
    `SignalMatching` matches the layers before the bottleneck. The signal that flows back to them
    is unknown, so the attack searches for it too.

    Args:
        latent: Number of latent values, at least 1. The default is that of public implementations.
            We could not check it in the paper.
        beta: Weight of the KL term, at least 0. The default is that of public implementations. We
            could not check it in the paper.

    Raises:
        ModelError: The model does not end with a linear layer that has trained layers before it.

    References:
        Scheliga, Mäder, Seeland. PRECODE - A Generic Model Extension to Prevent Deep Gradient
        Leakage. WACV 2022. arXiv:2108.04725.

        Against it: Scheliga, Mäder, Seeland. Privacy Preserving Federated Learning with
        Convolutional Variational Bottlenecks. 2023. arXiv:2309.04515.

    Example:
        >>> import leakgauge as lg
        >>> client = lg.examples.client(defense=lg.defenses.Precode(latent=16))
        >>> model = client.global_model(seeds=lg.Seeds(0))
        >>> [name for name, layer in model.named_modules() if name.endswith(".precode")]
        ['linear1.precode']
    """

    strength: ClassVar[str] = "latent"
    claim: ClassVar[Claim] = Claim(
        "the gradients of the bottleneck and of the last layer, behind the client's random draws",
        "anyone who sees the update",
        "matches only the layers before the bottleneck, and searches for the signal that flows back to them "
        "(attack signal_matching)",
    )
    latent: Count = 256
    beta: NonNegative = 1e-3

    @property
    def effects(self) -> tuple[Effect, ...]:
        return (Misleading(believed=self.believed),)

    def on_model(self, model: nn.Module, *, seeds: Seeds) -> nn.Module:
        """Return a copy with the bottleneck.

        Raises:
            ModelError: The model does not end with a linear layer that has trained layers before
                it.
        """
        _, last = find_last_linear(model)
        with seeds.isolated("precode"):
            bottleneck = VariationalBottleneck(last.in_features, self.latent, self.beta)
        return insert_before_last_linear(
            model, MARK, bottleneck.to(last.weight).train(last.training)
        )

    def believed(self, observed: Update) -> Update:
        return Update(
            zero_named(observed.tensors, hidden_parameters(observed.tensors)), observed.kind
        )

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        hidden = hidden_parameters(observed.tensors)
        return lambda simulated: zero_named(simulated, hidden)


def hidden_parameters(names: Iterable[str]) -> frozenset[str]:
    """Return the names of the parameters of the bottleneck and of the layer after it.

    The set is empty if there is no bottleneck.
    """
    split = {name: name.split(".") for name in names}
    stems = {tuple(parts[: parts.index(MARK)]) for parts in split.values() if MARK in parts}
    return frozenset(
        name
        for name, parts in split.items()
        if any(tuple(parts[: len(stem)]) == stem for stem in stems)
    )
