"""Rules by which an example counts as leaked: conventions, each with its text for a reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan

from leakgauge.metrics.examples import PSNR_CEILING
from leakgauge.metrics.summary import Closer

Values = Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class Instead:
    """Another score that serves where the first one does not reach its floor.

    Args:
        metric: its name.
        floor: the value from which it serves, in the metric's unit.
        better: which of its values leak more.
    """

    metric: str
    floor: float
    better: Closer


@dataclass(frozen=True, kw_only=True)
class LeakRule:
    """An example leaked if its score reaches `floor` and is better for the adversary than the blind control's.

    Whether a higher or a lower score is better, the headline of the modality says (`better`), as it is the score of
    the headline that a rule judges. Where lower is better, "reaches" means at most.

    Args:
        name: by which a verdict refers to the rule.
        text: what it says, for a reader.
        metric: the score that decides, that of the headline.
        floor: the score from which an example counts, in the metric's unit: the least one where higher is better, the
            largest where lower is.
        margin: least distance to the control's score, in the metric's unit. None: any distance above 0.
        instead: another score, which serves where the first one does not reach `floor`. The distance to the control
            counts all the same.
    """

    name: str
    text: str
    metric: str
    floor: float
    margin: float | None = None
    instead: Instead | None = None

    def judge(
        self,
        scores: Mapping[str, Values],
        control: Mapping[str, Values],
        found: Sequence[bool],
        *,
        better: Closer,
    ) -> tuple[bool | None, ...]:
        """Return for each example whether it leaked, or None if it cannot be judged.

        Args:
            scores: by metric, a value for each example.
            control: the same of the blind control; empty if it failed.
            found: whether the attack has a guess of each example. Where it has none, nothing leaked.
            better: which scores leak more, as the headline says.
        """
        mine = scores.get(self.metric, (None,) * len(found))
        blind = control.get(self.metric, (None,) * len(found))
        other = self._other(scores, len(found))
        verdicts = []
        for i, has_guess in enumerate(found):
            if has_guess:
                verdicts.append(self.leaked(mine[i], blind[i], other[i], better=better))
            else:
                verdicts.append(None if mine[i] is None else False)
        return tuple(verdicts)

    def part(self, score: float | None, other: float | None, *, better: Closer) -> str | None:
        """Return by which metric an example reaches the rule, `metric` or that of `instead`, or None if by neither."""
        if _reaches(score, self.floor, better):
            return self.metric
        found = self.instead
        if found is not None and _reaches(other, found.floor, found.better):
            return found.metric
        return None

    def parts(
        self, scores: Mapping[str, Values], leaked: Sequence[bool | None], *, better: Closer
    ) -> tuple[str | None, ...]:
        """Return for each example by which metric it leaked, or None if it did not."""
        mine = scores.get(self.metric, (None,) * len(leaked))
        other = self._other(scores, len(leaked))
        return tuple(
            self.part(mine[i], other[i], better=better) if leaks else None
            for i, leaks in enumerate(leaked)
        )

    def _other(self, scores: Mapping[str, Values], count: int) -> Values:
        """Return the scores of `instead` for each of `count` examples, or None for each if there are none."""
        return (scores.get(self.instead.metric) if self.instead else None) or (None,) * count

    def leaked(
        self,
        score: float | None,
        control: float | None,
        other: float | None = None,
        *,
        better: Closer,
    ) -> bool | None:
        """Return whether one example leaked, or None if a score is missing or not a number.

        Args:
            score: of `metric`.
            control: of the blind control.
            other: of `instead`, if it was measured.
            better: which scores leak more.
        """
        if score is None or control is None or isnan(score) or isnan(control):
            return None
        score, control = self._uncapped(score), self._uncapped(control)
        seen = self.part(score, other, better=better) is not None
        ahead = score - control if better == "higher" else control - score
        # The difference of two infinities is not a number, and so no leak: both found it blind.
        return seen and (ahead > 0 if self.margin is None else ahead >= self.margin)

    def _uncapped(self, value: float) -> float:
        """Return infinity for a PSNR at its ceiling, which means an exact copy."""
        return inf if self.metric == "psnr" and value >= PSNR_CEILING else value


def _reaches(score: float | None, floor: float, better: Closer) -> bool:
    """Return whether a score is at least `floor`, or at most where lower is better. A missing one does not reach it."""
    if score is None:
        return False
    return score >= floor if better == "higher" else score <= floor


IMAGE_RULE = LeakRule(
    name="image above control",
    # 3 dB: half the squared error of the control. SSIM: structure that a person sees, whatever the noise on it.
    text="An image counts as leaked when its PSNR is at least 20 dB, or its SSIM at least 0.5, and its PSNR is at"
    " least 3 dB above the blind control.",
    metric="psnr",
    floor=20.0,
    margin=3.0,
    instead=Instead(metric="ssim", floor=0.5, better="higher"),
)
TABLE_RULE = LeakRule(
    name="table row above control",
    text="A table row counts as leaked when at least 50% of its columns are read, each within 1% of its public"
    " range, and more than the control reads.",
    metric="columns_read",
    floor=0.5,
)
