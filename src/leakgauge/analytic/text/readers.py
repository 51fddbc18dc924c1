r"""The linear layers of a model of tokens, and what each of them reads: one token, a prefix, or all tokens.

A linear layer's weight has the gradient :math:`dW = \sum_n \delta_n x_n^\top`. So the inputs
:math:`x_n` that have a signal span its row space. A layer is useful if the adversary can compute
the input that a guess would give it. For this, the input must depend on few tokens. No name of a
layer is trusted: the model is run on random tokens, and what changes tells.

References:
    Petrov, Dimitrov, Baader, Müller, Vechev. DAGER: Exact Gradient Inversion for Large Language
    Models. NeurIPS 2024, section 3. arXiv:2405.15586.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leakgauge.core import Inapplicable, ProbeError, TextDomain
from leakgauge.federated.isolation.probing import probing
from leakgauge.federated.isolation.untouched import untouched

ALIKE = 1e-4
"""Largest relative distance of two inputs that count as equal. They are computed in float32."""
Sight = Literal["token", "prefix", "sequence"]


@dataclass(frozen=True)
class Reader:
    """One linear layer of a model of tokens.

    Args:
        name: Name of the module.
        weight: Name of its weight.
        transposed: Whether the weight is (inputs, outputs).
        width: Number of inputs.
        sees: What its input at a position depends on: the "token" there, the "prefix" that ends
            there, or the whole "sequence".
        positional: Whether its input depends on the position itself.
        source: Number of its input among the different inputs, from 0, in the order of the forward.
    """

    name: str
    weight: str
    transposed: bool
    width: int
    sees: Sight = "sequence"
    positional: bool = True
    source: int = 0

    def slopes(self, update: dict[str, Tensor]) -> Tensor:
        """Return the gradient of the weight as (outputs, inputs), in float64."""
        found = update[self.weight].double()
        return found.T if self.transposed else found


class _Enough(Exception):
    """All wanted inputs are known, so the rest of the forward is not needed."""


def readers_of(
    model: nn.Module, domain: TextDomain, shared: Collection[str]
) -> tuple[Reader, ...] | Inapplicable:
    """Return the linear layers whose gradients are shared, and what they see, in the order of the forward.

    Args:
        model: A model of tokens (B, L).
        domain: The domain of the text.
        shared: Names of the parameters in the update.
    """
    layers = layers_of(model, domain, shared)
    if isinstance(layers, Inapplicable):
        return layers
    if any(not _same(x[0], x[1]) for _, x in layers):
        return Inapplicable("the model draws random numbers, as dropout in train mode does")
    place = domain.length // 2
    return tuple(
        replace(
            reader,
            sees=_sight(x, place),
            positional=domain.length > 1 and not _same(x[4, 0], x[4, 1]),
        )
        for reader, x in layers
    )


def layers_of(
    model: nn.Module, domain: TextDomain, shared: Collection[str]
) -> list[tuple[Reader, Tensor]] | Inapplicable:
    """Return the linear layers whose gradients are shared, each with its inputs for `_probes`.

    They stand in the order of the forward. What they see is not determined yet.

    Args:
        model: A model of tokens (B, L).
        domain: The domain of the text.
        shared: Names of the parameters in the update.
    """
    layers = _linear_layers(model, shared)
    if not layers:
        return Inapplicable("no gradient of a linear layer is shared")
    probes = _probes(domain)
    inputs = capture(model, probes, [layer.name for layer in layers])
    known = [layer for layer in layers if layer.name in inputs]
    if not known:
        return Inapplicable("no linear layer reads one vector for each token")
    order = {name: i for i, name in enumerate(inputs)}
    known.sort(key=lambda layer: order[layer.name])
    found: list[tuple[Reader, Tensor]] = []
    for layer in known:
        x = inputs[layer.name]
        source = next((reader.source for reader, y in found if _same(x, y)), None)
        if source is None:
            source = 1 + max((reader.source for reader, _ in found), default=-1)
        found.append((replace(layer, source=source), x))
    return found


def by_source(readers: Sequence[Reader]) -> list[tuple[Reader, ...]]:
    """Return the readers in groups that read the same input."""
    groups: dict[int, list[Reader]] = {}
    for reader in readers:
        groups.setdefault(reader.source, []).append(reader)
    return [tuple(group) for group in groups.values()]


def capture(model: nn.Module, tokens: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the inputs (B, L, D) of layers for tokens (B, L). The forward ends behind the last of them.

    Layers that run more than once, or that do not read one vector for each token, are left out.
    """
    modules, count = dict(model.named_modules()), len(tokens)
    if count == tokens.shape[1]:
        # One more row, so that rows and positions cannot be confused.
        tokens = torch.cat([tokens, tokens[:1]])
    found: dict[str, Tensor] = {}
    runs: dict[str, int] = dict.fromkeys(names, 0)

    def hook(name: str, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        first = given[0] if given else next(iter(named.values()))
        runs[name] += 1
        if isinstance(first, Tensor) and first.ndim == 3:
            # Some modules put the positions first.
            first = first.transpose(0, 1) if first.shape[:2] == tokens.shape[::-1] else first
            if first.shape[:2] == tokens.shape:
                found[name] = first[:count].detach()
        # A module that runs twice could be missed here. `readers_of` waits for all, and finds it.
        if len(names) <= FEW and all(runs.values()):
            raise _Enough

    # In inference mode some layers are fused, and their parts do not run.
    with probing(), untouched(model), torch.enable_grad():
        for name in names:
            module = modules[name]
            module.register_forward_pre_hook(
                lambda _, args, kwargs, name=name: hook(name, args, kwargs), with_kwargs=True
            )
        with suppress(_Enough):
            model(tokens)
    return {name: x for name, x in found.items() if runs[name] == 1}


FEW = 8
"""Most layers for which a forward ends early."""


def takes_shorter(model: nn.Module, domain: TextDomain) -> bool:
    """Return whether a model takes sequences that are shorter than the domain's."""
    # One token may be broadcast over all positions, so two are tried.
    short = _probes(domain)[:1, : max(1, min(2, domain.length - 1))]
    try:
        with probing(), untouched(model), torch.no_grad():
            model(short)
    except ProbeError:
        return False
    return True


def lengthened(domain: TextDomain, tokens: Tensor, *, shorter: bool) -> Tensor:
    """Return sequences (B, L'), padded to the length of the domain unless the model takes shorter ones."""
    if shorter:
        return tokens
    missing = domain.length - tokens.shape[1]
    return torch.nn.functional.pad(tokens, (0, missing), value=domain.pad or 0)


def padded(domain: TextDomain, sequences: Sequence[Tensor]) -> Tensor:
    """Return sequences as one tensor (N, L), filled with padding, or with the token 0 if there is none."""
    filled = torch.full((len(sequences), domain.length), domain.pad or 0)
    for row, sequence in zip(filled, sequences, strict=True):
        row[: len(sequence)] = sequence
    return filled


def _linear_layers(model: nn.Module, shared: Collection[str]) -> list[Reader]:
    """Return the linear layers whose weight's gradient is shared, in any order."""
    found = []
    for name, module in model.named_modules():
        part, transposed = "weight", False
        if isinstance(module, nn.MultiheadAttention):
            part = "in_proj_weight"
        elif type(module).__name__ == "Conv1D":
            # The linear layer of GPT-2, in transformers. Its weight is (inputs, outputs).
            transposed = True
        elif not isinstance(module, nn.Linear):
            continue
        weight = getattr(module, part, None)
        label = f"{name}.{part}" if name else part
        if isinstance(weight, Tensor) and weight.ndim == 2 and label in shared:
            width = weight.shape[0 if transposed else 1]
            found.append(Reader(name, label, transposed, width))
    return found


def _probes(domain: TextDomain) -> Tensor:
    """Return five sequences (5, L).

    The second equals the first. The third agrees with it in the middle place only, the fourth up to
    that place. The fifth repeats one token.
    """
    generator = torch.Generator().manual_seed(0)
    allowed = torch.arange(domain.vocabulary)
    allowed = allowed[allowed != (-1 if domain.pad is None else domain.pad)]
    picks = torch.randint(len(allowed), (domain.length,), generator=generator)
    # Another token at every place, even if the vocabulary is small.
    others = (
        picks + 1 + torch.randint(max(1, len(allowed) - 1), picks.shape, generator=generator)
    ) % len(allowed)
    place = domain.length // 2
    alone, prefix = others.clone(), others.clone()
    alone[place] = picks[place]
    prefix[: place + 1] = picks[: place + 1]
    return allowed[torch.stack([picks, picks, alone, prefix, picks[:1].expand_as(picks)])]


def _sight(x: Tensor, place: int) -> Sight:
    """Return what a layer sees, from its inputs (5, L, D) for the probes."""
    if _same(x[0, place], x[2, place]):
        return "token"
    return "prefix" if _same(x[0, : place + 1], x[3, : place + 1]) else "sequence"


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether two inputs are equal up to rounding."""
    if one.shape != other.shape:
        return False
    scale = max(float(one.norm()), float(other.norm()), 1e-30)
    return float((one - other).norm()) <= ALIKE * scale
