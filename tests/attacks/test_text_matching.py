"""Gradient matching on text: the model on embeddings, and the attacks on it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import refusal
from support.texts import DOMAIN, TOKENS, Recurrent, TiedModel, observe, seeded
from torch import Tensor, nn

import leakgauge as lg
from leakgauge import attacks as A
from leakgauge.analytic.text.bag import token_bag
from leakgauge.analytic.text.inputs import Span, span_of_inputs
from leakgauge.attacks.embedded_text import EmbeddedText, embed_text
from leakgauge.attacks.lamp import Orders, Perplexity
from leakgauge.attacks.text_lengths import longest_sentence
from leakgauge.core import Inapplicable
from leakgauge.federated.layers.embeddings import TokenEmbedding, find_embedding
from leakgauge.inversion import MovingAdam
from leakgauge.inversion.descents.descent import Evaluation, Setting
from leakgauge.inversion.objectives.distances import relative_residual
from leakgauge.inversion.simulation.simulator import simulator

LENGTHS = (6, 4)


def transformer(**options: Any) -> nn.Module:
    return lg.models.transformer(DOMAIN, 2, dim=16, depth=1, **options)


def text_of(
    observation: lg.Observation,
    lengths: tuple[int, ...] = LENGTHS,
    *,
    first: int | None = None,
    last: int | None = None,
) -> EmbeddedText:
    embedding = find_embedding(observation)
    assert isinstance(embedding, TokenEmbedding)
    words = None if embedding.tied else token_bag(observation, embedding)
    found = embed_text(observation, embedding, words, lengths, first=first, last=last)
    assert isinstance(found, EmbeddedText), found
    return found


def residual_at_truth(observation: lg.Observation) -> float:
    """Return the residual of the private tokens' embeddings."""
    text = text_of(observation)
    unit = text.space.relax(TOKENS)
    targets = observation.knowledge.labels
    assert targets is not None
    simulated = simulator(text.searched, create_graph=False)(unit, targets)
    return float(relative_residual(simulated, text.searched.update.tensors))


class Ascending(nn.Module):
    """A language model that expects tokens in ascending order."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the number of falls in each sentence, and 1 (B, 2)."""
        falls = (tokens[:, 1:] < tokens[:, :-1]) & (tokens[:, 1:] != 0)
        losses = falls.float().sum(1)
        return torch.stack([losses, torch.ones_like(losses)], 1)


class TestEmbeddings:
    def test_the_private_embeddings_give_the_observed_update(self) -> None:
        for model in (transformer(), seeded(Recurrent)):
            threat = lg.Server(labels=True, order=True)
            assert residual_at_truth(observe(model, threat=threat)) < 1e-5

    @pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
    @pytest.mark.parametrize("lora", [None, 2])
    def test_so_they_do_in_transformers(self, family: str, lora: int | None) -> None:
        pytest.importorskip("transformers", reason="needs the package transformers")
        pytest.importorskip("peft", reason="needs the package peft")
        model = lg.models.hugging_face_text(DOMAIN, 2, family=family, dim=16, depth=1, lora=lora)
        threat = lg.Server(labels=True, order=True)
        assert residual_at_truth(observe(model, threat=threat)) < 1e-5

    def test_a_language_model_predicts_soft_tokens(self) -> None:
        """The last layer is the embedding, so its gradient has a part from tokens that are read."""
        observation = observe(seeded(TiedModel, dim=40), language=True)
        text = text_of(observation)
        assert text.searched.update.tensors.keys() == observation.update.tensors.keys()
        zeros = torch.zeros(2, dtype=torch.long)
        unit = text.space.relax(TOKENS)
        simulated = simulator(text.searched, create_graph=False)(unit, zeros)
        assert relative_residual(simulated, observation.update.tensors) < 0.02

    def test_rounding_finds_the_tokens_and_keeps_padding(self) -> None:
        text = text_of(observe(transformer()))
        assert text.space.bag is not None
        assert torch.equal(text.space.round(text.space.relax(TOKENS)), TOKENS)
        drawn = text.space.round(torch.randn(2, 8, 16))
        assert set(drawn.flatten().tolist()) <= {0, *TOKENS.flatten().tolist()}
        assert torch.equal(drawn == 0, TOKENS == 0)

    def test_the_longest_sentence_is_read_from_the_positions(self) -> None:
        for count in (1, 2):
            observation = observe(transformer(), count=count)
            embedding = find_embedding(observation)
            assert isinstance(embedding, TokenEmbedding)
            assert longest_sentence(observation, embedding) == 6

    def test_known_tokens_are_not_searched_for(self) -> None:
        text = text_of(observe(transformer()), first=1, last=2)
        assert text.space.template[0].tolist() == [1, -1, -1, -1, -1, 2, 0, 0]

    def test_lengths_that_do_not_fit_are_named(self) -> None:
        attack = A.TAG(lengths=(6, 9))
        assert "expected 2 numbers from 1 to 8" in (refusal(attack, observe(transformer())) or "")

    def test_a_model_that_reads_tokens_in_another_way_is_named(self) -> None:
        class Counting(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.table = nn.Embedding(60, 2)

            def forward(self, tokens: Tensor) -> Tensor:
                scores: Tensor = self.table(tokens).mean(1) * tokens.float().mean(1, keepdim=True)
                return scores

        reason = refusal(A.TAG(), observe(seeded(Counting))) or ""
        assert "depends on the tokens by more" in reason


class TestAttacks:
    @pytest.mark.parametrize(
        "attack",
        [
            A.TAG(steps=400, restarts=3),
            A.LAMP(steps=150, starts=20, tries=20),
            A.TIGER(steps=300),
        ],
    )
    def test_a_sentence_is_read(self, attack: lg.BaseAttack) -> None:
        observation = observe(lg.models.transformer(DOMAIN, 2, dim=32, depth=1), count=1)
        found = attack(observation, seeds=lg.Seeds(0))
        assert found.inputs.dtype == torch.int64
        assert found.targets is not None
        assert found.targets.tolist() == [1]
        assert ((found.inputs == TOKENS[:1]).float().mean()) >= 0.75
        assert all(each.inputs.dtype == torch.int64 for each in found.trajectory)

    def test_tiger_reads_a_batch_exactly(self) -> None:
        model = lg.models.transformer(DOMAIN, 2, dim=32, depth=1)
        attack = A.TIGER(steps=600, lengths=LENGTHS)
        found = attack(observe(model, threat=lg.Server(labels=True, order=True)), seeds=lg.Seeds(0))
        assert torch.equal(found.inputs, TOKENS)
        assert found.status is lg.Status.CONVERGED

    def test_unknown_lengths_are_trimmed(self) -> None:
        model = lg.models.transformer(DOMAIN, 2, dim=32, depth=1)
        observation = observe(model, threat=lg.Server(labels=True, order=True))
        found = A.TIGER(steps=600)(observation, seeds=lg.Seeds(0))
        assert torch.equal(found.inputs, TOKENS)
        assert found.notes[0].startswith("lengths: the longest sentence has 6 tokens")
        assert "lengths: trimmed to (6, 4), which match the update better" in found.notes

    def test_the_length_of_one_sentence_is_guessed_without_positions(self) -> None:
        attack = A.TAG(steps=100, guesses=3)
        found = attack(observe(seeded(Recurrent), count=1), seeds=lg.Seeds(0))
        assert any("tokens match best" in note for note in found.notes)
        assert (
            found.cost.evaluations <= attack.plan(observe(seeded(Recurrent), count=1)).evaluations
        )

    def test_tiger_says_where_the_span_is_full(self) -> None:
        reason = refusal(A.TIGER(), observe(lg.models.transformer(DOMAIN, 2, dim=4, heads=2)))
        assert "12 tokens for 4 dimensions" in (reason or "")

    def test_a_language_model_is_read(self) -> None:
        """LAMP reads the sentence. The search of DLG ends in a local minimum, but reads the first token."""
        observation = observe(seeded(TiedModel, dim=40), count=1, language=True)
        lamp = A.LAMP(steps=300, starts=20, tries=20, lengths=(6,))
        found = lamp(observation, seeds=lg.Seeds(0))
        assert (found.inputs == TOKENS[:1]).float().mean() >= 0.75
        dlg = A.TextDLG(steps=10, line_search=True, lengths=(6,))
        assert int(dlg(observation, seeds=lg.Seeds(0)).inputs[0, 0]) == 7

    def test_a_prior_chooses_the_order_of_words(self) -> None:
        """The objective is the same for all orders, so the prior alone chooses."""
        text = text_of(observe(transformer(), count=1), (6,))
        judge = Perplexity(text, Ascending(), 1.0)
        descent = MovingAdam(
            steps=2, propose=Orders(text.unknown), judge=judge, tries=50, period=1, after=0.0
        )
        start = text.space.relax(TOKENS[:1]) / text.scale
        run = descent.run((start,), Setting(project=lambda _: None, tolerance=-1.0))
        steps, request = [], next(run)
        for _ in range(1 + 51):
            if request.slope:
                steps.append(judge(request.variables[0]))
            request = run.send(Evaluation(0.0, (torch.zeros_like(start),)))
        assert request.slope
        assert judge(request.variables[0]) < steps[0] == 2.0

    def test_a_prior_of_another_kind_is_refused(self) -> None:
        prior = lg.models.transformer(DOMAIN, 3, dim=16, depth=1)
        attack = A.LAMP(steps=2, period=1, after=0.0, starts=1, tries=1, prior=prior)
        with pytest.raises(lg.ModelError, match="LanguageModel"):
            attack(observe(transformer()), seeds=lg.Seeds(0))

    def test_images_are_refused(self) -> None:
        reason = refusal(A.LAMP(), lg.examples.observation())
        assert reason == "needs text, which a model reads through an embedding of its tokens"


class TestSpan:
    def test_it_holds_the_inputs_of_the_queries(self) -> None:
        observation = observe(transformer())
        span = span_of_inputs(observation, 10)
        assert isinstance(span, Span)
        assert span.layer == "layers.0.attention.query"
        model: Any = observation.model
        embedded = model.embedding(TOKENS) + model.position(torch.arange(8))
        inputs = model.layers[0].norm1(embedded)[TOKENS != 0].detach()
        rest = inputs - inputs @ span.basis.T @ span.basis
        assert rest.norm() < 1e-4 * inputs.norm()

    def test_a_recurrent_model_has_none(self) -> None:
        found = span_of_inputs(observe(seeded(Recurrent)), 10)
        assert isinstance(found, Inapplicable)
