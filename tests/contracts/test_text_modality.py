"""The modality of text: coordinates keep tokens, and each token of a record says where it was read."""

from __future__ import annotations

import pytest
import torch

import leakgauge as lg
from leakgauge.modalities import TextModality, check_modality, modality_of

DOMAIN = lg.TextDomain(
    8, 6, pad=0, pieces=("", "", " red", " fish", "es", " swim", " fast", "."), special=(1,)
)
TRUTH = torch.tensor([[1, 2, 3, 4, 5, 0], [1, 3, 3, 6, 7, 0]])
GUESS = torch.tensor([[1, 2, 4, 3, 6, 6], [1, 3, 2, 6, 0, 0]])


def shown(truth: torch.Tensor, guess: torch.Tensor) -> dict[str, list[list[tuple[str, str]]]]:
    """Return the text of each token and where it was read, by side."""
    sides = {"original": truth, "reconstruction": guess, "control": truth[:0]}
    content = TextModality().content_of(DOMAIN, sides, lambda name, data: name)
    assert content.sentences is not None
    return {
        side: [[(t.text, t.read) for t in s] for s in getattr(content.sentences, side)]
        for side in sides
    }


def test_tokens_survive_as_they_are() -> None:
    modality = modality_of(DOMAIN)
    assert isinstance(modality, TextModality)
    assert torch.equal(modality.coordinates(DOMAIN, TRUTH), TRUTH)
    relaxed = DOMAIN.to_unit(TRUTH)
    assert torch.equal(modality.in_range(DOMAIN, relaxed), TRUTH)
    large = lg.TextDomain(2**22, 3)
    ends = torch.tensor([[0, 2**22 - 2, 2**22 - 1]])
    assert torch.equal(modality.in_range(large, ends), ends)
    check_modality(lg.data.sentences().domain, lg.data.sentences().inputs)


def test_each_token_says_where_it_was_read() -> None:
    found = shown(TRUTH, GUESS)
    assert found["original"][0] == [
        (" red", "place"),
        (" fish", "sentence"),
        ("es", "sentence"),
        (" swim", "nowhere"),
    ]
    # Of two fish, one is at its place. The other is in the first reconstruction.
    assert found["original"][1] == [
        (" fish", "place"),
        (" fish", "batch"),
        (" fast", "place"),
        (".", "nowhere"),
    ]
    assert found["reconstruction"][0][-2:] == [(" fast", "batch"), (" fast", "batch")]
    assert found["control"] == []


def test_a_token_read_too_often_is_wrong() -> None:
    found = shown(TRUTH[:1], torch.tensor([[1, 2, 2, 2, 5, 0]]))
    reads = [read for _, read in found["reconstruction"][0]]
    assert reads == ["place", "nowhere", "nowhere", "place"]


def test_assignment_follows_the_tokens() -> None:
    modality = TextModality()
    assert modality.assignment(DOMAIN, TRUTH, TRUTH.flip(0)).tolist() == [1, 0]
    scores = modality.metrics(DOMAIN, TRUTH[:0])
    assert scores["exact"](TRUTH, TRUTH).tolist() == [1.0, 1.0]


def test_another_domain_of_the_kind_is_refused() -> None:
    class Letters:
        kind = "text"
        shape = (3,)

    with pytest.raises(lg.DataError, match="TextDomain"):
        TextModality().metrics(Letters(), TRUTH)  # type: ignore[arg-type]
