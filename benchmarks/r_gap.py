"""R-GAP, batch 1, float32 gradients: its CNN6, and whether the rank index predicts success elsewhere.

First is CNN6 of ten outputs on ten images. Equations are stacked as in the paper ("plain") or
balanced. Then follows CNN6 of one output with the logistic loss, as in the paper. Last are
architectures of other strides, kernels, channels, depths and activations. The rank index is
measured on a random input, and stands beside the PSNR.

Quick: CNN6 on one image with balanced and plain equations, and one image through two small
networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import groupby
from statistics import median
from typing import Literal

from common import Options, Row, run_jobs, share, table
from problems import chosen, images, scored_beside
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.analytic.rank_index import rank_index

NAME = "r_gap"
READ = 45.0
"""Target in dB. Others report 49 dB on one image."""
Rows = Literal["balanced", "plain"]
Activation = Literal["leaky_relu", "tanh", "sigmoid"]
Builder = Callable[..., nn.Module]


def cnn(*shape: tuple[int, int, int, int], activation: Activation = "leaky_relu") -> Builder:
    """Return `models.cnn` with (channels, kernel, stride, padding) of each convolution, without bias."""
    channels, kernels, strides, paddings = zip(*shape, strict=True)
    return partial(
        lg.models.cnn,
        channels=channels,
        kernels=kernels,
        strides=strides,
        paddings=paddings,
        activation=activation,
        bias=False,
    )


ARCHITECTURES: dict[str, Builder] = {
    "CNN6": lg.models.cnn6,
    "CNN6-d: 20 channels in layer 2": partial(lg.models.cnn6, second=20),
    "CNN6, tanh": partial(lg.models.cnn6, activation="tanh"),
    "CNN6, ReLU": partial(lg.models.cnn6, activation="relu"),
    "LeNet, sigmoid": lg.models.lenet,
    "LeNet, ReLU": partial(lg.models.lenet, activation="relu"),
    "1 convolution, 12 channels": cnn((12, 5, 2, 2)),
    "1 convolution, 6 channels": cnn((6, 5, 2, 2)),
    "2 convolutions, tanh": cnn((12, 5, 2, 2), (24, 3, 2, 1), activation="tanh"),
    "2 convolutions, sigmoid": cnn((12, 5, 2, 2), (24, 3, 2, 1), activation="sigmoid"),
    "2 convolutions, layer 2 of 6": cnn((12, 5, 2, 2), (6, 3, 2, 1)),
    "patches of 4, 48 channels": cnn((48, 4, 4, 0), (48, 3, 1, 1)),
    "patches of 4, 24 channels": cnn((24, 4, 4, 0), (48, 3, 1, 1)),
    "kernel 3, stride 3": cnn((12, 3, 3, 1), (24, 3, 1, 1)),
    "4 convolutions": cnn((12, 4, 2, 1), (24, 3, 2, 1), (36, 3, 1, 1), (48, 3, 2, 1)),
}
QUICK = ("1 convolution, 12 channels", "1 convolution, 6 channels")


@dataclass(frozen=True)
class Job:
    """One image through one architecture. One output means the logistic loss on whether the label is odd."""

    part: str
    architecture: str
    image: int
    rows: Rows = "balanced"
    outputs: int = 10


def jobs_of(given: Options) -> list[Job]:
    """Return ten images on CNN6 in both ways, three with one output, and three on every architecture."""
    ways: tuple[Rows, ...] = ("balanced", "plain")
    if given.quick:
        cnn6 = [Job("CNN6", "CNN6", 0, rows) for rows in ways]
        return [*cnn6, *(Job("architectures", name, 0) for name in QUICK)]
    found = [Job("CNN6", "CNN6", i, rows) for rows in ways for i in range(10)]
    found += [Job("CNN6, one output", "CNN6", i, rows, 1) for rows in ways for i in range(3)]
    names = [name for name in ARCHITECTURES if name != "CNN6"]
    return found + [Job("architectures", name, i) for name in names for i in range(3)]


def logistic(output: Tensor, target: Tensor) -> Tensor:
    """Return the loss of one logit (B, 1)."""
    return functional.binary_cross_entropy_with_logits(output.squeeze(1), target.to(output))


def built(job: Job, given: Options) -> nn.Module:
    """Return the network of a job."""
    data = images(given.data)
    return lg.models.build(
        ARCHITECTURES[job.architecture], data.domain, job.outputs, seed=given.seed
    )


@cache
def diagnosis(architecture: str, outputs: int, given: Options) -> Row:
    """Return the rank index, which is known from the architecture before any update."""
    job = Job("", architecture, 0, outputs=outputs)
    generator = lg.Seeds(given.seed).generator("rank index")
    layers = rank_index(built(job, given), images(given.data).domain, generator=generator)
    assert not isinstance(layers, lg.Inapplicable), layers
    worst = min(layers, key=lambda layer: layer.index)
    return {
        "index": worst.index,
        "layer": worst.name if worst.index < 0 else None,
        "open": layers[0].open,
        "lines": [layer.line for layer in layers],
    }


def run(job: Job, given: Options) -> Row:
    """Attack one update. The control is this reconstruction against the next image."""
    data, seeds = images(given.data), lg.Seeds(given.seed)
    if job.outputs == 1:
        data = replace(data, targets=data.targets % 2)
    client = lg.Client(
        model=built(job, given),
        loss=logistic if job.outputs == 1 else functional.cross_entropy,
        domain=data.domain,
        classes=max(2, job.outputs),
    )
    batch, other = (chosen(data, [i]) for i in (job.image, (job.image + 1) % len(data)))
    seen = lg.Server().observe(client, batch, seeds=seeds)
    guess = lg.attacks.RGAP(rows=job.rows)(seen, seeds=seeds)
    row: Row = {"part": job.part, "architecture": job.architecture, "rows": job.rows}
    row |= {"outputs": job.outputs, "image": job.image, "seed": given.seed}
    row |= diagnosis(job.architecture, job.outputs, given)
    return row | scored_beside(data, batch, other, guess) | {"message": guess.message}


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    first = [row for row in rows if row["part"] != "architectures"]
    if first:
        print_cnn6(first)
        print()
    print_architectures([row for row in rows if row["outputs"] == 10 and row["rows"] != "plain"])


def numbers(rows: list[Row], name: str) -> list[float]:
    """Return one value for each row."""
    return [row[name][0] for row in rows]


def print_cnn6(rows: list[Row]) -> None:
    """Print one line for each number of outputs and way to stack the equations."""
    groups = [list(g) for _, g in groupby(rows, lambda row: (row["part"], row["rows"]))]
    table(
        [
            "network",
            "rows",
            "images",
            "median dB",
            "least dB",
            "control dB",
            f">= {READ:g} dB",
            "seconds",
        ],
        [
            [
                group[0]["part"],
                group[0]["rows"],
                len(group),
                f"{median(numbers(group, 'psnr')):.1f}",
                f"{min(numbers(group, 'psnr')):.1f}",
                f"{median(numbers(group, 'control_psnr')):.1f}",
                share(psnr >= READ for psnr in numbers(group, "psnr")),
                f"{median(row['seconds'] for row in group):.0f}",
            ]
            for group in groups
        ],
    )


def print_architectures(rows: list[Row]) -> None:
    """Print one line for each architecture, and whether the index foretold success."""
    groups = [list(g) for _, g in groupby(rows, lambda row: row["architecture"])]
    lines, right = [], []
    for group in groups:
        psnr = numbers(group, "psnr")
        right.append((group[0]["index"] == 0) == (median(psnr) >= READ))
        lines.append(
            [
                group[0]["architecture"],
                group[0]["index"],
                group[0]["layer"] or "",
                group[0]["open"],
                len(group),
                f"{median(psnr):.1f}",
                f"{min(psnr):.1f} to {max(psnr):.1f}",
                f"{median(numbers(group, 'control_psnr')):.1f}",
                "yes" if right[-1] else "NO",
            ]
        )
    headings = [
        "architecture",
        "index",
        "layer",
        "open",
        "images",
        "median dB",
        "range",
        "control dB",
    ]
    table([*headings, "foretold"], lines)
    print(f"foretold (index 0 and at least {READ:g} dB, or below 0 and less): {share(right)}")


if __name__ == "__main__":
    main()
