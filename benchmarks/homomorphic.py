"""What homomorphic encryption of updates costs, and what is left to read on either side of it.

Cost: five clients' LeNet updates of one image each are encrypted, added and decrypted, at several
CKKS parameters and bits of fixed point. All parameters have 128 bits of security. The relative
error is that of the mean against the plain mean in float64, by norm and by largest entry.

Leakage: the server sees one client's ciphertexts. The key holders see the decrypted mean of one to
eight clients. Both views are attacked as in `secure_aggregation.py`. The blind control is the same
attack on the view of other images with the same labels. This benchmark needs the extra `he`.

Quick: one run of each parameter, the mean of 1 and 5 clients and 4 ciphertexts on the MLP, and one
LeNet.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean

import torch
from common import Options, Row, run_jobs, share, table
from problems import client_of, images, mlp_or_lenet, with_decoys
from secure_aggregation import ATTACKS, attacked, every, print_masked

import leakgauge as lg
from leakgauge.federated import CKKS, HomomorphicEncryption, WeightedMean
from leakgauge.federated.aggregation.finite_field import FixedPoint
from leakgauge.federated.aggregation.homomorphic import Measured
from leakgauge.federated.aggregation.vectors import flat

NAME = "homomorphic"
CLIENTS = 5
SMALL = CKKS()
PARAMETERS = (
    (SMALL, 24),
    (SMALL, 32),
    (CKKS(degree=8192, primes=(60, 60)), 32),
    (CKKS(degree=8192, primes=(60, 40, 40, 60)), 32),
    (CKKS(degree=8192, primes=(60, 40, 40, 60)), 40),
    (CKKS(degree=16384, primes=(60, 40, 40, 60)), 40),
)
PARTS = ("keys", "encrypt", "add", "decrypt")
EXACT = 60.0


@dataclass(frozen=True)
class Job:
    """One run of the encryption, or one attacked view. A width of 0 is LeNet."""

    part: str
    number: int
    ckks: CKKS = SMALL
    bits: int = 32
    width: int = 0
    attack: str = ""
    clients: int = CLIENTS


def jobs_of(given: Options) -> list[Job]:
    """Return the jobs: cost, closed forms, ciphertexts, then LeNet."""
    few = given.quick
    found = [Job("cost", i, ckks, b) for ckks, b in PARAMETERS for i in range(1 if few else 5)]
    clients = (1, 5) if few else (1, 2, 4, 8)
    for n in clients:
        found += [Job("mean", i, SMALL, 32, 256, "linear_layer", n) for i in range(2 if few else 5)]
    numbers = range(4 if few else 20)
    found += [Job("ciphertext", i, SMALL, 32, 256, "linear_layer") for i in numbers]
    found += [Job("mean", i, SMALL, 32, 0, "l-bfgs", 1) for i in range(1 if few else 3)]
    return found + [Job("ciphertext", i, SMALL, 32, 0, "l-bfgs") for i in range(0 if few else 6)]


def run(job: Job, given: Options) -> Row:
    """Measure one job, and return its row with the fields that name it."""
    seed = given.seed + job.number
    row: Row = {"part": job.part, "network": f"mlp {job.width}" if job.width else "lenet"}
    row |= {"attack": job.attack, "clients": job.clients, "number": job.number, "bits": job.bits}
    row |= {"degree": job.ckks.degree, "primes": list(job.ckks.primes)}
    data = images(given.data)
    owner = client_of(data, mlp_or_lenet(data, job.width, seed))
    # Ciphertexts are of one client. A mean is of all clients.
    size = 1 if job.part == "ciphertext" else job.clients
    batch, decoy = with_decoys(data, size, seed)
    if job.part == "cost":
        return row | cost(job, owner, batch, seed)
    kind = lg.EncryptedUpdate if job.part == "ciphertext" else lg.HomomorphicAggregator
    threat = kind(clients=job.clients, bits=job.bits, labels=job.attack == "l-bfgs")
    return row | attacked(ATTACKS[job.attack], threat, owner, batch, decoy, seed)


def cost(job: Job, owner: lg.Client, batch: lg.Batch, seed: int) -> Row:
    """Return seconds, bytes and errors of one run."""
    scheme = HomomorphicEncryption(fixed=FixedPoint(bits=job.bits), ckks=job.ckks)
    seeds = lg.Seeds(seed)
    model = owner.global_model(seeds=seeds)
    parts = zip(batch.inputs.unsqueeze(1), batch.targets.unsqueeze(1), strict=True)
    updates = [owner.share(model, lg.Batch(x, y), seeds=seeds) for x, y in parts]
    # Counts differ, as in practice. In float64, rounding to float32 is no part of the error.
    wide, counts = [u.map(torch.Tensor.double) for u in updates], [1, 2, 3, 4, 5]
    plain = flat(WeightedMean()(wide, counts, seeds=seeds).tensors)
    off = flat(scheme.run(wide, counts, seeds=seeds).update.tensors) - plain
    found: Measured = scheme.run(updates, counts, seeds=seeds)
    return {
        "entries": len(plain),
        "relative_norm": float(off.norm() / plain.norm()),
        "relative_largest": float(off.abs().max() / plain.abs().max()),
        "off": found.off,
        "encrypted_bytes": found.encrypted,
        "plain_bytes": found.plain,
        "seed": seed,
        **{f"{name}_seconds": getattr(found, name) for name in PARTS},
    }


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    print(
        f"LeNet updates of {CLIENTS} clients. CPU milliseconds and megabytes of all clients together:"
    )
    print_cost([row for row in rows if row["part"] == "cost"])
    print("\nThe key holders' view, the decrypted mean, as one batch of all clients:")
    print_means([row for row in rows if row["part"] == "mean"])
    print("\nThe server's view, one client's ciphertexts:")
    print_masked([row for row in rows if row["part"] == "ciphertext"])


def print_cost(rows: list[Row]) -> None:
    """Print one line for each set of parameters."""
    keys = ("degree", "primes", "bits")
    lines = []
    for key in dict.fromkeys(tuple(str(row[k]) for k in keys) for row in rows):
        mine = [row for row in rows if tuple(str(row[k]) for k in keys) == key]
        encrypted, plain = (mine[0][f"{k}_bytes"] / 1e6 for k in ("encrypted", "plain"))
        lines.append(
            [
                *key,
                f"{max(row['relative_norm'] for row in mine):.1e}",
                f"{max(row['relative_largest'] for row in mine):.1e}",
                f"{max(row['off'] for row in mine):.0e}",
                *(f"{1e3 * mean(row[f'{name}_seconds'] for row in mine):.1f}" for name in PARTS),
                f"{encrypted:.2f} / {plain:.2f} = {encrypted / plain:.0f}",
            ]
        )
    errors = ["error of norm", "error of largest entry", "error of CKKS, in integers"]
    table([*keys, *errors, *PARTS, "MB / plain"], lines)


def print_means(rows: list[Row]) -> None:
    """Print one line for each network and number of clients."""
    lines = []
    for key in dict.fromkeys((row["network"], row["attack"], row["clients"]) for row in rows):
        mine = [r for r in rows if (r["network"], r["attack"], r["clients"]) == key]
        own, blind = every(mine, "psnr"), every(mine, "control_psnr")
        exact = share(value >= EXACT for value in own)
        lines.append([*key, len(own), f"{mean(own):.1f}", f"{mean(blind):.1f}", exact])
    columns = ["images", "mean PSNR, dB", "control, dB", f">= {EXACT:g} dB"]
    table(["network", "attack", "clients", *columns], lines)


if __name__ == "__main__":
    main()
