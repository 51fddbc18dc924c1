"""From a specification to the objects of an audit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import Any

from torch.nn import functional

from leakgauge import attacks, defenses, threats
from leakgauge.audit.case import Case
from leakgauge.audit.grid import check_size
from leakgauge.audit.materials import Materials, is_object, listed, load, model_builder, part_of
from leakgauge.audit.options import (
    checked,
    find,
    names,
    sweep,
    swept,
)
from leakgauge.audit.shape import check_shape
from leakgauge.audit.specification import CaseSpecification, Part, Specification
from leakgauge.audit.utility import Utility
from leakgauge.core import (
    Attack,
    Defense,
    LocalTraining,
    Loss,
    Seeds,
    SpecificationError,
)
from leakgauge.core.references import guard_user_code
from leakgauge.federated import training

ATTACKS = names(attacks)
DEFENSES = {name: part for name, part in names(defenses).items() if name != "undefended"}
INNER = ("attack", "scout")
"""Options that are an attack each."""
LOSSES: dict[str, Loss] = {"cross_entropy": functional.cross_entropy}
TRAININGS = {name.lower(): getattr(training, name) for name in training.__all__}
PARTS = ("train", "test")
"""Data sets of `utility`."""
THREATS = {
    name: part
    for name, part in names(threats).items()
    if isinstance(part, type) and name != "threat_model"
}


def resolve(specification: Specification, most: int | None = None) -> list[Case]:
    """Return the cases with their data and models, checked whole.

    Args:
        specification: what the cases are made from.
        most: how many audits and trainings a case may ask for; None allows any number.

    Raises:
        UserError: the first mistake.
    """
    seeds = Seeds(specification.seed)
    return [resolve_case(i, case, seeds, most) for i, case in enumerate(specification.cases)]


def resolve_case(index: int, case: CaseSpecification, seeds: Seeds, most: int | None) -> Case:
    """One case: names and options of every part first, as the likeliest mistakes; then data, then model."""
    where = f"cases.{index}"
    dataset = cache(lambda: load(case.data, f"{where}.data"))
    made = Materials(dataset, seeds.child(where), most)
    named = {
        "attacks": each(case.attacks, ATTACKS, f"{where}.attacks", Attack, made),
        "defenses": each(
            case.defenses, DEFENSES | {"none": no_defense}, f"{where}.defenses", Defense, made
        ),
        "training": one(
            case.training, TRAININGS, f"{where}.training", LocalTraining, without=("batch_size",)
        ),
        "threat": one(case.threat, THREATS, f"{where}.threat", threats.ThreatModel),
        "utility": priced(case.utility, f"{where}.utility"),
        "loss": find(case.loss, LOSSES, f"{where}.loss"),
    }
    axes = {
        "batch sizes": len(case.training.batch_size),
        "repeats": case.repeats,
        "defenses": len(named["defenses"]),
        "attacks": len(named["attacks"]),
    }
    check_size(where, axes, most)
    build = model_builder(case.model, f"{where}.model", seeds.child(where).integer("model"))
    resolved = Case(
        name=case.name or f"{case.data.name}, {case.model.name}",
        data=dataset(),
        model=build(dataset(), dataset().classes),
        batch_sizes=case.training.batch_size,
        examples=case.examples,
        repeats=case.repeats,
        model_name=describe(case.model),
        **named,
    )
    check_shape(resolved)
    resolved.check()
    return resolved


def priced(options: dict[str, Any] | None, where: str) -> Utility | None:
    """How to measure what defenses cost: numbers checked first, then `train` and `test` loaded."""
    if options is None:
        return None
    given = {name: part_of(options[name], f"{where}.{name}") for name in PARTS if name in options}
    numbers = checked(Utility, {k: v for k, v in options.items() if k not in PARTS}, where)
    parts = {name: load(part, f"{where}.{name}") for name, part in given.items()}
    return Utility(**(numbers | parts))


def one(
    part: Part, known: dict[str, Any], where: str, kind: Any, *, without: tuple[str, ...] = ()
) -> Any:
    """The object that `part` names, made with its options, with the methods of `kind`."""
    options = {key: value for key, value in part.options.items() if key not in without}
    return make(find(part.name, known, where), options, where, kind)


def each(
    parts: list[Part], known: dict[str, Any], where: str, kind: Any, materials: Materials
) -> list[Any]:
    """The objects that `parts` name; a list among an option's values is a sweep."""
    return [
        made
        for i, part in enumerate(parts)
        for made in variants(part, known, f"{where}.{i}", kind, materials)
    ]


def variants(
    part: Part, known: dict[str, Any], where: str, kind: Any, materials: Materials
) -> list[Any]:
    """The objects that one part names."""
    made = []
    factory: Callable[..., Any] = find(part.name, known, where)
    for given in chained(nested(part.options, where, materials), where, materials):
        options = materials.supplied(factory, given, where)
        for key, value in options.items():
            if value in ([], ()):
                raise SpecificationError(
                    f"{where}.{key}",
                    expected="at least one value",
                    found="none",
                    remedy="give one, or leave the option out",
                )
        if is_object(factory):
            made.append(make(factory, options, where, kind))
            continue
        lists = swept(factory, options)
        materials.check_size(where, {name: len(values) for name, values in lists.items()})
        made += [make(factory, choice, where, kind) for choice in sweep(factory, options)]
    return made


def nested(options: dict[str, Any], where: str, materials: Materials) -> dict[str, Any]:
    """Options with attacks among them (auto's; those that other attacks run) made into objects."""
    for key in INNER:
        if isinstance(options.get(key), (str, dict)):
            inner = nested({"attacks": [options[key]]}, where, materials)["attacks"]
            options = {**options, key: inner[0]}
    if not isinstance(options.get("attacks"), list):
        return options
    parts = listed(options["attacks"], f"{where}.attacks")
    made = each(parts, ATTACKS, f"{where}.attacks", Attack, materials)
    return {**options, "attacks": tuple(made)}


def chained(options: dict[str, Any], where: str, materials: Materials) -> Iterator[dict[str, Any]]:
    """Options with a chain's defenses made into objects: one chain for each combination of their sweeps."""
    if not isinstance(options.get("defenses"), list):
        yield options
        return
    place = f"{where}.defenses"
    links = [
        variants(part, DEFENSES, f"{place}.{i}", Defense, materials)
        for i, part in enumerate(listed(options["defenses"], place))
    ]
    materials.check_size(place, {f"link {i}": len(link) for i, link in enumerate(links)})
    for combination in product(*links):
        yield {**options, "defenses": combination}


def make(factory: Any, options: dict[str, Any], where: str, kind: Any) -> Any:
    """Call a class or factory with checked options; an object that is a part already takes none."""
    if is_object(factory):
        if options:
            raise SpecificationError(
                f"{where}.{next(iter(options))}",
                expected="no options: the name is of an object, made already",
                found=repr(options),
                remedy="name its class, or leave the options out",
            )
        return factory
    valid = checked(factory, options, where)
    with guard_user_code(where, "a part that can be made", remedy="correct it, or its options"):
        made = factory(**valid)
        fits = isinstance(made, kind) or factory is no_defense
    if not fits:
        raise SpecificationError(
            where,
            expected=f"something with the methods of leakgauge.{kind.__name__}",
            found=f"an object of type {type(made).__name__}",
            remedy="see the protocol's docstring",
        )
    return made


def no_defense() -> None:
    """The update as it is."""


def describe(part: Part) -> str:
    """`lenet(width=3)`: a part as a reader sees it."""
    options = ", ".join(f"{key}={value!r}" for key, value in part.options.items())
    return f"{part.name}({options})" if options else part.name
