"""A defense that replaces every activation of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from leakgauge.core import Claim, ModelError, Seeds, deep_copy
from leakgauge.defenses.base import Undefended

NAMED: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}
KINDS = (*NAMED.values(), nn.ELU, nn.SELU, nn.CELU, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Mish)


@dataclass(frozen=True, kw_only=True)
class Activation(Undefended):
    r"""Replace every activation of the network by one kind.

    It acts on the model before training. Every activation that is a module becomes a module of
    `kind`, with PyTorch's default options. Activations that `forward` calls as functions stay.

    Use it on models that are trained afterward. It is no defense for weights that were trained with
    another activation.

    .. math::

        a_l = \sigma_{\mathrm{kind}}(W_l a_{l-1} + b_l)

    Here :math:`a_l` is the output of layer :math:`l`, with weights :math:`W_l` and bias
    :math:`b_l`, and :math:`\sigma_{\mathrm{kind}}` is the new activation.

    Nothing is hidden with certainty. Some activations make gradient matching harder. An adaptive
    adversary smooths the kinks of ReLU in its own simulation. The attack `SmoothedMatching` does
    this.

    Args:
        kind: Name of the activation. The default is ReLU, ours.

    References:
        Ours as a defense. Zhu, Liu, Han. Deep Leakage from Gradients. NeurIPS 2019.
        arXiv:1906.08935. Their attack needs activations that are twice differentiable.

    Example:
        >>> import leakgauge as lg
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> lg.defenses.Activation(kind="tanh").on_model(model, seeds=lg.Seeds(0))[1]
        Tanh()
    """

    strength: ClassVar[str] = "kind"
    claim: ClassVar[Claim] = Claim(
        "nothing with certainty. Some activations make gradient matching harder",
        "anyone who sees the update",
        "smooths the kinks of ReLU in its own simulation (attack smoothed_matching)",
    )
    kind: Literal["sigmoid", "tanh", "relu", "leaky_relu", "gelu", "silu", "softplus"] = "relu"

    def on_model(self, model: nn.Module, *, seeds: Seeds) -> nn.Module:
        """Return a copy of the model with the new activations.

        Raises:
            ModelError: No module within the model is an activation.
        """
        after = deep_copy(model)
        modules = dict(after.named_modules(remove_duplicate=False))
        places = [name for name, module in modules.items() if isinstance(module, KINDS)]
        if not places or places == [""]:
            raise ModelError(
                f"model {type(model).__name__}",
                expected="activations that are modules within it, such as torch.nn.ReLU",
                found="none",
                remedy="build the model with another activation instead",
            )
        for place in places:
            parent, _, leaf = place.rpartition(".")
            new = NAMED[self.kind]().train(modules[place].training)
            setattr(after.get_submodule(parent), leaf, new)
        return after
