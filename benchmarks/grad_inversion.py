"""GradInversion's table 1: what each part of the recipe adds, on trained networks with BatchNorm in eval mode.

The networks are the published CIFAR ResNet-20 and MobileNetV1 (ImageNet samples at 64 and 128 px).
The images chose no setting, and labels are granted. A network that is sure of an example has almost
no gradient of it. Therefore half of each batch is drawn from examples with a loss of at least 0.1,
and half from the others. The example of most loss drowns the rest.

Each line adds a part. "gradient" is cosine distance alone. "fidelity" adds total variation, l2 and
BatchNorm's running statistics. Then the group of restarts is held to its mean, or to its registered
mean. These lines have the same steps, restarts and seeds. Below them is our own attack, by its
defaults.

The control is the same reconstruction scored against other images of the same labels, while there
are any, the mean of 5 draws. Seconds are the process's own, on one thread.

Quick: one batch of 2 on ResNet-20 by every recipe, with 6 steps and 2 restarts, and by our own
attack with 20 steps.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from statistics import mean, median

import torch
from common import Options, Row, run_jobs, table
from controls import beside_control, others_of
from mobilenet import mobilenet, samples
from problems import images, observe, reconstructed, scored
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.attacks import GradInversion, SmoothedMatching
from leakgauge.modalities.image import picture

NAME = "grad_inversion"
REPORTED = 60
"""Batches are of the first 60 test images of CIFAR. The other images alone chose the weights."""
UNSURE = 0.1
BARE = GradInversion(
    steps=200,
    lr=0.2,
    warmup=20,
    noise=0.0,
    restarts=3,
    distance="cosine",
    gradient=1.0,
    tv=0.0,
    l2=0.0,
    batchnorm=0.0,
    group="none",
    every=20,
)
FIDELITY = replace(BARE, tv=0.5, l2=1e-3, batchnorm=0.5)
OURS = "ours: smoothed"
RECIPES: dict[str, lg.BaseAttack] = {
    "gradient": BARE,
    "+ fidelity": FIDELITY,
    "+ lazy group": replace(FIDELITY, group="lazy", consistency=10.0),
    "+ registered group": replace(FIDELITY, group="registered", consistency=10.0),
    OURS: SmoothedMatching(),
}
CELLS = {
    ("resnet20", 4): 4,
    ("resnet20", 8): 1,
    ("mobilenet 64", 1): 2,
    ("mobilenet 64", 4): 1,
    ("mobilenet 128", 1): 1,
    ("mobilenet 128", 4): 1,
}
"""Number of batches, by network and batch size."""
STEPS = {"resnet20": 200, "mobilenet 64": 200, "mobilenet 128": 60}


@dataclass(frozen=True)
class Job:
    """One batch, attacked by one recipe."""

    network: str
    size: int
    draw: int
    recipe: str


def jobs_of(given: Options) -> list[Job]:
    """Return the jobs batch by batch, so that a run that is cut compares recipes on the same batches."""
    if given.quick:
        return [Job("resnet20", 2, 0, recipe) for recipe in RECIPES]
    have = bool(os.environ.get("LEAKGAUGE_DATA")) and given.data is None
    cells = [cell for cell in CELLS if have or cell[0] == "resnet20"]
    batches = [(draw, cell) for cell in cells for draw in range(CELLS[cell])]
    # The batches that take longest come last.
    batches.sort(key=lambda at: (at[1] == ("mobilenet 128", 4), at[0]))
    return [Job(*cell, draw, recipe) for draw, cell in batches for recipe in RECIPES]


@cache
def problem(network: str, given: Options) -> tuple[lg.Dataset, nn.Module]:
    """Return the images and the network. Without the published weights it is an untrained ResNet-20."""
    if network.startswith("mobilenet"):
        data = samples(int(network.split()[1]))
        return data, mobilenet()
    data = images(given.data)
    have = bool(os.environ.get("LEAKGAUGE_DATA")) and given.data is None
    weights = "cifar10_resnet20.safetensors" if have else None
    return data, lg.models.build(lg.models.resnet20, data.domain, 10, seed=0, weights=weights)


def attack_of(job: Job, given: Options) -> lg.BaseAttack:
    """Return the recipe, with fewer steps on larger networks."""
    attack = RECIPES[job.recipe]
    if isinstance(attack, SmoothedMatching):
        return replace(attack, steps=20) if given.quick else attack
    assert isinstance(attack, GradInversion)
    if given.quick:
        return replace(attack, steps=6, restarts=2, every=2)
    return replace(attack, steps=STEPS[job.network])


def run(job: Job, given: Options) -> Row:
    """Run one attack, and score it against the private images and other images of the same labels."""
    data, model = problem(job.network, given)
    seed = 1000 * given.seed + job.draw
    generator = lg.Seeds(seed).generator(f"batch/{job.size}")
    with torch.no_grad():
        outputs = model(data.inputs[:REPORTED])
    losses = functional.cross_entropy(outputs, data.targets[:REPORTED], reduction="none")
    held = halves(losses >= UNSURE, job.size, generator)
    server, classes = lg.Server(labels=True), outputs.shape[1]
    batch, seen = observe(data, model, held.tolist(), server=server, seed=seed, classes=classes)
    attack = attack_of(job, given)
    guess, spent = reconstructed(attack, seen, lg.Seeds(seed))
    row = {**vars(job), "seed": seed, "attack": repr(attack), "loss": losses[held].tolist()}
    row |= spent | scored(data, batch, guess) | {"notes": list(guess.notes)}
    row |= beside_control(data, held.tolist(), guess, lg.Seeds(seed).generator("control"))
    # Pictures of larger images would take megabytes.
    kept = job.draw == 0 and job.network == "resnet20"
    return row | (pictures(data, held, guess, generator) if kept else {})


def halves(unsure: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return indices (size,): half of them from the unsure examples, if there are enough, the rest from the others."""
    pools = (unsure.nonzero().flatten(), (~unsure).nonzero().flatten())
    one, other = (pool[torch.randperm(len(pool), generator=generator)] for pool in pools)
    half = (size + 1) // 2
    return torch.cat([one[:half], other, one[half:]])[:size]


def pictures(
    data: lg.Dataset, held: Tensor, guess: lg.Reconstruction, generator: torch.Generator
) -> Row:
    """Return originals, the reconstruction and one draw of the control as strips, PNG in base64, for the figure."""
    spare = data.targets.clone()
    spare[held] = -1
    truth = data.inputs[held]
    found = guess.inputs[lg.metrics.assign(truth, guess.inputs)]
    other = data.inputs[others_of(spare, data.targets[held], generator)]
    strips = {"original": truth, "picture": found, "other": other}
    return {
        name: base64.b64encode(picture(torch.cat(list(strip), dim=-1))).decode()
        for name, strip in strips.items()
    }


COLUMNS: dict[str, tuple[str, int]] = {
    "PSNR, dB": ("psnr", 2),
    "LPIPS": ("lpips", 3),
    "FFT2D": ("fft2d", 4),
    "IIP": ("iip_squeeze", 2),
}
"""Metrics of each example, with the control's beside them."""


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    show(rows, "all examples", lambda row: list(range(row["size"])))
    show(rows, "the example of largest loss in each batch", loudest)


Choice = Callable[[Row], list[int]]
"""Chooses the examples of a batch that a table shows."""


def loudest(row: Row) -> list[int]:
    """Return the example with most of the loss, which dominates the update."""
    return [max(range(row["size"]), key=lambda i: row["loss"][i])]


def show(rows: list[Row], title: str, choice: Choice) -> None:
    """Print one table of the chosen examples of each batch."""
    lines = []
    for head, group in groupby(sorted(rows, key=key), key):
        some = list(group)
        label = f"{list(CELLS)[head[0]][0]}, {some[0]['size']}" if head[0] >= 0 else "quick"
        lines.append([label, len(some), some[0]["recipe"], *figures(some, choice)])
    headings = [text for name in COLUMNS for text in (name, "control")]
    print(f"\n{title}")
    table(["network, B", "batches", "recipe", *headings, "residual", "CPU s"], lines)


def figures(some: list[Row], choice: Choice) -> list[str]:
    """Return means over examples, and the medians over batches of residual and CPU seconds."""
    texts = []
    for name, digits in COLUMNS.values():
        for side in (name, f"control_{name}"):
            values = [row[side][i] for row in some if side in row for i in choice(row)]
            texts.append(f"{mean(values):.{digits}f}" if values else "-")
    texts.append(f"{median(row['residual'] for row in some):.2g}")
    return [*texts, f"{median(row['cpu_seconds'] for row in some):.0f}"]


def key(row: Row) -> tuple[int, int]:
    """Return the place of a line of the table."""
    cell = (row["network"], row["size"])
    return list(CELLS).index(cell) if cell in CELLS else -1, list(RECIPES).index(row["recipe"])


if __name__ == "__main__":
    main()
