"""The networks, attacks and defenses of `exact_attacks.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

import leakgauge as lg
from leakgauge import attacks, defenses, models

FEATURES = "softmax unmixing, features"
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


@dataclass(frozen=True)
class Cell:
    """A network, a batch size, its labels, the names of the attacks on it, and the number of draws."""

    network: Callable[..., nn.Module]
    size: int
    tried: tuple[str, ...]
    labels: str = "distinct"
    draws: int = 3
    precision: torch.dtype = torch.float32


def adam(steps: int, tv: float = 1e-4) -> lg.BaseAttack:
    """Return Inverting Gradients with fewer steps than its paper's 24,000."""
    return attacks.InvertingGradients(steps=steps, tv=tv)


ATTACKS: dict[str, lg.BaseAttack] = {
    "R-GAP": attacks.RGAP(),
    "peeling": attacks.Peeling(),
    "linear layer": attacks.LinearLayer(),
    "SPEAR": attacks.Spear(),
    "SPEAR++": attacks.SpearPlusPlus(),
    "cocktail party": attacks.CocktailParty(),
    "APRIL": attacks.April(equations="embedding"),
    "softmax unmixing": attacks.SoftmaxUnmixing(),
    "softmax unmixing, cut": attacks.SoftmaxUnmixing(warm=3, iterations=150, stages=1),
    **{f"signed Adam {n}": adam(n) for n in (150, 400, 500, 1000, 2000, 4000)},
    "signed Adam 1000, tv 0.01": adam(1000, 0.01),
    "iDLG 1000": attacks.IDLG(steps=50),
    **{f"L-BFGS {25 * n}": attacks.BalancedDLG(steps=n, labels="recovered") for n in (3, 10, 20)},
    **{f"smoothed matching {n}": attacks.SmoothedMatching(steps=n) for n in (100, 400)},
    "second order": attacks.SecondOrder(),
    "second order, cut": attacks.SecondOrder(warm=3, iterations=150, stages=1),
}
READERS = ("SPEAR", "linear layer", "cocktail party")

MLP = partial(models.mlp, width=400)
CNN = partial(models.fedavg_cnn, mean=MEAN, std=STD)
VIT = partial(models.vit, dim=96)
PAIR = ("softmax unmixing, cut", "second order, cut", "signed Adam 1000, tv 0.01")
CELLS: dict[str, Cell] = {
    "CNN6, batch 1": Cell(
        models.cnn6, 1, ("R-GAP", "signed Adam 4000", "iDLG 1000", "smoothed matching 400")
    ),
    "FedAvg CNN, batch 1": Cell(
        CNN, 1, ("peeling", "signed Adam 1000", "iDLG 1000", "smoothed matching 400"), draws=5
    ),
    "ConvNet of width 16, batch 1": Cell(
        partial(models.convnet, width=16),
        1,
        ("peeling", "signed Adam 500", "smoothed matching 400"),
    ),
    "ConvNet of width 64, batch 1": Cell(
        models.convnet, 1, ("peeling", "signed Adam 150", "smoothed matching 100"), draws=2
    ),
    "MLP, batch 1": Cell(MLP, 1, ("linear layer", "signed Adam 2000", "iDLG 1000")),
    **{
        f"MLP, batch {size}, {labels}": Cell(MLP, size, (*READERS, *matching), labels)
        for size, matching in (
            (8, ("signed Adam 2000", "L-BFGS 500")),
            (16, ("signed Adam 1000", "L-BFGS 250")),
        )
        for labels in ("distinct", "equal")
    },
    "MLP of width 1000, batch 64, equal": Cell(
        partial(models.mlp, width=1000),
        64,
        ("SPEAR++", "cocktail party", "signed Adam 400", "L-BFGS 75"),
        "equal",
        draws=2,
    ),
    "ViT in float64, batch 1": Cell(
        VIT,
        1,
        ("APRIL", "signed Adam 1000", "iDLG 1000", "second order, cut"),
        precision=torch.float64,
    ),
    "LeNet, batch 4, equal": Cell(
        models.lenet,
        4,
        ("softmax unmixing", "second order", "signed Adam 2000", "L-BFGS 500"),
        "equal",
        draws=2,
    ),
    "ResNet-20, batch 4, equal": Cell(models.resnet20, 4, PAIR, "equal", draws=2),
    "ResNet-20, batch 2, equal": Cell(models.resnet20, 2, PAIR, "equal", draws=2),
}
DEFENDED: dict[str, Cell] = {
    "CNN6, batch 1": Cell(models.cnn6, 1, ("R-GAP",), draws=1),
    "FedAvg CNN, batch 1": Cell(CNN, 1, ("peeling",), draws=2),
    "MLP, batch 1": Cell(MLP, 1, ("linear layer",)),
    "MLP, batch 8": Cell(MLP, 8, ("SPEAR", "linear layer")),
    "MLP, batch 64": Cell(partial(models.mlp, width=512), 64, ("cocktail party",)),
    "ViT in float64, batch 1": Cell(VIT, 1, ("APRIL",), precision=torch.float64),
    "LeNet, batch 4, equal": Cell(models.lenet, 4, (FEATURES,), "equal"),
}
DEFENSES: dict[str, lg.Defense | None] = {
    "none": None,
    **{f"noise {std:g}": defenses.GaussianNoise(std=std) for std in (1e-5, 1e-4, 1e-3, 1e-2)},
    **{f"top {kept:.0%} kept": defenses.TopK(sparsity=1 - kept) for kept in (0.9, 0.5, 0.1)},
    "bf16": defenses.Quantization(format="bf16"),
}
STEPS = {f"5 steps, lr {lr:g}": lg.FedAvg(epochs=5, learning_rate=lr) for lr in (1e-3, 1e-2, 1e-1)}
