"""The bag of words: the tokens of a batch from the gradient of the embedding, without their order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from leakgauge.analytic.text.bag import token_bag
from leakgauge.core import (
    BaseAttack,
    Inapplicable,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    Status,
    TextDomain,
)
from leakgauge.core.text import NOT_TEXT


@dataclass(frozen=True, kw_only=True)
class TokenBag(BaseAttack):
    r"""Read which tokens occur in a batch from the rows of the embedding's gradient that are not zero.

    Use it for the least that a shared embedding gives away. It takes no search, and does not tell the
    order or the number of the tokens.

    .. math::

        dE_t = \sum_{n: t_n = t} \frac{\partial L}{\partial e_n}

    The row of token t is the sum over all places that hold it. So it is zero if the token does not
    occur. If the embedding is tied to the last layer, the last layer's part spans few dimensions.
    Rows outside of them belong to tokens that occur. That separation is ours.

    References:
        Gupta, Huang, Zhong, Gao, Li, Chen. Recovering Private Text in Federated Learning of Language
        Models (FILM). NeurIPS 2022, section 4.1. arXiv:2205.08514.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> domain = lg.TextDomain(50, 5, pad=0)
        >>> client = lg.Client(
        ...     model=lg.models.transformer(domain, 2), loss=torch.nn.functional.cross_entropy,
        ...     domain=domain, classes=2,
        ... )
        >>> batch = lg.Batch(torch.tensor([[7, 3, 9, 3, 0]]), torch.tensor([1]))
        >>> observation = lg.Server().observe(client, batch, seeds=lg.Seeds(0))
        >>> lg.attacks.TokenBag()(observation, seeds=lg.Seeds(0)).inputs
        tensor([[3, 7, 9, 0, 0]])
    """

    discrete: ClassVar[bool] = True

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        domain = observation.domain
        if not isinstance(domain, TextDomain):
            return Inapplicable(NOT_TEXT)
        tokens = token_bag(observation)
        if tokens is None:
            return Inapplicable(
                "no gradient of one embedding of all tokens is shared, or its rows are all zero or all nonzero"
            )
        return Plan(evaluations=0, search=partial(spread, observation, domain, tokens))


def spread(
    observation: Observation, domain: TextDomain, tokens: Tensor, seeds: Seeds, progress: Progress
) -> Reconstruction:
    """Return the tokens in ascending order, dealt out to the sequences in turn."""
    batch = observation.batch_size
    filled = torch.full((batch, domain.length), domain.pad or 0)
    for row in range(batch):
        held = tokens[row::batch][: domain.length]
        filled[row, : len(held)] = held
    return Reconstruction(
        inputs=filled,
        targets=None,
        found=torch.ones(batch, dtype=torch.bool),
        status=Status.UNCONVERGED,
        message=f"{len(tokens)} different tokens of the batch read, without their order",
    )
