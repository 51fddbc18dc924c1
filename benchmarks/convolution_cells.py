"""What `convolutions.py` attacks: networks by name and state, the examples that they take, and batches of them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from common import CIFAR, Options
from convolution_networks import (
    InFloat64,
    UNet,
    densenet121,
    resnet50,
    resnext,
    scaled_vgg,
    with_initial_weights,
)
from inspection_networks import densenet, examples, signals, vgg, volumes
from mobilenet import CROP, samples
from problems import images
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from unmixing import train

import leakgauge as lg
from leakgauge.inspection.domains import domain_of

PUBLISHED = ("resnet20", "resnet32", "resnet56")
"""Networks whose weights are published."""
SHAPES = {
    "resnet18 64": (3, 64, 64),
    "resnet50 64": (3, 64, 64),
    "resnet18 224": (3, 224, 224),
    "resnet50 224": (3, 224, 224),
    "1-D CNN": (3, 128),
    "3-D CNN": (1, 8, 8, 8),
}
"""Shape of an example, if it is not a small color image."""
LOSS = 0.1
"""A trained network is attacked on images whose loss is above this number."""
MADE_UP = 5
"""Number of labels that are given to images of 64 pixels, instead of their own."""
SMALL = 1000
"""Number of images from which the batches of an untrained network are drawn."""


@dataclass(frozen=True)
class Cell:
    """A network and a batch.

    Args:
        network: Name of the network.
        state: "untrained", "epoch 1", "epoch 5" or "trained".
        labels: "equal" or "drawn".
        size: Batch size.
        draw: Number of the draw.
    """

    network: str
    state: str
    labels: str
    size: int
    draw: int


def has_data(given: Options) -> bool:
    """Return whether the data folder is named, with its weights and training images."""
    return bool(os.environ.get("LEAKGAUGE_DATA")) and given.data is None


@cache
def data_for(network: str, trained: bool, given: Options) -> lg.Dataset:
    """Return the examples of a network. A trained network gets images that it was not trained on."""
    shape = SHAPES.get(network, (3, 32, 32))
    if shape[1:] in ((64, 64), (224, 224)) and has_data(given):
        large = shape[1:] == (224, 224)
        data = samples(CROP) if large else lg.data.npz("imagenet_samples_64.npz")
        # Each class has one image. Labels mean nothing to an untrained network.
        return replace(data, targets=torch.arange(len(data)) % MADE_UP, classes=10)
    data = images(given.data)
    if has_data(given) and not trained:
        data = lg.data.npz(CIFAR, split="train")
        data = replace(data, inputs=data.inputs[:SMALL], targets=data.targets[:SMALL])
    if shape == tuple(data.inputs.shape[1:]):
        return data
    inputs = examples(data.inputs, shape).float().clamp(0, 1)
    return replace(data, inputs=inputs, domain=domain_of(shape, None))


def build(network: str, data: lg.Dataset, seed: int) -> nn.Module:
    """Return an untrained network, in eval mode unless its name says otherwise."""
    classes = data.classes or 10
    if network.startswith("resnet18"):
        stem = "imagenet" if network.endswith((" 64", " 224")) else "cifar"
        model = lg.models.build(lg.models.resnet18, data.domain, classes, seed=seed, stem=stem)
        model = InFloat64(model) if network.endswith("float64") else model
        return model.train(network.endswith("train mode"))
    own: dict[str, Any] = {"vgg": lambda: vgg(norm=False), "vgg norm": lambda: vgg(norm=True)}
    own |= {"1-D CNN": signals, "3-D CNN": volumes, "densenet": densenet, "u-net": UNet}
    own |= {"vgg scaled": scaled_vgg, "resnet50 64": resnet50, "resnet50 224": resnet50}
    own |= {"densenet121": densenet121, "resnext": resnext}
    own |= {"densenet scaled": lambda: with_initial_weights(densenet())}
    if network in own:
        with lg.Seeds(seed).isolated("weights"):
            return own[network]().eval()  # type: ignore[no-any-return]
    return lg.models.build(getattr(lg.models, network), data.domain, classes, seed=seed)


@cache
def trained(network: str, state: str, given: Options) -> nn.Module:
    """Return a trained network in eval mode: the published one, or one trained here and kept in the cache."""
    data = data_for(network, True, given)
    model = build(network, data, given.seed)
    if state == "trained":
        lg.models.load_weights(model, f"cifar10_{network}.safetensors")
        return model
    path = given.cache / f"{network}-{state.replace(' ', '-')}-seed-{given.seed}.safetensors"
    if not path.exists():
        train(model, int(state.split()[1]), given.seed)
        keep(model, path)
    model.load_state_dict(load_file(path))
    return model.eval()


def keep(model: nn.Module, path: Path) -> None:
    """Write the weights of a model. Another process never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, part)
    part.replace(path)


def subject(cell: Cell, given: Options) -> tuple[lg.Dataset, nn.Module]:
    """Return the examples and the network of a cell. Each draw of an untrained network has weights of its own."""
    known = cell.state != "untrained"
    data = data_for(cell.network, known, given)
    if known:
        return data, trained(cell.network, cell.state, given)
    return data, build(cell.network, data, 1000 * given.seed + cell.draw)


def losses(model: nn.Module, data: lg.Dataset) -> Tensor:
    """Return the loss of each example (N,)."""
    with torch.no_grad():
        return cross_entropy(model(data.inputs), data.targets, reduction="none")


def indices(cell: Cell, data: lg.Dataset, model: nn.Module, given: Options) -> list[int]:
    """Return the examples of a batch: the next ones in an order that the seed fixes, without repetition.

    Equal labels are those of the class of the first example. Batches of a trained network hold
    examples with a loss above `LOSS`.
    """
    generator = lg.Seeds(given.seed).generator(f"batch/{cell.labels}/{cell.size}")
    order = torch.randperm(len(data.targets), generator=generator).tolist()
    if cell.state != "untrained":
        loss = losses(model, data)
        order = [i for i in order if float(loss[i]) > LOSS]
    first = cell.draw * cell.size % len(order)
    order = order[first:] + order[:first]
    if cell.labels == "drawn":
        return order[: cell.size]
    counts = torch.bincount(data.targets[order])
    label = next(int(data.targets[i]) for i in order if counts[data.targets[i]] >= cell.size)
    return [i for i in order if int(data.targets[i]) == label][: cell.size]
