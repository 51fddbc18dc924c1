"""Small problems that every attack and defense is put to."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg

# torch's compiler loads setuptools, which refuses a process that loaded Python's own distutils before it.
with suppress(ImportError):
    import setuptools  # noqa: F401

# `make exact` sets both: tests of exact attacks must pass whatever the rounding.
torch.set_num_threads(int(os.environ.get("LEAKGAUGE_TEST_THREADS", "1")))
ULP = int(os.environ.get("LEAKGAUGE_TEST_ULP", "0"))


def mlp(inputs: int = 64, width: int = 48, classes: int = 4, *, seed: int = 0) -> nn.Module:
    """A three-layer ReLU network on flattened inputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, classes),
        )


def sigmoid_cnn(channels: int = 1, size: int = 8, classes: int = 4, *, seed: int = 0) -> nn.Module:
    """A smooth two-convolution network, quick to invert."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1),
            nn.Sigmoid(),
            nn.Conv2d(8, 8, 3, padding=1, stride=2),
            nn.Sigmoid(),
            nn.Flatten(),
            nn.Linear(8 * (size // 2) ** 2, classes),
        )
        for parameter in model.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5)
    return model


def client(
    model: nn.Module,
    *,
    defense: lg.Defense | None = None,
    classes: int = 4,
    training: lg.LocalTraining | None = None,
    domain: lg.Domain | None = None,
) -> lg.Client:
    """A client on 8x8 gray images, or on examples of another domain."""
    return lg.Client(
        model=model,
        loss=functional.cross_entropy,
        domain=lg.ImageDomain(1, 8, 8) if domain is None else domain,
        classes=classes,
        defense=defense,
        training=training or lg.FedSGD(),
    )


def images(count: int, *, seed: int = 0, classes: int = 4) -> lg.Batch:
    """Uniform random images with labels 0, 1, 2, ..."""
    generator = torch.Generator().manual_seed(seed)
    return lg.Batch(
        torch.rand((count, 1, 8, 8), generator=generator), torch.arange(count) % classes
    )


TEXT = lg.TextDomain(30, 6, pad=0)
"""Sentences of up to six tokens."""


def sentences(count: int, *, seed: int = 0, classes: int = 4) -> lg.Batch:
    """Random sentences of three to six tokens with labels 0, 1, 2, ..."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 30, (count, 6), generator=generator)
    for row, length in zip(tokens, (5, 3, 6) * count, strict=False):
        row[length:] = 0
    return lg.Batch(tokens, torch.arange(count) % classes)


def domain_of(batch: lg.Batch) -> lg.Domain:
    """The domain of a batch of `images` or of `sentences`."""
    return lg.ImageDomain(1, 8, 8) if batch.inputs.is_floating_point() else TEXT


def trained(model: nn.Module, training: lg.FedAvg, batch: lg.Batch) -> nn.Module:
    """A copy of the model after a plain loop of torch's own SGD."""
    twin = copy.deepcopy(model)
    descent = torch.optim.SGD(
        twin.parameters(),
        lr=training.learning_rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.ExponentialLR(descent, training.decay)
    count = len(batch)
    size = training.minibatch or count
    for epoch in range(training.epochs):
        order = training.orders[epoch] if training.orders else tuple(range(count))
        for start in range(0, count, size):
            some = list(order[start : start + size])
            descent.zero_grad()
            functional.cross_entropy(twin(batch.inputs[some]), batch.targets[some]).backward()
            descent.step()
        schedule.step()
    return twin


@pytest.fixture
def observe() -> Callable[..., lg.Observation]:
    """An observation of `batch` on `model` under a defense, by a server granted what the keywords say."""

    def make(
        model: nn.Module,
        batch: lg.Batch,
        *,
        under: lg.Defense | None = None,
        training: lg.LocalTraining | None = None,
        **granted: bool,
    ) -> lg.Observation:
        trained = client(model, defense=under, training=training, domain=domain_of(batch))
        return lg.Server(**granted).observe(trained, batch, seeds=lg.Seeds(7))

    return make


def shifted(seen: lg.Observation, *, seed: int) -> lg.Observation:
    """The observation, its update moved as `moved` does."""
    return replace(seen, update=moved(seen.update, seed=seed))


def moved(update: lg.Update, *, seed: int) -> lg.Update:
    """The update with each entry moved to the next number up or down, by a draw of signs; zeros stay.

    Another processor rounds differently: an exact attack must not depend on that.
    """
    generator = torch.Generator().manual_seed(seed)

    def next_to(tensor: Tensor) -> Tensor:
        up = torch.rand(tensor.shape, generator=generator) < 0.5
        aim = torch.where(up, torch.inf, -torch.inf).to(tensor)
        return torch.where(tensor == 0, tensor, torch.nextafter(tensor, aim))

    return update.map(next_to)


@pytest.fixture(autouse=True)
def other_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """With LEAKGAUGE_TEST_ULP=K, move what every client's training gives by the draw of signs K."""
    if ULP == 0:
        return
    trained = lg.Client._trained

    def rounded(*arguments: Any) -> lg.Update:
        return moved(trained(*arguments), seed=ULP)

    monkeypatch.setattr(lg.Client, "_trained", rounded)


def planned(attack: lg.Attack, observation: lg.Observation) -> lg.Plan:
    """Return the plan of an attack that can run on the observation."""
    plan = attack.plan(observation)
    assert isinstance(plan, lg.Plan), plan
    return plan


def refusal(attack: lg.Attack, observation: lg.Observation) -> str | None:
    """Return why the attack cannot run on the observation, or None if it can."""
    plan = attack.plan(observation)
    return plan.reason if isinstance(plan, lg.Inapplicable) else None


def psnr(truth: Tensor, guess: Tensor) -> Tensor:
    """PSNR (B,) after assignment."""
    order = lg.metrics.assign(truth, guess)
    return lg.metrics.psnr(truth, guess[order])
