"""DAGER: exact sequences from the spaces that the gradients of a transformer's first layers span."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from leakgauge.analytic.text.first_tokens import first_tokens
from leakgauge.analytic.text.readers import (
    Reader,
    by_source,
    readers_of,
    takes_shorter,
)
from leakgauge.analytic.text.spans import InputSpace, input_space
from leakgauge.analytic.text.steps import (
    strongest,
)
from leakgauge.attacks.dager_reading import Reading
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
from leakgauge.core.pulse import Pulse
from leakgauge.core.ranges import Count
from leakgauge.core.text import NOT_TEXT
from leakgauge.core.verdicts import report_nothing_found


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
            return Inapplicable(NOT_TEXT)
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
        shorter = takes_shorter(observation.model, domain)
        search = partial(_search, self, observation, domain, readers, spaces, shorter)
        return Plan(evaluations=self.most, expected=2 * observation.batch_size, search=search)


def _search(
    attack: DAGER,
    observation: Observation,
    domain: TextDomain,
    readers: Sequence[Reader],
    spaces: Sequence[InputSpace],
    shorter: bool,
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
        reading = Reading(
            attack.width, attack.most, observation, domain, readers, spaces, shorter, first, beat
        )
        held, inner = reading.sequences()
        beat.part(1.0)
        return reading.reconstruction(held, inner)
