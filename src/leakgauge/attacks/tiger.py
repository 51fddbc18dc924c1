"""TIGER: embeddings whose first layer lies in the span of the gradient."""

from __future__ import annotations

from dataclasses import dataclass

from leakgauge.analytic.text.inputs import span_of_inputs
from leakgauge.attacks.embedded_text import EmbeddedText, labels_of
from leakgauge.attacks.text_matching import TextMatching
from leakgauge.core import Inapplicable
from leakgauge.core.ranges import Count, NonNegative, Positive, Whole
from leakgauge.inversion import (
    Adam,
    EmbeddingNorm,
    GradientMatching,
    LayerCosine,
    SpanDistance,
    Term,
)
from leakgauge.inversion.objectives.features import FeatureExtractor


@dataclass(frozen=True, kw_only=True)
class TIGER(TextMatching):
    r"""Match gradients of a text model, and hold the inputs of its first layer in the span of that layer's gradient.

    Use it on encoders and under noise, where a search for the words that lie in the span fails. It
    needs fewer tokens in the batch than the layer has inputs.

    .. math::

        \min_x \; \frac{1}{n} \sum_i \frac{\|z_i - P z_i\|^2}{\|z_i\|^2} + \mu \, D(g(x, y), g^*)
        + \rho \, \Big( \frac{1}{n} \sum_i \|x_i\| - r \Big)^2

    Here :math:`x_i` are the embeddings of the n tokens. The inputs of the first linear layer that
    reads each token, such as that of the queries, are :math:`z_i`. The gradient of this layer's weight is a
    sum of products of its inputs, and P projects to their span. The simulated gradient is
    :math:`g(x, y)`, the observed one :math:`g^*`, and D the mean cosine distance of the layers. The
    mean length of the vocabulary's embeddings is r. The weights :math:`\mu` and :math:`\rho` are
    `gradients` and `norm`. Labels :math:`y` are granted, or recovered first.

    Args:
        steps: Number of steps, at least 1. The default is ours.
        lr: Step size of Adam, above 0, in units of the deviation of the vocabulary's embeddings. It
            falls by a factor of 0.89 every 50 steps. The default is that of `LAMP`.
        gradients: Weight of the distance of the gradients, at least 0. The default is ours.
        norm: Weight of the prior on the length of embeddings, at least 0.
        restarts: Number of independent starts, at least 1. The objective chooses among them.
        bag: Whether places are rounded to tokens whose embeddings have a gradient. It has no effect
            if the embedding is frozen, tied, or under noise.
        lengths: Numbers of tokens of the sentences, if they are known. The default reads the
            longest one from the position embedding and takes it for all. Then it shortens sentences
            while this matches the update better, and searches once more.
        guesses: Number of guesses, at least 0, of the length of one sentence if no learned position
            tells it. Short searches compare them, each of a tenth of the steps.
        first: Token that begins each sentence, if the tokenizer is known to set one.
        last: Token that ends each sentence, if the tokenizer is known to set one.

    References:
        TIGER. 2026. arXiv:2606.18312.

        Petrov, Dimitrov, Baader, Müller, Vechev. DAGER: Exact Gradient Inversion for Large Language
        Models. NeurIPS 2024. arXiv:2405.15586.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> domain = lg.TextDomain(50, 6, pad=0)
        >>> model = lg.models.transformer(domain, 2, dim=16, depth=1)
        >>> client = lg.Client(
        ...     model=model, loss=torch.nn.functional.cross_entropy, domain=domain, classes=2
        ... )
        >>> batch = lg.Batch(torch.tensor([[7, 3, 9, 5, 0, 0]]), torch.tensor([1]))
        >>> observation = lg.Server().observe(client, batch, seeds=lg.Seeds(0))
        >>> lg.attacks.TIGER(steps=5)(observation, seeds=lg.Seeds(0)).inputs.shape
        torch.Size([1, 6])
    """

    steps: Count = 2000
    lr: Positive = 0.2
    gradients: NonNegative = 1.0
    norm: NonNegative = 1.0
    restarts: Count = 1
    bag: bool = True
    lengths: tuple[Count, ...] = ()
    guesses: Whole = 12
    first: Whole | None = None
    last: Whole | None = None

    def matching(self, text: EmbeddedText) -> GradientMatching | Inapplicable:
        held = text.held
        span = span_of_inputs(text.tokens, int(held.sum()))
        if isinstance(span, Inapplicable):
            return span
        network = FeatureExtractor.of(text.searched, span.layer)
        objective: Term = SpanDistance(network, span.basis, held)
        if self.gradients > 0:
            objective = objective + self.gradients * LayerCosine()
        if self.norm > 0:
            length = float(text.space.table.norm(dim=1).mean())
            objective = objective + self.norm * EmbeddingNorm(text.unknown, length)
        return GradientMatching(
            objective=objective,
            parametrization=text.variables(),
            labels=labels_of(text),
            descent=Adam(steps=self.steps, lr=self.lr, decay=0.89, every=50),
            restarts=self.restarts,
        )
