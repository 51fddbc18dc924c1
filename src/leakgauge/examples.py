"""Small private batches, clients and observations, for documentation and first experiments."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import nn
from torch.nn.functional import cross_entropy

from leakgauge.core import Defense, LocalTraining, ModelError, Observation, Seeds
from leakgauge.core.lines import describe_error
from leakgauge.core.ranges import check_argument
from leakgauge.data.reference import digits
from leakgauge.federated.clients.client import Batch, Client
from leakgauge.federated.isolation.auditable import audited
from leakgauge.federated.training import FedSGD
from leakgauge.models import build, mlp
from leakgauge.threats import Server, ThreatModel

__all__ = ["batch", "client", "observation"]

Size = Annotated[int, Ge(1), Le(1797)]
"""Number of examples. The data set has 1797."""


def batch(size: int = 1) -> Batch:
    """Return the first handwritten digits of scikit-learn as a private batch.

    Args:
        size: Number of examples B, from 1 to 1797.

    Returns:
        Images (B, 1, 8, 8) with pixels from 0 to 1, and labels (B,) from 0 to 9. The first digit is
        a 0, the second is a 1, and so on up to 9.

    Raises:
        SpecificationError: `size` is not a whole number from 1 to 1797.

    Example:
        >>> import leakgauge as lg
        >>> lg.examples.batch(3).targets
        tensor([0, 1, 2])
    """
    check_argument("size", Size, size)
    data = digits()
    return Batch(data.inputs[:size], data.targets[:size])


def client(
    model: nn.Module | None = None,
    *,
    training: LocalTraining | None = None,
    defense: Defense | None = None,
) -> Client:
    """Return a client whose private data are handwritten digits.

    Args:
        model: Any network from images (B, 1, 8, 8) to 10 logits. The default is an MLP with one
            hidden layer of 32 units.
        training: The local training. The default, FedSGD, shares one gradient.
        defense: The client's defense. The default is no defense.

    Raises:
        SpecificationError: An argument is of another type.
        ModelError: `model` fails on two digits, or does not return 10 logits for each.

    Example:
        >>> import leakgauge as lg
        >>> lg.examples.client(defense=lg.defenses.GaussianNoise(std=0.1)).classes
        10
    """
    check_argument("model", nn.Module | None, model)
    check_argument("training", LocalTraining | None, training)
    check_argument("defense", Defense | None, defense)
    if model is not None:
        check_model(model)
    domain = digits().domain
    return Client(
        model=build(mlp, domain, 10, width=32, depth=2) if model is None else model,
        loss=cross_entropy,
        domain=domain,
        classes=10,
        training=FedSGD() if training is None else training,
        defense=defense,
    )


def observation(
    batch_size: int = 1,
    *,
    model: nn.Module | None = None,
    training: LocalTraining | None = None,
    defense: Defense | None = None,
    threat: ThreatModel | None = None,
) -> Observation:
    """Return what an adversary sees when a client trains on `batch(batch_size)`.

    Args:
        batch_size: Number of private examples B, from 1 to 1797.
        model: See `client`.
        training: See `client`.
        defense: See `client`.
        threat: The threat model. The default is a server that knows the labels but not their order.

    Raises:
        SpecificationError: An argument is of another type, or `batch_size` is out of range.
        ModelError: `model` does not fit the digits, or cannot train on so few examples.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=2)
        >>> lg.attacks.LinearLayer()(observation, seeds=lg.Seeds(0)).status
        <Status.CERTIFIED: 'certified'>
    """
    check_argument("batch_size", Size, batch_size)
    check_argument("threat", ThreatModel | None, threat)
    owner = client(model, training=training, defense=defense)
    adversary = Server(labels=True) if threat is None else threat
    return adversary.observe(owner, batch(batch_size), seeds=Seeds(0))


def check_model(model: nn.Module) -> None:
    """Raise ModelError unless a copy of the model returns 10 logits for each of two digits."""
    inputs, network = batch(2).inputs, audited(model)
    # The forward of a user's model can raise any exception, and can draw random numbers.
    try:
        with torch.no_grad(), Seeds(0).isolated("check"):
            outputs = network(inputs)
    except Exception as error:
        raise _misfit(describe_error(error)) from error
    if not isinstance(outputs, torch.Tensor):
        raise _misfit(f"an output of type {type(outputs).__name__}")
    if outputs.shape != (2, 10):
        raise _misfit(f"an output of shape {tuple(outputs.shape)} for inputs (2, 1, 8, 8)")


def _misfit(found: str) -> ModelError:
    """Return the error for a model that does not fit the digits."""
    return ModelError(
        "model",
        expected="a network from images (B, 1, 8, 8) to 10 logits (B, 10)",
        found=found,
        remedy="match its first and last layers to these shapes",
    )
