"""The embedding of a text model: the parameter that holds a row for each token, and the places where it is read.

Models look tokens up by `torch.nn.functional.embedding`, which `nn.Embedding` calls. Each call is
intercepted, so a module of any library and a function call are treated in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from leakgauge.core import Inapplicable, Observation, ProbeError, TextDomain, trainable
from leakgauge.core.text import NOT_TEXT
from leakgauge.federated.isolation.probing import probing
from leakgauge.federated.training.fedsgd import stateless

UNKNOWN = -1
"""Entry of a template whose token is not known, and source of a place that reads no unknown token."""
MOST_PROBES = 64
"""Largest number of probes that tell the places of a batch apart."""


@dataclass(frozen=True)
class TokenEmbedding:
    """The token embedding of a model.

    Args:
        name: Name of the parameter (V, d), with a row for each token.
        tied: Whether the model also uses the parameter elsewhere, as the last layer of a language
            model does.
        positions: Name of the learned position embedding, or None if there is none.
        rows: Row of the position embedding for each of the L places of a sequence. Empty if there
            is none.
    """

    name: str
    tied: bool
    positions: str | None = None
    rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Lookup:
    """One call of `torch.nn.functional.embedding`.

    Args:
        ids: The rows that are read, whole numbers of any shape.
        weight: The table.
    """

    ids: Tensor
    weight: Tensor


class Lookups(TorchFunctionMode):
    """A mode that records each look-up in `seen`, and answers it from a table without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Lookup] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if func is not functional.embedding:
            return func(*args, **given)
        ids, weight, rest = table_call(args, given)
        self.seen.append(Lookup(ids.detach().clone(), weight))
        return func(ids, weight.detach(), **rest)


def table_call(
    args: tuple[Any, ...], given: dict[str, Any]
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Return the ids, the table and the other arguments of a call of `torch.nn.functional.embedding`."""
    names = (
        "input",
        "weight",
        "padding_idx",
        "max_norm",
        "norm_type",
        "scale_grad_by_freq",
        "sparse",
    )
    call = {**dict(zip(names, args, strict=False)), **given}
    return call.pop("input"), call.pop("weight"), call


def run_tokens(model: nn.Module, tokens: Tensor, mode: Lookups, *, graph: bool = False) -> Any:
    """Return the output of the model for tokens (B, L) inside a mode. Raise ProbeError if the model fails.

    Args:
        model: The model.
        tokens: The tokens.
        mode: The mode.
        graph: Whether the output can be differentiated.
    """
    with (
        probing(),
        torch.random.fork_rng(devices=[]),
        nullcontext() if graph else torch.no_grad(),
        mode,
    ):
        return stateless(model, trainable(model), tokens)


def probe_tokens(domain: TextDomain, template: Tensor) -> Tensor:
    """Return K versions (K, B, L) of a template, which together tell its unknown places apart.

    No two unknown places hold the same K tokens, and none holds the same token K times. Padding and
    special tokens are not used.

    Args:
        domain: Domain of the text.
        template: Tokens (B, L), UNKNOWN where a token is not known.

    Raises:
        ProbeError: The vocabulary has fewer than two tokens of text.
    """
    silent = {*domain.special, domain.pad}
    usable = torch.tensor([t for t in range(domain.vocabulary) if t not in silent])
    if len(usable) < 2:
        raise ProbeError("the vocabulary has fewer than two tokens of text")
    generator = torch.Generator().manual_seed(0)
    free = (template == UNKNOWN).cpu()
    count = int(free.sum())
    for probes in range(3, MOST_PROBES):
        drawn = usable[torch.randint(len(usable), (probes, count), generator=generator)]
        moves = bool((drawn != drawn[:1]).any(0).all()) if count else True
        if moves and len(set(map(tuple, drawn.T.tolist()))) == count:
            filled = template.cpu().expand(probes, *template.shape).clone()
            filled[:, free] = drawn
            return filled.to(template.device)
    raise ProbeError("the vocabulary is too small to tell the places of the batch apart")


def find_sources(probes: Tensor, template: Tensor, values: Sequence[Tensor]) -> Tensor:
    """Return which place of the batch each entry of some numbers comes from.

    Args:
        probes: Versions (K, B, L) of the template, from `probe_tokens`.
        template: Tokens (B, L), UNKNOWN where a token is not known.
        values: The numbers that the model computed from each version, K tensors of one shape.

    Returns:
        A tensor of their shape. An entry is the index b L + l of an unknown place, or UNKNOWN if
        the number is no unknown token.
    """
    signatures = probes.flatten(1)
    free = (template.flatten() == UNKNOWN).nonzero().squeeze(1)
    held = torch.stack([v.flatten() for v in values]).to(signatures)
    same = (held[:, :, None] == signatures[:, None, free]).all(0)
    found = free[same.int().argmax(1)] if len(free) else torch.zeros(held.shape[1], dtype=torch.int)
    return torch.where(same.any(1), found, UNKNOWN).view_as(values[0])


def find_embedding(observation: Observation) -> TokenEmbedding | Inapplicable:
    """Return the token embedding of the observed model, or the reason why there is none.

    It is found by running the model on generated tokens. The table that these tokens address is the
    token embedding. A table that each place addresses in the same row is the position embedding.
    """
    domain = observation.domain
    if not isinstance(domain, TextDomain):
        return Inapplicable(NOT_TEXT)
    device = observation.update.like.device
    shape = (observation.knowledge.batch_size or 2, domain.length)
    template = torch.full(shape, UNKNOWN, device=device)
    try:
        probes = probe_tokens(domain, template)
        runs = [_lookups(observation.model, tokens) for tokens in probes]
    except ProbeError as error:
        return Inapplicable(str(error))
    if len({len(run) for run in runs}) > 1:
        return Inapplicable("the model looks tokens up in ways that depend on the tokens")
    names = {id(p): name for name, p in observation.model.named_parameters()}
    readers, places = dict[int, str | None](), list[tuple[str, Tensor]]()
    for calls in zip(*runs, strict=True):
        name = names.get(id(calls[0].weight))
        if len({call.ids.shape for call in calls}) > 1:
            continue
        sources = find_sources(probes, template, [call.ids for call in calls])
        if bool((sources != UNKNOWN).any()):
            readers[id(calls[0].weight)] = name
        elif name is not None:
            places.append((name, calls[0].ids))
    return _described(observation, probes[0], list(readers.values()), places)


def _described(
    observation: Observation,
    tokens: Tensor,
    readers: list[str | None],
    places: list[tuple[str, Tensor]],
) -> TokenEmbedding | Inapplicable:
    """Return the embedding of these tables, or the reason why they do not fit."""
    if not readers:
        return Inapplicable("the model looks no token up in an embedding")
    if len(readers) > 1:
        return Inapplicable(f"the model looks tokens up in {len(readers)} tables")
    name = readers[0]
    if name is None:
        return Inapplicable("the table of the tokens is not a parameter of the model")
    positions, rows = _positions(observation.domain.shape[0], places)
    return TokenEmbedding(name, _is_tied(observation, name, tokens), positions, rows)


def _lookups(model: nn.Module, tokens: Tensor) -> list[Lookup]:
    """Return the look-ups of a run on tokens (B, L)."""
    mode = Lookups()
    run_tokens(model, tokens, mode)
    return mode.seen


def _positions(length: int, places: list[tuple[str, Tensor]]) -> tuple[str | None, tuple[int, ...]]:
    """Return the first table that all L places address in rows of their own, and these rows."""
    for name, ids in places:
        rows = ids.reshape(-1, ids.shape[-1])[0] if ids.ndim else ids
        if rows.numel() == length == len(set(rows.tolist())):
            return name, tuple(rows.tolist())
    return None, ()


def _is_tied(observation: Observation, name: str, tokens: Tensor) -> bool:
    """Return whether the output for tokens (B, L) depends on the table other than by looking tokens up."""
    model = observation.model
    parameter = dict(model.named_parameters())[name]
    if not parameter.requires_grad:
        return False
    output = run_tokens(model, tokens, Lookups(), graph=True)
    leaves = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.requires_grad]
    if not leaves:
        return False
    total = torch.stack([t.sum() for t in leaves]).sum()
    return torch.autograd.grad(total, parameter, allow_unused=True)[0] is not None
