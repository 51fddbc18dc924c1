"""Audits of text from the data to the record: what is read, each defense, and mistakes in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import leakgauge as lg
from leakgauge.audit import Source, execute, plan_from
from leakgauge.records import Cell

DATA = lg.data.sentences()
PICKED = (47, 24, 4)
"""Two sentences of 14 and 11 tokens, and a short one."""


def case(**changes: Any) -> lg.Case:
    """Return a case of one sentence on a small transformer."""
    own = {
        "name": "sentences",
        "data": DATA,
        "model": lg.models.transformer(DATA.domain, 2, dim=32, depth=1, heads=2),
        "attacks": [lg.attacks.TokenBag()],
        "examples": PICKED,
    }
    return lg.Case(**(own | changes))


def cell_of(**changes: Any) -> Cell:
    (cell,) = lg.audit(case(**changes)).cells
    return cell


def test_dager_reads_a_sentence_and_the_record_shows_it() -> None:
    cell = cell_of(attacks=[lg.attacks.DAGER()])
    for metric in ("token_bag", "token_accuracy", "exact", "batch_bag"):
        assert cell.scores[metric] == (1.0,)
    assert cell.control is not None
    assert max(v for v in cell.control.scores["token_bag"] if v is not None) < 0.5
    assert cell.verdict.leaks
    assert cell.verdict.rule == "sentence above control"
    assert (cell.data.layout, cell.data.kind) == ("sentences", "text")
    assert cell.sentences is not None
    words = "".join(token.text for token in cell.sentences.original[0])
    assert words == " i could easily forgive his pride, if he had not mortified mine."
    assert {token.read for token in cell.sentences.reconstruction[0]} == {"place"}


def test_the_bag_of_a_batch_counts_in_the_batch() -> None:
    cell = cell_of(batch_sizes=[2])
    assert min(v for v in cell.scores["batch_bag"] if v is not None) > 0.9
    assert all(v is not None and v < 0.9 for v in cell.scores["token_bag"])
    assert cell.sentences is not None
    reads = {t.read for tokens in cell.sentences.original for t in tokens}
    assert "batch" in reads


@pytest.mark.parametrize(
    "defense",
    [
        lg.defenses.GaussianNoise(std=1e-2),
        lg.defenses.TopK(sparsity=0.9),
        lg.defenses.DPSGD(max_norm=0.1, noise_multiplier=0.1),
        lg.defenses.Quantization(),
        lg.defenses.DGC(),
        lg.defenses.LocalLayers(),
        lg.defenses.Precode(latent=8),
        lg.defenses.Dropout(),
    ],
    ids=lambda defense: type(defense).__name__,
)
def test_defenses_run_on_text(defense: lg.Defense) -> None:
    cell = cell_of(defenses=[defense], batch_sizes=[2])
    assert cell.failure is None
    assert cell.status in ("unconverged", "inapplicable")


@pytest.mark.parametrize(
    "training",
    [lg.FedAvg(epochs=2, minibatch=1, learning_rate=0.01), lg.FedSGD()],
    ids=["fedavg", "fedsgd"],
)
def test_local_steps_run_on_text(training: lg.LocalTraining) -> None:
    cell = cell_of(training=training, batch_sizes=[2])
    assert min(v for v in cell.scores["batch_bag"] if v is not None) > 0.9


@pytest.mark.parametrize(
    "defense", [lg.defenses.Mixup(), lg.defenses.InstaHide(), lg.defenses.DCS2()]
)
def test_defenses_that_mix_say_that_tokens_cannot_be_mixed(defense: lg.Defense) -> None:
    with pytest.raises(lg.LeakGaugeError, match="tokens, cannot be mixed") as caught:
        lg.audit(case(defenses=[defense]))
    assert "\n" not in str(caught.value)


def test_frozen_embeddings_hide_the_bag() -> None:
    model = lg.models.transformer(DATA.domain, 2, dim=32, depth=1, heads=2)
    model.embedding.weight.requires_grad_(False)
    cell = cell_of(model=model)
    assert cell.inapplicable
    assert "is shared, or its rows" in cell.message


def test_auto_says_in_few_lines_why_others_do_not_run() -> None:
    cell = cell_of(attacks=[lg.attacks.Auto()])
    assert cell.scores["exact"] == (1.0,)
    assert len(cell.notes) < 12
    assert sum("needs derivatives" in note for note in cell.notes) == 1


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "token_mean on a classifier": ({"loss": lg.models.token_mean}, "a language model and data"),
    "one class": (
        {"data": lg.Dataset("s", DATA.inputs, DATA.targets * 0, DATA.domain, classes=1)},
        "no gradient under cross_entropy",
    ),
    "another loss on a language model": (
        {
            "data": lg.Dataset("s", DATA.inputs, DATA.targets * 0, DATA.domain, classes=1),
            "model": lg.models.LanguageModel(torch.nn.Linear(2, 2)),
        },
        "token_mean",
    ),
    "accuracy of one class": (
        {
            "data": lg.Dataset("s", DATA.inputs, DATA.targets * 0, DATA.domain, classes=1),
            "model": lg.models.transformer(DATA.domain, 2, dim=8, depth=1, heads=1),
            "loss": lg.models.token_mean,
            "utility": lg.Utility(rounds=1),
        },
        "at least two classes",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_one_line(name: str) -> None:
    changes, words = MISTAKES[name]
    with pytest.raises(lg.LeakGaugeError) as caught:
        lg.audit(case(**changes))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lora", [None, 2])
def test_a_language_model_from_a_specification(tmp_path: Path, lora: int | None) -> None:
    for package in ("transformers", "tokenizers", *(("peft",) if lora else ())):
        pytest.importorskip(package)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "fish", "##es", "swim"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "a.txt").write_text("red fishes swim\nblue fish\nred fish\nblue fishes swim\n")
    adapters = "" if lora is None else f", lora = {lora}"
    specification = f"""
        data = {{name = "text", path = "{tmp_path / "a.txt"}", tokenizer = "{tmp_path}"}}
        model = {{name = "hugging_face_text", task = "causal", dim = 8, depth = 1, heads = 1{adapters}}}
        loss = "token_mean"
        attacks = ["token_bag"]
    """
    plan = plan_from(Source(specification))
    (cell,) = execute(plan).cells
    # The rows of tied embeddings are not zero, and LoRA shares none.
    assert cell.failure is None
    assert cell.inapplicable
