"""What one step of gradient matching costs, in units of one plain training gradient of the same batch.

The objective is Inverting Gradients' cosine with total variation, in float32, on one thread, with
32x32 images. Time: each way runs in turn, many rounds in one process. The ratio is the median over
rounds of its time over the plain gradient's in the same round.

Memory: the largest running sum that torch's CPU allocator reports to the profiler during one call.
It contains buffers of generated code. It does not contain parameters and the observed update, which
all ways share. Restarts: eight at once, in units of eight plain gradients.

Quick: LeNet at batch 1, every way to one step and every way to eight restarts, compiled ones too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch
from common import Options, Row, header, measure, options, table
from problems import images, observe
from torch import nn
from torch.profiler import ProfilerActivity, profile

import leakgauge as lg
from leakgauge.inversion import Cosine, Direct, Known, TotalVariation
from leakgauge.inversion.evaluation.batching import Loop, batch_restarts
from leakgauge.inversion.evaluation.compilation import Compiled
from leakgauge.inversion.evaluation.problem import Problem, Variables
from leakgauge.inversion.evaluation.step import DoubleBackward, ForwardOverReverse

NAME = "step_cost"
TRIALS = 8
PLAIN = "plain gradient"
SECONDS = 6.0
"""Rounds go on for about this time, at least 5 rounds and at most 60."""


@dataclass(frozen=True)
class Job:
    """One model at one batch size: its single steps, or its restarts."""

    model: str
    batch: int
    trials: bool
    fuse: bool = True


def jobs_of(given: Options) -> list[Job]:
    """Return LeNet, ConvNet of width 64 and ResNet-18 at batch 1 and 8, and restarts of the smaller two."""
    if given.quick:
        return [Job("lenet", 1, False), Job("lenet", 1, True)]
    found = [Job(m, b, False) for m in ("lenet", "convnet", "resnet18") for b in (1, 8)]
    return [
        *found,
        Job("lenet", 1, True),
        Job("lenet", 8, True),
        Job("convnet", 1, True, fuse=False),
    ]


def run(job: Job, given: Options) -> Row:
    """Measure every way of one job, interleaved."""
    torch.compiler.config.force_disable_caches = True  # Seconds to build are those of a first run.
    problem = problem_of(job, given)
    seen, generator = problem.observation, torch.Generator().manual_seed(given.seed)
    lead = (TRIALS,) if job.trials else ()
    at = (torch.rand((*lead, job.batch, *seen.domain.shape), generator=generator),)
    built: dict[str, float] = {PLAIN: 0.0}
    ways: dict[str, Callable[[], object]] = {PLAIN: partial(plain, problem, at)}
    for name, build in (trials_of if job.trials else steps_of)(problem, fuse=job.fuse).items():
        clock = time.perf_counter()
        ways[name] = partial(build(), at, 0.0)
        built[name] = time.perf_counter() - clock
    seconds = interleaved(ways)
    found = {
        name: {
            "ratio": median(t / p for t, p in zip(seconds[name], seconds[PLAIN], strict=True)),
            "seconds": median(seconds[name]),
            "peak_mib": peak(call) / 2**20,
            "build_seconds": built[name],
        }
        for name, call in ways.items()
    }
    return {"model": job.model, "batch": job.batch, "trials": TRIALS if job.trials else 1} | {
        "ways": found
    }


def problem_of(job: Job, given: Options) -> Problem:
    """Return the problem of the first images of the data, with labels granted."""
    data = images(given.data)
    builders: dict[str, Callable[..., nn.Module]] = {
        "lenet": lg.models.lenet,
        "convnet": lg.models.convnet,
        "resnet18": lg.models.resnet18,
    }
    model = lg.models.build(builders[job.model], data.domain, 10, seed=given.seed)
    _, seen = observe(data, model, range(job.batch), server=lg.Server(labels=True), seed=given.seed)
    objective = Cosine() + 1e-4 * TotalVariation()
    return Problem(seen, objective, Direct(), Known(), seen.knowledge.labels)


Call = Callable[[Variables, float], object]


def steps_of(problem: Problem, *, fuse: bool) -> dict[str, Callable[[], Call]]:
    """Return each way to one step by name. The caller builds it."""
    found: dict[str, Callable[[], Call]] = {
        "double backward, eager": partial(DoubleBackward, problem),
        "double backward, traced": partial(Compiled.of, problem),
        "forward over reverse, eager": partial(ForwardOverReverse, problem),
        "forward over reverse, traced": partial(Compiled.of, problem, order="forward"),
    }
    if fuse:
        found["double backward, compiled"] = partial(Compiled.of, problem, fuse=True)
        found["forward over reverse, compiled"] = partial(
            Compiled.of, problem, order="forward", fuse=True
        )
    return found


def trials_of(problem: Problem, *, fuse: bool) -> dict[str, Callable[[], Call]]:
    """Return each way to eight restarts by name. The caller builds it."""
    assert problem.fixed is not None
    fixed = problem.fixed.expand(TRIALS, -1).contiguous()

    def looped() -> Call:
        return Loop(Compiled.of(problem), fixed)

    found: dict[str, Callable[[], Call]] = {
        "loop, eager": lambda: Loop(DoubleBackward(problem), fixed),
        "loop, traced": looped,
        "one axis, traced": partial(batch_restarts, problem, fixed, TRIALS),
    }
    if fuse:
        found["one axis, compiled"] = partial(batch_restarts, problem, fixed, TRIALS, fuse=True)
    return found


def plain(problem: Problem, at: Variables) -> None:
    """Compute the client's gradient, once for each restart, one after another."""
    seen = problem.observation
    batches = at[0] if at[0].ndim > 4 else at[0][None]
    targets = problem.fixed
    assert targets is not None
    for inputs in batches:
        seen.training(seen.model, seen.loss, inputs, targets)


def interleaved(ways: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Return the seconds of each way in each round. A first round is not counted."""
    clock = time.perf_counter()
    for call in ways.values():
        call()
    rounds = int(min(60, max(5, SECONDS / (time.perf_counter() - clock))))
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, call in ways.items():
            clock = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - clock)
    return found


def peak(call: Callable[[], object]) -> int:
    """Return the bytes at the highest point of one call, above those that were held before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    kineto = profiler.profiler
    assert kineto is not None
    events = [e for e in kineto.kineto_results.events() if e.name() == "[memory]"]
    held = highest = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest


def main() -> None:
    # Jobs in parallel would disturb each other's times.
    """Run the jobs and print the tables."""
    given = replace(options(NAME, __doc__ or ""), workers=1)
    jobs = jobs_of(given)
    rows = measure(partial(run, given=given), jobs, given, name=NAME)
    header(given)
    table(
        [
            "model",
            "batch",
            "restarts",
            "way",
            "ratio",
            "ms",
            "peak MiB",
            "of plain gradient",
            "build s",
        ],
        [
            [
                row["model"],
                row["batch"],
                row["trials"],
                way,
                f"{told['ratio']:.2f}",
                f"{1e3 * told['seconds']:.1f}",
                f"{told['peak_mib']:.1f}",
                f"{told['peak_mib'] / row['ways'][PLAIN]['peak_mib']:.2f}",
                f"{told['build_seconds']:.1f}",
            ]
            for row in rows
            for way, told in row["ways"].items()
        ],
    )


if __name__ == "__main__":
    main()
