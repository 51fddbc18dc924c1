"""TAG: gradients of text matched by squared and absolute differences."""

from __future__ import annotations

from dataclasses import dataclass

from leakgauge.attacks.embedded_text import EmbeddedText, labels_of
from leakgauge.attacks.text_matching import TextMatching
from leakgauge.core.ranges import Count, NonNegative, Positive, Whole
from leakgauge.inversion import L1, L2, Adam, GradientMatching, Term


@dataclass(frozen=True, kw_only=True)
class TAG(TextMatching):
    r"""Match gradients of a text model by squared and absolute differences, with Adam on embeddings.

    Use it to compare with the paper. `LAMP` adds knowledge of the language.

    .. math::

        \min_x \; \sum_l \|g_l(x, y) - g^*_l\|^2 + \alpha \sum_l \|g_l(x, y) - g^*_l\|_1

    Here :math:`g_l` is the simulated gradient of parameter tensor l, :math:`g^*_l` the observed
    one, and :math:`\alpha` is `l1`. The variables are the embeddings :math:`x` of the tokens. They
    start from N(0, 1), in units of the deviation of the vocabulary's embeddings. Labels :math:`y`
    are granted, or recovered first. At the end, each embedding becomes the nearest token.

    The paper starts from N(0, 1) and steps by 0.05, both in the model's own units. Here both are in
    units of the embeddings' deviation, which differs between models.

    Args:
        steps: Number of steps, at least 1. The default is the paper's.
        lr: Step size of Adam, above 0, in units of the deviation of the vocabulary's embeddings.
            The default is ours.
        l1: Weight of the absolute differences, at least 0.
        weight_decay: Decay of the embeddings in each step, at least 0.
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
        Deng, Wang, Li, Wang, Shang, Liu, Rajasekaran, Ding. TAG: Gradient Attack on
        Transformer-based Language Models. Findings of EMNLP 2021. arXiv:2103.06819.

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
        >>> lg.attacks.TAG(steps=5)(observation, seeds=lg.Seeds(0)).inputs.shape
        torch.Size([1, 6])
    """

    steps: Count = 1000
    lr: Positive = 0.2
    l1: NonNegative = 0.01
    weight_decay: NonNegative = 0.0
    restarts: Count = 1
    bag: bool = True
    lengths: tuple[Count, ...] = ()
    guesses: Whole = 12
    first: Whole | None = None
    last: Whole | None = None

    def matching(self, text: EmbeddedText) -> GradientMatching:
        objective: Term = L2()
        if self.l1 > 0:
            objective = objective + self.l1 * L1()
        return GradientMatching(
            objective=objective,
            parametrization=text.variables(),
            labels=labels_of(text),
            descent=Adam(steps=self.steps, lr=self.lr, weight_decay=self.weight_decay),
            restarts=self.restarts,
        )
