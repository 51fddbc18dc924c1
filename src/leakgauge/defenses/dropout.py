"""Dropout before the last linear layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from leakgauge.core import Claim, Seeds
from leakgauge.core.ranges import Fraction
from leakgauge.defenses.base import Undefended
from leakgauge.defenses.last_linear import insert_before_last_linear


@dataclass(frozen=True, kw_only=True)
class Dropout(Undefended):
    r"""Add dropout before the last linear layer.

    It acts on the model before training. The new layer is in train mode, even if the rest of the
    model is in eval mode. "Last" is meant in the order in which the model registers its layers.

    .. math::

        \tilde r_i = \frac{m_i \, r_i}{1 - p}, \qquad m_i \sim \mathrm{Bernoulli}(1 - p)

    Here :math:`r_i` is feature :math:`i` before the last linear layer. The masks :math:`m_i` are
    drawn anew for each example.

    An adaptive adversary searches for the masks together with the inputs. The attack
    `DropoutInversion` does this.

    Args:
        p: Probability that a feature is dropped, in [0, 1). At 0 the model stays unchanged. The
            default is the paper's.

    Raises:
        ModelError: The model does not end with a linear layer that has trained layers before it.

    References:
        Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov. Dropout: A Simple Way to Prevent
        Neural Networks from Overfitting. JMLR 2014.

        As a defense: Zhang, Guo, Wang, Xie, Tao. A Survey on Gradient Inversion: Attacks, Defenses
        and Future Directions. IJCAI 2022. arXiv:2206.07284.

        Against it: Scheliga, Mäder, Seeland. Dropout Is NOT All You Need to Prevent Gradient
        Leakage. AAAI 2023. arXiv:2208.06163.

    Example:
        >>> import leakgauge as lg
        >>> model = lg.examples.client(defense=lg.defenses.Dropout(p=0.3)).global_model(seeds=lg.Seeds(0))
        >>> [type(layer).__name__ for layer in list(model.modules())[-2:]]
        ['Dropout', 'Linear']
    """

    strength: ClassVar[str] = "p"
    claim: ClassVar[Claim] = Claim(
        "which features of each example took part in training",
        "anyone who sees the update",
        "searches for the masks together with the inputs (attack dropout_inversion)",
    )
    p: Fraction = 0.5

    def on_model(self, model: nn.Module, *, seeds: Seeds) -> nn.Module:
        """Return a copy with the dropout, or the model itself if `p` is 0.

        Raises:
            ModelError: The model does not end with a linear layer that has trained layers before
                it.
        """
        if self.p == 0:
            return model
        return insert_before_last_linear(model, "dropout", nn.Dropout(self.p).train())
