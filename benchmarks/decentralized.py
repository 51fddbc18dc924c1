"""What a neighbor reads in decentralized training, by degree, distance, and the round in which it begins to listen.

8 nodes on a circle are joined to 2 or 4 others each. Degree 1 is a pair. Each node holds one image,
and mixing is Metropolis-Hastings. All start from one model. Node 0 listens for 8 rounds, from the
first or from the sixth on. It works out one other node's gradient, which is then attacked.

The attack on an MLP of width 32 is the closed form. On LeNet it is L-BFGS with total variation and
the label granted. The error is that of the gradient, at the model that was worked out. The blind
control is the same attack when the victim holds another image of the same label.

Quick: one victim in each place on the MLP, at both rates, and one on LeNet.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean, median

import torch
from common import Options, Row, run_jobs, share, table
from problems import chosen, client_of, images, lbfgs, mlp_or_lenet, with_decoys

import leakgauge as lg
from leakgauge import attacks
from leakgauge.federated.aggregation.vectors import flat

NAME = "decentralized"
NODES = {1: 2, 2: 8, 4: 8}
LISTENING = 8
READ = 20.0
"""PSNR (dB) from which an image counts as read. It is an MSE of at most 1e-2."""
ATTACKS: dict[str, lg.BaseAttack] = {
    "linear_layer": attacks.LinearLayer(),
    "l-bfgs": lbfgs(400),
}


@dataclass(frozen=True)
class Job:
    """One victim. A width of 0 is LeNet."""

    width: int
    degree: int
    hops: int
    start: int
    rate: float
    number: int


def jobs_of(given: Options) -> list[Job]:
    """Return jobs on both networks. A pair has no node two hops away."""
    places = [(degree, hops) for degree in NODES for hops in (1, 2) if degree > 1 or hops == 1]
    networks = [(32, 0.01, 5), (32, 0.0001, 5), (0, 0.001, 2)]
    if given.quick:
        networks = [(32, 0.01, 1), (32, 0.0001, 1)]
    found = [
        Job(width, degree, hops, start, rate, i)
        for width, rate, count in networks
        for start in (0, 5)
        for degree, hops in places
        for i in range(count)
    ]
    return [*found, Job(0, 1, 1, 0, 0.001, 0)] if given.quick else found


def run(job: Job, given: Options) -> Row:
    """Attack the victim's image and the control's, each through the gradient that the neighbor worked out."""
    seed, data = given.seed + job.number, images(given.data)
    owner = client_of(data, mlp_or_lenet(data, job.width, seed))
    order = torch.randperm(len(data), generator=lg.Seeds(seed).generator("images"))
    nodes = NODES[job.degree]
    batch, decoy = with_decoys(data, 1, seed)
    others = chosen(data, order[2 : nodes + 1].tolist())
    threat = lg.Neighbor(
        nodes=nodes,
        degree=job.degree,
        hops=job.hops,
        start=job.start,
        listening=LISTENING,
        learning_rate=job.rate,
        bystanders=others,
        labels=job.width == 0,
    )
    attack = ATTACKS["linear_layer" if job.width else "l-bfgs"]
    row: Row = {"network": f"mlp {job.width}" if job.width else "lenet", "seed": seed}
    row |= {key: getattr(job, key) for key in ("degree", "hops", "start", "rate", "number")}
    seeds = lg.Seeds(seed)
    truth = data.domain.to_unit(batch.inputs)
    for name, there in (("control_psnr", decoy), ("psnr", batch)):
        seen = threat.observe(owner, there, seeds=seeds)
        guess = attack(seen, seeds=seeds)
        unit = data.domain.to_unit(guess.inputs).clamp(0, 1)
        row[name] = float(lg.metrics.psnr(truth, unit)[0])
        row["error"] = error(owner, seen, there)
    return row


def error(owner: lg.Client, seen: lg.Observation, batch: lg.Batch) -> float:
    """Return ||g - g*|| / ||g*||, with g the gradient worked out, and g* the true one at the model worked out."""
    true = flat(owner.training(seen.model, owner.loss, batch.inputs, batch.targets))
    return float((flat(seen.update.tensors) - true).norm() / true.norm())


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    keys = ("network", "rate", "start", "degree", "hops")
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    table(
        [
            *keys,
            "images",
            "gradient's error",
            "mean dB",
            "control dB",
            "leak dB",
            f">= {READ:g} dB",
        ],
        [
            [
                *key,
                len(mine),
                f"{median(row['error'] for row in mine):.2g}",
                f"{mean(row['psnr'] for row in mine):.1f}",
                f"{mean(row['control_psnr'] for row in mine):.1f}",
                f"{mean(row['psnr'] - row['control_psnr'] for row in mine):.1f}",
                share(row["psnr"] >= READ for row in mine),
            ]
            for key, mine in groups.items()
        ],
    )


if __name__ == "__main__":
    main()
