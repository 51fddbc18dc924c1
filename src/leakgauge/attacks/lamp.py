"""LAMP: gradients of text matched in turn by a descent and by discrete moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from leakgauge.attacks.embedded_text import EmbeddedText, labels_of
from leakgauge.attacks.text_matching import TextMatching
from leakgauge.core import ModelError, deep_copy
from leakgauge.core.ranges import Count, Fraction, NonNegative, Positive, Whole
from leakgauge.federated.isolation.probing import probing
from leakgauge.inversion import (
    L1,
    L2,
    EmbeddingNorm,
    GradientMatching,
    LayerCosine,
    MovingAdam,
    Term,
)
from leakgauge.inversion.descents.adam import Judge

Draw = Callable[[int], int]
"""A function that draws a whole number below its argument."""


@dataclass(frozen=True, kw_only=True)
class LAMP(TextMatching):
    r"""Match gradients of a text model: Adam on embeddings, and moves of tokens that the objective chooses.

    Use it on sentences if no attack in closed form applies. A language model as `prior` helps to
    find the order of the words.

    .. math::

        \min_x \; D(g(x, y), g^*) + \rho \, \Big( \frac{1}{n} \sum_i \|x_i\| - r \Big)^2

    Here :math:`g(x, y)` is the simulated gradient, :math:`g^*` the observed one, and D the distance.
    The embeddings of the n unknown tokens are :math:`x_i`, and r is the mean length of the
    vocabulary's embeddings. The weight :math:`\rho` is `norm`. Labels :math:`y` are granted, or
    recovered first.

    The search takes the best of many random starts. From time to time, it proposes other orders of
    the embeddings. Two tokens trade places, a token or a piece moves, or pieces of two sentences
    trade places. The order with the least sum of the objective and of `perplexity` times the mean
    loss of the prior is kept. At the end, each embedding becomes the nearest token.

    The paper steps by 0.01 in units of the embeddings of BERT, whose deviation is about 0.05. Here
    steps are in units of this deviation.

    Args:
        steps: Number of steps, at least 1. The default is the paper's.
        lr: Step size of Adam, above 0, in units of the deviation of the vocabulary's embeddings. It
            falls by a factor of 0.89 every 50 steps, as in the paper.
        distance: "cosine" of each layer, or "squares" for squared plus absolute differences.
        l1: Weight of absolute differences beside squared ones, at least 0.
        norm: Weight of the prior on the length of embeddings, at least 0. The default is the paper's.
        starts: Number of random starts, at least 1. The best one is taken. The default is the
            paper's.
        tries: Number of moves, at least 0, that are compared at a time. The default is the paper's.
        period: Number of steps, at least 1, between moves. The default is the paper's.
        after: Fraction of the steps before the first moves, from 0 to 1. The default is the paper's.
        prior: A language model for the same tokens, which returns sums of losses and numbers of
            tokens (B, 2). The default uses none.
        perplexity: Weight of the prior's mean loss per token, at least 0.
        restarts: Number of independent searches, at least 1. The objective chooses among them.
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
        Balunović, Dimitrov, Jovanović, Vechev. LAMP: Extracting Text from Gradients with Language
        Model Priors. NeurIPS 2022. arXiv:2202.08827.

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
        >>> attack = lg.attacks.LAMP(steps=5, starts=2, tries=2, period=2)
        >>> attack(observation, seeds=lg.Seeds(0)).inputs.shape
        torch.Size([1, 6])
    """

    steps: Count = 2000
    lr: Positive = 0.2
    distance: Literal["cosine", "squares"] = "cosine"
    l1: NonNegative = 0.01
    norm: NonNegative = 1.0
    starts: Count = 500
    tries: Whole = 200
    period: Count = 75
    after: Fraction = 0.1
    prior: nn.Module | None = None
    perplexity: NonNegative = 0.2
    restarts: Count = 1
    bag: bool = True
    lengths: tuple[Count, ...] = ()
    guesses: Whole = 12
    first: Whole | None = None
    last: Whole | None = None

    def matching(self, text: EmbeddedText) -> GradientMatching:
        objective: Term = LayerCosine()
        if self.distance == "squares":
            objective = L2() + self.l1 * L1()
        if self.norm > 0:
            length = float(text.space.table.norm(dim=1).mean())
            objective = objective + self.norm * EmbeddingNorm(text.unknown, length)
        variables = text.variables()
        judge: Judge | None = None
        if self.prior is not None and self.perplexity > 0:
            judge = Perplexity(text, deep_copy(self.prior), self.perplexity)
        return GradientMatching(
            objective=objective,
            parametrization=variables,
            labels=labels_of(text),
            descent=MovingAdam(
                steps=self.steps,
                lr=self.lr,
                decay=0.89,
                every=50,
                propose=Orders(text.unknown),
                judge=judge,
                starts=self.starts,
                noise=variables.noise,
                tries=self.tries,
                period=self.period,
                after=self.after,
            ),
            restarts=self.restarts,
        )


@dataclass(frozen=True, eq=False)
class Perplexity:
    """The weighted mean loss per token of a language model on the nearest tokens.

    Args:
        text: The text, whose space turns embeddings into tokens.
        prior: The language model.
        weight: The weight.
    """

    text: EmbeddedText
    prior: nn.Module
    weight: float

    def __call__(self, variables: Tensor) -> float:
        """Return the weighted mean loss of the tokens nearest to variables (B, L, d)."""
        tokens = self.text.space.round(self.text.variables().decode(variables))
        with probing("the prior"), torch.no_grad():
            outputs = self.prior(tokens)
        if not isinstance(outputs, Tensor) or outputs.shape != (len(tokens), 2):
            raise ModelError(
                "prior of LAMP",
                expected=f"sums of losses and numbers of tokens ({len(tokens)}, 2)",
                found=f"{type(outputs).__name__}",
                remedy="wrap the language model in LanguageModel",
            )
        total, count = outputs.sum(0).tolist()
        return self.weight * float(total) / max(float(count), 1.0)


@dataclass(frozen=True, eq=False)
class Orders:
    """Random changes of the order of embeddings, within the unknown places.

    Args:
        unknown: Whether each place (B, L) is unknown.
    """

    unknown: Tensor

    def __call__(self, variables: Tensor, generator: torch.Generator) -> Tensor:
        """Return variables (B, L, d) in another order."""
        count = len(variables)

        def draw(below: int) -> int:
            return int(torch.randint(below, (1,), generator=generator))

        kind = draw(4 if count > 1 else 3)
        one = draw(count)
        places = self.unknown[one].nonzero().squeeze(1).tolist()
        if len(places) < 2:
            return variables
        if kind == 3:
            return self._trade(variables, one, (one + 1 + draw(count - 1)) % count, draw)
        order = list(range(len(places)))
        if kind == 0:
            i, j = draw(len(order)), draw(len(order))
            order[i], order[j] = order[j], order[i]
        else:
            # A token or a piece leaves its place, and enters at another one.
            start = draw(len(order))
            stop = start + 1 if kind == 1 else start + 1 + draw(len(order) - start)
            piece, left = order[start:stop], order[:start] + order[stop:]
            at = draw(len(left) + 1)
            order = left[:at] + piece + left[at:]
        moved = variables.clone()
        moved[one, places] = variables[one, [places[i] for i in order]]
        return moved

    def _trade(self, variables: Tensor, one: int, other: int, draw: Draw) -> Tensor:
        """Return the variables with the same piece of two sentences exchanged."""
        places = (self.unknown[one] & self.unknown[other]).nonzero().squeeze(1)
        if len(places) == 0:
            return variables
        start = draw(len(places))
        piece = places[start : start + 1 + draw(len(places) - start)]
        moved = variables.clone()
        moved[one, piece], moved[other, piece] = variables[other, piece], variables[one, piece]
        return moved
