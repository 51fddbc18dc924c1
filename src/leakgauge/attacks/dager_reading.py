"""The sequences of a batch from its tokens, in the order of DAGER's paper: prefixes or links, then the fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leakgauge.analytic.text.attention_links import heads_of
from leakgauge.analytic.text.first_tokens import FirstTokens
from leakgauge.analytic.text.last_targets import with_last_targets
from leakgauge.analytic.text.multiplicities import Chosen, choose
from leakgauge.analytic.text.prefixes import read_prefixes
from leakgauge.analytic.text.readers import (
    Reader,
    Sight,
    padded,
)
from leakgauge.analytic.text.sequences import nearest, sequences_of
from leakgauge.analytic.text.spans import InputSpace
from leakgauge.analytic.text.steps import (
    dealt,
    distinct,
    later_spaces,
    links_between,
    strongest,
)
from leakgauge.core import (
    CONVERGED_WITHIN,
    Cost,
    Inapplicable,
    Observation,
    Reconstruction,
    Status,
    TextDomain,
)
from leakgauge.core.pulse import Beat
from leakgauge.inversion.objectives.distances import relative_residual
from leakgauge.inversion.simulation.simulator import simulator

UNSEEN = (
    "not proven: tokens that do not change the update are not seen, and tokens of equal embeddings look "
    "the same"
)
"""Note on every sequence that was read."""
CLEARLY = 0.1
"""Misfit with these sequences, relative to that without them, below which they are believed."""
FITS = 1e-2
"""Misfit of the gradient above which sequences are tried that go on."""
SPARE = 4
"""Least sequences whose gradients are fitted, for each example."""


@dataclass(frozen=True, eq=False)
class Reading:
    """The tokens of a batch, on the way to its sequences.

    Args:
        width: Most prefixes that are kept at one position.
        most: Most sequences whose gradients are fitted.
        observation: The observation.
        domain: Its domain.
        readers: The linear layers of the model.
        spaces: The spaces of the layers that read each token alone.
        shorter: Whether the model takes shorter sequences than the domain's.
        first: The tokens of the batch.
        beat: Called from time to time.
        notes: How the sequences were found.
    """

    width: int
    most: int
    observation: Observation
    domain: TextDomain
    readers: Sequence[Reader]
    spaces: Sequence[InputSpace]
    shorter: bool
    first: FirstTokens
    beat: Beat
    notes: list[str] = field(default_factory=list)

    def sequences(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return likely sequences, and others that go on but might end."""
        first = self.first
        self.notes.append(
            f"{len(first.tokens)} tokens{'' if first.places is None else ' at their positions'} lie in the span of "
            f"{first.rank} dimensions: at most {first.inside:.1e} away, all others at least {first.outside:.1e}"
        )
        if self.observation.batch_size == 1 and first.places is not None:
            alone = [first.at(place) for place in range(first.length or 0)]
            if all(len(each) == 1 for each in alone):
                return [torch.cat(alone)], []
        told = self.later("prefix")
        if not isinstance(told, Inapplicable):
            return self.by_prefixes(told)
        if first.places is None:
            self.notes.append("positions are unknown, and no later layer tells the order")
            return [], []
        return self.by_links(), []

    def later(self, sees: Sight) -> list[InputSpace] | Inapplicable:
        """Return the telling spaces of layers behind the attention that see this much."""
        behind = [reader for reader in self.readers if reader.sees == sees]
        return strongest(later_spaces(self.observation, behind, self.first), self.first.rank)

    def by_prefixes(self, told: Sequence[InputSpace]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the sequences whose prefixes the later layers of a decoder read, and those that go on."""
        found = read_prefixes(
            self.observation.model,
            self.first,
            told,
            domain=self.domain,
            width=self.width,
            shorter=self.shorter,
            beat=self.beat,
        )
        self.notes.append(
            f"{len(found.ends)} sequences by prefixes, at most {found.most} tried at a position"
            + ("" if found.clear else "; some decisions were close")
        )
        return found.ends, found.inner

    def by_links(self) -> list[Tensor]:
        """Return the sequences of tokens that see each other in the first attention, the nearest first."""
        first = distinct(self.observation, self.domain, self.spaces, self.first)
        level = [
            r for r in self.readers if r.sees == "token" and r.source == self.readers[0].source
        ]
        heads = heads_of(self.observation, self.domain, level, shorter=self.shorter)
        if isinstance(heads, Inapplicable):
            self.notes.append(heads.reason)
            return []
        strength = links_between(self.observation, self.domain, heads, first)
        assert first.places is not None
        found = sequences_of(first.places, strength)
        self.notes.append(
            f"{len(found)} sequences tried by links between queries and keys of {heads.count} heads"
        )
        return self.nearest([first.tokens[index] for index in found])

    def nearest(self, held: list[Tensor]) -> list[Tensor]:
        """Return the sequences that the layers behind the attention read, the nearest first."""
        told = self.later("sequence")
        if isinstance(told, Inapplicable) or len(held) <= self.observation.batch_size:
            return held
        return nearest(
            self.observation.model,
            self.domain,
            held,
            told,
            least=SPARE * self.observation.batch_size,
            most=self.most,
            beat=self.beat,
        )

    def chosen(self, held: list[Tensor], inner: list[Tensor]) -> Chosen:
        """Return the sequences whose gradients fit the observed one."""
        likely = self.fitted(held)
        if likely.misfit <= FITS or not inner:
            return likely
        # A sequence may end where another one goes on. More candidates always fit a little better.
        more = self.fitted([*held, *inner])
        return more if more.misfit < CLEARLY * likely.misfit else likely

    def fitted(self, held: list[Tensor]) -> Chosen:
        """Return the best sequences among `held`."""
        whole = with_last_targets(self.observation, self.domain, held, shorter=self.shorter) or held
        whole = whole[: self.most]
        lengths = torch.tensor([len(each) for each in whole])
        return choose(self.observation, padded(self.domain, whole), lengths, beat=self.beat)

    def reconstruction(self, held: list[Tensor], inner: list[Tensor]) -> Reconstruction:
        """Return the sequences that fit the gradient, with the residual of the whole update."""
        observation, batch = self.observation, self.observation.batch_size
        if not held:
            return self.bag()
        chosen = self.chosen(held, inner)
        count = len(chosen.tokens)
        if not count:
            return self.bag("no sequence fits the gradient")
        missing = batch - count
        tokens = torch.cat([chosen.tokens, padded(self.domain, [chosen.labels[:0]] * missing)])
        labels = torch.cat([chosen.labels, chosen.labels.new_zeros(missing)])
        simulate = simulator(observation, create_graph=False)
        simulated = simulate(self.domain.to_unit(tokens), labels)
        residual = float(relative_residual(simulated, observation.update.tensors))
        if residual >= 1:
            # It explains no more than no sequence at all.
            return self.bag("no sequence fits the gradient")
        matched = residual <= CONVERGED_WITHIN
        told = "read" if matched else "fit best"
        return Reconstruction(
            inputs=tokens,
            targets=labels if (observation.classes or 1) > 1 and not missing else None,
            found=torch.arange(batch) < count,
            status=Status.CONVERGED if matched else Status.UNCONVERGED,
            message=f"{count} of {batch} sequences {told}; the update is matched to {residual:.2g} of its norm",
            residual=residual,
            cost=Cost(chosen.tried + 1),
            notes=(*self.notes, UNSEEN) if matched else tuple(self.notes),
        )

    def bag(self, *why: str) -> Reconstruction:
        """Return the tokens without their sequences."""
        batch = self.observation.batch_size
        return Reconstruction(
            inputs=padded(self.domain, dealt(self.first, batch, self.domain.length)),
            targets=None,
            found=torch.ones(batch, dtype=torch.bool),
            status=Status.UNCONVERGED,
            message=f"{len(self.first.tokens)} tokens read, but not which of them stand in one sequence",
            notes=(*self.notes, *why),
        )
