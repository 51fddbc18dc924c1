"""Every attack on every ordinary module: which attacks read the private example, and which decline.

The modules, losses and attacks are those of the contract tests (tests/zoo, tests/support). The
control is the same attack on the update of another batch, scored against the private batch. It is
the score of a reader without the update.

Quick: every attack on five modules, with a fifth of the steps.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common import ROOT, Options, Row, header, measure, options, table
from problems import scored

import leakgauge as lg

sys.path.insert(0, str(ROOT.parent / "tests"))

from support.attack_cases import attack_cases  # type: ignore[import-not-found]
from zoo.animals import ZOO, batch_of, client_of  # type: ignore[import-not-found]
from zoo.goals import GOALS  # type: ignore[import-not-found]

BUDGET, QUICK = 10, 2
"""Multiples of three steps of each search, in a full and in a quick run."""
CLEAR = 3.0
"""PSNR (dB) by which an attack must beat its control to have read the example."""
QUICK_MODULES = ("mlp", "lstm", "batch_norm", "tuple_heads", "segmenter")


@dataclass(frozen=True)
class Job:
    """One module. A row holds all attacks on it."""

    module: str
    budget: int
    seed: int


@dataclass(frozen=True)
class _Data:
    """The part of a data set that `problems.scored` needs."""

    domain: lg.Domain


def jobs_of(given: Options) -> list[Job]:
    """Return one job for each module."""
    modules = QUICK_MODULES if given.quick else tuple(ZOO)
    return [Job(name, QUICK if given.quick else BUDGET, given.seed) for name in modules]


def run(job: Job) -> Row:
    """Run every attack on one module. Return outcomes by name, with PSNR (dB) of private batch and control."""
    warnings.simplefilter("ignore")
    return {
        "module": job.module,
        "cells": {case.name: cell(job, case) for case in attack_cases(job.budget)},
    }


def cell(job: Job, case: Any) -> Row:
    """Run one attack on one module, labels withheld."""
    animal = ZOO[job.module]
    goal, count = GOALS[animal.goal], case.batch_sizes[0]
    client = client_of(animal, goal, training=case.training, defense=case.defense)
    private, other = (batch_of(animal, goal, count, seed=job.seed + draw) for draw in (0, 1))
    seeds = lg.Seeds(job.seed)
    try:
        seen = lg.Server().observe(client, private, seeds=seeds)
        plan = case.attack.plan(seen)
        if isinstance(plan, lg.Inapplicable):
            return {"outcome": "inapplicable", "reason": plan.reason}
        found = plan.run(seeds)
        blind = case.attack(lg.Server().observe(client, other, seeds=seeds), seeds=seeds)
    except lg.UserError as error:
        return {"outcome": "declined", "reason": str(error)}
    except lg.LeakGaugeError as error:
        return {"outcome": "failed", "reason": str(error)}
    data: Any = _Data(animal.domain)
    mine, control = (mean(scored(data, private, guess)["psnr"]) for guess in (found, blind))
    return {
        "outcome": "read" if mine > control + CLEAR else "ran",
        "status": str(found.status),
        "batch": count,
        "psnr": mine,
        "control_psnr": control,
        "residual": found.residual,
        "seconds": found.cost.seconds,
    }


def mean(values: Sequence[float]) -> float:
    """Return the mean of one value for each example. An exact example counts as 200 dB."""
    return sum(min(value, 200.0) for value in values) / len(values)


MARKS = {"read": "R", "ran": "r", "inapplicable": ".", "declined": "d", "failed": "F"}


def show(rows: Sequence[Row]) -> None:
    """Print the matrix of outcomes, the cells that ran, and the counts."""
    names = [case.name for case in attack_cases(1)]
    for number, name in enumerate(names):
        print(f"{number:3d} {name}")
    print(
        "R: read, 3 dB or more above the control. r: ran. .: inapplicable. d: declined. F: failed."
    )
    columns = ["module", *(str(number) for number in range(len(names)))]
    table(columns, ([r["module"], *(MARKS[r["cells"][n]["outcome"]] for n in names)] for r in rows))
    ran = [(row["module"], name, row["cells"][name]) for row in rows for name in names]
    ran = [each for each in ran if "psnr" in each[2]]
    table(
        ["module", "attack", "status", "private dB", "control dB"],
        ([m, n, c["status"], f"{c['psnr']:.1f}", f"{c['control_psnr']:.1f}"] for m, n, c in ran),
    )
    outcomes = [c["outcome"] for row in rows for c in row["cells"].values()]
    print(", ".join(f"{outcomes.count(kind)} {kind}" for kind in MARKS), f"of {len(outcomes)}")
    for row in rows:
        for name, each in row["cells"].items():
            if each["outcome"] == "failed":
                print(f"{row['module']}, {name}: {each['reason']}")


def main() -> None:
    """Run the benchmark."""
    given: Options = options("zoo", __doc__ or "")
    header(given, "the zoo (uniform random examples)")
    show(measure(run, jobs_of(given), given, name="zoo", data="the zoo (uniform random examples)"))


if __name__ == "__main__":
    main()
