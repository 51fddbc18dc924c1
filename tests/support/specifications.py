"""Specifications from text, and what they are refused with."""

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
    return resolve(parse(Source(text, settings, seed)))


def case(text: str, *settings: str) -> Case:
    (only,) = cases(text, *settings)
    return only


def refused(
    text: str, *words: str, settings: tuple[str, ...] = (), kind: type[Exception] | None = None
) -> str:
    """The specification fails with one line that has all the words."""
    with pytest.raises(kind or lg.SpecificationError) as caught:
        resolve(parse(Source(text, settings)))
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line, line
    return line
