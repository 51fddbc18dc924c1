"""Deep Leakage from Gradients on text."""

from __future__ import annotations

from dataclasses import dataclass

from leakgauge.attacks.embedded_text import EmbeddedText, labels_of
from leakgauge.attacks.text_matching import TextMatching
from leakgauge.core.ranges import Count, NonNegative, Positive, Whole
from leakgauge.inversion import L2, LBFGS, GradientMatching


@dataclass(frozen=True, kw_only=True)
class TextDLG(TextMatching):
    r"""Match gradients of a text model by squared distance: L-BFGS optimizes embeddings, which become tokens.

    Use it to compare with the paper, which reads sentences of a masked language model. `LAMP` is
    stronger.

    .. math::

        \min_{x, t} \; \sum_l \|g_l(x, \mathrm{softmax}(t)) - g^*_l\|^2

    Here :math:`g_l` is the simulated gradient of parameter tensor l, and :math:`g^*_l` the observed
    one. The variables are the embeddings :math:`x` of the tokens, and the logits :math:`t` of the
    labels if they are not granted. Both start from N(0, 1), in units of the deviation of the
    vocabulary's embeddings. At the end, each embedding becomes the nearest token.

    The update of a language model also depends on the tokens that it predicts. For these, each
    token counts with a weight: the softmax of the negative squared distances to the vocabulary.
    The gradient of an embedding that is not tied is left out. It gives the words, see `bag`.

    Args:
        steps: Number of steps, at least 1, of 20 iterations of L-BFGS each. The default is the
            paper's.
        lr: Step size of L-BFGS, above 0. The default is the paper's.
        line_search: Whether L-BFGS searches along its directions. The paper does not.
        tolerance: Objective at which the search stops, at least 0. It is a squared gradient.
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
        Zhu, Liu, Han. Deep Leakage from Gradients. NeurIPS 2019, section 4.2. arXiv:1906.08935.

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
        >>> lg.attacks.TextDLG(steps=1)(observation, seeds=lg.Seeds(0)).inputs.shape
        torch.Size([1, 6])
    """

    steps: Count = 300
    lr: Positive = 1.0
    line_search: bool = False
    tolerance: NonNegative = 1e-9
    bag: bool = True
    lengths: tuple[Count, ...] = ()
    guesses: Whole = 12
    first: Whole | None = None
    last: Whole | None = None

    def matching(self, text: EmbeddedText) -> GradientMatching:
        return GradientMatching(
            objective=L2(),
            parametrization=text.variables(),
            labels=labels_of(text, joint=True),
            descent=LBFGS(
                steps=20 * self.steps,
                lr=self.lr,
                line_search="strong_wolfe" if self.line_search else "none",
            ),
            tolerance=self.tolerance,
        )
