"""How leakage falls with the number of clients of a secure aggregation, and whether the protocol shows the sum alone.

Each client holds one image. MLPs of width 64 and 256 are attacked in closed form, and that of width
256 also by SPEAR. LeNet is attacked by L-BFGS with total variation and the labels granted. The
blind control is the same attack on the aggregate of other images with the same labels.

Then the masked sum is compared with the plain one, with and without a client that drops out. Last,
one masked update alone is attacked. Values are clamped to [0, 1] before they are scored.

Quick: 1 and 16 clients. Two aggregates of each MLP and one of LeNet, the protocol, one
quantization, and 4 masked updates.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean, stdev

import torch
from common import Options, Row, run_jobs, share, table
from problems import client_of, images, lbfgs, mlp_or_lenet, with_decoys

import leakgauge as lg
from leakgauge import attacks
from leakgauge.federated import SecureAggregation, WeightedMean
from leakgauge.federated.aggregation.finite_field import FixedPoint, to_integers
from leakgauge.federated.aggregation.secure_aggregation import unmasked_sum

NAME = "secure_aggregation"
CLIENTS = (1, 2, 4, 8, 16)
EXACT = 60.0
ATTACKS: dict[str, lg.BaseAttack] = {
    "linear_layer": attacks.LinearLayer(),
    "spear": attacks.Spear(),
    "l-bfgs": lbfgs(600),
}


@dataclass(frozen=True)
class Job:
    """One attacked aggregate or masked update, or one run of the protocol. A width of 0 is LeNet."""

    part: str
    width: int
    attack: str
    clients: int
    number: int
    bits: int = 32


def jobs_of(given: Options) -> list[Job]:
    """Return the jobs: protocol, closed forms, masked updates, then LeNet, number by number."""
    clients = (1, 16) if given.quick else CLIENTS
    numbers = range(2 if given.quick else 5)
    found = [Job("protocol", 64, "", n, i) for n in clients if n > 1 for i in numbers]
    # SPEAR does not run on width 64. At 16 clients it searches for 45 s, and mostly fails.
    for width, name in ((64, "linear_layer"), (256, "linear_layer"), (256, "spear")):
        found += [Job("aggregate", width, name, n, i) for n in clients for i in numbers]
    quantized = [(b, i) for b in ((16,) if given.quick else (24, 20, 16, 12)) for i in numbers]
    found += [Job("aggregate", 256, "linear_layer", 4, i, b) for b, i in quantized]
    found += [Job("masked", 256, "linear_layer", 4, i) for i in range(4 if given.quick else 40)]
    if given.quick:
        return [*found, *(Job("aggregate", 0, "l-bfgs", n, 0) for n in clients)]
    found += [Job("masked", 0, "l-bfgs", 4, i) for i in range(6)]
    return found + [Job("aggregate", 0, "l-bfgs", n, i) for i in range(3) for n in clients]


def run(job: Job, given: Options) -> Row:
    """Measure one job, and return its row with the fields that name it."""
    seed = given.seed + job.number
    row: Row = {"part": job.part, "network": f"mlp {job.width}" if job.width else "lenet"}
    row |= {"attack": job.attack, "clients": job.clients, "number": job.number, "bits": job.bits}
    data = images(given.data)
    owner = client_of(data, mlp_or_lenet(data, job.width, seed))
    # A masked update is of one client. An aggregate is of all clients.
    size = 1 if job.part == "masked" else job.clients
    batch, decoy = with_decoys(data, size, seed)
    if job.part == "protocol":
        return row | protocol(job, owner, batch, seed)
    kind = lg.MaskedUpdate if job.part == "masked" else lg.SecureAggregator
    threat = kind(clients=job.clients, bits=job.bits, labels=job.attack == "l-bfgs")
    return row | attacked(ATTACKS[job.attack], threat, owner, batch, decoy, seed)


def attacked(
    attack: lg.BaseAttack,
    threat: lg.ThreatModel,
    owner: lg.Client,
    batch: lg.Batch,
    decoy: lg.Batch,
    seed: int,
) -> Row:
    """Attack what this adversary sees, and the blind control."""
    seeds = lg.Seeds(seed)
    scores, guess = {}, None
    for name, seen_of in (("control_psnr", decoy), ("psnr", batch)):
        seen = threat.observe(owner, seen_of, seeds=seeds.child(name))
        guess = attack(seen, seeds=seeds)
        unit = owner.domain.to_unit(guess.inputs).clamp(0, 1)
        truth = owner.domain.to_unit(batch.inputs)
        order = lg.metrics.assign(truth, unit)
        scores[name] = lg.metrics.psnr(truth, unit[order]).tolist()
    assert guess is not None
    return scores | {"status": str(guess.status), "seconds": guess.cost.seconds, "seed": seed}


def protocol(job: Job, owner: lg.Client, batch: lg.Batch, seed: int) -> Row:
    """Compare the protocol's sum and mean with those computed in the clear, with all clients or without one."""
    secure, seeds = SecureAggregation(fixed=FixedPoint(bits=job.bits)), lg.Seeds(seed)
    model = owner.global_model(seeds=seeds)
    parts = [
        lg.Batch(x, y)
        for x, y in zip(batch.inputs.unsqueeze(1), batch.targets.unsqueeze(1), strict=True)
    ]
    updates = [owner.share(model, part, seeds=seeds) for part in parts]
    # Counts differ, as in practice.
    counts = [1 + i % 4 for i in range(job.clients)]
    row: Row = {"step": secure.fixed.step, "seed": seed}
    lost = job.number % job.clients
    for name, gone in (("all", ()), ("one lost", (lost,) if job.clients > 2 else ())):
        transcript = secure.run(updates, counts, seeds=seeds, lost=gone)
        stay = [i for i in range(job.clients) if i not in gone]
        vectors = [to_integers(secure.vector(updates[i], counts[i], seeds)) for i in stay]
        total = unmasked_sum(transcript, secure.quorum(job.clients))
        plain = WeightedMean()(
            [updates[i].map(torch.Tensor.double) for i in stay],
            [counts[i] for i in stay],
            seeds=seeds,
        )
        mean_ = secure.fixed.decode(total[:-1]) / int(total[-1])
        flat = torch.cat([t.flatten() for t in plain.tensors.values()])
        row[name] = {
            "clients": len(stay),
            "integers_equal": bool(torch.equal(total, torch.stack(vectors).sum(0))),
            "largest_error_in_steps": float((mean_ - flat).abs().max()) / secure.fixed.step,
        }
    return row


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    print_protocol([row for row in rows if row["part"] == "protocol"])
    print("\nThe aggregate, attacked as one batch of all clients (one image each):")
    print_attacks([row for row in rows if row["part"] == "aggregate"])
    print("\nOne client's masked update alone, of four clients:")
    print_masked([row for row in rows if row["part"] == "masked"])


def print_protocol(rows: list[Row]) -> None:
    """Print one line for each number of clients."""
    table(
        ["clients", "runs", "present", "masked sum = plain sum", "mean's largest error, in steps"],
        [
            [
                n,
                len(mine),
                f"{mine[0][case]['clients']}",
                share(row[case]["integers_equal"] for row in mine),
                f"{max(row[case]['largest_error_in_steps'] for row in mine):.3f}",
            ]
            for n in sorted({row["clients"] for row in rows})
            for mine in [[row for row in rows if row["clients"] == n]]
            for case in (("all", "one lost") if n > 2 else ("all",))
        ],
    )


def print_attacks(rows: list[Row]) -> None:
    """Print one line for each network, attack, precision and number of clients."""
    keys = ("network", "attack", "bits", "clients")
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    table(
        [*keys, "images", "mean dB", "control dB", "leak dB", f">= {EXACT:g} dB"],
        [
            [
                *key,
                len(every(mine, "psnr")),
                f"{mean(every(mine, 'psnr')):.1f}",
                f"{mean(every(mine, 'control_psnr')):.1f}",
                f"{mean(every(mine, 'psnr')) - mean(every(mine, 'control_psnr')):.1f}",
                share(value >= EXACT for value in every(mine, "psnr")),
            ]
            for key, mine in groups.items()
        ],
    )


def print_masked(rows: list[Row]) -> None:
    """Print one line for each network: the mean of PSNR less the control's, with its standard error."""
    lines = []
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == network]
        own, blind = every(mine, "psnr"), every(mine, "control_psnr")
        apart = [a - b for a, b in zip(own, blind, strict=True)]
        error = stdev(apart) / len(apart) ** 0.5 if len(apart) > 1 else float("nan")
        told = f"{mean(apart):+.2f} ± {error:.2f}"
        names = [network, mine[0]["attack"], len(own)]
        lines.append([*names, f"{mean(own):.2f}", f"{mean(blind):.2f}", told])
    table(["network", "attack", "images", "mean dB", "control dB", "above the control"], lines)


def every(rows: list[Row], name: str) -> list[float]:
    """Return one value for each image, of all rows."""
    return [value for row in rows for value in row[name]]


if __name__ == "__main__":
    main()
