"""An update in the number format of its model, or the error that tells why it is not one of the model."""

from __future__ import annotations

from dataclasses import replace

from leakgauge.core import Observation, trainable
from leakgauge.core.tensors import is_plain_real
from leakgauge.federated.training.rounds import Rounds


def in_model_type(observation: Observation) -> Observation:
    """Return the observation with its update in the number format of the model's parameters.

    Values keep their rounding. Tensors of one gradient may be missing.

    Raises:
        UpdateError: A tensor does not fit the model in name, shape or kind of numbers.
    """
    parameters, tensors = trainable(observation.model), observation.update.tensors
    if isinstance(observation.training, Rounds):
        return observation
    given = {name: t for name, t in parameters.items() if name in tensors}
    finite = observation.update.map(lambda t: t.nan_to_num() if is_plain_real(t) else t)
    finite.check(given)
    if all(t.dtype == parameters[name].dtype for name, t in tensors.items()):
        return observation
    cast = {name: t.detach().to(parameters[name].dtype) for name, t in tensors.items()}
    return replace(observation, update=replace(observation.update, tensors=cast))
