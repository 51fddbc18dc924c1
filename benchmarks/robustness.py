"""The same verdict in every environment: exact attacks with other rounding, instruction sets and thread counts.

Each exact attack has a small scenario that it solves, and 20 draws of model, batch and attack's
seed. Every draw runs in several environments. Variables of the process choose some of them:
instruction sets of ATen, oneDNN and MKL. Others move each entry of the weights, the inputs and the
update by one unit in the last place, up or down. This changes the rounding on any processor.

A draw succeeds if the status is certified or converged, and the reconstruction is close enough to
the truth for its scenario. The truth is used for this judgment only.

A fingerprint of the arithmetic (products, decompositions, a convolution, sums, functions) tells
which variables have an effect on this processor. An environment with the fingerprint of another one
is printed as equal, and does not run.

Quick: 2 draws of every scenario in three environments.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from math import sqrt

import torch
from common import ROOT, Options, Row, header, measure, options, table
from robustness_scenarios import SCENARIOS, attacked
from torch import Tensor

NAME = "robustness"
DRAWS = 20


@dataclass(frozen=True)
class Environment:
    """Variables of the process, its threads, and how entries are moved.

    `moved` is the number of the draw of signs by which entries are moved. 0 moves nothing.
    """

    variables: dict[str, str] = field(default_factory=dict)
    threads: int = 1
    moved: int = 0


AS_IS = "as is"
ENVIRONMENTS: dict[str, Environment] = {
    AS_IS: Environment(),
    **{f"1 ulp, signs {k}": Environment(moved=k) for k in (1, 2, 3)},
    **{
        f"ATen {name}": Environment({"ATEN_CPU_CAPABILITY": name})
        for name in ("default", "avx2", "avx512")
    },
    **{
        f"oneDNN {name}": Environment({"ONEDNN_MAX_CPU_ISA": name})
        for name in ("SSE41", "AVX2", "AVX512_CORE")
    },
    # Processors that are not from Intel ignore MKL_ENABLE_INSTRUCTIONS. Most of them follow MKL_CBWR.
    **{
        f"MKL {name}": Environment({"MKL_ENABLE_INSTRUCTIONS": name})
        for name in ("SSE4_2", "AVX2", "AVX512")
    },
    "MKL compatible": Environment({"MKL_CBWR": "COMPATIBLE"}),
    "plain": Environment(
        {
            "ATEN_CPU_CAPABILITY": "default",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
            "MKL_CBWR": "COMPATIBLE",
        }
    ),
    "2 threads": Environment(threads=2),
    "4 threads": Environment(threads=4),
}
QUICK = (AS_IS, "1 ulp, signs 1", "plain")


@dataclass(frozen=True)
class Job:
    """All draws of all scenarios in one environment.

    `alike` is the first environment with the same fingerprint, or None if there is none.
    """

    environment: str
    draws: int
    seed: int
    alike: str | None


def jobs_of(given: Options) -> list[Job]:
    """Return one job for each environment. One with an earlier fingerprint only names its equal."""
    draws, names = (2, QUICK) if given.quick else (DRAWS, tuple(ENVIRONMENTS))
    first: dict[str, str] = {}
    jobs = []
    for name in names:
        environment = ENVIRONMENTS[name]
        alike = None
        if not environment.moved:
            found = first.setdefault(str(answered(environment, "print(fingerprint())")), name)
            alike = found if found != name else None
        jobs.append(Job(name, draws, given.seed, alike))
    return jobs


def run(job: Job) -> Row:
    """Run the draws in a process of their own, since variables count at its start only."""
    if job.alike is not None:
        return {**vars(job), "results": {}}
    asked = f"child({job.environment!r}, {job.draws}, {job.seed})"
    return {**vars(job), "results": json.loads(answered(ENVIRONMENTS[job.environment], asked))}


def answered(environment: Environment, expression: str) -> str:
    """Return the last line that an expression of this module prints in an environment."""
    threads = str(environment.threads)
    inherited = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    answer = subprocess.run(
        [sys.executable, "-c", f"from robustness import *; {expression}"],
        cwd=ROOT,
        env=inherited | {"OMP_WAIT_POLICY": "PASSIVE"} | environment.variables,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return answer.stdout.splitlines()[-1]


def child(name: str, draws: int, seed: int) -> None:
    """Run all scenarios in this process, and print their results as one line of JSON."""
    environment = ENVIRONMENTS[name]
    torch.set_num_threads(environment.threads)
    found: dict[str, list[Row]] = {}
    for scenario, settings in SCENARIOS.items():
        found[scenario] = []
        for draw in range(draws):
            clock = time.process_time()
            result = attacked(settings, seed + draw, environment.moved)
            found[scenario].append(result | {"cpu_seconds": time.process_time() - clock})
    print(json.dumps(found))


def fingerprint() -> str:
    """Return a hash of fixed results of the arithmetic in use."""
    generator = torch.Generator().manual_seed(0)
    square = torch.rand((300, 300), generator=generator)
    images, kernels = (torch.rand(s, generator=generator) for s in ((4, 3, 16, 16), (8, 3, 3, 3)))
    wide = square.double()
    found: list[Tensor] = [
        square @ square,
        wide @ wide,
        torch.linalg.svdvals(wide),
        torch.linalg.eigvalsh(wide + wide.T),
        torch.linalg.solve(wide, wide[:, :3]),
        torch.conv2d(images, kernels),
        *(values.sum() for values in (square, wide, square * square)),
        *(f(values) for values in (square, wide) for f in (torch.exp, torch.tanh, torch.log)),
        square.softmax(1),
        square.std(1),
    ]
    content = b"".join(tensor.numpy().tobytes() for tensor in found)
    return hashlib.sha256(content).hexdigest()[:12]


def main() -> None:
    """Run the jobs and print the tables."""
    given = options(NAME, __doc__ or "")
    data = "digits, photos, random images"
    rows = measure(partial(run), jobs_of(given), given, name=NAME, data=data)
    header(given, data)
    for row in rows:
        if row["alike"] is not None:
            print(
                f"{row['environment']}: not run. On this processor it gives the same bits as {row['alike']!r}."
            )
    for scenario in SCENARIOS:
        print()
        print_scenario(scenario, [row for row in rows if row["alike"] is None])


def print_scenario(scenario: str, rows: list[Row]) -> None:
    """Print one line for each environment: the fraction that succeeds, its error, and the draws that differ."""
    base = succeeded(rows[0], scenario)
    lines = []
    for row in rows:
        flags = succeeded(row, scenario)
        differ = [i for i, (a, b) in enumerate(zip(flags, base, strict=True)) if a != b]
        # Laplace's rule keeps the error above 0 where all draws or none succeed.
        smooth = (sum(flags) + 1) / (len(flags) + 2)
        seconds = [result["cpu_seconds"] for result in row["results"][scenario]]
        lines.append(
            [
                row["environment"],
                f"{sum(flags)}/{len(flags)}",
                f"{sum(flags) / len(flags):.2f}",
                f"{sqrt(smooth * (1 - smooth) / len(flags)):.2f}",
                ", ".join(map(str, differ)) or "-",
                f"{sum(seconds) / len(seconds):.2f}",
            ]
        )
    print(f"{scenario}: {SCENARIOS[scenario].asks}")
    names = ["environment", "draws", "fraction", "error", "differ from the first", "CPU s a draw"]
    table(names, lines)


def succeeded(row: Row, scenario: str) -> list[bool]:
    """Return for each draw whether it succeeded."""
    return [bool(result["success"]) for result in row["results"][scenario]]


if __name__ == "__main__":
    main()
