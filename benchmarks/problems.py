"""What benchmarks attack: batches, networks, clients and a server's view. And how reconstructions are scored."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from common import CIFAR, Row
from torch import nn

import leakgauge as lg
from leakgauge import attacks, inversion


def images(data: str | None) -> lg.Dataset:
    """Return the test images of FILE.npz. Without one: CIFAR-10 under LEAKGAUGE_DATA, else photographs."""
    if data is not None:
        return lg.data.npz(data)
    if os.environ.get("LEAKGAUGE_DATA"):
        return lg.data.npz(CIFAR, split="test")
    return lg.data.photos()


def chosen(data: lg.Dataset, indices: Sequence[int], dtype: torch.dtype | None = None) -> lg.Batch:
    """Return these examples, with inputs of type `dtype` if it is given."""
    held = torch.tensor(list(indices))
    return lg.Batch(data.inputs[held].to(dtype or data.inputs.dtype), data.targets[held])


def drawn_batches(data: lg.Dataset, size: int, seed: int) -> tuple[lg.Batch, lg.Batch]:
    """Return a private batch that the seed draws, and equally many other examples as a control."""
    order = torch.randperm(len(data), generator=lg.Seeds(seed).generator("batch")).tolist()
    return chosen(data, order[:size]), chosen(data, order[size : 2 * size])


def mlp_or_lenet(data: lg.Dataset, width: int, seed: int) -> nn.Module:
    """Return an MLP of this width, or LeNet if the width is 0."""
    if width:
        return lg.models.build(lg.models.mlp, data.domain, 10, seed=seed, width=width)
    return lenet(data, seed)


def with_decoys(data: lg.Dataset, size: int, seed: int) -> tuple[lg.Batch, lg.Batch]:
    """Return a private batch that the seed draws, and a decoy batch: other inputs with the same labels."""
    order = torch.randperm(len(data), generator=lg.Seeds(seed).generator("images"))
    labels = data.targets[order[:size]]
    batch, decoy = (lg.Batch(data.inputs[order[i : i + size]], labels) for i in (0, size))
    return batch, decoy


def client_of(
    data: lg.Dataset,
    model: nn.Module,
    *,
    defense: lg.Defense | None = None,
    classes: int = 10,
    training: lg.LocalTraining | None = None,
) -> lg.Client:
    """Return a client with cross-entropy. Its local training is one gradient unless another is given."""
    return lg.Client(
        model=model,
        loss=nn.functional.cross_entropy,
        domain=data.domain,
        classes=classes,
        defense=defense,
        training=training or lg.FedSGD(),
    )


def observe(
    data: lg.Dataset,
    model: nn.Module,
    indices: Sequence[int],
    *,
    defense: lg.Defense | None = None,
    server: lg.Server | None = None,
    seed: int = 0,
    classes: int = 10,
    training: lg.LocalTraining | None = None,
) -> tuple[lg.Batch, lg.Observation]:
    """Return a private batch and what an honest-but-curious server sees of it (default: `lg.Server()`)."""
    client = client_of(data, model, defense=defense, classes=classes, training=training)
    batch = chosen(data, indices)
    return batch, (server or lg.Server()).observe(client, batch, seeds=lg.Seeds(seed))


def lenet(data: lg.Dataset, seed: int, *, classes: int = 10) -> nn.Module:
    """Return the LeNet of the DLG paper: sigmoid, every weight from U(-0.5, 0.5)."""
    return lg.models.build(lg.models.lenet, data.domain, classes, seed=seed)


def lbfgs(steps: int) -> inversion.GradientMatching:
    """Return the first-order peer: L-BFGS, layers weighted, total variation, labels granted or recovered."""
    return inversion.GradientMatching(
        objective=1e6 * (inversion.BalancedL2() + 1e-5 * inversion.TotalVariation()),
        parametrization=inversion.Direct(center=0.5, spread=0.25),
        labels=inversion.Known(),
        descent=inversion.LBFGS(steps=steps),
    )


def shortened(attack: lg.BaseAttack) -> lg.BaseAttack:
    """Return second order or softmax unmixing with a shorter search, for `--quick`.

    They keep all their parts: three stages of L-BFGS instead of seven, and one of Gauss-Newton instead of six.
    """
    assert isinstance(attack, attacks.SecondOrder | attacks.SoftmaxUnmixing)
    return replace(attack, warm=3, iterations=150, stages=1)


def scored(data: lg.Dataset, batch: lg.Batch, guess: lg.Reconstruction) -> Row:
    """Return MSE and PSNR (dB) after assignment, and whether labels match. Values are not clamped."""
    truth, found = data.domain.to_unit(batch.inputs), data.domain.to_unit(guess.inputs)
    order = lg.metrics.assign(truth, found)
    labels = None
    if guess.targets is not None:
        labels = lg.metrics.label_match(batch.targets, guess.targets[order]).tolist()
    return {
        "mse": lg.metrics.mse(truth, found[order]).tolist(),
        "psnr": lg.metrics.psnr(truth, found[order]).tolist(),
        "label": labels,
        "status": str(guess.status),
        "residual": guess.residual,
        "evaluations": guess.cost.evaluations,
        "seconds": guess.cost.seconds,
    }


def scored_beside(
    data: lg.Dataset, batch: lg.Batch, others: lg.Batch, guess: lg.Reconstruction
) -> Row:
    """Return `scored`, and `control_psnr` (dB): the same reconstruction scored against other examples."""
    control = scored(data, others, guess)["psnr"]
    return scored(data, batch, guess) | {"control_psnr": control}


def reconstructed(
    attack: lg.BaseAttack, seen: lg.Observation, seeds: lg.Seeds
) -> tuple[lg.Reconstruction, Row]:
    """Return the reconstruction, and `cpu_seconds` of this process, which other load hardly changes."""
    clock = time.process_time()
    guess = attack(seen, seeds=seeds)
    return guess, {"cpu_seconds": time.process_time() - clock}
