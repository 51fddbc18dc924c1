"""Rules by which an example counts as leaked: conventions, each with its text for a reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan

from leakgauge.metrics.examples import PSNR_CEILING

Values = Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class LeakRule:
    """An example leaked if its score is at least `floor` and stands above the blind control's.

    Args:
        name: by which a verdict refers to the rule.
        text: what it says, for a reader.
        metric: the score that decides, of which more is more leakage.
        floor: least score, in the metric's unit.
        margin: least distance to the control's score, in the metric's unit. None: any distance above 0.
        instead: another metric and its least value, which serves where the score is below `floor`.
    """

    name: str
    text: str
    metric: str
    floor: float
    margin: float | None = None
    instead: tuple[str, float] | None = None

    def judge(
        self, scores: Mapping[str, Values], control: Mapping[str, Values], found: Sequence[bool]
    ) -> tuple[bool | None, ...]:
        """Return for each example whether it leaked, or None if it cannot be judged.

        Args:
            scores: by metric, a value for each example.
            control: the same of the blind control; empty if it failed.
            found: whether the attack has a guess of each example. Where it has none, nothing leaked.
        """
        mine = scores.get(self.metric, (None,) * len(found))
        blind = control.get(self.metric, (None,) * len(found))
        other = scores.get(self.instead[0]) if self.instead else None
        verdicts = []
        for i, has_guess in enumerate(found):
            if has_guess:
                verdicts.append(self.leaked(mine[i], blind[i], other[i] if other else None))
            else:
                verdicts.append(None if mine[i] is None else False)
        return tuple(verdicts)

    def leaked(
        self, score: float | None, control: float | None, other: float | None = None
    ) -> bool | None:
        """Return whether one example leaked, or None if a score is missing or not a number.

        Args:
            score: of `metric`.
            control: of the blind control.
            other: of `instead`, if it was measured.
        """
        if score is None or control is None or isnan(score) or isnan(control):
            return None
        score, control = self._uncapped(score), self._uncapped(control)
        seen = score >= self.floor or (
            self.instead is not None and other is not None and other >= self.instead[1]
        )
        if self.margin is None:
            return seen and score > control
        # The difference of two infinities is not a number, and so no leak: both found it blind.
        return seen and score - control >= self.margin

    def _uncapped(self, value: float) -> float:
        """Return infinity for a PSNR at its ceiling, which means an exact copy."""
        return inf if self.metric == "psnr" and value >= PSNR_CEILING else value


IMAGE_RULE = LeakRule(
    name="image above control",
    # 3 dB: half the squared error of the control. SSIM: structure that a person sees, whatever the noise on it.
    text="An image counts as leaked when its PSNR is at least 20 dB, or its SSIM at least 0.5, and its PSNR is at"
    " least 3 dB above the blind control.",
    metric="psnr",
    floor=20.0,
    margin=3.0,
    instead=("ssim", 0.5),
)
TABLE_RULE = LeakRule(
    name="table row above control",
    text="A table row counts as leaked when at least 50% of its columns are read, each within 1% of its public"
    " range, and more than the control reads.",
    metric="columns_read",
    floor=0.5,
)
