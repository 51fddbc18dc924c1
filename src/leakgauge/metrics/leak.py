"""Rules that decide whether an example counts as leaked. They are conventions, each with a text for a reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan

from leakgauge.metrics.examples import PSNR_CEILING
from leakgauge.metrics.summary import Closer

Values = Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class Instead:
    """Another metric that can satisfy a rule if the first one does not reach its floor.

    Args:
        metric: Name of the metric.
        floor: Value from which an example counts, in the metric's unit.
        better: Direction in which the metric leaks more.
    """

    metric: str
    floor: float
    better: Closer


@dataclass(frozen=True, kw_only=True)
class LeakRule:
    """A rule: an example leaked if its score reaches `floor` and beats the blind control.

    The score is that of the modality's headline metric. The headline says whether higher or lower
    scores leak more. If lower scores do, "reaches" means at most.

    Args:
        name: Name by which a verdict refers to the rule.
        text: The rule in words, for a reader.
        metric: Name of the metric that decides, that of the headline.
        floor: Score from which an example counts, in the metric's unit: the least one if higher
            scores leak more, else the largest.
        margin: Least distance to the control's score, in the metric's unit. None means any distance
            above 0.
        instead: Another metric, which counts if the first one does not reach `floor`. The distance
            to the control must hold in any case.
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
            scores: A value for each example, by metric.
            control: The same for the blind control. Empty if the control failed.
            found: Whether the attack reconstructed each example. An example without a
                reconstruction did not leak.
            better: Direction in which the headline metric leaks more.
        """
        mine = scores.get(self.metric, (None,) * len(found))
        blind = control.get(self.metric, (None,) * len(found))
        other = self._other(scores, len(found))
        verdicts = []
        for i, reconstructed in enumerate(found):
            if reconstructed:
                verdicts.append(self.leaked(mine[i], blind[i], other[i], better=better))
            else:
                verdicts.append(None if mine[i] is None else False)
        return tuple(verdicts)

    def part(self, score: float | None, other: float | None, *, better: Closer) -> str | None:
        """Return the name of the metric by which an example reaches the rule, or None if it does not."""
        if _reaches(score, self.floor, better):
            return self.metric
        found = self.instead
        if found is not None and _reaches(other, found.floor, found.better):
            return found.metric
        return None

    def parts(
        self, scores: Mapping[str, Values], leaked: Sequence[bool | None], *, better: Closer
    ) -> tuple[str | None, ...]:
        """Return for each example the name of the metric by which it leaked, or None if it did not."""
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
            score: Score by `metric`.
            control: Score of the blind control by `metric`.
            other: Score by `instead`, if it was measured.
            better: Direction in which `metric` leaks more.
        """
        if score is None or control is None or isnan(score) or isnan(control):
            return None
        score, control = self._uncapped(score), self._uncapped(control)
        seen = self.part(score, other, better=better) is not None
        ahead = score - control if better == "higher" else control - score
        # The difference of two infinities is not a number, so nothing leaked: the blind control found it too.
        return seen and (ahead > 0 if self.margin is None else ahead >= self.margin)

    def _uncapped(self, value: float) -> float:
        """Return infinity for a PSNR at its ceiling, which means an exact copy."""
        return inf if self.metric == "psnr" and value >= PSNR_CEILING else value


def _reaches(score: float | None, floor: float, better: Closer) -> bool:
    """Return whether a score is at least `floor`, or at most if lower is better. A missing score does not reach it."""
    if score is None:
        return False
    return score >= floor if better == "higher" else score <= floor


IMAGE_RULE = LeakRule(
    name="image above control",
    # 3 dB is half the squared error of the control. SSIM measures structure that a person sees through noise.
    text="An image counts as leaked if it meets two conditions. First, its PSNR is at least 20 dB or its SSIM is at"
    " least 0.5. Second, its PSNR is at least 3 dB above the blind control.",
    metric="psnr",
    floor=20.0,
    margin=3.0,
    instead=Instead(metric="ssim", floor=0.5, better="higher"),
)
TEXT_RULE = LeakRule(
    name="sentence above control",
    text="A sentence counts as leaked if at least 50% of its tokens are read, and at least 10 percentage points more"
    " than the blind control reads. A token is read if it stands anywhere in the sentence's reconstruction.",
    metric="token_bag",
    floor=0.5,
    margin=0.1,
)
TABLE_RULE = LeakRule(
    name="table row above control",
    text="A table row counts as leaked if at least 50% of its columns are read, and more than the blind control reads."
    " A column is read if its error is at most 1% of its public range.",
    metric="columns_read",
    floor=0.5,
)
