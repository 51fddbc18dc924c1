"""Checks of a case made in Python that need no data: the types of its parts and the ranges of its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral
from typing import Any

from torch.nn.functional import cross_entropy

from leakgauge.audit.case import Case
from leakgauge.audit.failures import Failed, reason_of, try_step
from leakgauge.core import (
    Attack,
    Defense,
    Effect,
    Knowledge,
    LocalTraining,
    SpecificationError,
    TextDomain,
    effects_of,
    parts_of,
)
from leakgauge.core.ranges import check_ranges
from leakgauge.models import LanguageModel, token_mean
from leakgauge.threats import ThreatModel


def check_shape(case: Case) -> None:
    """Raise SpecificationError for the first mistake in the fields of a case."""
    for name in ("attacks", "defenses", "batch_sizes"):
        if not len(getattr(case, name)):
            raise mistake(case, name, "at least one", "none", "give one")
    for name, values in (("batch_sizes", case.batch_sizes), ("repeats", (case.repeats,))):
        for value in values:
            if not is_count(value):
                raise mistake(case, name, "whole numbers, at least 1", repr(value), "correct it")
    for name, kind, part in parts(case):
        check_part(case, name, kind, part)
    for part in (part for defense in case.defenses for part in parts_of(defense)):
        check_effects(case, part)
    for attack in case.attacks:
        check_requires(case, attack)
    check_loss(case)


def check_loss(case: Case) -> None:
    """Raise SpecificationError if the loss of a case on text is that of another kind of model."""
    language, classes = isinstance(case.model, LanguageModel), case.data.classes
    if language and case.loss is cross_entropy:
        wanted, found = "the loss token_mean of a language model", "cross_entropy"
        raise mistake(case, "loss", wanted, found, 'set loss = "token_mean"')
    if not language and case.loss is token_mean and classes != 1:
        wanted, found = "a language model and data of one class", f"{classes} classes"
        remedy = 'set task = "language" in the data and task = "causal" in the model, or loss = "cross_entropy"'
        raise mistake(case, "loss token_mean", wanted, found, remedy)
    text = isinstance(case.data.domain, TextDomain)
    if text and case.loss is cross_entropy and classes == 1:
        wanted = "at least two classes, since one alone has no gradient under cross_entropy"
        remedy = 'set task = "classification" in the data, or use a language model with loss = "token_mean"'
        raise mistake(case, "data", wanted, "one class", remedy)


def parts(case: Case) -> Iterator[tuple[str, Any, Any]]:
    """Yield the field, the protocol and the object of each part of a case that a user may have written."""
    yield from (("attacks", Attack, attack) for attack in case.attacks)
    yield from (("defenses", Defense, d) for d in case.defenses if d is not None)
    yield "training", LocalTraining, case.training
    yield "threat", ThreatModel, case.threat


def check_part(case: Case, name: str, kind: Any, part: Any) -> None:
    """Raise SpecificationError unless a part has a repr, the methods of its protocol, and options in range."""
    # The record of a cell names its parts by their reprs. The seeds of the cell depend on these names.
    text = try_step("name", lambda: str(repr(part)))
    if isinstance(text, Failed):
        found = f"one of {type(part).__name__} that fails: {reason_of(text.cause)}"
        raise mistake(case, name, "parts with a repr", found, "correct its __repr__")
    # isinstance evaluates properties of a protocol, which are the user's code and may raise.
    fits = try_step("methods", lambda: isinstance(part, kind) and not isinstance(part, type))
    if fits is not True:
        wanted = f"objects with the methods of leakgauge.{kind.__name__}"
        found = f"the class {part.__name__}" if isinstance(part, type) else text
        if isinstance(fits, Failed):
            found = f"one of {type(part).__name__} that fails: {reason_of(fits.cause)}"
        raise mistake(case, name, wanted, found, "see the docstring of the protocol")
    check_ranges(part)


def check_effects(case: Case, part: Defense) -> None:
    """Raise SpecificationError unless the `effects` of a defense are a tuple of effects."""
    effects = try_step("effects", lambda: effects_of(part, Effect))
    if isinstance(effects, Failed):
        if isinstance(effects.cause, SpecificationError):
            raise effects.cause
        found = f"one of {type(part).__name__} that fails: {reason_of(effects.cause)}"
        raise mistake(case, "defenses", "a tuple of effects", found, "correct its effects")


def check_requires(case: Case, attack: Attack) -> None:
    """Raise SpecificationError unless `requires` of an attack is a set of names of knowledge."""
    known = Knowledge.names()
    name = f"attacks, {type(attack).__name__}.requires"
    wanted = f"a set of names among {', '.join(sorted(known))}"
    needs = try_step("requires", lambda: attack.requires)
    if isinstance(needs, Failed):
        raise mistake(case, name, wanted, reason_of(needs.cause), "correct it")
    if not isinstance(needs, (set, frozenset)) or not needs <= known:
        raise mistake(case, name, wanted, repr(needs), "correct it")


def is_count(value: object) -> bool:
    """Return whether a value is a whole number of at least 1."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def mistake(case: Case, name: str, expected: str, found: str, remedy: str) -> SpecificationError:
    """Return the error of one field of a case."""
    return SpecificationError(
        f"case {case.name!r}, {name}", expected=expected, found=found, remedy=remedy
    )
