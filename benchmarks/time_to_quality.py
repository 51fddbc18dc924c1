"""How fast which quality: the second-order attack beside L-BFGS and Adam as their papers run them. LeNet, batch 1.

Quick: one image with one seed by all six methods. Second order runs whole. The peers have 10 steps
of L-BFGS and 300 of Adam.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import common
import problems

import leakgauge as lg
from leakgauge import attacks
from leakgauge.attacks.recipe import Recipe

LEVELS = (30.0, 60.0)
KNOWN: dict[str, lg.BaseAttack] = {
    "L-BFGS (iDLG)": attacks.IDLG(steps=100),
    "signed Adam (Inverting Gradients, 4000 steps)": attacks.InvertingGradients(
        steps=4000, tv=1e-6
    ),
    "second order": attacks.SecondOrder(),
}
UNKNOWN: dict[str, lg.BaseAttack] = {
    "L-BFGS (DLG)": attacks.DLG(steps=100),
    "second order, label read first": attacks.SecondOrder(),
    "second order, joint labels": attacks.SecondOrder(labels="joint"),
}


QUICK: dict[str, lg.BaseAttack] = {
    "L-BFGS (iDLG)": attacks.IDLG(steps=10),
    "L-BFGS (DLG)": attacks.DLG(steps=10),
    "signed Adam (Inverting Gradients, 4000 steps)": attacks.InvertingGradients(steps=300, tv=1e-6),
}
"""The peers with fewer steps. Ours run whole."""


@dataclass(frozen=True)
class Job:
    """One run. The label is known (granted) or unknown."""

    data: str | None
    image: int
    seed: int
    known: bool
    method: str
    quick: bool


def jobs_of(given: common.Options) -> list[Job]:
    """Return every method on every image and seed. Our methods come first, in case the run is cut."""
    images, seeds = ((0,), (0,)) if given.quick else (range(10), range(3))
    jobs = [
        Job(given.data, image, given.seed + seed, known, method, given.quick)
        for seed in seeds
        for image in images
        for known, methods in ((True, KNOWN), (False, UNKNOWN))
        for method in methods
    ]
    return sorted(jobs, key=lambda job: "second" not in job.method)


def run(job: Job, given: common.Options) -> common.Row:
    """Attack one image. Return scores, and the evaluations and seconds at which each level was first reached."""
    data = problems.images(job.data)
    server = lg.Server(labels=job.known)
    seed = 1000 * job.seed + job.image
    model = problems.lenet(data, seed)
    batch, seen = problems.observe(data, model, [job.image], server=server, seed=seed)
    attack = (KNOWN if job.known else UNKNOWN)[job.method]
    attack = QUICK.get(job.method, attack) if job.quick else attack
    assert isinstance(attack, Recipe)
    guess = attack(seen, seeds=lg.Seeds(seed))
    truth = data.domain.to_unit(batch.inputs)
    course = [
        (s.evaluations, s.seconds, float(lg.metrics.psnr(truth, data.domain.to_unit(s.inputs))[0]))
        for s in guess.trajectory
    ]
    reached = {}
    for level in LEVELS:
        first = next((at for at in course if at[2] >= level), None)
        reached[f"{level:.0f}"] = None if first is None else first[:2]
    return {
        "image": job.image,
        "seed": job.seed,
        "known": job.known,
        "method": job.method,
        **problems.scored(data, batch, guess),
        "reached": reached,
        "course": course,
    }


def main() -> None:
    """Run the jobs and print the tables."""
    rows = common.run_jobs("time_to_quality", __doc__, jobs_of, run)
    table = []
    for known, methods in ((True, KNOWN), (False, UNKNOWN)):
        for method in methods:
            mine = [r for r in rows if r["known"] == known and r["method"] == method]
            if mine:
                table.append(["known" if known else "unknown", method, *summary(mine)])
    common.table(
        ["label", "method", "30 dB", "median s", "60 dB", "median s", "median dB", "total s"],
        table,
    )


def summary(rows: list[common.Row]) -> list[str]:
    """Return the fraction that reaches each level, with median seconds among these runs, and the final quality."""
    cells = []
    for level in LEVELS:
        times = [r["reached"][f"{level:.0f}"] for r in rows]
        cells.append(common.share(t is not None for t in times))
        done = [t[1] for t in times if t is not None]
        cells.append(f"{statistics.median(done):.1f}" if done else "-")
    cells.append(f"{statistics.median(r['psnr'][0] for r in rows):.1f}")
    cells.append(f"{statistics.median(r['seconds'] for r in rows):.1f}")
    return cells


if __name__ == "__main__":
    main()
