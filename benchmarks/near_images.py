"""How far the update of an image near the private one is from the private update.

White noise moves the private images of `convolutions.py` to a PSNR. "gradient" is the relative error of the
gradient there. "drift" is what five local steps add beyond one gradient at the mean of the first and last model.
"drift error" is its change between the two images. Both are relative to the gradient. Only ResNet-18 stays stable
over these steps.

Quick: one image.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from statistics import median

import torch
from altered_updates import RATE
from common import Options, Row, run_jobs, table
from controls import every
from convolution_cells import Cell, indices, subject
from problems import observe
from torch import Tensor

import leakgauge as lg
from leakgauge.core import Observation, Tensors
from leakgauge.federated.training.local_steps import interpolate, multiplier
from leakgauge.inversion.simulation.simulator import simulator

NAME = "near_images"
NETWORKS = (("resnet18", "untrained"), ("resnet20", "untrained"), ("resnet20", "trained"))
STABLE = "resnet18"
LEVELS = (30, 40, 50, 60, 70, 80)
"""PSNR of the image near the private one, in dB."""
STEPS = 5
DRAWS = 5


@dataclass(frozen=True)
class Job:
    """One private image."""

    network: str
    state: str
    draw: int


def jobs_of(given: Options) -> list[Job]:
    """Return the images. Trained weights need the data folder."""
    if given.quick:
        return [Job(*NETWORKS[0], 0)]
    return [Job(*network, draw) for draw in range(DRAWS) for network in NETWORKS]


def run(job: Job, given: Options) -> Row:
    """Measure the errors at each level."""
    seed = 1000 * given.seed + job.draw
    cell = Cell(job.network, job.state, "drawn", 1, job.draw)
    data, model = subject(cell, given)
    held = indices(cell, data, model, given)
    training = lg.FedAvg(epochs=STEPS, learning_rate=RATE)
    batch, seen = observe(
        data, model, held, seed=seed, classes=data.classes or 10, training=training
    )
    truth = seen.domain.to_unit(batch.inputs)
    gradient, drift = parts(seen, truth, batch.targets)
    row: Row = {**vars(job), "seed": seed}
    if job.network == STABLE:
        row["drift"] = [ratio(drift, gradient)]
    noise = torch.randn(truth.shape, generator=lg.Seeds(seed).generator("noise"))
    for level in LEVELS:
        near = parts(seen, truth + noise * 10 ** (-level / 20), batch.targets)
        row[f"gradient {level}"] = [ratio(less(near[0], gradient), gradient)]
        if job.network == STABLE:
            row[f"drift error {level}"] = [ratio(less(near[1], drift), gradient)]
    return row


def parts(seen: Observation, unit: Tensor, targets: Tensor) -> tuple[Tensors, Tensors]:
    """Return the gradient at the middle model, and the drift of the local steps."""
    one = simulator(interpolate(seen, 0.5), create_graph=False)(unit, targets)
    steps = simulator(seen, create_graph=False)(unit, targets)
    scale = -multiplier(seen)
    return one, {name: tensor / scale - one[name] for name, tensor in steps.items()}


def less(first: Tensors, second: Tensors) -> Tensors:
    """Return the difference of two updates."""
    return {name: tensor - second[name] for name, tensor in first.items()}


def ratio(first: Tensors, second: Tensors) -> float:
    """Return the ratio of two norms."""
    squares = [
        sum(float(t.double().square().sum()) for t in each.values()) for each in (first, second)
    ]
    return float((squares[0] / squares[1]) ** 0.5)


def main() -> None:
    """Run the jobs and print the medians."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    rows.sort(key=lambda row: (row["network"], row["state"]))
    lines = []
    for (network, state), group in groupby(rows, lambda row: (row["network"], row["state"])):
        some = list(group)
        for kind in ("gradient", "drift error") if network == STABLE else ("gradient",):
            cells = [f"{median(every(some, f'{kind} {level}')):.1e}" for level in LEVELS]
            lines.append([network, state, len(some), kind, *cells])
    table(["network", "state", "n", "relative error", *(f"{level} dB" for level in LEVELS)], lines)
    drifts = every(rows, "drift")
    print(f"drift of {STABLE}: {median(drifts):.1e} (n = {len(drifts)})")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
