"""The part "altered" of `convolutions.py`: alterations of updates, and features read under them.

"clip" scales the update to a tenth of its norm. "DP-SGD Z" clips each example to this bound, and adds
noise of Z times the bound to the sum. "steps K" is the weight difference of K
local steps of 0.001. "clients N" is the mean over N clients of one image each.
"""

from __future__ import annotations

import math
from itertools import groupby
from statistics import median
from typing import Literal

import torch
from common import Row, table
from controls import every
from problems import observe
from torch import Tensor, nn

import leakgauge as lg
from leakgauge import attacks, defenses
from leakgauge.analytic.convolutions.beginning import begin
from leakgauge.analytic.convolutions.noisy_beginning import begin_unsure
from leakgauge.analytic.convolutions.observed import errors_of, read_problem
from leakgauge.analytic.convolutions.problem import Beginning
from leakgauge.federated.training.local_steps import as_one_gradient

LEVELS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Standard deviations of noise, in units of the root mean square of the whole update."""
FORMATS = ("fp16", "bf16", "int8")
SPARSITIES = (0.2, 0.5, 0.9)
ALTERED = (
    "none",
    *(f"noise {level:g}" for level in LEVELS),
    *FORMATS,
    *(f"top-k {100 * sparsity:.0f}%" for sparsity in SPARSITIES),
)
"""Alterations whose spans are measured."""
PROTOCOLS = (
    "clip",
    "DP-SGD 0",
    "DP-SGD 1e-06",
    "DP-SGD 1e-05",
    "steps 1",
    "steps 5",
    "steps 20",
    "clients 2",
    "clients 4",
    "clients 8",
)
"""Further alterations. Their spans are not measured on their own."""
CLIPPED = 0.1
"""Norm after clipping, relative to that of the update."""
RATE = 1e-3
"""Learning rate of local steps."""
BESIDE_STEPS = {1: 400, 4: 200, 8: 200}
"""Steps of Inverting Gradients on altered updates, by batch size."""


def batch_size(altered: str, size: int) -> int:
    """Return the number of images of an update."""
    kind, _, amount = altered.partition(" ")
    return int(amount) if kind == "clients" else size


def norm_of(update: lg.Update) -> float:
    """Return the Euclidean norm of an update."""
    return math.sqrt(sum(float(t.double().square().sum()) for t in update.tensors.values()))


def defense_of(altered: str, plain: lg.Observation) -> lg.Defense | None:
    """Return what alters an update, or None."""
    kind, _, amount = altered.partition(" ")
    if kind in ("none", "steps", "clients"):
        return None
    norm = norm_of(plain.update)
    if kind == "noise":
        count = sum(t.numel() for t in plain.update.tensors.values())
        return defenses.GaussianNoise(std=float(amount) * norm / math.sqrt(count))
    if kind == "top-k":
        return defenses.TopK(sparsity=float(amount.removesuffix("%")) / 100)
    if kind == "clip":
        return defenses.Clipping(norm=CLIPPED * norm)
    if kind == "DP-SGD":
        return defenses.DPSGD(max_norm=CLIPPED * norm, noise_multiplier=float(amount))
    formats: dict[str, Literal["fp16", "bf16", "int8"]] = {
        "fp16": "fp16",
        "bf16": "bf16",
        "int8": "int8",
    }
    return defenses.Quantization(format=formats[kind])


def altered_view(
    altered: str, data: lg.Dataset, model: nn.Module, held: list[int], *, labels: bool, seed: int
) -> tuple[lg.Batch, lg.Observation]:
    """Return a private batch, and what the adversary sees of its altered update."""
    kind, _, amount = altered.partition(" ")
    classes = data.classes or 10
    server = lg.Server(labels=labels)
    if kind == "clients":
        server = lg.Aggregator(labels=labels, clients=int(amount))
    training = lg.FedAvg(epochs=int(amount), learning_rate=RATE) if kind == "steps" else None
    _, plain = observe(data, model, held, seed=seed, classes=classes)
    return observe(
        data,
        model,
        held,
        defense=defense_of(altered, plain),
        server=server,
        seed=seed,
        classes=classes,
        training=training,
    )


def altered_attack(altered: str, size: int, *, ours: bool) -> lg.BaseAttack:
    """Return the attack on an altered update."""
    if ours:
        return attacks.ShiftConsistency()
    beside = attacks.InvertingGradients(steps=BESIDE_STEPS[batch_size(altered, size)])
    return attacks.OneGradient(attack=beside) if altered.startswith("steps") else beside


def features_row(seen: lg.Observation, images: Tensor, seed: int) -> Row:
    """Return the relative error of each example's input of the layer where the descent begins."""
    problem = read_problem(as_one_gradient(seen))
    if isinstance(problem, lg.Inapplicable):
        return {"error": []}
    errors, generator = errors_of(seen, problem), lg.Seeds(seed).generator("span")
    if errors is None:
        found = begin(problem, generator=generator)
    else:
        problem, found = begin_unsure(seen, problem, errors, generator)
    if not isinstance(found, Beginning):
        return {"error": []}
    network = problem.network
    node = next(node for node in found.known.values if node in network.varying)
    value = found.known.values[node].flatten(1)
    with torch.no_grad():
        truth = network.evaluate([node], {network.entry: images.double()})[node].flatten(1)
    order = lg.metrics.assign(truth, value)
    error = (value[order] - truth).norm(dim=1) / truth.norm(dim=1)
    return {"error": [float(v) for v in error], "expected": found.error}


def altered_table(rows: list[Row]) -> list[Row]:
    """Print the table of altered updates, and return their rows."""
    some = sorted((r for r in rows if r["part"] == "altered"), key=altered_key)
    groups = ((key, list(group)) for key, group in groupby(some, altered_key))
    heads = ["batch", "alteration", "method", "error", "expected", "dB", "control", "reached"]
    table(heads, [[*key[1:], *altered_figures(group)] for key, group in groups])
    return some


def altered_key(row: Row) -> tuple[int, int, str, str]:
    """Return the fields that name a line of the table of altered updates, in its order."""
    place = (*ALTERED, *PROTOCOLS).index(row["altered"])
    return place, row["size"], row["altered"], row["method"]


def altered_figures(some: list[Row]) -> list[str]:
    """Return the columns of the table of altered updates for the rows of one line."""
    error, psnr = every(some, "error"), every(some, "psnr")
    expected = [row["expected"] for row in some if "expected" in row]
    control = every(some, "control_psnr")
    return [
        f"{median(error):.1e}" if error else "-",
        f"{median(expected):.1e}" if expected else "-",
        f"{median(psnr):.1f}" if psnr else "-",
        f"{median(control):.1f}" if control else "-",
        " ".join(sorted({row.get("reached") or "-" for row in some})),
    ]
