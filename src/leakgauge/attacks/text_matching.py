"""Gradient matching on text: a search among embeddings, whose result is rounded to tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from leakgauge.analytic.text.bag import token_bag
from leakgauge.attacks.embedded_text import EmbeddedText, embed_text
from leakgauge.attacks.labels import granted, plan_labels
from leakgauge.attacks.recipe import Labeled, label_if_needed, settle
from leakgauge.attacks.text_lengths import Guesses, Lengths, guess_lengths, trim_lengths
from leakgauge.core import (
    BaseAttack,
    Inapplicable,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    scale_progress,
)
from leakgauge.core.progress import no_objective
from leakgauge.core.ranges import Count, Whole
from leakgauge.federated.layers.embeddings import find_embedding
from leakgauge.inversion import (
    LBFGS,
    Adam,
    GradientMatching,
    Known,
    MovingAdam,
)
from leakgauge.inversion.search.engine import Ready
from leakgauge.inversion.variables.labels import ReadyLabels


class TextMatching(BaseAttack):
    """An attack that is one `GradientMatching` on embeddings. Subclasses are frozen dataclasses.

    They override `matching`, and have the options of `LAMP` on words and lengths.
    """

    discrete: ClassVar[bool] = True

    bag: bool
    lengths: tuple[Count, ...]
    guesses: Whole
    first: Whole | None
    last: Whole | None

    def matching(self, text: EmbeddedText) -> GradientMatching | Inapplicable:
        """Return the composition of this attack on a text."""
        raise NotImplementedError

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        embedding = find_embedding(observation)
        if isinstance(embedding, Inapplicable):
            return embedding
        words = None if embedding.tied or not self.bag else token_bag(observation, embedding)
        least = max(1, (self.first is not None) + (self.last is not None))
        guesses = guess_lengths(
            observation,
            embedding,
            self.lengths,
            words=0 if words is None else len(words),
            least=least,
            most=self.guesses,
        )
        if isinstance(guesses, Inapplicable):
            return guesses
        embedded = partial(
            embed_text, observation, embedding, words, first=self.first, last=self.last
        )
        text = embedded(guesses.options[0])
        if isinstance(text, Inapplicable):
            return text
        found = self.ready(text)
        if isinstance(found, Inapplicable):
            return found
        matching = found.ready.matching if isinstance(found, Labeled) else found.matching
        search = _Search(self.matching, guesses, embedded, least, text, found, matching.budget)
        return Plan(evaluations=search.most, search=search, expected=search.usual)

    def ready(self, text: EmbeddedText) -> Labeled | Ready | Inapplicable:
        """Return the matching of a text with its labels, or the reason why it cannot run."""
        matching = self.matching(text)
        if isinstance(matching, Inapplicable):
            return matching
        planned = None
        if isinstance(matching.labels, Known) and not granted(text.tokens):
            planned = plan_labels(text.tokens)
        return label_if_needed(matching, text.searched, planned)


@dataclass(frozen=True)
class _Search:
    """A search among embeddings.

    If the lengths are not known, short searches compare guesses for one sentence. The result is then
    trimmed: sentences become as short as the update likes them best. If this shortens a sentence,
    the search runs once more, and the smaller residual decides.

    Args:
        matching: Returns the composition for a text.
        guesses: The possible lengths.
        embedded: Returns the text for given lengths.
        least: Fewest tokens of a sentence.
        text: The text for the first guess.
        found: The matching for the first guess.
        budget: Evaluations of a whole search.
    """

    matching: Callable[[EmbeddedText], GradientMatching | Inapplicable]
    guesses: Guesses
    embedded: Callable[[Lengths], EmbeddedText | Inapplicable]
    least: int
    text: EmbeddedText
    found: Labeled | Ready
    budget: int

    @property
    def brief(self) -> int:
        """Evaluations of all short searches together."""
        composed = self.found.ready if isinstance(self.found, Labeled) else self.found
        several = len(self.guesses.options) > 1
        return len(self.guesses.options) * shortened(composed.matching).budget if several else 0

    @property
    def usual(self) -> int:
        """Evaluations of an ordinary run."""
        return self.brief + self.budget

    @property
    def most(self) -> int:
        """Most evaluations of a run."""
        trims = 0 if self.guesses.exact else 1 + sum(self.guesses.options[0])
        return self.brief + self.budget * (1 if self.guesses.exact else 2) + trims

    def __call__(self, seeds: Seeds, progress: Progress) -> Reconstruction:
        """Return tokens."""
        matching, notes = settle(self.found, seeds)
        labels = matching.labels
        notes, lengths, text = (self.guesses.source, *notes), self.guesses.options[0], self.text
        if self.brief:
            lengths, text, matching = self.best_guess(labels, seeds, progress)
            notes = (*notes, f"lengths: {lengths[0]} tokens match best")
        result = self.run((text, matching), seeds, progress, (self.brief, self.brief), notes)
        if self.guesses.exact:
            return result
        trimmed = self.trimmed(text, result, lengths)
        again = self.prepared(trimmed, labels) if trimmed != lengths else None
        spent = result.cost.evaluations + 1 + sum(lengths)
        if again is None:
            return _with_cost(result, spent)
        notes = (*notes, f"lengths: trimmed to {trimmed}, which match the update better")
        spans = (self.brief + self.budget, spent)
        second = self.run(again, seeds.child("trimmed"), progress, spans, notes)
        best = min((result, second), key=_residual)
        return _with_cost(best, second.cost.evaluations)

    def run(
        self,
        prepared: tuple[EmbeddedText, Ready],
        seeds: Seeds,
        progress: Progress,
        before: tuple[int, int],
        notes: tuple[str, ...],
    ) -> Reconstruction:
        """Return the tokens of one search.

        Args:
            prepared: The text and its matching.
            seeds: The seeds of the search.
            progress: The callback that receives the progress.
            before: Number of evaluations before it, as planned and as spent.
            notes: Notes for the record.
        """
        text, matching = prepared
        planned, spent = before

        def finish(found: Reconstruction) -> Reconstruction:
            tokens = text.tokens_of(found)
            noted = replace(tokens, notes=(*notes, *tokens.notes))
            return _with_cost(noted, spent + found.cost.evaluations)

        budget = matching.matching.budget
        told = scale_progress(
            progress,
            planned / self.most,
            budget / self.most,
            evaluations=spent,
            finish=finish,
            # The objectives of searches at other lengths cannot be compared.
            objective=None if self.guesses.exact else no_objective,
        )
        return finish(matching.search(seeds, told))

    def best_guess(
        self, labels: ReadyLabels, seeds: Seeds, progress: Progress
    ) -> tuple[Lengths, EmbeddedText, Ready]:
        """Return the guess whose tokens match the update best after a short search."""
        best, spent, least, planned = None, 0, math.inf, 0
        for option in self.guesses.options:
            prepared = self.prepared(option, labels)
            if prepared is None:
                continue
            text, matching = prepared
            brief = replace(matching, matching=shortened(matching.matching))
            inside = seeds.child(f"lengths/{option}")
            found = self.run((text, brief), inside, progress, (planned, spent), ())
            planned, spent = planned + brief.matching.budget, found.cost.evaluations
            if best is None or _residual(found) < least:
                best, least = (option, text, matching), _residual(found)
        assert best is not None, "the first guess was prepared before"
        return best

    def prepared(self, lengths: Lengths, labels: ReadyLabels) -> tuple[EmbeddedText, Ready] | None:
        """Return the text and the matching for lengths, or None if they do not allow a search."""
        text = self.embedded(lengths)
        composed = text if isinstance(text, Inapplicable) else self.matching(text)
        if isinstance(text, Inapplicable) or isinstance(composed, Inapplicable):
            return None
        return text, Ready.of(composed, text.searched, labels)

    def trimmed(self, text: EmbeddedText, found: Reconstruction, lengths: Lengths) -> Lengths:
        """Return the lengths at which the tokens match the update best."""
        if found.residual is None:
            return lengths

        def residual(tried: Lengths) -> float:
            return text.residual_of_shorter(found, tried)

        return trim_lengths(found.inputs, lengths, self.least, residual)


def shortened(matching: GradientMatching) -> GradientMatching:
    """Return a tenth of a search, to compare guesses of the lengths."""
    descent = matching.descent
    assert isinstance(descent, Adam | LBFGS), "attacks on text descend by Adam or L-BFGS"
    steps = max(1, descent.steps // 10)
    if isinstance(descent, MovingAdam):
        brief = replace(descent, steps=steps, starts=1, tries=0)
        return replace(matching, descent=brief, restarts=1)
    return replace(matching, descent=replace(descent, steps=steps), restarts=1)


def _residual(found: Reconstruction) -> float:
    """Return the residual of a reconstruction, infinite if it is not known."""
    return math.inf if found.residual is None else found.residual


def _with_cost(found: Reconstruction, evaluations: int) -> Reconstruction:
    """Return a reconstruction at another cost."""
    return replace(found, cost=replace(found.cost, evaluations=evaluations))
