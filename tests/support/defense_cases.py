"""Every defense under the contract, with its properties. A new defense is one line here, usually with its defaults."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

import leakgauge as lg
from leakgauge.defenses import (
    ATS,
    DCS2,
    DGC,
    DPSGD,
    Activation,
    Chain,
    Clipping,
    DPFedAvg,
    Dropout,
    GaussianNoise,
    InstaHide,
    LaplacianNoise,
    LayerPruning,
    LocalLayers,
    Mixup,
    Outpost,
    PatchDropout,
    PixelDropout,
    Precode,
    Quantization,
    RandomSparsification,
    Sign,
    Soteria,
    StochasticQuantization,
    TopK,
    Undefended,
)


class Exact(Enum):
    """The known quantity from which an adaptive adversary computes the observed update exactly."""

    BATCH = "the true batch"
    UPDATE = "the update before on_update, but not the true batch, since the defense drew something earlier"
    NOTHING = "nothing, since on_update adds or removes values that no adversary knows"


@dataclass(frozen=True, kw_only=True)
class DefenseCase:
    """A defense that is quick to test, and its properties.

    Args:
        defense: The defense.
        exact: The known quantity from which an adaptive adversary computes the observed update exactly.
        random: Whether `on_update` draws random numbers.
        neutral: The weakest setting, which changes nothing. None if there is none.
        strength: Whether the defense has a strength for figures.
    """

    defense: lg.Defense
    exact: Exact = Exact.BATCH
    random: bool = False
    neutral: lg.Defense | None = None
    strength: bool = True

    @property
    def name(self) -> str:
        """The name of the defense's class."""
        return type(self.defense).__name__


DEFENSE_CASES = (
    DefenseCase(defense=Undefended(), neutral=Undefended(), strength=False),
    # Data.
    DefenseCase(defense=ATS(), exact=Exact.UPDATE, neutral=ATS(policies=""), strength=False),
    DefenseCase(defense=InstaHide(), exact=Exact.UPDATE),
    DefenseCase(defense=Mixup(), exact=Exact.UPDATE),
    DefenseCase(defense=PatchDropout(), exact=Exact.UPDATE, neutral=PatchDropout(fraction=0.0)),
    DefenseCase(defense=PixelDropout(), exact=Exact.UPDATE, neutral=PixelDropout(fraction=0.0)),
    # Model.
    DefenseCase(defense=Activation(kind="tanh")),
    DefenseCase(defense=Dropout(), exact=Exact.UPDATE, neutral=Dropout(p=0.0)),
    DefenseCase(defense=LocalLayers(), exact=Exact.UPDATE, neutral=LocalLayers(last=0)),
    DefenseCase(defense=Precode(latent=8), exact=Exact.UPDATE),
    # Gradient computation.
    DefenseCase(defense=DCS2(steps=3), exact=Exact.UPDATE),
    DefenseCase(defense=DPSGD(max_norm=0.1, noise_multiplier=0.0)),
    DefenseCase(defense=Outpost(), exact=Exact.NOTHING, neutral=Outpost(sparsity=0.0, noise=0.0)),
    DefenseCase(defense=Soteria(), neutral=Soteria(sparsity=0.0)),
    # Update.
    DefenseCase(defense=Clipping(norm=0.1), neutral=Clipping(norm=1e9)),
    DefenseCase(defense=DGC(), neutral=DGC(sparsity=0.0)),
    DefenseCase(
        defense=DPFedAvg(max_norm=0.1, noise_multiplier=0.0),
        neutral=DPFedAvg(max_norm=1e9, noise_multiplier=0.0),
    ),
    DefenseCase(
        defense=GaussianNoise(), exact=Exact.NOTHING, random=True, neutral=GaussianNoise(std=1e-30)
    ),
    DefenseCase(
        defense=LaplacianNoise(),
        exact=Exact.NOTHING,
        random=True,
        neutral=LaplacianNoise(std=1e-30),
    ),
    DefenseCase(defense=LayerPruning(fraction=0.4), neutral=LayerPruning(fraction=0.0)),
    DefenseCase(defense=Quantization(), exact=Exact.NOTHING),
    DefenseCase(
        defense=RandomSparsification(), random=True, neutral=RandomSparsification(sparsity=0.0)
    ),
    DefenseCase(defense=Sign(), exact=Exact.NOTHING, strength=False),
    DefenseCase(defense=StochasticQuantization(), exact=Exact.NOTHING, random=True),
    DefenseCase(defense=TopK(), neutral=TopK(sparsity=0.0)),
    # Several.
    DefenseCase(
        defense=Chain(defenses=(Clipping(norm=0.1), TopK())), neutral=Chain(), strength=False
    ),
)


def without_case(
    names: Collection[str], cases: Collection[DefenseCase] = DEFENSE_CASES
) -> str | None:
    """Return a message with the defenses that have no case and what to do, or None if all have one."""
    missing = sorted(set(names) - {case.name for case in cases})
    if not missing:
        return None
    one = f"DefenseCase(defense={missing[0]}())"
    place = "tests/support/defense_cases.py"
    return f"no case for {', '.join(missing)}: add {one} to DEFENSE_CASES in {place}"
