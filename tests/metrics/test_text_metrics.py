"""Metrics of tokens and words: counts by hand, agreement with rouge-score, and assignment by tokens."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

import leakgauge as lg
from leakgauge import metrics
from leakgauge.core import DataError

DOMAIN = lg.TextDomain(
    8, 6, pad=0, pieces=("", "", " red", " fish", "es", " swim", " fast", "."), special=(1,)
)
SILENT = (0, 1)
TRUTH = torch.tensor([[1, 2, 3, 4, 5, 0], [1, 3, 3, 6, 7, 0]])
COUNTS = (metrics.token_accuracy, metrics.token_bag, metrics.batch_bag, metrics.exact)


def tokens(*rows: list[int]) -> Tensor:
    return torch.tensor(rows)


@pytest.mark.parametrize("metric", COUNTS)
def test_a_copy_scores_one_and_nothing_of_it_zero(metric: Callable[..., Tensor]) -> None:
    copy = metric(TRUTH, TRUTH.clone(), silent=SILENT)
    assert copy.tolist() == [1.0, 1.0]
    assert copy.dtype == torch.float64
    # Padding and special tokens are public, so matching them reads nothing.
    empty = torch.tensor([[1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
    assert metric(TRUTH, empty, silent=SILENT).tolist() == [0.0, 0.0]


def test_counts_by_hand() -> None:
    guess = tokens([1, 2, 4, 3, 7, 7], [1, 3, 6, 6, 0, 0])
    assert metrics.token_accuracy(TRUTH, guess, silent=SILENT).tolist() == [0.25, 0.5]
    # The first sentence has red, fish and es of four. The second has fish once of twice, and fast.
    assert metrics.token_bag(TRUTH, guess, silent=SILENT).tolist() == [0.75, 0.5]
    # In the batch, fish is wanted three times and read twice, and the dot of the second is read.
    assert metrics.batch_bag(TRUTH, guess, silent=SILENT).tolist() == pytest.approx(
        [(2 + 2 / 3) / 4, (2 * 2 / 3 + 2) / 4]
    )
    assert metrics.exact(TRUTH, guess, silent=SILENT).tolist() == [0.0, 0.0]


def test_a_whole_sentence_may_lack_the_public_tokens() -> None:
    guess = tokens([2, 3, 4, 5, 0, 0], [1, 3, 3, 6, 7, 7])
    assert metrics.exact(TRUTH, guess, silent=SILENT).tolist() == [1.0, 0.0]


def test_a_sentence_without_text_is_never_read() -> None:
    nothing = torch.zeros(1, 4, dtype=torch.long)
    for metric in COUNTS:
        assert metric(nothing, nothing, silent=(0,)).tolist() == [0.0]


def test_rouge_is_that_of_its_package() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    guess = tokens([1, 3, 4, 2, 7, 0], [1, 3, 6, 6, 0, 0])
    for kind in ("rouge1", "rouge2", "rougeL"):
        value = metrics.rouge(TRUTH, guess, kind=kind, text=DOMAIN.text)
        made = scorer.RougeScorer([kind], use_stemmer=False)
        want = [
            made.score(DOMAIN.text(a), DOMAIN.text(b))[kind].fmeasure
            for a, b in zip(TRUTH, guess, strict=True)
        ]
        assert value.tolist() == pytest.approx(want, abs=1e-12)
    # "red fishes swim" and "fishes red." share two words, and no pair of neighbors.
    assert metrics.rouge(TRUTH[:1], guess[:1], kind="rouge1", text=DOMAIN.text).item() == 0.8
    assert metrics.rouge(TRUTH[:1], guess[:1], kind="rouge2", text=DOMAIN.text).item() == 0.0


def test_without_its_package_rouge_is_left_out_with_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    assert "pip install" in str(metrics.no_rouge())
    modality = lg.modalities.TextModality()
    assert set(modality.metrics(DOMAIN, TRUTH)) == {
        "token_bag",
        "token_accuracy",
        "exact",
        "batch_bag",
    }
    assert "no ROUGE" in str(modality.compared_by(DOMAIN))
    with pytest.raises(DataError, match="rouge-score"):
        metrics.rouge(TRUTH, TRUTH, kind="rouge1", text=DOMAIN.text)


def test_assignment_reads_the_most_tokens_and_then_the_most_places() -> None:
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        truth, guess = (torch.randint(2, 8, (4, 6), generator=draw) for _ in range(2))
        read = [[metrics.token_bag(a[None], b[None]).item() for b in guess] for a in truth]
        best = max(
            sum(read[i][j] for i, j in enumerate(order))
            for order in itertools.permutations(range(4))
        )
        chosen = metrics.assign_tokens(truth, guess)
        assert sum(read[i][j] for i, j in enumerate(chosen.tolist())) == pytest.approx(best)
    rows = tokens([2, 3, 4], [4, 3, 2])
    assert metrics.assign_tokens(rows, rows.flip(0)).tolist() == [1, 0]
    assert metrics.assign_tokens(rows[:1], torch.cat([rows[1:], rows])).tolist() == [1]


@pytest.mark.parametrize(
    "call",
    [
        partial(metrics.token_bag, TRUTH, TRUTH[:1]),
        partial(metrics.token_accuracy, TRUTH.float(), TRUTH.float()),
        partial(metrics.exact, TRUTH[0], TRUTH[0]),
        partial(metrics.batch_bag, TRUTH[:0], TRUTH[:0]),
        partial(metrics.assign_tokens, TRUTH, TRUTH[:1]),
        partial(metrics.assign_tokens, TRUTH, TRUTH[:, :2]),
    ],
)
def test_mistakes_are_told_in_one_line(call: Callable[[], object]) -> None:
    with pytest.raises(DataError) as caught:
        call()
    assert "\n" not in str(caught.value)
