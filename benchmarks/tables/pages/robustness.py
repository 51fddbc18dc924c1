"""Exact attacks on machines that round in other ways."""

from collections.abc import Sequence

from robustness_scenarios import SCENARIOS

from tables import figures
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, split, tabulate


def successes(rows: Sequence[Row]) -> list[float]:
    """Return how many draws succeed in each environment."""
    return [sum(row["success"]) for row in rows]


def draws(rows: Sequence[Row]) -> float:
    """Return the number of draws in each environment."""
    return len(rows[0]["success"])


SUMMARY = [
    Column("n", draws, "draws in each environment", ".0f"),
    Column("environments", figures.length, "environments that ran", ".0f"),
    Column(
        "fewest", lambda rows: min(successes(rows)), "successes in the worst environment", ".0f"
    ),
    Column("most", lambda rows: max(successes(rows)), "successes in the best environment", ".0f"),
    Column("CPU s", figures.mean("cpu"), "mean CPU seconds of a draw", ".2f"),
]
EACH = [
    Column("n", draws, "draws in each environment", ".0f"),
    Column("successes", lambda rows: successes(rows)[0], "draws that succeed", ".0f"),
    Column(
        "differ",
        figures.total("differ"),
        "draws whose outcome differs from the first environment",
        ".0f",
    ),
    Column("CPU s", figures.mean("cpu"), "mean CPU seconds of a draw", ".2f"),
]


def reshaped(document: Document) -> list[Row]:
    """Return one row for each scenario and environment that ran."""
    ran = [row for row in document.rows if row["alike"] is None]
    found = []
    for name in SCENARIOS:
        first = [bool(one["success"]) for one in ran[0]["results"][name]]
        for row in ran:
            results = row["results"][name]
            flags = [bool(one["success"]) for one in results]
            cpu = [one["cpu_seconds"] for one in results]
            differ = sum(a != b for a, b in zip(flags, first, strict=True))
            more = {"success": flags, "cpu": cpu, "differ": differ}
            found.append({"scenario": name, "environment": row["environment"], **more})
    return found


def tables(document: Document) -> list[Table]:
    """Return all scenarios, those whose successes differ, and environments that did not run."""
    rows = reshaped(document)
    uneven = [
        name
        for name in SCENARIOS
        if len(set(successes([r for r in rows if r["scenario"] == name]))) > 1
        or min(successes([r for r in rows if r["scenario"] == name])) < draws(rows)
    ]
    by = {"scenario": "scenario", "a success is": lambda row: SCENARIOS[row["scenario"]].asks}
    some = [row for row in rows if row["scenario"] in uneven]
    equal = [row for row in document.rows if row["alike"] is not None]
    same = {"environment": "environment", "same bits as": "alike"}
    return [
        tabulate("Successes over all environments", rows, by, SUMMARY),
        *split(some, "scenario", "By environment: {}".format, {"environment": "environment"}, EACH),
        tabulate("Environments that round like another one, and did not run", equal, same, []),
    ]


PAGE = Page(
    title="Exact attacks on other machines",
    asks="Does an exact attack succeed on every machine?",
    short="Does an exact attack succeed on every machine?",
    theme="Exact attacks",
    done=(
        "A small scenario for each exact attack, with 20 draws of model, batch and seed, in "
        "environments that round differently. "
        "Each draw is compared with the true batch, so there is no control."
    ),
    tables=tables,
    plot=Plot(
        value="fewest",
        other="most",
        control="",
        low="",
        high="",
        tables=(0,),
        keys=1,
        axis="draws of 20 that succeed",
        alt="Successes of each scenario in its worst and its best environment",
    ),
    notes=(
        "Environments are instruction sets of ATen, oneDNN and MKL, thread counts, "
        "and entries moved by one unit in the last place (`ulp`).",
        "Moving weights, inputs and update by one unit changes the rounding on any processor.",
        "A fingerprint of the arithmetic shows which variables have an effect here. "
        "An environment with the fingerprint of another one did not run.",
        "Scenarios without a table of their own succeed in all draws of all environments.",
        "Peeling on the larger CNN of FedAvg does depend on the machine: "
        "its figures in [exact attacks](exact_attacks.md) are those of the machine that measured them.",
        "`benchmarks/robustness_scenarios.py` holds the scenarios.",
    ),
    takes="45 min by the clock, on two cores shared with other work",
)
