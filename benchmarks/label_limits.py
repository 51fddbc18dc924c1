"""What limits label counts: the fraction of instances that oracles count right.

Each oracle knows something that no update tells.

Untrained networks and those after one epoch: iLRG, and iLRG that knows each class's mean features.
Two more oracles know the network's mean answer, over all images or over the batch.

Trained networks: the labels of the loudest examples are known. The rest is guessed equally, or in
proportion to the known ones. Visible examples change an entry of the float32 gradient by their
slope.

Quick: untrained LeNet and ResNet-20, and the trained ResNet-20 under LEAKGAUGE_DATA, with 3 draws
instead of 20.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from statistics import mean

import torch
from common import Options, Row, run_jobs, table
from label_counts import KINDS, Job, Problem, drawn, observed, problem_of
from torch import Tensor
from torch.nn import functional

import leakgauge as lg
from leakgauge.analytic.label_recovery.base import BiasedLayer, round_counts
from leakgauge.analytic.label_recovery.ilrg import counts_from_logits, estimate_counts, logits_of
from leakgauge.analytic.label_recovery.stand_ins import features_of
from leakgauge.analytic.loss_link import link_of
from leakgauge.output import head_of

NAME = "label_limits"
DRAWS = 20
TOLD = (4, 9, 16, 32, 48)
"""How many of the loudest examples' labels are known. The last layer's 9 x 65 free entries can fix 9 examples."""
SIZES: dict[str, tuple[int, ...]] = {
    "lenet untrained": (64, 1024),
    "resnet20 untrained": (64, 1024),
    "resnet20 epoch 1": (64, 1024),
    "resnet20 trained": (64,),
    "resnet20 trained, test images": (64,),
}


@dataclass(frozen=True)
class Seen:
    """Features (N, d), labels (N,) and answers (N, C) of all images of a problem, and its last layer."""

    features: Tensor
    targets: Tensor
    answers: Tensor
    weight: Tensor
    bias: Tensor


@cache
def seen_of(network: str, given: Options) -> Seen:
    """Return features and answers of all images of a problem."""
    problem: Problem = problem_of(network, given)
    generator = lg.Seeds(given.seed).generator("one")
    one = observed(problem, Job(network, "drawn", 1, 0), torch.arange(1), generator, given)
    last = [m for m in problem.model.modules() if isinstance(m, torch.nn.Linear)][-1]
    head = head_of(one.model, one.domain)
    assert head is not None, "every network of this benchmark ends with a linear layer"
    features = features_of(one, head, problem.data.inputs)
    weight, bias = last.weight.detach().double(), last.bias.detach().double()
    answers = (features @ weight.T + bias).softmax(1)
    return Seen(features, problem.data.targets, answers, weight, bias)


def run(job: Job, given: Options) -> Row:
    """Return the mean over `DRAWS` batches."""
    seen, scores = seen_of(job.network, given), []
    for draw in range(3 if given.quick else DRAWS):
        generator = lg.Seeds(given.seed).generator(f"{job.labels}/{job.size}/{draw}")
        chosen = drawn(seen.targets, job, generator)
        oracles = confident if "20 trained" in job.network else fresh
        truth = torch.bincount(seen.targets[chosen], minlength=10)
        found = oracles(seen, chosen)
        scores.append(
            {
                name: float(torch.minimum(round_counts(counts, job.size), truth).sum() / job.size)
                for name, counts in found.items()
            }
        )
    oracles_found = {name: mean(score[name] for score in scores) for name in scores[0]}
    return {
        "network": job.network,
        "labels": job.labels,
        "batch": job.size,
        "seed": given.seed,
        "draws": len(scores),
        "oracles": oracles_found,
    }


def layer_of(seen: Seen, chosen: Tensor) -> BiasedLayer:
    """Return the batch's mean gradient, rounded to float32."""
    slopes = seen.answers[chosen] - functional.one_hot(seen.targets[chosen], 10)
    dweight = (slopes.T @ seen.features[chosen] / len(chosen)).float().double()
    return BiasedLayer(
        seen.weight, seen.bias, dweight, slopes.mean(0).float().double(), len(chosen)
    )


def fresh(seen: Seen, chosen: Tensor) -> dict[str, Tensor]:
    """Return counts (C,) by each oracle, for networks that are not sure."""
    layer, link = layer_of(seen, chosen), link_of(functional.cross_entropy, 10)
    assert link is not None
    features, targets = seen.features[chosen], seen.targets[chosen]
    average = features.mean(0)
    means = torch.stack(
        [
            features[targets == c].mean(0) if bool((targets == c).any()) else average
            for c in range(10)
        ]
    )
    size = len(chosen)
    return {
        "ilrg": estimate_counts(layer, link),
        "ilrg, class means told": counts_from_logits(layer, link, logits_of(layer, means)),
        "mean answer of all images told": size * (seen.answers.mean(0) - layer.dbias),
        "mean answer of the batch told": size * (seen.answers[chosen].mean(0) - layer.dbias),
        "all classes alike": torch.full((10,), size / 10).double(),
    }


def confident(seen: Seen, chosen: Tensor) -> dict[str, Tensor]:
    """Return counts (C,) by each oracle, for networks that are sure."""
    layer, targets, size = layer_of(seen, chosen), seen.targets[chosen], len(chosen)
    slopes = seen.answers[chosen] - functional.one_hot(targets, 10)
    order = slopes.abs().max(1).values.argsort(descending=True)
    whole_gradient = torch.cat([layer.dweight, layer.dbias.unsqueeze(1)], 1)
    points = torch.cat([seen.features[chosen], torch.ones(size, 1).double()], 1)
    entries = slopes.unsqueeze(2) * points.unsqueeze(1) / size
    visible = (entries.abs() > 2.0**-24 * whole_gradient.abs()).flatten(1).any(1)
    found = {"all classes alike": torch.full((10,), size / 10).double()}
    for told in TOLD:
        known = torch.bincount(targets[order[:told]], minlength=10).double()
        found[f"{told} told, rest alike"] = known + (size - told) / 10
        found[f"{told} told, rest in proportion"] = proportional(known, size)
    known = torch.bincount(targets[visible], minlength=10).double()
    return found | {"all visible told": proportional(known, size)}


def proportional(known: Tensor, size: int) -> Tensor:
    """Return the known counts (C,), and the rest by the mean of their posterior under a flat prior."""
    return known + (size - known.sum()) * (known + 1) / (known + 1).sum()


def jobs_of(given: Options) -> list[Job]:
    """Return every kind of labels at every batch size. Trained networks need their weights."""
    have = bool(os.environ.get("LEAKGAUGE_DATA")) and given.data is None
    networks = list(SIZES) if have else list(SIZES)[:2]
    if given.quick:
        networks = [name for name in networks if "epoch" not in name]
    return [
        Job(network, kind, size, 0)
        for network in networks
        for size in SIZES[network]
        for kind in KINDS
    ]


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    for sure in (False, True):
        some = [row for row in rows if ("20 trained" in row["network"]) == sure]
        if some:
            names = list(some[0]["oracles"])
            keys = ("network", "batch", "labels")
            table(
                [*keys, *names],
                [
                    [*(row[k] for k in keys), *(f"{100 * row['oracles'][n]:.1f}" for n in names)]
                    for row in some
                ],
            )


if __name__ == "__main__":
    main()
