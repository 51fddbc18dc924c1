"""What a status promises, in one wording for the code, the report and the pages."""

from __future__ import annotations

from pathlib import Path

import pytest

import leakgauge as lg
from leakgauge.core import CERTIFIED_WITHIN, CONVERGED_WITHIN, Status
from leakgauge.core.verdicts import NOT_ESTIMATED
from leakgauge.inversion.objectives.distances import MATCHED
from leakgauge.report.wording import STATUS_MEANINGS

ROOT = Path(__file__).parents[2]
PAGES = ("docs/reading-a-report.md", "docs/notation.md", "docs/architecture/core.md")
CERTIFIED = (
    f"n exact method proves the whole batch, and the residual is at most {CERTIFIED_WITHIN:.0e}"
)
CONVERGED = f"he update is matched: the residual is at most {CONVERGED_WITHIN:.0e}, without "


def plain(text: str) -> str:
    """Return a text in one line, with powers of ten as the pages write them."""
    return " ".join(text.split())


@pytest.mark.parametrize("sentence", [CERTIFIED, CONVERGED])
def test_code_report_and_pages_explain_a_status_in_the_same_words(sentence: str) -> None:
    sentence = sentence.replace("e-0", "e-")
    assert MATCHED == CONVERGED_WITHIN
    texts = [*STATUS_MEANINGS.values(), Status.__doc__ or ""]
    pages = [(ROOT / page).read_text() for page in PAGES]
    assert sum(sentence in plain(text) for text in texts) == 2
    assert [sentence in plain(page) for page in pages] == [True] * len(PAGES)


def test_a_refused_result_says_that_its_inputs_are_no_estimate() -> None:
    refused = lg.attacks.RGAP()(lg.examples.observation(batch_size=2), seeds=lg.Seeds(0))
    assert refused.status is Status.INAPPLICABLE
    assert not len(refused.inputs[refused.found])
    assert NOT_ESTIMATED in refused.notes
    assert "found=0 of 2 examples," in repr(refused)


def test_a_finished_result_has_no_such_note() -> None:
    observation = lg.examples.observation(batch_size=2)
    found = lg.attacks.LinearLayer()(observation, seeds=lg.Seeds(0))
    assert NOT_ESTIMATED not in found.notes
    assert "found=2 of 2 examples," in repr(found)
