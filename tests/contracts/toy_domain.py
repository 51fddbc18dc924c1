"""A domain of integers, its modality, its data, its network and its attack: all that a user of new data writes.

An example is a word of up to LENGTH letters, padded with END to one shape.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

import leakgauge as lg
from leakgauge.core import Domain, Inapplicable, InSpace, Plan, SearchSpace
from leakgauge.metrics.leak import LeakRule
from leakgauge.modalities import Content, Layout, Metric, Modality, Save
from leakgauge.records import Headline, Rows

LENGTH, LETTERS, CLASSES, WIDTH = 6, 26, 3, 8
END = LETTERS
"""The value behind the last letter: no letter."""


@dataclass(frozen=True)
class Weights:
    """LENGTH rows of LETTERS + 1 weights, one of them for each letter and one for the end."""

    shape: ClassVar[tuple[int, ...]] = (LENGTH, LETTERS + 1)
    differentiable: ClassVar[bool] = False
    discrete: ClassVar[bool] = True

    def relax(self, examples: Tensor) -> Tensor:
        return one_hot(examples, LETTERS + 1).float()

    def to_inputs(self, relaxed: Tensor) -> Tensor:
        return self.round(relaxed)

    def round(self, relaxed: Tensor) -> Tensor:
        letters = relaxed.argmax(-1)
        ended = (letters == END).cumsum(-1) > 0
        return letters.masked_fill(ended, END)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        letters = torch.randint(LETTERS, (count, LENGTH), generator=generator)
        lengths = torch.randint(1, LENGTH + 1, (count, 1), generator=generator)
        return letters.masked_fill(torch.arange(LENGTH) >= lengths, END)


class Letters(Modality):
    """Score words by the fraction of places read exactly."""

    headline: ClassVar[Headline] = Headline(
        metric="exact_matches",
        heading="letters",
        title="letters read",
        unit="letters read",
        format="percent",
        better="higher",
        reads="{score} of a word's letters read",
        reads_exactly="all of a word's letters read",
    )
    layout: ClassVar[Layout] = "rows"
    rule: ClassVar[LeakRule | None] = LeakRule(
        name="word above control",
        text="A word counts as leaked when at least half of its places are read, and more than the control reads.",
        metric="exact_matches",
        floor=0.5,
    )

    def metrics(self, domain: Domain, decoys: Tensor) -> dict[str, Metric]:
        return {"exact_matches": exact_matches}

    def columns(self, domain: Domain) -> tuple[lg.Column, ...]:
        return tuple(
            lg.Column(f"letter {place + 1}", 0, END, decimals=0, integer=True)
            for place in range(LENGTH)
        )

    def content(self, sides: Mapping[str, Tensor], save: Save) -> Content:
        values: dict[str, Any] = {side: words.tolist() for side, words in sides.items()}
        return Content(rows=Rows(**values))


def exact_matches(truth: Tensor, guess: Tensor) -> Tensor:
    """Return the fraction of equal places of one-hot rows (B, LENGTH, LETTERS + 1)."""
    return (truth.argmax(-1) == guess.argmax(-1)).double().mean(1)


@dataclass(frozen=True)
class Words(InSpace):
    """Words (LENGTH,) of integers from 0 to END."""

    kind: ClassVar[str] = "word"
    shape: ClassVar[tuple[int, ...]] = (LENGTH,)
    dtype: ClassVar[torch.dtype] = torch.int64

    @property
    def space(self) -> SearchSpace:
        return Weights()

    @property
    def modality(self) -> Modality:
        return Letters()


class Network(nn.Module):
    """Embed each letter, then weigh all places linearly. It is given integers and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(LETTERS + 1, WIDTH, padding_idx=END)
        self.head = nn.Linear(LENGTH * WIDTH, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embedding(words).flatten(1))
        return logits


def network() -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network()


@dataclass(frozen=True)
class RelaxedWeights(Weights):
    """The same weights, for a network that is given rows of weights in the place of integers."""

    differentiable: ClassVar[bool] = True

    def relax(self, examples: Tensor) -> Tensor:
        return examples if examples.is_floating_point() else super().relax(examples)

    def to_inputs(self, relaxed: Tensor) -> Tensor:
        return relaxed


@dataclass(frozen=True)
class RelaxedWords(Words):
    """Words that attacks on real values can search for."""

    @property
    def space(self) -> SearchSpace:
        return RelaxedWeights()


class RelaxedNetwork(Network):
    """The same network. It is given integers, or rows of weights that mix the embeddings."""

    def forward(self, words: Tensor) -> Tensor:
        if not words.is_floating_point():
            return super().forward(words)
        logits: Tensor = self.head((words @ self.embedding.weight).flatten(1))
        return logits


TEXT = "apple bread cress dates figs grapes ham jam kale leeks mint nuts oats peas rice tea"


def words() -> lg.Dataset:
    places = [[string.ascii_lowercase.index(letter) for letter in word] for word in TEXT.split()]
    inputs = torch.tensor([word + [END] * (LENGTH - len(word)) for word in places])
    targets = torch.arange(len(inputs)) % CLASSES
    return lg.Dataset("words", inputs, targets, Words(), CLASSES)


@dataclass(frozen=True, kw_only=True)
class Lookup(lg.BaseAttack):
    """Read one word from the embedding's gradient.

    The gradient at the logits is that of the head's bias, so what each place hands back to the embedding is known. The
    gradient of a letter's row is the sum over the places that hold it.
    """

    discrete: ClassVar[bool] = True

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: lg.Observation) -> Plan | Inapplicable:
        reason = observation.not_one_example()
        if reason is not None:
            return Inapplicable(reason)
        return Plan(evaluations=1, search=lambda seeds, progress: read(observation))


def read(observation: lg.Observation) -> lg.Reconstruction:
    """Return the word whose letters explain each row of the embedding's gradient."""
    update, model = observation.update.tensors, observation.model
    assert isinstance(model, Network)
    slope = update["head.bias"]
    handed = (slope @ model.head.weight.detach()).reshape(LENGTH, WIDTH)
    word = torch.full((1, LENGTH), END)
    rows = update["embedding.weight"]
    for letter in rows.abs().sum(1).nonzero().flatten().tolist():
        for places in subsets(LENGTH):
            if torch.allclose(handed[places].sum(0), rows[letter], rtol=1e-3, atol=1e-6):
                word[0, places] = letter
    targets = slope.argmin()[None]
    simulated = observation.training(model, observation.loss, word, targets)
    wrong = sum(float((simulated[n] - update[n]).square().sum()) for n in update) ** 0.5
    return lg.Reconstruction(
        inputs=word,
        targets=targets,
        found=torch.tensor([True]),
        status=lg.Status.CONVERGED,
        message="read from the embedding",
        residual=wrong / sum(float(t.square().sum()) for t in update.values()) ** 0.5,
    )


def subsets(count: int) -> list[list[int]]:
    """Return all nonempty subsets of `count` places."""
    sizes = range(1, count + 1)
    return [list(places) for size in sizes for places in combinations(range(count), size)]
