"""Federated trainings of a case's model, each under one defense, and their records."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from torch import Tensor

from leakgauge import records
from leakgauge.audit.case import Case
from leakgauge.audit.description import UNDESCRIBED, bare_defense, bare_protocol, check_record
from leakgauge.audit.failures import Failed, failed_result, step, try_step
from leakgauge.audit.folder import JobResult
from leakgauge.audit.naming import defense_record, name_of
from leakgauge.audit.utility import Utility
from leakgauge.core import (
    Defense,
    MixedExamples,
    PrivacyBound,
    Progress,
    Protected,
    Seeds,
    SpecificationError,
    effects_of,
    silent,
)
from leakgauge.data import Dataset
from leakgauge.records import DescribedTraining, Epsilon, Examples, Training
from leakgauge.utility import History, label_skew
from leakgauge.utility.federation import accuracy_of

DELTA = 1e-5
"""The delta of (epsilon, delta)-differential privacy in all records."""


@dataclass(frozen=True)
class TrainingRun:
    """One federated training under one defense. Like a cell, it is one job with one record.

    Args:
        index: Place of the job in the plan.
        case: The case.
        utility: The case's options for trainings.
        defense: The defense, or None for the undefended training.
        repeat: Number of the repeat, from 0.
    """

    index: int
    case: Case
    utility: Utility
    defense: Defense | None
    repeat: int

    def seeds(self, root: int) -> Seeds:
        """Return the seeds of this repeat. All defenses have the same seeds, so only the defense makes a difference."""
        return Seeds(root).child(self.case.name).child("utility").child(f"r{self.repeat}")

    def data(self, root: int) -> tuple[Dataset, Dataset]:
        """Return the training data and the test data. They are the same in all repeats."""
        seeds = Seeds(root).child(self.case.name).child("utility")
        return self.utility.split(self.case.data, seeds)

    def parts(self, train: Dataset, root: int) -> list[Tensor]:
        """Return the indices of each client's examples. Raise DataError if there are too few examples."""
        utility = self.utility
        return label_skew(train.targets, utility.clients, utility.alpha, seeds=self.seeds(root))


def trainings(cases: Sequence[Case], first: int) -> Iterator[TrainingRun]:
    """Yield all trainings in the order of the plan. Their indices start from `first`."""
    index = first
    for case in cases:
        if case.utility is None:
            continue
        # A defense that is listed twice is trained once. The undefended training always runs.
        settings = {case.title(defense): defense for defense in (None, *case.defenses)}
        for repeat in range(case.utility.repeats):
            for defense in settings.values():
                yield TrainingRun(index, case, case.utility, defense, repeat)
                index += 1


def run_training(run: TrainingRun, root: int, progress: Progress = silent) -> JobResult:
    """Train under one defense, and return the record of the training.

    An exception from the model, loss, data or defense becomes a record with the status "failed".

    Args:
        run: The training.
        root: Root seed of the audit.
        progress: Function that receives each Moment, with the fraction of the training that is done, in [0, 1].
    """
    try:
        with step("training"):
            client, (train, test) = run.case.client(run.defense), run.data(root)
            # The shared state is restored, so that attacks later in this process see no trace of the training.
            with client.shared():
                history = run.utility.federation.train(
                    client, train, test, seeds=run.seeds(root), progress=progress
                )
            return JobResult(training_record(run, root, train, test, history))
    except Failed as failed:
        return failed_training(run, root, failed)


def failed_training(run: TrainingRun, root: int, failed: Failed) -> JobResult:
    """Return the result of a training that `failed` ended."""
    description = try_step("data", lambda: describe(run, root))
    if isinstance(description, Failed):
        return bare_training(run, root, failed)
    return failed_result(_failed_record(description, failed), failed)


def bare_training(run: TrainingRun, root: int, failed: Failed) -> JobResult:
    """Return the result of a training that `failed` ended, without a description of its parts."""
    return failed_result(_failed_record(describe_minimally(run, root), failed), failed)


def _failed_record(description: DescribedTraining, failed: Failed) -> Training:
    """Return the record of a failed training from its description and its failure."""
    return Training(
        **dict(description),
        status="failed",
        message=str(failed),
        failure=failed.record(description.index),
    )


def describe(run: TrainingRun, root: int) -> DescribedTraining:
    """Return the description of a training: its model, data, federation and defense, without measurements."""
    case, utility = run.case, run.utility
    return DescribedTraining(
        index=run.index,
        id=f"{run.index:03d}/{case.name}/utility/r{run.repeat}/{name_of(run.defense)}",
        case=case.name,
        model=case.model_record,
        protocol=case.protocol_record(utility.examples),
        federation=records.Federation(**asdict(utility.federation)),
        repeat=run.repeat,
        defense=defense_record(run.defense, case.title(run.defense)),
        seed=root,
    )


def describe_minimally(run: TrainingRun, root: int) -> DescribedTraining:
    """Return a description of a training without calling code of its parts, since a user's own parts may fail."""
    return DescribedTraining(
        index=run.index,
        id=f"{run.index:03d}/{run.case.name}/utility/r{run.repeat}",
        case=run.case.name,
        model=records.Network(name=UNDESCRIBED, parameters=0),
        protocol=bare_protocol(),
        federation=records.Federation(**asdict(run.utility.federation)),
        repeat=run.repeat,
        defense=bare_defense(),
        seed=root,
    )


def check_described(run: TrainingRun, root: int) -> None:
    """Raise a UserError if no record can describe the training."""
    check_record(lambda: describe(run, root), f"case {run.case.name!r}, utility")


def training_record(
    run: TrainingRun, root: int, train: Dataset, test: Dataset, history: History
) -> Training:
    """Return the record of a finished training: its accuracy, bytes sent, times and epsilon."""
    return Training(
        **dict(describe(run, root)),
        status="trained",
        trained_on=Examples(name=train.name, count=len(train)),
        tested_on=Examples(name=test.name, count=len(test)),
        accuracy=history.accuracy,
        sent_bytes=history.sent,
        round_seconds=history.seconds,
        sizes=history.sizes,
        diverged=history.diverged,
        epsilon=epsilon(run.defense, run.utility, history),
    )


NOTES: dict[Protected, str] = {
    "example": "that of the client whose examples are used most often, as if each example were drawn independently",
    "client": "that of one client that takes part in every round, against the party that the defense names",
}
"""End of a sentence on what an epsilon stands for, by the unit that the bound protects."""


def epsilon(defense: Defense | None, utility: Utility, history: History) -> Epsilon | None:
    """Return the epsilon of the client with the weakest protection, or None if the defense states no bound.

    Its `value` is None if there is no finite bound, or if the bound could not be computed. Then `note` says why.
    """
    bounds = effects_of(defense, PrivacyBound)
    if not bounds:
        return None
    # A client with fewer examples uses each example more often.
    rates = [min(utility.examples or size, size) / size for size in history.sizes]
    steps = len(history.sent)
    sampled: dict[Protected, float] = {"example": max(rates), "client": 1.0}

    def make_record(note: str, value: float | None, protects: Protected) -> Epsilon:
        rate = sampled[protects]
        return Epsilon(value=value, delta=DELTA, steps=steps, sample_rate=rate, note=note)

    first = bounds[0].protects
    if effects_of(defense, MixedExamples):
        return make_record("no epsilon: mixtures let one example act in several", None, first)
    try:
        # The accountant warns if a bound could be tighter. The bound is still valid.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value, protects = min(
                (
                    bound.epsilon(steps=steps, sample_rate=sampled[bound.protects], delta=DELTA),
                    bound.protects,
                )
                for bound in bounds
            )
    except SpecificationError as error:
        return make_record(f"no epsilon: {error}", None, first)
    if not math.isfinite(value):
        return make_record("no epsilon: without noise there is no bound", None, first)
    return make_record(NOTES[protects], value, protects)


def seconds_of(run: TrainingRun, root: int) -> float:
    """Estimate the seconds of a training from one client's first round and one test of the model.

    It raises the errors that the training would raise, for example if examples are too few or a defense does not
    fit the local training.
    """
    (train, test), seeds = run.data(root), run.seeds(root)
    client = run.case.client(run.defense)
    model = client.global_model(seeds=seeds)
    federation, parts = run.utility.federation, run.parts(train, root)
    batches = [federation.draw_batch(train, part, seeds.child("plan")) for part in parts]
    batch = max(batches, key=len)
    with client.shared():
        clock = time.perf_counter()
        client.share_and_remember(model, batch, {}, seeds=seeds.child("plan"))
        per_example = (time.perf_counter() - clock) / len(batch)
        clock = time.perf_counter()
        accuracy_of(model, test)
        testing = time.perf_counter() - clock
    return testing + federation.rounds * (per_example * sum(map(len, batches)) + testing)
