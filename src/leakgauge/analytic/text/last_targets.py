r"""The last token of a causal language model's sequence, which is only predicted, never read.

The layer of V outputs has the gradient :math:`dW = \sum_n s_n h_n^\top`, with
:math:`s_n = w (p_n - e_{t_n})` for the token :math:`t_n` that follows position n. All inputs
:math:`h_n` follow from the tokens that were read. So the signals are known, and the token that
follows the last one has the most negative entry.

References:
    Ours. The same equation gives labels of classifiers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from leakgauge.analytic.text.attention_links import signals
from leakgauge.analytic.text.readers import capture, lengthened
from leakgauge.core import Observation, TextDomain, trainable

TRIED = 3
"""Tokens that are tried as the last one of each sequence."""


def with_last_targets(
    observation: Observation, domain: TextDomain, held: Sequence[Tensor], *, shorter: bool
) -> list[Tensor] | None:
    """Return each sequence with each likely last token, or None if the model predicts no tokens.

    Args:
        observation: The observation.
        domain: The domain of the text.
        held: Sequences (L',) without their last tokens.
        shorter: Whether the model takes shorter sequences.
    """
    layer = _output_layer(observation, domain)
    if layer is None:
        return None
    name, weight = layer
    inputs, ends = list[Tensor](), list[int]()
    for sequence in held:
        whole = lengthened(domain, sequence[None], shorter=shorter)
        found = capture(observation.model, whole, [name])
        if name not in found:
            return None
        inputs.append(found[name][0, : len(sequence)].double())
        ends.append(sum(map(len, inputs)) - 1)
    slopes = observation.update.tensors[weight].double()
    if observation.training.kind == "delta":
        slopes = -slopes
    found_signals = signals(slopes[: domain.vocabulary], torch.cat(inputs))
    grown = []
    for sequence, end in zip(held, ends, strict=True):
        likely = found_signals[end].topk(min(TRIED, domain.vocabulary), largest=False).indices
        if len(sequence) < domain.length:
            grown += [torch.cat([sequence, token[None]]) for token in likely]
    return grown or None


def _output_layer(observation: Observation, domain: TextDomain) -> tuple[str, str] | None:
    """Return the names of the last layer of V outputs and of its weight, or None if there is none."""
    if (observation.classes or 1) > 1:
        return None
    parameters = {id(p): name for name, p in trainable(observation.model).items()}
    for name, module in reversed(list(observation.model.named_modules())):
        if isinstance(module, nn.Linear) and len(module.weight) >= domain.vocabulary:
            weight = parameters.get(id(module.weight))
            if weight in observation.update.tensors:
                return name, weight
    return None
