"""The cost of a forward pass that leaves no trace: one gradient with and without the restoring, interleaved.

Without it, buffers are copied in train mode alone, and attributes stay as a forward pass left them.
A time is the lower decile of 100 on one thread, since other programs on the machine only add to it.

Quick: LeNet at batch 1, in eval and in train mode.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from itertools import product
from unittest import mock

import common
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

import leakgauge as lg
from leakgauge import models
from leakgauge.core import Tensors
from leakgauge.federated.isolation import untouched
from leakgauge.federated.training import fedsgd as training

DOMAIN = lg.ImageDomain(3, 32, 32)
ROUNDS = 100
SHOWN = {"without": 2, "with": 2, "ratio": 3}


def without(model: nn.Module, parameters: Tensors, inputs: Tensor) -> Tensor:
    """Run the model as before: only buffers in train mode are protected."""
    moving = any(module.training for module in model.modules())
    buffers = {name: b.clone() for name, b in model.named_buffers()} if moving else {}
    output: Tensor = functional_call(model, {**parameters, **buffers}, (inputs,))
    return output


def seconds(model: nn.Module, batch: lg.Batch) -> float:
    """Return the time of one gradient."""
    clock = time.perf_counter()
    lg.FedSGD()(model, functional.cross_entropy, batch.inputs, batch.targets)
    return time.perf_counter() - clock


def pairs(model: nn.Module, batch: lg.Batch, rounds: int) -> tuple[Tensor, Tensor]:
    """Return times without and with the restoring, (rounds,) each."""
    plain, restored = [], []
    for _ in range(rounds):
        with (
            mock.patch.object(training, "stateless", without),
            mock.patch.object(untouched, "untouched", return_value=nullcontext()),
        ):
            plain.append(seconds(model, batch))
        restored.append(seconds(model, batch))
    return torch.tensor(plain), torch.tensor(restored)


def jobs_of(given: common.Options) -> list[tuple[str, bool, int]]:
    """Return each model, mode and batch size."""
    models, sizes = (("lenet",), (1,)) if given.quick else (("lenet", "resnet20"), (1, 8))
    return list(product(models, (False, True), sizes))


def run(job: tuple[str, bool, int]) -> common.Row:
    """Measure one model, mode and batch size."""
    name, train, count = job
    model = getattr(models, name)(DOMAIN, 10).train(train)
    generator = torch.Generator().manual_seed(0)
    batch = lg.Batch(torch.rand((count, 3, 32, 32), generator=generator), torch.arange(count))
    pairs(model, batch, 3)
    plain, restored = pairs(model, batch, ROUNDS)
    before, after = float(plain.quantile(0.1)), float(restored.quantile(0.1))
    return {
        "model": name,
        "mode": "train" if train else "eval",
        "batch": count,
        "without": 1e3 * before,
        "with": 1e3 * after,
        "ratio": after / before,
    }


def main() -> None:
    """Run the jobs and print the tables."""
    given = common.options("untouched_cost", __doc__ or "")
    common.header(given, "uniform noise")
    rows = common.measure(run, jobs_of(given), given, name="untouched_cost", data="uniform noise")
    common.table(
        ["model", "mode", "batch", "ms without", "ms with", "ratio"],
        [
            [
                *(r["model"], r["mode"], r["batch"]),
                *(f"{r[key]:.{digits}f}" for key, digits in SHOWN.items()),
            ]
            for r in rows
        ],
    )


if __name__ == "__main__":
    main()
