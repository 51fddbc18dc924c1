"""DP-SGD: leakage and accuracy against epsilon.

LeNet (tanh, weights from U(-0.1, 0.1)) on CIFAR-10. Each example's gradient is clipped at norm 1.
Each line has one noise multiplier.

Leakage: batches of 1 and 4 at the model that training starts from, labels granted, since the
adversary of epsilon has them. "naive" takes the update for a plain gradient (`vanishing_prior`).
"adaptive" simulates the clipping and matches by the noise's own law (`bayes_optimal`). Without
noise, "adaptive" is the naive attack that knows the clipping.

Accuracy and epsilon: the training of `frontier.py`. Epsilon is that of a client with an equal share
of the images, at delta 1e-5, for one round and for all rounds. The RDP accountant of Opacus
computes it, as if examples were drawn by Poisson sampling. Compare an attack with the epsilon of
one round.

Quick: multipliers of 0.01 and 1 at both batch sizes, by both adversaries with 10 steps, and their
accuracy after 10 rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean
from typing import Literal

import torch
from common import Options, Row, run_jobs, table
from controls import beside_control, every
from frontier import ROUNDS, client_of, federated, trained
from frontier import Job as Training
from frontier_settings import QUICK_STEPS, STEPS, Setting
from problems import chosen, images, reconstructed

import leakgauge as lg
from leakgauge import attacks
from leakgauge.defenses import DPSGD
from leakgauge.metrics.leak import IMAGE_RULE

NAME = "dp_sgd"
MULTIPLIERS = (0.0, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 1.0)
QUICK = (0.01, 1.0)
SIZES, DRAWS = (1, 4), 1
EXAMPLES, DELTA = 32, 1e-5
Kind = Literal["naive", "adaptive", "accuracy"]


@dataclass(frozen=True)
class Job:
    """One attack on one batch at one noise multiplier, or one training run (size 0)."""

    multiplier: float
    kind: Kind
    size: int
    draw: int


def jobs_of(given: Options) -> list[Job]:
    """Return the attacks, then the trainings."""
    multipliers = QUICK if given.quick else MULTIPLIERS
    attacked = [
        Job(z, kind, size, draw)
        for draw in range(DRAWS)
        for z in multipliers
        for size in SIZES
        for kind in ("naive", "adaptive")
    ]
    return attacked + [Job(z, "accuracy", 0, 0) for z in multipliers]


def defense_of(multiplier: float) -> DPSGD:
    """Return the defense of one line."""
    return DPSGD(max_norm=1.0, noise_multiplier=multiplier)


def run(job: Job, given: Options) -> Row:
    """Measure one row."""
    setting = Setting("DP-SGD", job.multiplier, defense_of(job.multiplier))
    row = {**vars(job), "defense": repr(setting.defense)}
    if job.kind == "accuracy":
        return row | spent(job, given) | trained(Training("", "accuracy", 0), setting, given)
    return row | read(job, setting, given)


def spent(job: Job, given: Options) -> Row:
    """Return epsilon of one round and of all rounds. None means that there is no bound."""
    data, _ = federated(given)
    rate = min(1.0, EXAMPLES / (len(data) / 5))
    defense = defense_of(job.multiplier)
    one, whole = (
        defense.epsilon(steps=steps, sample_rate=share, delta=DELTA) if job.multiplier else None
        for steps, share in ((1, 1.0), (ROUNDS, rate))
    )
    return {"epsilon_round": one, "epsilon": whole, "sample_rate": rate}


def read(job: Job, setting: Setting, given: Options) -> Row:
    """Run one attack, and score it beside the control."""
    data = images(given.data)
    seeds = lg.Seeds(1000 * given.seed + job.draw).child(f"size/{job.size}")
    order = torch.randperm(len(data), generator=seeds.generator("batch")).tolist()
    indices, known = order[: job.size], job.kind == "adaptive"
    client, server = client_of(data, setting), lg.Server(defense=known, labels=True)
    seen = server.observe(client, chosen(data, indices), seeds=seeds)
    steps = QUICK_STEPS if given.quick else 3 * STEPS
    attack: lg.BaseAttack = attacks.VanishingPrior(steps=steps)
    if known and job.multiplier:
        attack = attacks.BayesOptimal(descent="lbfgs", steps=steps)
    guess, told = reconstructed(attack, seen, seeds)
    scores = beside_control(data, indices, guess, seeds.generator("controls"))
    pairs = zip(scores["psnr"], scores["control_psnr"], scores["ssim"], strict=True)
    told["leaked"] = [
        IMAGE_RULE.leaked(one, control, ssim, better="higher") for one, control, ssim in pairs
    ]
    return told | {"attack": repr(attack), "residual": guess.residual} | scores


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    heads = ["multiplier", "epsilon of a round", "epsilon of all", "accuracy"]
    for size in SIZES:
        heads += [f"B={size}: naive dB", "control dB", "adaptive dB", "control dB", "leaked"]
    table(heads, [line(z, rows) for z in MULTIPLIERS if any(r["multiplier"] == z for r in rows)])


def line(multiplier: float, rows: list[Row]) -> list[str]:
    """Return one line: means over examples."""
    some = [row for row in rows if row["multiplier"] == multiplier]
    texts = [f"{multiplier:g}"]
    runs = [row for row in some if row["kind"] == "accuracy"]
    texts += [bound(runs, key) for key in ("epsilon_round", "epsilon")]
    texts.append(f"{runs[0]['accuracy']:.3f}" if runs else "-")
    for size in SIZES:
        for kind in ("naive", "adaptive"):
            held = [row for row in some if (row["size"], row["kind"]) == (size, kind)]
            for metric in ("psnr", "control_psnr"):
                values = every(held, metric)
                texts.append(f"{mean(values):.1f}" if values else "-")
        verdicts = every(held, "leaked")
        texts.append(f"{sum(verdicts):.0f}/{len(verdicts)}" if verdicts else "-")
    return texts


def bound(runs: list[Row], key: str) -> str:
    """Return an epsilon as text, or inf if there is no noise."""
    if not runs:
        return "-"
    return "inf" if runs[0][key] is None else f"{runs[0][key]:.3g}"


if __name__ == "__main__":
    main()
