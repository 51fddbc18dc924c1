"""Small private batches, clients and observations, for documentation and first experiments."""

from __future__ import annotations

from torch import nn
from torch.nn.functional import cross_entropy

from leakgauge.core import Defense, LocalTraining, Observation, Seeds
from leakgauge.data.reference import digits
from leakgauge.federated.clients.client import Batch, Client
from leakgauge.federated.training import FedSGD
from leakgauge.models import build, mlp
from leakgauge.threats import Server, ThreatModel

__all__ = ["batch", "client", "observation"]


def batch(size: int = 1) -> Batch:
    """Return the first handwritten digits of scikit-learn as a private batch.

    Args:
        size: Number of examples B, from 1 to 1797.

    Returns:
        Images (B, 1, 8, 8) with pixels from 0 to 1, and labels (B,) from 0 to 9. The first digit is
        a 0, the second is a 1, and so on up to 9.

    Example:
        >>> import leakgauge as lg
        >>> lg.examples.batch(3).targets
        tensor([0, 1, 2])
    """
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

    Example:
        >>> import leakgauge as lg
        >>> lg.examples.client(defense=lg.defenses.GaussianNoise(std=0.1)).classes
        10
    """
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

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=2)
        >>> lg.attacks.LinearLayer()(observation, seeds=lg.Seeds(0)).status
        <Status.CERTIFIED: 'certified'>
    """
    owner = client(model, training=training, defense=defense)
    adversary = Server(labels=True) if threat is None else threat
    return adversary.observe(owner, batch(batch_size), seeds=Seeds(0))
