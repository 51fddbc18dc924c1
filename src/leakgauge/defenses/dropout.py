"""Dropout. Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov: Dropout: A Simple Way to Prevent Neural Networks
from Overfitting, JMLR 2014. As a defense it is among those of Zhang et al.: A Survey on Gradient Inversion, IJCAI 2022.
Who knows it searches the masks too: Scheliga et al., Dropout is NOT All You Need, AAAI 2023.

    features r before the last linear layer become   r m / (1 - p),   m ~ Bernoulli(1 - p), anew for each example
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from leakgauge.core import Claim, Seeds
from leakgauge.core.ranges import Fraction
from leakgauge.defenses.base import Undefended
from leakgauge.defenses.last_linear import before_last_linear


@dataclass(frozen=True, kw_only=True)
class Dropout(Undefended):
    """Dropout of probability `p` in [0, 1) before the last linear layer, active while clients train; 0.5, the paper's.

    The last linear layer is told by the order in which the model registers its layers.
    """

    strength: ClassVar[str] = "p"
    claim: ClassVar[Claim] = Claim(
        "which features each example was trained on",
        "whoever sees the update",
        "searches masks beside inputs (attack dropout_inversion)",
    )
    p: Fraction = 0.5

    def on_model(self, model: nn.Module, *, seeds: Seeds) -> nn.Module:
        """A copy with the dropout; the model itself where p is 0. Raises ModelError as PRECODE does."""
        if self.p == 0:
            return model
        return before_last_linear(model, "dropout", nn.Dropout(self.p).train())
