"""Leakage against accuracy: each setting of a defense as one point, and the settings that another one dominates.

The leakage of a setting is that of the strongest attack on it. It is the distance between the attack's median score
over examples and the blind control's. It is 0 if the attack's score is no better for the adversary.

One setting dominates another if three things are no worse: the verdict of the rule, the leakage and the accuracy. At
least one of the three must be better.
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
"""Statuses of attacks whose result says little about safety."""


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """The result of one attack on one setting and one batch size, over all batches.

    Args:
        attack: Name of the attack.
        batch_size: Number of examples in each batch.
        headline: The score that stands for leakage.
        score: Median score over examples, in the headline's unit, or None if there is no score.
        control: Median score of the blind control, in the same unit.
        leaks: Number of examples that leaked by the rule.
        judged: Number of examples that were judged.
        labels: Fraction of labels that were recovered.
        weak: Whether an audit without a leak ended before the attack converged.
        inapplicable: Whether all audits were inapplicable.
        failed: Whether an audit or its control failed.
        silent: Whether an update was all zeros, so that nothing was observed.
        informative: Whether the same attack leaks the undefended update. Only then is a result without a leak
            evidence for the defense. If the case has no undefended audit, the value is true.
    """

    attack: str
    batch_size: int
    headline: Headline
    score: float | None
    control: float | None
    leaks: int
    judged: int
    labels: float | None
    weak: bool
    inapplicable: bool
    failed: bool
    silent: bool
    informative: bool

    @property
    def leaked(self) -> bool | None:
        """Whether at least one example leaked, or None if no example could be judged."""
        return self.leaks > 0 if self.judged else None

    @property
    def above(self) -> float:
        """Distance from the control's score to a score that is better for the adversary. 0 if it is not better."""
        return self.headline.ahead(self.score, self.control)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A defense at one strength: the leakage that remains, and its costs.

    Args:
        case: Name of the case.
        defense: Name of the defense, "none" without a defense.
        strength_name: Name of the option that sets the strength.
        strength: Value of this option.
        repr: Configuration of the defense.
        exposures: Results of the attacks on this setting.
        accuracy: Mean final test accuracy over repeats, in [0, 1].
        spread: Standard deviation of this accuracy over repeats.
        error: Standard error of this accuracy for the size of the test set.
        loss: Accuracy without a defense minus this accuracy.
        bytes_a_round: Mean number of bytes that all clients together send per round.
        seconds_a_round: Mean duration of a round, in seconds.
        epsilon: Epsilon of differential privacy, or None if there is none.
        epsilon_note: How epsilon was computed, or why there is none.
        delta: Delta of differential privacy.
        diverged: Whether a training diverged.
        untrained: Whether a training failed.
        dominated_by: Name of the most accurate setting that dominates this one, or None if there is none.
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
    untrained: bool
    dominated_by: str | None = None

    @property
    def undefended(self) -> bool:
        """Whether this setting has no defense."""
        return self.defense == "none"

    @property
    def name(self) -> str:
        """The defense with its strength, such as `top_k, sparsity = 0.9`."""
        if self.strength is None:
            return "no defense" if self.undefended else self.defense
        option = f"{self.strength_name or 'strength'} = {plain(self.strength)}"
        # A chain of defenses has several names and values. Brackets keep them together.
        return f"{self.defense} ({option})" if "," in option else f"{self.defense}, {option}"

    @property
    def judged(self) -> tuple[Exposure, ...]:
        """The attacks whose results the rule judged."""
        return tuple(exposure for exposure in self.exposures if exposure.leaked is not None)

    @property
    def worst(self) -> Exposure | None:
        """The strongest attack, or None if none was judged.

        It is the attack with the largest distance to the control, chosen among those that leaked if any did.
        """
        return max(self.judged, key=lambda e: (bool(e.leaked), e.above), default=None)

    @property
    def leaked(self) -> bool:
        """Whether an example leaked by the rule, under any attack."""
        return any(exposure.leaked for exposure in self.judged)

    @property
    def above(self) -> float:
        """Distance of the strongest attack's score to the control's. 0 if there is no attack."""
        return self.worst.above if self.worst else 0.0


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """All settings of one case, in the order of the records.

    Args:
        case: Name of the case.
        headline: The score that stands for leakage, or None if the case has no audit.
        settings: The settings.
        trained: Number of training examples.
        tested: Number of test examples.
        clients: Number of clients.
        rounds: Number of rounds.
        repeats: Number of repeated trainings of each setting.
    """

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
        """The settings whose leakage and accuracy are both known."""
        return tuple(s for s in self.settings if s.worst and s.accuracy is not None)


def frontiers(run: Run) -> list[Frontier]:
    """Return a frontier for each case whose utility was measured, in the order of the records."""
    cells: dict[str, list[Cell]] = defaultdict(list)
    trainings: dict[str, list[Training]] = defaultdict(list)
    for cell in run.cells:
        cells[cell.case].append(cell)
    for training in run.trainings:
        trainings[training.case].append(training)
    return [_frontier(name, cells[name], own) for name, own in trainings.items()]


def _frontier(case: str, cells: Sequence[Cell], trainings: Sequence[Training]) -> Frontier:
    """Return the frontier of one case."""
    named = {training.defense.repr: training for training in trainings}
    attacked: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        attacked[cell.defense.name, cell.defense.repr].append(cell)
    open_ = [training for training in trainings if training.defense.name == "none"]
    base = _accuracy(open_)
    informative = {_attacked(cell) for cell in cells if cell.undefended and cell.verdict.leaks}
    known = any(cell.undefended for cell in cells)
    settings = []
    for text, first in named.items():
        # Name and configuration connect trainings with audits, so the order of records does not matter.
        own = attacked[first.defense.name, text]
        repeats = [training for training in trainings if training.defense.repr == text]
        settings.append(_setting(first, own, repeats, base, informative if known else None))
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
    informative: set[tuple[object, ...]] | None,
) -> Setting:
    """Return one setting.

    Args:
        first: The first of its trainings.
        cells: Its audits.
        trainings: All repeats of its training.
        base: Accuracy without a defense, in [0, 1].
        informative: Keys of the attacks that leak the undefended update, or None if no update is undefended.
    """
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_attacked(cell), []).append(cell)
    finals = [training.final for training in trainings if training.final is not None]
    accuracy = _accuracy(trainings)
    epsilons = [t.epsilon.value for t in trainings if t.epsilon and t.epsilon.value is not None]
    epsilon = first.epsilon
    return Setting(
        case=first.case,
        defense=first.defense.name,
        strength_name=first.defense.strength_name,
        strength=first.defense.setting,
        repr=first.defense.repr,
        exposures=tuple(
            _exposure(group, informative is None or key in informative)
            for key, group in groups.items()
        ),
        accuracy=accuracy,
        spread=stdev(finals) if len(finals) > 1 else None,
        error=_standard_error(accuracy, _tested(first)),
        loss=base - accuracy if base is not None and accuracy is not None else None,
        bytes_a_round=_mean([_mean(t.sent_bytes) for t in trainings]),
        seconds_a_round=_mean([_mean(t.round_seconds) for t in trainings]),
        epsilon=max(epsilons) if epsilons else None,
        epsilon_note=epsilon.note if epsilon else "",
        delta=epsilon.delta if epsilon else None,
        diverged=any(training.diverged for training in trainings),
        untrained=any(training.failure for training in trainings),
    )


def _attacked(cell: Cell) -> tuple[object, ...]:
    """Return a key that the cells of one exposure share with their undefended cells."""
    return (cell.batch_size, cell.attack.name, cell.attack.repr, cell.threat.name)


def _exposure(cells: Sequence[Cell], informative: bool) -> Exposure:
    """Return the result of one attack over all its batches."""
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
        informative=informative,
    )


def _tested(training: Training) -> int:
    """Return the number of test examples."""
    return training.tested_on.count if training.tested_on else 0


def _accuracy(trainings: Sequence[Training]) -> float | None:
    """Return the mean final accuracy, or None if no training ended."""
    finals = [training.final for training in trainings if training.final is not None]
    return fmean(finals) if finals else None


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the known values, or None if there are none."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _standard_error(accuracy: float | None, tested: int) -> float | None:
    """Return the standard error of an accuracy on `tested` examples, by the binomial distribution."""
    if accuracy is None or tested < 1:
        return None
    return math.sqrt(max(accuracy * (1 - accuracy), 0.0) / tested)


def _better(setting: Setting, settings: Sequence[Setting]) -> str | None:
    """Return the name of the most accurate setting that dominates this one, or None if there is none."""
    beating = [other for other in settings if dominates(other, setting)]
    return max(beating, key=lambda other: other.accuracy or 0.0).name if beating else None


def dominates(one: Setting, other: Setting) -> bool:
    """Return whether `one` is no worse than `other` in leakage and accuracy, and better in one of them."""
    if one.accuracy is None or other.accuracy is None or not (one.worst and other.worst):
        return False
    better = (
        one.leaked <= other.leaked and one.above <= other.above and one.accuracy >= other.accuracy
    )
    equal = (one.leaked, one.above, one.accuracy) == (other.leaked, other.above, other.accuracy)
    return better and not equal
