"""The observation of a text model as one whose inputs are embeddings, so that any search can move them.

The adversary's copy of the model runs on tokens that stand for the unknown ones. Where it looks them
up, it gets the candidate's embeddings instead. Where a loss inside the model compares with them, it
gets the softmax of the embeddings' negative distances to the table. So the update is differentiable
in the embeddings, and the client's model stays unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from leakgauge.core import (
    Inapplicable,
    Observation,
    ProbeError,
    TextDomain,
    Update,
    trainable,
)
from leakgauge.federated.isolation.probing import probing
from leakgauge.federated.layers.dropout import with_forward
from leakgauge.federated.layers.embeddings import (
    UNKNOWN,
    Lookups,
    TokenEmbedding,
    find_sources,
    probe_tokens,
    run_tokens,
    table_call,
)
from leakgauge.federated.training.fedsgd import stateless
from leakgauge.inversion.simulation.embedding_space import EmbeddingDomain, EmbeddingSpace

LOSSES = frozenset({functional.cross_entropy, functional.nll_loss})
_LOSS_OPTIONS = frozenset({"ignore_index", "reduction"})


class Uses(Lookups):
    """A mode that also records the targets of cross-entropies inside the model, in `targets`."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in LOSSES:
            target = args[1] if len(args) > 1 else (kwargs or {})["target"]
            self.targets.append(target.detach().clone())
            return func(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)


@dataclass(frozen=True, eq=False)
class Sources:
    """The places of the batch that each call of the model reads.

    Args:
        lookups: For each look-up in turn, the index of the place that each entry reads, or UNKNOWN.
            None if it reads no unknown token.
        targets: The same for each cross-entropy inside the model.
    """

    lookups: tuple[Tensor | None, ...]
    targets: tuple[Tensor | None, ...]


def find_uses(observation: Observation, probes: Tensor, template: Tensor) -> Sources:
    """Return where the model reads the unknown tokens of a template (B, L). Raise ProbeError if this varies."""
    runs = []
    for tokens in probes:
        mode = Uses()
        run_tokens(observation.model, tokens, mode)
        runs.append((tuple(call.ids for call in mode.seen), tuple(mode.targets)))
    if len({tuple(t.shape for part in run for t in part) for run in runs}) > 1:
        raise ProbeError("the model looks tokens up in ways that depend on the tokens")

    def located(values: tuple[Tensor, ...]) -> Tensor | None:
        found = find_sources(probes, template, values)
        return found if bool((found != UNKNOWN).any()) else None

    return Sources(
        tuple(map(located, zip(*(ids for ids, _ in runs), strict=True))),
        tuple(map(located, zip(*(targets for _, targets in runs), strict=True))),
    )


class Embedding(TorchFunctionMode):
    """A mode in which the model reads a candidate's embeddings (B, L, d) in place of unknown tokens.

    Args:
        embeddings: The candidate's embeddings.
        sources: Where the model reads the unknown tokens.
        vocabulary: Number of tokens V.
        width: Distance of a token over which its weight in a soft target falls.
        tied: Whether the gradient of the table is part of the update.
    """

    def __init__(
        self, embeddings: Tensor, sources: Sources, vocabulary: int, width: float, *, tied: bool
    ) -> None:
        super().__init__()
        self.embeddings, self.vocabulary = embeddings.flatten(0, 1), vocabulary
        self.width, self.tied = width, tied
        self.lookups, self.targets = iter(sources.lookups), iter(sources.targets)
        self.rows: Tensor | None = None
        self._soft: Tensor | None = None

    @property
    def soft(self) -> Tensor:
        """Weights (B L, V) of the tokens at each place: the softmax of negative squared distances."""
        if self._soft is None:
            if self.rows is None:
                raise ProbeError("a loss inside the model runs before the tokens are looked up")
            rows = self.rows.detach()
            squares = self.embeddings.square().sum(1, keepdim=True) + rows.square().sum(1)
            distances = squares - 2 * self.embeddings @ rows.T
            self._soft = (-distances / (2 * self.width**2)).softmax(1)
        return self._soft

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if func is functional.embedding:
            return self._look_up(next(self.lookups, None), args, given)
        if func in LOSSES:
            places = next(self.targets, None)
            if places is not None:
                return self._compare(func, places, args, given)
        return func(*args, **given)

    def _look_up(self, places: Tensor | None, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        """Return the rows of a look-up, and the candidate's embeddings at its unknown places."""
        if places is None:
            return functional.embedding(*args, **given)
        ids, weight, rest = table_call(args, given)
        self.rows = weight[: self.vocabulary]
        known = functional.embedding(ids, weight if self.tied else weight.detach(), **rest)
        taken = places.clamp_min(0)
        found = self.embeddings[taken]
        if self.tied:
            # The value is the embedding. The gradient of the table is that of the tokens near it.
            found = found + self.soft[taken] @ (self.rows - self.rows.detach())
        return torch.where((places != UNKNOWN)[..., None], found, known)

    def _compare(
        self, func: Any, places: Tensor, args: tuple[Any, ...], given: dict[str, Any]
    ) -> Tensor:
        """Return the cross-entropy of soft targets at the unknown places, and of the known targets elsewhere."""
        names = ("input", "target", "weight", "size_average", "ignore_index", "reduce", "reduction")
        call = {**dict(zip((*names, "label_smoothing"), args, strict=False)), **given}
        scores, target = call.pop("input"), call.pop("target")
        if any(call[n] not in (None, 0.0) for n in call.keys() - _LOSS_OPTIONS):
            raise ProbeError("a loss inside the model has weights or smoothing")
        logs = scores.log_softmax(1) if func is functional.cross_entropy else scores
        held = target != call.get("ignore_index", -100)
        hot = functional.one_hot(torch.where(held, target, 0), scores.shape[1]).to(logs)
        soft = functional.pad(self.soft, (0, scores.shape[1] - self.soft.shape[1]))
        mixed = torch.where((places != UNKNOWN)[..., None], soft[places.clamp_min(0)], hot)
        losses: Tensor = -(mixed.movedim(-1, 1) * logs).sum(1) * held
        reduction = call.get("reduction", "mean")
        if reduction == "none":
            return losses
        total: Tensor = losses.sum() / (held.sum() if reduction == "mean" else 1)
        return total


@dataclass(frozen=True, eq=False)
class EmbeddedForward:
    """A forward pass on embeddings (B, L, d).

    Args:
        forward: The forward pass on tokens (B, L).
        tokens: Tokens (B, L) that stand for the unknown ones, and the known ones.
        sources: Where the model reads the unknown tokens.
        vocabulary: Number of tokens V.
        width: Width of soft targets.
        tied: Whether the gradient of the table is part of the update.
    """

    forward: Callable[..., Any]
    tokens: Tensor
    sources: Sources
    vocabulary: int
    width: float
    tied: bool

    def __call__(self, embeddings: Tensor) -> Any:
        """Return the output of the model."""
        with Embedding(embeddings, self.sources, self.vocabulary, self.width, tied=self.tied):
            return self.forward(self.tokens)


def embed(
    observation: Observation, embedding: TokenEmbedding, template: Tensor, bag: Tensor | None
) -> Observation | Inapplicable:
    """Return the observation with embeddings as its inputs, or the reason why the model does not allow it.

    The update loses the gradient of the embedding, unless it is tied.

    Args:
        observation: The observation of a model that reads tokens.
        embedding: The model's token embedding.
        template: Tokens (B, L) of the batch, UNKNOWN where a token is not known.
        bag: Tokens (N,) that the batch holds, or None if they are not known.
    """
    domain = observation.domain
    if not isinstance(domain, TextDomain):
        return Inapplicable(f"needs text, not a {domain.kind}")
    try:
        probes = probe_tokens(domain, template)
        sources = find_uses(observation, probes, template)
        table = observation.model.get_parameter(embedding.name).detach()[: domain.vocabulary]
        width = soft_width(table)
        wrapped = [_wrapped(observation, embedding, sources, p, width) for p in probes[:2]]
        _check_alone(wrapped, table, template)
        inputs = Sources(sources.lookups, ())
        read = _read_places(
            _wrapped(observation, embedding, inputs, probes[0], width), table, template
        )
    except ProbeError as error:
        return Inapplicable(str(error))
    space = EmbeddingSpace(table, template, bag, read, domain.pad)
    return replace(wrapped[0], domain=EmbeddingDomain(space))


def soft_width(table: Tensor) -> float:
    """Return the width of soft targets: squared distances of random rows differ by about its square.

    They have a spread of about :math:`\\sqrt{8 d} \\sigma^2`. Here d is the number of values of a row,
    and :math:`\\sigma` their standard deviation.
    """
    deviation = float(table.std(0).square().mean().sqrt())
    return deviation * math.sqrt(math.sqrt(table.shape[1]) / 2)


def _wrapped(
    observation: Observation,
    embedding: TokenEmbedding,
    sources: Sources,
    tokens: Tensor,
    width: float,
) -> Observation:
    """Return the observation with a model on embeddings, and with `tokens` in the place of unknown ones."""
    vocabulary, tied = observation.domain.vocabulary, embedding.tied  # type: ignore[attr-defined]
    model = with_forward(
        observation.model,
        lambda forward: EmbeddedForward(forward, tokens, sources, vocabulary, width, tied),
    )
    update = observation.update
    if not tied:
        model.get_parameter(embedding.name).requires_grad_(False)
        left = {n: t for n, t in update.tensors.items() if n != embedding.name}
        update = Update(left, update.kind)
    return replace(observation, model=model, update=update)


def _check_alone(wrapped: list[Observation], table: Tensor, template: Tensor) -> None:
    """Raise ProbeError if the output depends on the tokens that stand for the unknown ones."""
    embeddings = _random_rows(table, template)
    with torch.no_grad():
        outputs = [_outputs(each, embeddings) for each in wrapped]
    for ours, other in zip(*outputs, strict=True):
        if not torch.allclose(ours.float(), other.float(), rtol=1e-4, atol=1e-5, equal_nan=True):
            raise ProbeError(
                "the output depends on the tokens by more than their embeddings and a cross-entropy"
            )


def _read_places(wrapped: Observation, table: Tensor, template: Tensor) -> Tensor:
    """Return which places (B, L) the model reads through their embedding."""
    embeddings = _random_rows(table, template).requires_grad_()
    outputs = [t.sum() for t in _outputs(wrapped, embeddings) if t.requires_grad]
    if not outputs:
        raise ProbeError("the output does not depend on the tokens' embeddings")
    slope = torch.autograd.grad(torch.stack(outputs).sum(), embeddings)[0]
    read: Tensor = slope.abs().amax(-1) > 0
    return read


def _random_rows(table: Tensor, template: Tensor) -> Tensor:
    """Return the embeddings (B, L, d) of random tokens, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(table), template.shape, generator=generator)
    return table[drawn.to(table.device)]


def _outputs(wrapped: Observation, embeddings: Tensor) -> list[Tensor]:
    """Return the tensors in the output of the model on embeddings (B, L, d)."""
    with probing(), torch.random.fork_rng(devices=[]):
        output = stateless(wrapped.model, trainable(wrapped.model), embeddings)
    return [t for t in tree_leaves(output) if isinstance(t, Tensor)]
