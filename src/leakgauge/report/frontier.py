"""Leakage against accuracy: each setting of a defense as one point, and which points another one beats.

Reads records alone. Leakage of a setting is that of the worst attack on it: how far the median over examples of the
headline's score is better for the adversary than the blind control's. A setting is dominated where another has no more
leakage, by the rule and by that number, and no less accuracy, and is better in one of them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import fmean, stdev

from leakgauge.records import Cell, Headline, Training
from leakgauge.report.quantiles import median
from leakgauge.report.run import Run
from leakgauge.report.wording import plain

WEAK = ("unconverged", "diverged")
"""Ways to end that say little about safety."""


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """What one attack on one batch size read at one setting, over all batches.

    score and control: medians over examples, in the headline's unit. silent: whether an update was all zeros, so that
    nothing was observed. telling: whether the same attack read something where there was no defense, so that it says
    something of the defense if it does not.
    """

    attack: str
    batch_size: int
    headline: Headline
    score: float | None
    control: float | None
    leaks: int  # examples that leaked by the rule, of those judged
    judged: int
    labels: float | None
    weak: bool
    inapplicable: bool
    failed: bool
    silent: bool
    telling: bool

    @property
    def leaked(self) -> bool | None:
        """Whether at least one example leaked; None where none could be judged."""
        return self.leaks > 0 if self.judged else None

    @property
    def above(self) -> float:
        """How far the score is better for the adversary than the control's; 0 if it is not, or there is no score."""
        return self.headline.ahead(self.score, self.control)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A defense at one strength: what it left to read, and what it cost.

    accuracy: mean final test accuracy over repeats, in [0, 1]; spread: its standard deviation over them. loss: what
    is lost of it against no defense. error: the standard error of an accuracy of a test set of that size.
    """

    case: str
    defense: str
    strength_name: str | None
    strength: float | str | None
    repr: str
    exposures: tuple[Exposure, ...]
    accuracy: float | None
    spread: float | None
    error: float | None
    loss: float | None
    bytes_a_round: float | None
    seconds_a_round: float | None
    epsilon: float | None
    epsilon_note: str
    delta: float | None
    diverged: bool
    untrained: bool  # a training of it failed
    dominated_by: str | None = None

    @property
    def undefended(self) -> bool:
        """Whether this is the model trained, and the update shared, as it is."""
        return self.defense == "none"

    @property
    def name(self) -> str:
        """The defense with its strength: `top_k, sparsity = 0.9`."""
        if self.strength is None:
            return "no defense" if self.undefended else self.defense
        told = f"{self.strength_name or 'strength'} = {plain(self.strength)}"
        # A chain has several names and values.
        return f"{self.defense} ({told})" if "," in told else f"{self.defense}, {told}"

    @property
    def judged(self) -> tuple[Exposure, ...]:
        """What was judged by the rule."""
        return tuple(exposure for exposure in self.exposures if exposure.leaked is not None)

    @property
    def worst(self) -> Exposure | None:
        """The attack that read most: a leak before none, then by how far it is beyond the control."""
        return max(self.judged, key=lambda e: (bool(e.leaked), e.above), default=None)

    @property
    def leaked(self) -> bool:
        """Whether an example leaked by the rule, under any attack."""
        return any(exposure.leaked for exposure in self.judged)

    @property
    def above(self) -> float:
        """Of the worst attack."""
        return self.worst.above if self.worst else 0.0


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """All settings of one case, no defense first, in the order of the records."""

    case: str
    headline: Headline | None
    settings: tuple[Setting, ...]
    trained: int
    tested: int
    clients: int | None
    rounds: int | None
    repeats: int

    @property
    def placed(self) -> tuple[Setting, ...]:
        """Those whose leakage and accuracy are both known."""
        return tuple(s for s in self.settings if s.worst and s.accuracy is not None)


def frontiers(run: Run) -> list[Frontier]:
    """One for each case whose utility was measured, in the order of the records."""
    cells: dict[str, list[Cell]] = defaultdict(list)
    trainings: dict[str, list[Training]] = defaultdict(list)
    for cell in run.cells:
        cells[cell.case].append(cell)
    for training in run.trainings:
        trainings[training.case].append(training)
    return [_frontier(name, cells[name], own) for name, own in trainings.items()]


def _frontier(case: str, cells: Sequence[Cell], trainings: Sequence[Training]) -> Frontier:
    named = {training.defense.repr: training for training in trainings}
    attacked: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        attacked[cell.defense.name, cell.defense.repr].append(cell)
    open_ = [training for training in trainings if training.defense.name == "none"]
    base = _accuracy(open_)
    telling = {_attacked(cell) for cell in cells if cell.undefended and cell.verdict.leaks}
    known = any(cell.undefended for cell in cells)
    settings = []
    for text, first in named.items():
        # What was trained under a name is what was attacked under it, whatever the order of records.
        own = attacked[first.defense.name, text]
        told = [training for training in trainings if training.defense.repr == text]
        settings.append(_setting(first, own, told, base, telling if known else None))
    first = trainings[0]
    return Frontier(
        case=case,
        headline=cells[0].data.headline if cells else None,
        settings=tuple(replace(s, dominated_by=_better(s, settings)) for s in settings),
        trained=first.trained_on.count if first.trained_on else 0,
        tested=_tested(first),
        clients=first.federation.clients,
        rounds=first.federation.rounds,
        repeats=len({training.repeat for training in trainings}),
    )


def _setting(
    first: Training,
    cells: Sequence[Cell],
    trainings: Sequence[Training],
    base: float | None,
    telling: set[tuple[object, ...]] | None,
) -> Setting:
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_attacked(cell), []).append(cell)
    finals = [training.final for training in trainings if training.final is not None]
    accuracy = _accuracy(trainings)
    epsilons = [t.epsilon.value for t in trainings if t.epsilon and t.epsilon.value is not None]
    told = first.epsilon
    return Setting(
        case=first.case,
        defense=first.defense.name,
        strength_name=first.defense.strength_name,
        strength=first.defense.setting,
        repr=first.defense.repr,
        exposures=tuple(
            _exposure(group, telling is None or key in telling) for key, group in groups.items()
        ),
        accuracy=accuracy,
        spread=stdev(finals) if len(finals) > 1 else None,
        error=_standard_error(accuracy, _tested(first)),
        loss=base - accuracy if base is not None and accuracy is not None else None,
        bytes_a_round=_mean([_mean(t.sent_bytes) for t in trainings]),
        seconds_a_round=_mean([_mean(t.round_seconds) for t in trainings]),
        epsilon=max(epsilons) if epsilons else None,
        epsilon_note=told.note if told else "",
        delta=told.delta if told else None,
        diverged=any(training.diverged for training in trainings),
        untrained=any(training.failure for training in trainings),
    )


def _attacked(cell: Cell) -> tuple[object, ...]:
    """What the cells of one exposure share, and the undefended ones with them."""
    return (cell.batch_size, cell.attack.name, cell.attack.repr, cell.threat.name)


def _exposure(cells: Sequence[Cell], telling: bool) -> Exposure:
    first = cells[0]
    run = [cell for cell in cells if cell.ran]
    headline = first.data.headline
    verdicts = [v for cell in run for v in cell.verdict.per_example if v is not None]
    labels = [v for cell in run for v in cell.values("label") if v is not None]
    return Exposure(
        attack=first.attack.name,
        batch_size=first.batch_size,
        headline=headline,
        score=median(chain.from_iterable(cell.values(headline.metric) for cell in run)),
        control=median(chain.from_iterable(cell.blind_values(headline.metric) for cell in run)),
        leaks=sum(verdicts),
        judged=len(verdicts),
        labels=fmean(labels) if labels else None,
        weak=any(cell.status in WEAK and not cell.verdict.leaks for cell in run),
        inapplicable=all(cell.inapplicable for cell in cells),
        failed=any(cell.failure for cell in cells),
        silent=any(cell.silent for cell in cells),
        telling=telling,
    )


def _tested(training: Training) -> int:
    return training.tested_on.count if training.tested_on else 0


def _accuracy(trainings: Sequence[Training]) -> float | None:
    finals = [training.final for training in trainings if training.final is not None]
    return fmean(finals) if finals else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _standard_error(accuracy: float | None, tested: int) -> float | None:
    """Of a share of `tested` examples, by the binomial law."""
    if accuracy is None or tested < 1:
        return None
    return math.sqrt(max(accuracy * (1 - accuracy), 0.0) / tested)


def _better(setting: Setting, settings: Sequence[Setting]) -> str | None:
    """The name of the most accurate setting that dominates this one."""
    beating = [other for other in settings if dominates(other, setting)]
    return max(beating, key=lambda other: other.accuracy or 0.0).name if beating else None


def dominates(one: Setting, other: Setting) -> bool:
    """Whether `one` has no more leakage and no less accuracy, one of them strictly."""
    if one.accuracy is None or other.accuracy is None or not (one.worst and other.worst):
        return False
    better = (
        one.leaked <= other.leaked and one.above <= other.above and one.accuracy >= other.accuracy
    )
    equal = (one.leaked, one.above, one.accuracy) == (other.leaked, other.above, other.accuracy)
    return better and not equal
