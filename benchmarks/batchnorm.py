"""BatchNorm: what the statistics of the private batch hide, and what they give away if they are shared.

Train mode normalizes by the batch itself, so an update says little about its brightness and
contrast. "eval" uses no batch statistics. "withheld" simulates train mode with the candidate's own
statistics (BN infer, in Huang et al. 2021). "shared" grants the statistics, which become a term of
the search.

"as eval, theirs" simulates eval mode with the shared statistics (BN exact). "as eval, old" takes
the running statistics that the model came with (BN proxy). "outsider" sees successive global models
of four clients with one example each. "5 steps" is FedAvg with five local steps at a rate of 0.1.

Labels are granted. "withheld" and "shared" differ by the grant alone. LeNet has BatchNorm before
each sigmoid. ResNet-20 is untrained, and its search is a short `SmoothedMatching`.

Quick: all nine ways on LeNet, one batch of 4, with 20 steps.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from itertools import groupby
from statistics import median

import torch
from common import Options, Row, run_jobs, table
from problems import client_of, drawn_batches, images, scored_beside
from torch import nn

import leakgauge as lg
from leakgauge import attacks, inversion
from leakgauge.federated.layers.statistics import batch_statistics

NAME = "batchnorm"
STEPS = {"lenet": 150, "resnet20": 100}
HOW = (
    "eval",
    "withheld",
    "shared",
    "as eval, theirs",
    "as eval, old",
    "5 steps, withheld",
    "5 steps, shared",
    "outsider, withheld",
    "outsider, shared",
)
SEVERAL = lg.FedAvg(epochs=5, learning_rate=0.1)


@dataclass(frozen=True)
class Job:
    """One update, observed and attacked in one way."""

    network: str
    size: int
    how: str
    draw: int


def jobs_of(given: Options) -> list[Job]:
    """Return every way on each batch. The outsider's four clients need four examples. ResNet-20 has fewer ways."""
    if given.quick:
        return [Job("lenet", 4, how, 0) for how in HOW]
    lenet = [
        Job("lenet", size, how, draw) for draw in range(2) for size in (1, 2, 4) for how in HOW
    ]
    few = [how for how in HOW[:5] if how != "as eval, theirs"]
    resnet = [Job("resnet20", size, how, 0) for size in (1, 2, 4) for how in few]
    return [job for job in lenet + resnet if job.size == 4 or not job.how.startswith("outsider")]


def matching(job: Job, given: Options) -> inversion.GradientMatching:
    """Return L-BFGS over cosine coefficients with weighted layers and total variation. For ReLUs: a smoothed copy."""
    steps = 20 if given.quick else STEPS[job.network]
    if job.network == "resnet20":
        return attacks.SmoothedMatching(steps=steps).matching()
    return inversion.GradientMatching(
        objective=inversion.BalancedL2()
        + 1e-3 * inversion.TotalVariation()
        + 1.0 * inversion.InRange(),
        parametrization=inversion.Spectral(center=0.5, noise=0.1),
        labels=inversion.Known(),
        descent=inversion.LBFGS(steps=steps, history=50, line_search="strong_wolfe"),
    )


def run(job: Job, given: Options) -> Row:
    """Run one attack, and score its reconstruction against the private and against other images."""
    data = images(given.data)
    seed = 1000 * given.seed + job.draw
    batch, others = drawn_batches(data, job.size, seed)
    model = network(job.network, data, seed)
    order = torch.randperm(len(data), generator=lg.Seeds(seed).generator("batch"))
    settle(model, data.inputs[order[-32:]])
    model.train(job.how != "eval")
    training = SEVERAL if job.how.startswith("5 steps") else lg.FedSGD()
    client = client_of(data, model, training=training)
    shared = job.how.endswith(("shared", "theirs"))
    threat = lg.Server(labels=True, statistics=shared)
    if job.how.startswith("outsider"):
        threat = lg.Outsider(labels=True, statistics=shared, clients=4)
    seen = threat.observe(client, batch, seeds=lg.Seeds(seed))
    attack = matching(job, given)
    guess = attack(as_eval(seen, job.how), seeds=lg.Seeds(seed))
    row = {**vars(job), "seed": seed, "attack": repr(attack), "training": repr(training)}
    return row | scored_beside(data, batch, others, guess)


def as_eval(seen: lg.Observation, how: str) -> lg.Observation:
    """Return the observation, if `how` asks for it with a model that normalizes by stored statistics."""
    if not how.startswith("as eval"):
        return seen
    model = copy.deepcopy(seen.model)
    told = seen.knowledge.statistics
    for name, moments in batch_statistics(model, told).items() if told else ():
        model.get_buffer(f"{name}.running_mean").copy_(moments.mean)
        model.get_buffer(f"{name}.running_var").copy_(moments.variance)
    return replace(seen, model=model.eval(), knowledge=replace(seen.knowledge, statistics=None))


def network(name: str, data: lg.Dataset, seed: int) -> nn.Module:
    """Return an untrained network by its name."""
    if name == "resnet20":
        return lg.models.build(lg.models.resnet20, data.domain, 10, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return normalized_lenet(data.domain.shape)


def normalized_lenet(shape: tuple[int, ...]) -> nn.Module:
    """Return the LeNet of the DLG paper with BatchNorm before each sigmoid, and torch's own initial weights."""
    layers: list[nn.Module] = []
    channels, side = shape[0], shape[1]
    for stride in (2, 2, 1):
        layers.append(nn.Conv2d(channels, 12, 5, padding=2, stride=stride))
        layers += [nn.BatchNorm2d(12), nn.Sigmoid()]
        channels, side = 12, -(-side // stride)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12 * side * side, 10))


def settle(model: nn.Module, others: torch.Tensor) -> None:
    """Set running statistics from images that are not attacked. A global model brings them."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        model.train()(others)
    for norm in norms:
        norm.momentum = 0.1


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    rows.sort(key=key)
    lines = []
    for head, group in groupby(rows, key):
        some = list(group)
        values = [value for row in some for value in row["psnr"]]
        controls = [value for row in some for value in row["control_psnr"]]
        lines.append(
            [
                head[0],
                head[1],
                some[0]["how"],
                f"{median(values):.1f}",
                f"{median(controls):.1f}",
                f"{median(row['residual'] for row in some):.0e}",
                f"{median(row['seconds'] for row in some):.0f}",
            ]
        )
    table(["network", "B", "statistics", "PSNR, dB", "control, dB", "residual", "seconds"], lines)


def key(row: Row) -> tuple[str, int, int]:
    """Return the fields that name a line of the table."""
    return (row["network"], row["size"], HOW.index(row["how"]))


if __name__ == "__main__":
    main()
