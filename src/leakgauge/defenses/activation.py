"""Another activation. Ours; which one a network has is said to matter by many, of DLG (Zhu et al. 2019: it
needs networks that are twice differentiable) on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from leakgauge.core import Claim, ModelError, Seeds, copied
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
    """Every activation that is a module becomes one of this kind, as PyTorch has it; those called as functions stay.

    It is for models that are then trained: to weights that were trained with another activation it is no defense.
    """

    strength: ClassVar[str] = "kind"
    claim: ClassVar[Claim] = Claim(
        "nothing that is certain: some activations are harder to match through",
        "whoever sees the update",
        "smooths kinks in its own simulation (attack smoothed_matching)",
    )
    kind: Literal["sigmoid", "tanh", "relu", "leaky_relu", "gelu", "silu", "softplus"] = "relu"

    def on_model(self, model: nn.Module, *, seeds: Seeds) -> nn.Module:
        """A copy with the other activation. Raises ModelError where no module is one."""
        after = copied(model)
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
