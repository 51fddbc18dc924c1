"""Networks of ten classes, losses of every kind, and a server's observation of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg

DOMAIN = lg.ImageDomain(1, 8, 8)
CLASSES = 10


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Return a network whose weights depend only on the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def network(activation: type[nn.Module], *, bias: bool = True, seed: int = 0) -> nn.Module:
    """Return an MLP with one hidden layer."""

    def make() -> nn.Module:
        last = nn.Linear(32, CLASSES, bias=bias)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), activation(), last)

    return seeded(make, seed)


def batch_of(count: int, seed: int = 0) -> lg.Batch:
    """Return random images with random labels."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand((count, *DOMAIN.shape), generator=generator)
    return lg.Batch(inputs, torch.randint(0, CLASSES, (count,), generator=generator))


def observed(
    model: nn.Module,
    batch: lg.Batch,
    loss: lg.Loss = functional.cross_entropy,
    training: lg.LocalTraining | None = None,
    **granted: bool,
) -> lg.Observation:
    """Return a server's observation of a client that trains the network. granted: options of the server."""
    client = lg.Client(
        model=model,
        loss=loss,
        domain=DOMAIN,
        classes=CLASSES,
        training=training or lg.FedSGD(),
    )
    return lg.Server(**granted).observe(client, batch, seeds=lg.Seeds(0))


def focal(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the focal loss of exponent 2."""
    log = outputs.log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1)
    return (-((1 - log.exp()) ** 2) * log).mean()


WEIGHTS = torch.linspace(0.3, 3.0, CLASSES)
LOSSES: dict[str, lg.Loss] = {
    "mean": functional.cross_entropy,
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "class weights": nn.CrossEntropyLoss(weight=WEIGHTS),
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.2),
    "weights and smoothing": nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.1),
    "weights and sum": nn.CrossEntropyLoss(weight=WEIGHTS, reduction="sum"),
    "temperature": lambda z, y: functional.cross_entropy(z / 3, y),
    "faint": lambda z, y: 1e-30 * functional.cross_entropy(z, y),
    "focal": focal,
}


class TwoHeads(nn.Module):
    """A network with two heads. The head of the output is registered first, and the auxiliary head is called last."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = nn.Linear(32, CLASSES)
        self.body = nn.Linear(64, 32)
        self.auxiliary = nn.Linear(32, CLASSES)
        self.unused = nn.Linear(32, CLASSES)
        self.kept = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x.flatten(1)).tanh()
        z: Tensor = self.answer(h)
        self.kept = self.auxiliary(h)
        return z
