"""The frontier of defenses: what each hides from a naive and an adaptive adversary, and its cost in accuracy.

LeNet (tanh, weights from U(-0.1, 0.1)) on CIFAR-10. Leakage: one batch of 4 at the model that
training starts from, labels withheld. "naive" does not know the defense, and takes the update for a
plain gradient (`vanishing_prior`). "adaptive" knows it. The control is the same reconstruction
scored against other images of the same labels, the mean of five draws.

Accuracy: 5 clients of unlike labels (Dirichlet, alpha 0.5). Each shares one gradient of 32 examples
in each of 200 rounds, or takes local steps on them. The test images are held by no client. Accuracy
is the mean over the last tenth of the rounds, of one run for each setting. The last line of the
output has the accuracy by seed. With InstaHide and mixup, test images are plain.

A setting is dominated if another one leaks no more and keeps no less accuracy. Leakage is that to
the adversary that reads more.

Quick: no defense, Gaussian noise of 0.1 and top-k of 0.5, attacked as in the full run, which are
the headline. Mixup and local steps have 10 steps. Accuracy is that after 10 rounds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cache
from statistics import mean
from typing import Literal

import torch
from common import Options, Row, run_jobs, table
from controls import beside_control, every
from frontier_settings import HEADLINE, QUICK, RATE, SETTINGS, Setting, attack_of, training_of
from problems import chosen, images, reconstructed
from torch import nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.metrics.leak import IMAGE_RULE
from leakgauge.utility import Federation

NAME = "frontier"
TRAINING = "cifar10_jpeg75.npz"
TEST = 500
DRAWS = 1
ROUNDS, QUICK_ROUNDS = 200, 10
SEEDS = 3
"""Number of trainings without a defense. They show how far two runs differ by chance."""
Kind = Literal["naive", "adaptive", "accuracy"]


@dataclass(frozen=True)
class Job:
    """One attack on one batch under one setting, or one training run."""

    setting: str
    kind: Kind
    draw: int


def jobs_of(given: Options) -> list[Job]:
    """Return the jobs draw by draw, so that a run that is cut has rows of each setting."""
    names = QUICK if given.quick else tuple(SETTINGS)
    trained = [Job(name, "accuracy", 0) for name in names if SETTINGS[name].quality]
    again = [Job("none", "accuracy", seed) for seed in range(1, 1 if given.quick else SEEDS)]
    draws = [
        [Job(name, kind, draw) for name in names for kind in kinds(SETTINGS[name])]
        for draw in range(1 if given.quick else DRAWS)
    ]
    return [*draws[0], *trained, *again, *(job for later in draws[1:] for job in later)]


def kinds(setting: Setting) -> tuple[Kind, ...]:
    """Return the adversaries. Width, activation and batch size are no secret, so they have one."""
    alone = setting.family in ("none", "filters", "activation", "batch")
    return ("adaptive",) if alone else ("naive", "adaptive")


def client_of(data: lg.Dataset, setting: Setting) -> lg.Client:
    """Return a client under the setting. Dropout layers are in train mode."""
    options = {"activation": "tanh", "init": RATE, **setting.model}
    model = lg.models.build(lg.models.lenet, data.domain, data.classes or 10, seed=0, **options)
    for module in model.modules():
        module.training = isinstance(module, nn.Dropout)
    return lg.Client(
        model=model,
        loss=functional.cross_entropy,
        domain=data.domain,
        classes=data.classes,
        defense=setting.defense,
        **training_of(setting),
    )


@cache
def federated(given: Options) -> tuple[lg.Dataset, lg.Dataset]:
    """Return the images that clients hold, and test images that no client holds."""
    own = given.data is None and bool(os.environ.get("LEAKGAUGE_DATA"))
    data = lg.data.npz(TRAINING, split="train") if own else images(given.data)
    order = torch.randperm(len(data), generator=lg.Seeds(given.seed).generator("split"))
    held = min(TEST, len(data) // 5)
    return part(data, order[held:]), part(data, order[:held])


def part(data: lg.Dataset, indices: torch.Tensor) -> lg.Dataset:
    """Return these examples."""
    return replace(data, inputs=data.inputs[indices], targets=data.targets[indices])


def run(job: Job, given: Options) -> Row:
    """Measure one row."""
    setting = SETTINGS[job.setting]
    row = {**vars(job), "family": setting.family, "strength": setting.strength}
    row["defense"] = repr(setting.defense) if setting.defense else None
    found = trained(job, setting, given) if job.kind == "accuracy" else read(job, setting, given)
    return row | found


def trained(job: Job, setting: Setting, given: Options) -> Row:
    """Train once. Return accuracy by round, bytes and seconds."""
    data, test = federated(given)
    federation = Federation(
        clients=5,
        rounds=QUICK_ROUNDS if given.quick else ROUNDS,
        alpha=0.5,
        examples=32,
        server_lr=1.0 if setting.steps else RATE * setting.factor,
    )
    seeds = lg.Seeds(1000 * given.seed + job.draw)
    history = federation.train(client_of(data, setting), data, test, seeds=seeds)
    last = history.accuracy[-max(1, len(history.accuracy) // 10) :]
    return {
        "accuracy": mean(last),
        "course": list(history.accuracy[::10]),
        "sent": sum(history.sent),
        "seconds": sum(history.seconds),
        "diverged": history.diverged,
        "sizes": list(history.sizes),
    }


def read(job: Job, setting: Setting, given: Options) -> Row:
    """Run one attack, and score it beside the control."""
    data = images(given.data)
    seeds = lg.Seeds(1000 * given.seed + job.draw)
    order = torch.randperm(len(data), generator=seeds.generator("batch")).tolist()
    indices, known = order[: setting.size], job.kind == "adaptive"
    client, server = client_of(data, setting), lg.Server(defense=known)
    seen = server.observe(client, chosen(data, indices), seeds=seeds)
    short = given.quick and setting.name not in HEADLINE
    attack = attack_of(setting, known=known, quick=short)
    plan = attack.plan(seen)
    if isinstance(plan, lg.Inapplicable):
        return {"attack": repr(attack), "inapplicable": plan.reason}
    guess, told = reconstructed(attack, seen, seeds)
    scores = beside_control(data, indices, guess, seeds.generator("controls"))
    pairs = zip(scores["psnr"], scores["control_psnr"], scores["ssim"], strict=True)
    told["leaked"] = [
        IMAGE_RULE.leaked(one, control, ssim, better="higher") for one, control, ssim in pairs
    ]
    if guess.targets is not None:
        count = data.classes or 10
        told["label"] = agreement(data.targets[indices], guess.targets, count)
    return told | {"attack": repr(attack), "residual": guess.residual} | scores


def agreement(truth: torch.Tensor, found: torch.Tensor, classes: int) -> float:
    """Return the fraction of label instances that were recovered, in any order."""
    counts = [torch.bincount(labels, minlength=classes) for labels in (truth, found)]
    return float(torch.minimum(*counts).sum()) / len(truth)


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    points = {name: point for name in SETTINGS if (point := summary(name, rows))}
    lines = [line(name, point, points) for name, point in points.items()]
    heads = [
        "setting",
        "naive dB",
        "control dB",
        "adaptive dB",
        "control dB",
        "SSIM",
        "LPIPS",
        "labels",
    ]
    heads += ["leaked", "accuracy", "MB sent", "s", "dominated by"]
    table(heads, lines)
    plain = [row["accuracy"] for row in rows if row["setting"] == "none" and "accuracy" in row]
    if plain:
        print("Accuracy without a defense, by seed:", ", ".join(f"{a:.3f}" for a in plain))


def summary(name: str, rows: list[Row]) -> Row:
    """Return means over the examples of one setting."""
    some = [row for row in rows if row["setting"] == name]
    point: Row = {}
    for kind in ("naive", "adaptive"):
        held = [row for row in some if row["kind"] == kind and "psnr" in row]
        for metric in ("psnr", "control_psnr", "ssim", "lpips"):
            values = every(held, metric)
            if values:
                point[f"{kind}_{metric}"] = mean(values)
        if held:
            point[f"{kind}_leaked"] = every(held, "leaked")
            point[f"{kind}_label"] = mean(row.get("label", 0.0) for row in held)
    runs = [row for row in some if "accuracy" in row and row["draw"] == 0]
    return point | {k: runs[0][k] for k in ("accuracy", "sent", "seconds") if runs}


def leakage(point: Row) -> float | None:
    """Return the PSNR above the control of the adversary that reads more. Negative leakage counts as 0."""
    told = [
        point[f"{kind}_psnr"] - point[f"{kind}_control_psnr"]
        for kind in ("naive", "adaptive")
        if f"{kind}_psnr" in point
    ]
    return max(0.0, *told) if told else None


def dominating(name: str, points: dict[str, Row]) -> str:
    """Return the most accurate of the settings that leak no more and are no less accurate, one of both strictly."""
    mine = points[name]
    leak = leakage(mine)
    if leak is None or "accuracy" not in mine:
        return ""
    better = [
        (other["accuracy"], title)
        for title, other in points.items()
        if "accuracy" in other
        and (theirs := leakage(other)) is not None
        and theirs <= leak
        and other["accuracy"] >= mine["accuracy"]
        and (theirs < leak or other["accuracy"] > mine["accuracy"])
    ]
    return max(better)[1] if better else ""


def line(name: str, point: Row, points: dict[str, Row]) -> list[str]:
    """Return one line of the table."""
    names = ["naive_psnr", "naive_control_psnr", "adaptive_psnr", "adaptive_control_psnr"]
    texts = [format_number(point, key, "{:.1f}") for key in names]
    texts += [
        format_number(point, f"adaptive_{metric}", "{:.2f}")
        for metric in ("ssim", "lpips", "label")
    ]
    verdicts = point.get("adaptive_leaked", [])
    texts.append(f"{sum(verdicts)}/{len(verdicts)}" if verdicts else "-")
    texts.append(format_number(point, "accuracy", "{:.3f}"))
    texts.append(f"{point['sent'] / 1e6:.1f}" if "sent" in point else "-")
    texts.append(format_number(point, "seconds", "{:.0f}"))
    return [name, *texts, dominating(name, points)]


def format_number(point: Row, key: str, form: str) -> str:
    """Return a number as text, or a dash if there is none."""
    return form.format(point[key]) if key in point else "-"


if __name__ == "__main__":
    main()
