"""Cases from the text of a specification, and the errors of wrong specifications."""

from __future__ import annotations

import pytest

import leakgauge as lg
from leakgauge.audit import Case, Source, parse
from leakgauge.audit.resolve import resolve

SMALL = """
data = "digits"
model = {name = "mlp", width = 8, depth = 2}
attacks = ["linear_layer"]
"""


def cases(text: str, *settings: str, seed: int | None = None) -> list[Case]:
    """Return the cases of a specification."""
    return resolve(parse(Source(text, settings, seed)))


def case(text: str, *settings: str) -> Case:
    """Return the only case of a specification."""
    (only,) = cases(text, *settings)
    return only


def refused(
    text: str, *words: str, settings: tuple[str, ...] = (), kind: type[Exception] | None = None
) -> str:
    """Return the error of a specification, after asserting that it is one line with all these words."""
    with pytest.raises(kind or lg.SpecificationError) as caught:
        resolve(parse(Source(text, settings)))
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line, line
    return line
