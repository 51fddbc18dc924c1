"""The attack that tries all applicable attacks, closed forms first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from leakgauge.attacks.april import April
from leakgauge.attacks.balanced_dlg import BalancedDLG
from leakgauge.attacks.cocktail_party import CocktailParty
from leakgauge.attacks.corrected_surrogate import CorrectedSurrogate
from leakgauge.attacks.dager import DAGER
from leakgauge.attacks.dropout_inversion import DropoutInversion
from leakgauge.attacks.entries import Entry, HasCurvature, HasReLU
from leakgauge.attacks.idlg import IDLG
from leakgauge.attacks.inverting_gradients import InvertingGradients
from leakgauge.attacks.lamp import LAMP
from leakgauge.attacks.linear_layer import LinearLayer
from leakgauge.attacks.peeling import Peeling
from leakgauge.attacks.rgap import RGAP
from leakgauge.attacks.running import Able, Running, plan_all
from leakgauge.attacks.second_order import SecondOrder
from leakgauge.attacks.shift_consistency import ShiftConsistency
from leakgauge.attacks.smoothed_matching import SmoothedMatching
from leakgauge.attacks.softmax_unmixing import SoftmaxUnmixing
from leakgauge.attacks.spear import Spear
from leakgauge.attacks.surrogate_model import SurrogateModel
from leakgauge.attacks.tag import TAG
from leakgauge.attacks.tiger import TIGER
from leakgauge.attacks.token_bag import TokenBag
from leakgauge.core import (
    Attack,
    BaseAttack,
    Inapplicable,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
)

SMALL = 100_000
"""Largest number of parameters for second order by default. Its matrices grow with the number of parameters."""

DEFAULT: tuple[Entry, ...] = (
    Entry(attack=ShiftConsistency(), decisive=True),
    Entry(attack=LinearLayer()),
    Entry(attack=CocktailParty()),
    Entry(attack=Spear()),
    Entry(attack=RGAP()),
    Entry(attack=Peeling()),
    Entry(attack=April()),
    Entry(attack=April(equations="embedding")),
    Entry(attack=SoftmaxUnmixing(), most_parameters=SMALL),
    Entry(attack=DropoutInversion(attack=SecondOrder(), weight=0.0), most_parameters=SMALL),
    Entry(attack=SecondOrder(), most_parameters=SMALL),
    Entry(attack=SmoothedMatching(), guards=(HasReLU(),)),
    Entry(attack=IDLG(steps=100), guards=(HasCurvature(),)),
    Entry(attack=BalancedDLG(), guards=(HasCurvature(),)),
    Entry(attack=CorrectedSurrogate(), guards=(HasCurvature(),)),
    Entry(attack=SurrogateModel()),
    Entry(attack=InvertingGradients(steps=4000)),
    Entry(attack=TokenBag()),
    Entry(attack=DAGER(), decisive=True),
    Entry(attack=TIGER(steps=500)),
    Entry(attack=TAG()),
    Entry(attack=LAMP()),
)
"""The default entries: closed forms first, then descents, then the attacks on text in the same order."""


@dataclass(frozen=True, kw_only=True)
class Auto(BaseAttack):
    """Run all applicable attacks, one after the other, until one result is certain. Return the best match.

    Use it if you do not know which attack fits. A result is certain in four cases:

    - The result is certified.
    - It matches the update, and the update determines every direction of the batch.
    - The batch has one example, and the result matches the update to rounding error.
    - `ShiftConsistency` or `DAGER` read each example alone, and the result matches the update.

    If `ShiftConsistency` read the features of each example, but the images do not match the update,
    the attacks behind it know the labels.

    The best match has the smallest relative residual of the update. An adversary can measure this
    residual, too. The notes list the attacks that ran, those that failed, and why others did not
    run.

    Args:
        attacks: Entries, or attacks without conditions. The default has closed forms first, then
            descents. Add your own attack with `attacks=(Entry(attack=Mine()), *Auto().attacks)`.

    References:
        Ours. Each of the attacks names its own paper.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=2)
        >>> lg.attacks.Auto()(observation, seeds=lg.Seeds(0)).notes[0]
        'chosen by residual: LinearLayer()'
    """

    attacks: tuple[Attack | Entry, ...] = DEFAULT
    # Each attack decides for itself whether it needs derivatives.
    discrete: ClassVar[bool] = True
    judges_parts: ClassVar[bool] = True

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        entries = [one if isinstance(one, Entry) else Entry(attack=one) for one in self.attacks]
        able, refusals = plan_all(entries, observation)
        if not self.attacks:
            return Inapplicable("it has no attacks: name one in `attacks`")
        if not able:
            return Inapplicable("; ".join(refusals))
        return Plan(
            evaluations=sum(one.plan.evaluations for one in able),
            expected=sum(one.plan.usual for one in able),
            search=partial(_search, observation, able, refusals),
        )


def _search(
    observation: Observation,
    able: Sequence[Able],
    refusals: Sequence[str],
    seeds: Seeds,
    progress: Progress,
) -> Reconstruction:
    """Run the attacks until one result is certain."""
    return Running(observation, able, list(refusals)).run(seeds, progress)
