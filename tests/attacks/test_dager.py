"""DAGER and the bag of words: exact sequences from decoders, encoders, language models, LoRA and plain modules."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import leakgauge as lg
from leakgauge.analytic.text.multiplicities import choose
from leakgauge.analytic.text.readers import readers_of

DOMAIN = lg.TextDomain(200, 8, pad=0)
ROWS = [[7, 3, 9, 4, 0, 0, 0, 0], [7, 12, 100, 4, 9, 31, 0, 0], [55, 3, 140, 88, 21, 6, 199, 2]]


def observed(
    model: nn.Module,
    rows: list[list[int]],
    labels: list[int],
    *,
    training: lg.LocalTraining | None = None,
    defense: lg.Defense | None = None,
    language: bool = False,
) -> lg.Observation:
    """Return the server's view of a batch, without labels."""
    client = lg.Client(
        model=model,
        loss=lg.models.token_mean if language else cross_entropy,
        domain=DOMAIN,
        classes=1 if language else 2,
        training=training or lg.FedSGD(),
        defense=defense,
    )
    batch = lg.Batch(torch.tensor(rows), torch.tensor(labels))
    return lg.Server(labels=False).observe(client, batch, seeds=lg.Seeds(0))


def read(seen: lg.Observation) -> lg.Reconstruction:
    return lg.attacks.DAGER()(seen, seeds=lg.Seeds(0))


def pairs(inputs: Tensor, targets: Tensor | None) -> list[tuple[list[int], int]]:
    labels = [0] * len(inputs) if targets is None else targets.tolist()
    return sorted(zip(inputs.tolist(), labels, strict=True))


@pytest.mark.parametrize("attention", ["both", "causal"])
@pytest.mark.parametrize("size", [1, 3])
def test_reads_sequences_of_several_lengths_with_their_labels(attention: str, size: int) -> None:
    model = lg.models.transformer(DOMAIN, 2, attention=attention)
    labels = [1, 0, 0][:size]
    found = read(observed(model, ROWS[:size], labels))
    assert found.status == lg.Status.CONVERGED
    assert pairs(found.inputs, found.targets) == pairs(
        torch.tensor(ROWS[:size]), torch.tensor(labels)
    )


def test_reads_a_sequence_that_stands_twice() -> None:
    model = lg.models.transformer(DOMAIN, 2, attention="causal")
    rows = [ROWS[0], ROWS[0], ROWS[1]]
    found = read(observed(model, rows, [1, 1, 0]))
    assert pairs(found.inputs, found.targets) == pairs(torch.tensor(rows), torch.tensor([1, 1, 0]))


@pytest.mark.parametrize(
    ("family", "lora"),
    [("gpt2", None), ("bert", None), ("llama", None), ("gpt2", 24), ("llama", 24)],
)
def test_reads_models_of_transformers_and_adapters(family: str, lora: int | None) -> None:
    pytest.importorskip("transformers", reason="needs the extra text")
    model = lg.models.hugging_face_text(DOMAIN, 2, family=family, lora=lora, depth=4)
    found = read(observed(model, ROWS[:2], [0, 1]))
    assert pairs(found.inputs, found.targets) == pairs(torch.tensor(ROWS[:2]), torch.tensor([0, 1]))


def test_reads_the_last_token_of_a_language_model_which_is_only_predicted() -> None:
    pytest.importorskip("transformers", reason="needs the extra text")
    model = lg.models.hugging_face_text(DOMAIN, 1, family="gpt2", task="causal")
    found = read(observed(model, ROWS[:2], [0, 0], language=True))
    assert pairs(found.inputs, None) == pairs(torch.tensor(ROWS[:2]), None)


def test_reads_local_steps_and_noise() -> None:
    model = lg.models.transformer(DOMAIN, 2, attention="causal")
    seen = observed(model, ROWS[:2], [0, 1], training=lg.FedAvg(epochs=5, learning_rate=1e-3))
    assert pairs(read(seen).inputs, None) == pairs(torch.tensor(ROWS[:2]), None)
    noisy = observed(model, ROWS[:2], [0, 1], defense=lg.defenses.GaussianNoise(std=1e-6))
    assert pairs(read(noisy).inputs, None) == pairs(torch.tensor(ROWS[:2]), None)


def test_says_in_numbers_when_tokens_fill_the_inputs() -> None:
    layers = nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)
    model = nn.Sequential(nn.Embedding(200, 4), *layers, Mean())
    found = read(observed(model, ROWS, [0, 1, 0]))
    assert found.status == lg.Status.INAPPLICABLE
    assert "4 of 4" in found.message


def test_says_that_dropout_draws_random_numbers() -> None:
    model = nn.Sequential(nn.Embedding(200, 16), nn.Dropout(0.5), nn.Linear(16, 2), Mean()).train()
    found = readers_of(model, DOMAIN, ["2.weight"])
    assert isinstance(found, lg.Inapplicable)
    assert "dropout" in found.reason


class Mean(nn.Module):
    """Mean over positions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def test_a_plain_module_without_attention_gives_its_tokens() -> None:
    model = nn.Sequential(
        nn.Embedding(200, 16), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2), Mean()
    )
    found = read(observed(model, [ROWS[2]], [1]))
    assert found.status != lg.Status.CERTIFIED
    assert set(found.inputs[0].tolist()) <= set(ROWS[2]) | {0}


def test_frozen_layers_and_images_are_refused_in_one_line() -> None:
    model = lg.models.transformer(DOMAIN, 2)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("norm"))
    assert "no gradient of a linear layer" in read(observed(model, ROWS[:1], [0])).message
    assert "needs text" in read(lg.examples.observation()).message


def test_counts_drop_sequences_that_are_not_in_the_batch() -> None:
    model = lg.models.transformer(DOMAIN, 2, attention="causal")
    seen = observed(model, ROWS[:2], [1, 0])
    lengths = torch.tensor([4, 6, 8])
    chosen = choose(seen, torch.tensor(ROWS), lengths)
    assert pairs(chosen.tokens, chosen.labels) == pairs(
        torch.tensor(ROWS[:2]), torch.tensor([1, 0])
    )


@pytest.mark.parametrize("rows", [ROWS[:1], ROWS])
def test_the_bag_of_words_holds_all_tokens_and_no_others(rows: list[list[int]]) -> None:
    seen = observed(lg.models.transformer(DOMAIN, 2), rows, [0] * len(rows))
    found = lg.attacks.TokenBag()(seen, seeds=lg.Seeds(0))
    assert set(found.inputs.flatten().tolist()) - {0} == {t for row in rows for t in row} - {0}


def test_reads_a_sequence_that_ends_where_another_one_goes_on() -> None:
    rows = [[5, 6, 7, 0, 0, 0, 0, 0], [5, 6, 7, 8, 9, 0, 0, 0]]
    model = lg.models.transformer(DOMAIN, 2, attention="causal")
    found = read(observed(model, rows, [0, 1]))
    assert pairs(found.inputs, found.targets) == pairs(torch.tensor(rows), torch.tensor([0, 1]))


@pytest.mark.parametrize("batch_first", [True, False])
def test_reads_a_transformer_of_torch_with_its_own_attention(*, batch_first: bool) -> None:
    found = read(observed(OfTorch(batch_first=batch_first).eval(), ROWS[:2], [1, 0]))
    assert pairs(found.inputs, None) == pairs(torch.tensor(ROWS[:2]), None)


class OfTorch(nn.Module):
    """Embeddings with positions, and an encoder of torch, whose queries, keys and values share one weight."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.embedding = nn.Embedding(200, 64)
            self.position = nn.Parameter(torch.randn(8, 64))
            layer = nn.TransformerEncoderLayer(64, 2, 96, dropout=0.0, batch_first=batch_first)
            self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(64, 2)
        self.batch_first = batch_first

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position
        x = x if self.batch_first else x.transpose(0, 1)
        x = self.layers(x, src_key_padding_mask=tokens == 0)
        return self.head(x[:, 0] if self.batch_first else x[0])


def test_what_does_not_change_the_update_is_told() -> None:
    found = read(observed(lg.models.transformer(DOMAIN, 2), ROWS[:1], [1]))
    assert any("not proven" in note for note in found.notes)


def test_sequences_that_do_not_fit_are_not_said_to_be_read() -> None:
    rows = torch.randint(1, 200, (4, 8), generator=torch.Generator().manual_seed(1)).tolist()
    model = lg.models.transformer(DOMAIN, 2, dim=32, heads=8, depth=1)
    found = read(observed(model, rows, [0, 1, 0, 1]))
    assert found.status != lg.Status.CONVERGED
    assert "sequences read" not in found.message


def test_a_model_that_adds_positions_of_full_length_only() -> None:
    model = OfTorch(batch_first=True).eval()
    found = read(observed(model, ROWS[1:], [1, 0]))
    assert pairs(found.inputs, None) == pairs(torch.tensor(ROWS[1:]), None)


def test_an_update_that_is_not_finite_is_refused() -> None:
    seen = observed(lg.models.transformer(DOMAIN, 2), ROWS[:1], [1])
    broken = {name: t.clone() for name, t in seen.update.tensors.items()}
    broken["head.bias"][0] = torch.nan
    damaged = replace(seen, update=lg.Update(broken, seen.update.kind))
    assert "NaN" in read(damaged).message
