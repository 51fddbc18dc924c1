"""DAGER: exact sequences from the spaces that the gradients of a transformer's first layers span."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from leakgauge.analytic.text.attention_links import heads_of
from leakgauge.analytic.text.first_tokens import FirstTokens, first_tokens
from leakgauge.analytic.text.last_targets import with_last_targets
from leakgauge.analytic.text.multiplicities import Chosen, choose
from leakgauge.analytic.text.prefixes import COARSE, FINE, read_prefixes
from leakgauge.analytic.text.readers import Reader, by_source, readers_of
from leakgauge.analytic.text.sequences import distances_of, sequences_of
from leakgauge.analytic.text.spans import CLEAR, InputSpace, input_space, widest_gap
from leakgauge.analytic.text.steps import distinct, later_spaces, links_between, padded, strongest
from leakgauge.core import (
    CONVERGED_WITHIN,
    BaseAttack,
    Cost,
    Inapplicable,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    Status,
    TextDomain,
)
from leakgauge.core.pulse import Beat, Pulse
from leakgauge.core.ranges import Count
from leakgauge.core.verdicts import report_nothing_found
from leakgauge.inversion.objectives.distances import relative_residual
from leakgauge.inversion.simulation.simulator import simulator

UNSEEN = (
    "not proven: tokens that do not change the update are not seen, and tokens of equal embeddings look "
    "the same"
)
"""Note on every sequence that was read."""
FITS = 1e-2
"""Misfit of the gradient above which sequences are tried that go on."""
SPARE = 4
"""Least sequences whose gradients are fitted, for each example."""


@dataclass(frozen=True, kw_only=True)
class DAGER(BaseAttack):
    r"""Read whole sequences from the spans of the first layers' gradients, without optimization.

    Use it for text models of a shared embedding and attention, such as GPT-2, BERT and LLaMA, full
    or with LoRA. It needs fewer tokens in the batch than a layer has inputs.

    .. math::

        dW = \sum_n \delta_n x_n^\top, \qquad d(t, p) = \frac{\|x(t, p) - \Pi \, x(t, p)\|}{\|x(t, p)\|} \approx 0

    Here :math:`x(t, p)` is the input of token t at position p in front of the first attention.
    :math:`\Pi` projects on the row space of :math:`dW`. So each token of the batch is tested
    alone. Sequences follow in one of two ways:

    - *Decoders.* A prefix is extended by each token of the next position. It is kept if the inputs
      of later layers at its end lie in the spaces of these layers.
    - *Encoders.* The gradients of queries and keys tell which tokens see each other. This step is
      ours. The paper tries combinations of tokens.

    At the end, the gradient is fitted by those of the sequences, with weights of at least 0. This
    gives labels, repeated sequences, and drops wrong ones.

    Args:
        width: Most prefixes that are kept at one position.
        most: Most sequences whose gradients are fitted.

    References:
        Petrov, Dimitrov, Baader, Müller, Vechev. DAGER: Exact Gradient Inversion for Large Language
        Models. NeurIPS 2024. arXiv:2405.15586.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> domain = lg.TextDomain(50, 5, pad=0)
        >>> client = lg.Client(
        ...     model=lg.models.transformer(domain, 2, attention="causal"),
        ...     loss=torch.nn.functional.cross_entropy, domain=domain, classes=2,
        ... )
        >>> batch = lg.Batch(torch.tensor([[7, 3, 9, 4, 0]]), torch.tensor([1]))
        >>> observation = lg.Server().observe(client, batch, seeds=lg.Seeds(0))
        >>> lg.attacks.DAGER()(observation, seeds=lg.Seeds(0)).inputs
        tensor([[7, 3, 9, 4, 0]])
    """

    width: Count = 256
    most: Count = 128
    discrete: ClassVar[bool] = True

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        domain = observation.domain
        if not isinstance(domain, TextDomain):
            return Inapplicable(
                "needs text, which a model reads through an embedding of its tokens"
            )
        if not all(bool(t.isfinite().all()) for t in observation.update.tensors.values()):
            return Inapplicable("the update holds values that are NaN or infinite")
        readers = readers_of(observation.model, domain, observation.update.tensors)
        if isinstance(readers, Inapplicable):
            return readers
        alone = [reader for reader in readers if reader.sees == "token"]
        if not alone:
            return Inapplicable("no linear layer reads each token alone, behind an embedding")
        spaces = strongest([input_space(observation, group) for group in by_source(alone)])
        if isinstance(spaces, Inapplicable):
            return spaces
        search = partial(self.search, observation, domain, readers, spaces)
        return Plan(evaluations=self.most, expected=2 * observation.batch_size, search=search)

    def search(
        self,
        observation: Observation,
        domain: TextDomain,
        readers: Sequence[Reader],
        spaces: Sequence[InputSpace],
        seeds: Seeds,
        progress: Progress,
    ) -> Reconstruction:
        """Return the sequences of the batch."""
        beat = Pulse(progress, usual=20)
        with seeds.isolated("simulation"):
            beat.part(0.4)
            first = first_tokens(observation.model, domain, spaces, beat=beat)
            if isinstance(first, Inapplicable):
                return report_nothing_found(observation, Status.INAPPLICABLE, first.reason)
            beat.part(0.7)
            held, inner, notes = self.sequences(observation, domain, readers, spaces, first, beat)
            if not held:
                return bag_only(observation, domain, first, notes)
            beat.part(1.0)
            # A sequence may end where another one goes on.
            for tried in (held, [*held, *inner]):
                whole = with_last_targets(observation, domain, tried) or tried
                chosen = fitted(observation, domain, whole[: self.most], beat)
                if chosen.misfit <= FITS or not inner:
                    break
            return self.reconstruction(observation, domain, chosen, first, notes)

    def sequences(
        self,
        observation: Observation,
        domain: TextDomain,
        readers: Sequence[Reader],
        spaces: Sequence[InputSpace],
        first: FirstTokens,
        beat: Beat,
    ) -> tuple[list[Tensor], list[Tensor], list[str]]:
        """Return likely sequences, others that go on but might end, and notes on how they were found."""
        notes = [
            f"{len(first.tokens)} tokens{'' if first.places is None else ' at their positions'} lie in the span of "
            f"{first.rank} dimensions: at most {first.inside:.1e} away, all others at least {first.outside:.1e}"
        ]
        if observation.batch_size == 1 and first.places is not None:
            alone = [first.at(place) for place in range(first.length or 0)]
            if all(len(each) == 1 for each in alone):
                return [torch.cat(alone)], [], notes
        behind = [reader for reader in readers if reader.sees == "prefix"]
        told = strongest(later_spaces(observation, behind, first), first.rank)
        if not isinstance(told, Inapplicable):
            found = read_prefixes(
                observation.model, first, told, domain=domain, width=self.width, beat=beat
            )
            notes.append(
                f"{len(found.ends)} sequences by prefixes, at most {found.most} tried at a position"
                + ("" if found.clear else "; some decisions were close")
            )
            return found.ends, found.inner, notes
        if first.places is None:
            return [], [], [*notes, "positions are unknown, and no later layer tells the order"]
        found_by_links, notes = self.linked(
            observation, domain, readers, spaces, first, notes, beat
        )
        return found_by_links, [], notes

    def linked(
        self,
        observation: Observation,
        domain: TextDomain,
        readers: Sequence[Reader],
        spaces: Sequence[InputSpace],
        first: FirstTokens,
        notes: list[str],
        beat: Beat,
    ) -> tuple[list[Tensor], list[str]]:
        """Return the sequences of tokens that see each other in the first attention."""
        assert first.places is not None
        first = distinct(observation, domain, spaces, first)
        level = [r for r in readers if r.sees == "token" and r.source == readers[0].source]
        heads = heads_of(observation, domain, level)
        if isinstance(heads, Inapplicable):
            return [], [*notes, heads.reason]
        strength = links_between(observation, domain, heads, first)
        assert first.places is not None
        found = sequences_of(first.places, strength)
        notes.append(
            f"{len(found)} sequences tried by links between queries and keys of {heads.count} heads"
        )
        held = [first.tokens[index] for index in found]
        return self.nearest(observation, domain, readers, first, held, beat), notes

    def nearest(
        self,
        observation: Observation,
        domain: TextDomain,
        readers: Sequence[Reader],
        first: FirstTokens,
        held: Sequence[Tensor],
        beat: Beat,
    ) -> list[Tensor]:
        """Return the sequences that the layers behind the attention read, the nearest first."""
        behind = [reader for reader in readers if reader.sees == "sequence"]
        told = strongest(later_spaces(observation, behind, first), first.rank)
        if isinstance(told, Inapplicable) or len(held) <= observation.batch_size:
            return list(held)
        lengths = torch.tensor([len(each) for each in held])
        far = distances_of(observation.model, padded(domain, held), lengths, told, beat=beat)
        threshold, ratio = widest_gap(far, FINE, COARSE)
        kept = int((far <= threshold).sum()) if ratio >= CLEAR else len(held)
        kept = max(kept, SPARE * observation.batch_size)
        return [held[i] for i in far.argsort()[: min(kept, self.most)].tolist()]

    def reconstruction(
        self,
        observation: Observation,
        domain: TextDomain,
        chosen: Chosen,
        first: FirstTokens,
        notes: Sequence[str],
    ) -> Reconstruction:
        """Return the sequences that fit the gradient, with the residual of the whole update."""
        count, batch = len(chosen.tokens), observation.batch_size
        if not count:
            return bag_only(observation, domain, first, [*notes, "no sequence fits the gradient"])
        tokens = torch.cat([chosen.tokens, padded(domain, [first.tokens[:0]] * (batch - count))])
        labels = torch.cat([chosen.labels, chosen.labels.new_zeros(batch - count)])
        simulate = simulator(observation, create_graph=False)
        update = observation.update.tensors
        residual = float(relative_residual(simulate(domain.to_unit(tokens), labels), update))
        if residual >= 1:
            # It explains less than no sequence at all.
            return bag_only(observation, domain, first, [*notes, "no sequence fits the gradient"])
        matched = residual <= CONVERGED_WITHIN
        told = "read" if matched else "fitted, not all of them right"
        return Reconstruction(
            inputs=tokens,
            targets=labels if (observation.classes or 1) > 1 and count == batch else None,
            found=torch.arange(batch) < count,
            status=Status.CONVERGED if matched else Status.UNCONVERGED,
            message=f"{count} of {batch} sequences {told}; the update is matched to {residual:.2g} of its norm",
            residual=residual,
            cost=Cost(chosen.tried + 1),
            notes=(*notes, UNSEEN) if matched else tuple(notes),
        )


def fitted(
    observation: Observation, domain: TextDomain, held: Sequence[Tensor], beat: Beat
) -> Chosen:
    """Return the sequences whose gradients fit the observed one."""
    lengths = torch.tensor([len(each) for each in held])
    return choose(observation, padded(domain, held), lengths, beat=beat)


def bag_only(
    observation: Observation, domain: TextDomain, first: FirstTokens, notes: Sequence[str]
) -> Reconstruction:
    """Return the tokens without their sequences: the n-th token of each position in the n-th row."""
    batch = observation.batch_size
    rows: list[list[int]] = [[] for _ in range(batch)]
    if first.places is None:
        for i, token in enumerate(first.tokens.tolist()[: batch * domain.length]):
            rows[i % batch].append(token)
    else:
        for place in range(first.length or 0):
            options = first.at(place).tolist()
            for i, row in enumerate(rows):
                row.append(options[min(i, len(options) - 1)])
    return Reconstruction(
        inputs=padded(domain, [torch.tensor(row, dtype=torch.long) for row in rows]),
        targets=None,
        found=torch.ones(batch, dtype=torch.bool),
        status=Status.UNCONVERGED,
        message=f"{len(first.tokens)} tokens read, but not which of them stand in one sequence",
        notes=tuple(notes),
    )
