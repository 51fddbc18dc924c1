"""The bag of words, and the token embedding that it is taken from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leakgauge as lg
from leakgauge.analytic.text.bag import token_bag
from leakgauge.core import Inapplicable
from leakgauge.federated.layers.embeddings import TokenEmbedding, find_embedding
from tests.support.texts import DOMAIN, Recurrent, TiedModel, observe, seeded

BAG = [3, 7, 8, 9, 11, 12, 40, 50]


def transformer() -> nn.Module:
    return lg.models.transformer(DOMAIN, 2, dim=16, depth=1)


def test_the_bag_of_a_classifier_is_exact() -> None:
    for model in (transformer(), seeded(Recurrent)):
        bag = token_bag(observe(model))
        assert bag is not None
        assert bag.tolist() == BAG


def test_a_tied_embedding_still_shows_its_inputs() -> None:
    observation = observe(seeded(TiedModel, dim=40), language=True)
    assert find_embedding(observation) == TokenEmbedding("table.weight", tied=True)
    bag = token_bag(observation)
    assert bag is not None
    # The last token of each sentence is predicted, but predicts nothing.
    assert set(BAG) - {40, 8} <= set(bag.tolist()) <= set(BAG)


def test_a_tied_embedding_narrower_than_the_batch_tells_nothing() -> None:
    assert token_bag(observe(seeded(TiedModel, dim=8), language=True)) is None


def test_a_frozen_embedding_and_a_noisy_one_give_no_bag() -> None:
    assert token_bag(observe(transformer(), frozen="embedding.weight")) is None
    noise = lg.defenses.GaussianNoise(std=1e-3)
    assert token_bag(observe(transformer(), defense=noise)) is None


def test_the_positions_of_a_transformer_are_found() -> None:
    found = find_embedding(observe(transformer()))
    assert found == TokenEmbedding("embedding.weight", False, "position.weight", tuple(range(8)))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_embeddings_of_transformers_are_found_behind_adapters(family: str) -> None:
    pytest.importorskip("transformers", reason="needs the package transformers")
    pytest.importorskip("peft", reason="needs the package peft")
    model = lg.models.hugging_face_text(DOMAIN, 2, family=family, dim=16, depth=1, lora=2)
    found = find_embedding(observe(model))
    assert isinstance(found, TokenEmbedding)
    assert model.get_parameter(found.name).shape == (60, 16)


def test_a_model_without_an_embedding_is_named() -> None:
    class Hot(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(60, 2)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            hot = nn.functional.one_hot(tokens, 60).float().mean(1)
            logits: torch.Tensor = self.head(hot)
            return logits

    found = find_embedding(observe(seeded(Hot)))
    assert isinstance(found, Inapplicable)
    assert "looks no token up" in found.reason
