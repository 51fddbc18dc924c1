"""Private sentences within reach of the adversary are found, and public numbers are not taken for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leakgauge as lg
from leakgauge.threats.secrets import Secrets

DATA = lg.data.sentences()
TEXT = DATA.domain
assert isinstance(TEXT, lg.TextDomain)
SIZES: list[int] = TEXT.lengths(DATA.inputs).tolist()
LONG = next(i for i, size in enumerate(SIZES) if size > 12)
SHORT = next(i for i, size in enumerate(SIZES) if size < 7)


def secrets(*rows: int) -> Secrets:
    batch = lg.Batch(DATA.inputs[list(rows)], DATA.targets[list(rows)])
    return Secrets.of([batch], [], DATA.domain)


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "itself": lambda row: row.clone(),
    "as floats": lambda row: row.float(),
    "in a list": lambda row: row.tolist(),
    "without padding": lambda row: row[row != 0],
    "among others": lambda row: torch.stack([row.flip(0), row, row.flip(0)]),
    "as bytes": lambda row: row.numpy().tobytes(),
    "as text": lambda row: f"said: {TEXT.text(row)}",
    "as numbers in text": lambda row: str(row.tolist()),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_sentence_is_found_in_every_form(form: str) -> None:
    kept = secrets(LONG)
    assert kept.find_in(FORMS[form](DATA.inputs[LONG])) is not None
    other = next(i for i in range(LONG + 1, 60) if SIZES[i] == SIZES[LONG] or SIZES[i] > 12)
    assert kept.find_in(FORMS[form](DATA.inputs[other])) is None


def test_a_short_sentence_identifies_nothing() -> None:
    kept = secrets(SHORT)
    assert kept.find_in(DATA.inputs[SHORT].clone()) is None
    assert kept.find_in(TEXT.text(DATA.inputs[SHORT])) is None


def test_places_and_masks_are_public() -> None:
    places = torch.arange(40)[None]
    domain = lg.TextDomain(60, 40, pad=0)
    kept = Secrets.of([lg.Batch(places, torch.tensor([0]))], [], domain)
    assert kept.find_in(torch.arange(40)) is None
    mask = secrets(LONG)
    assert mask.find_in((DATA.inputs[LONG] != 0).long()) is None
    assert mask.find_in(torch.arange(22)) is None


def test_the_vocabulary_is_public() -> None:
    kept = secrets(*range(20))
    assert TEXT.pieces
    assert all(kept.find_in(piece) is None for piece in TEXT.pieces)
    assert kept.find_in(list(range(600))) is None


class Remembers(nn.Module):
    """A transformer that keeps what it was given before the audit."""

    def __init__(self, inner: nn.Module, kept: Any) -> None:
        super().__init__()
        self.inner, self.kept = inner, kept

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, 2)."""
        logits: Tensor = self.inner(tokens)
        return logits


@pytest.mark.parametrize("form", ["in a list", "without padding", "as text"])
def test_a_model_that_kept_a_sentence_is_refused(form: str) -> None:
    inner = lg.models.transformer(DATA.domain, 2, dim=16, depth=1)
    model = Remembers(inner, FORMS[form](DATA.inputs[LONG]))
    client = lg.Client(model=model, loss=nn.functional.cross_entropy, domain=DATA.domain, classes=2)
    batch = lg.Batch(DATA.inputs[[LONG]], DATA.targets[[LONG]])
    with pytest.raises(lg.ModelError, match="kept"):
        lg.Server().observe(client, batch, seeds=lg.Seeds(0))
    other = lg.Batch(DATA.inputs[[LONG + 1]], DATA.targets[[LONG + 1]])
    lg.Server().observe(client, other, seeds=lg.Seeds(0))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_models_of_transformers_keep_nothing_private(family: Any) -> None:
    pytest.importorskip("transformers")
    model = lg.models.hugging_face_text(DATA.domain, 2, family=family, dim=16, depth=1)
    client = lg.Client(model=model, loss=nn.functional.cross_entropy, domain=DATA.domain, classes=2)
    batch = lg.Batch(DATA.inputs[:3], DATA.targets[:3])
    assert lg.Server().observe(client, batch, seeds=lg.Seeds(0)).has_signal
