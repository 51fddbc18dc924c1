"""Make the cases of an audit from its specification."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import Any

from torch.nn import functional

from leakgauge import attacks, defenses, models, threats
from leakgauge.audit.case import Case
from leakgauge.audit.grid import check_size
from leakgauge.audit.materials import Materials, is_object, load, model_builder, part_of, read_parts
from leakgauge.audit.options import (
    check_options,
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
"""Options whose value is an attack."""
LOSSES: dict[str, Loss] = {
    "cross_entropy": functional.cross_entropy,
    "token_mean": models.token_mean,
}
TRAININGS = {name.lower(): getattr(training, name) for name in training.__all__}
PARTS = ("train", "test")
"""Options of `utility` whose value is a data set."""
THREATS = {
    name: part
    for name, part in names(threats).items()
    if isinstance(part, type) and name != "threat_model"
}


def resolve(specification: Specification, most: int | None = None) -> list[Case]:
    """Return the cases of a specification, with their data and models. Every part is checked.

    Args:
        specification: The specification.
        most: Largest number of audits and trainings of a case. None allows any number.

    Raises:
        UserError: The specification has a mistake. The error reports the first one.
    """
    seeds = Seeds(specification.seed)
    cases = enumerate(specification.cases)
    return [made for i, case in cases for made in resolve_case(i, case, seeds, most)]


def resolve_case(index: int, case: CaseSpecification, seeds: Seeds, most: int | None) -> list[Case]:
    """Return the cases of the section number `index`, from 0: one for each of its models.

    Names and options of the parts are checked first, since most mistakes are there. Then the data is loaded, and last
    the models are built.
    """
    where = f"cases.{index}"
    dataset = cache(lambda: load(case.data, f"{where}.data"))
    made = Materials(dataset, seeds.child(where), most)
    named = {
        "attacks": resolve_parts(case.attacks, ATTACKS, f"{where}.attacks", Attack, made),
        "defenses": resolve_parts(
            case.defenses, DEFENSES | {"none": no_defense}, f"{where}.defenses", Defense, made
        ),
        "training": resolve_part(
            case.training, TRAININGS, f"{where}.training", LocalTraining, without=("batch_size",)
        ),
        "threat": resolve_part(case.threat, THREATS, f"{where}.threat", threats.ThreatModel),
        "utility": make_utility(case.utility, f"{where}.utility"),
        "loss": find(case.loss, LOSSES, f"{where}.loss"),
    }
    axes = {
        "models": len(case.model),
        "batch sizes": len(case.training.batch_size),
        "repeats": case.repeats,
        "defenses": len(named["defenses"]),
        "attacks": len(named["attacks"]),
    }
    check_size(where, axes, most)
    several, seed = len(case.model) > 1, seeds.child(where).integer("model")
    places = [f"{where}.model.{i}" if several else f"{where}.model" for i in range(len(case.model))]
    builds = [
        model_builder(part, place, seed) for part, place in zip(case.model, places, strict=True)
    ]
    cases = []
    for part, title, build in zip(case.model, titles(case, where), builds, strict=True):
        resolved = Case(
            name=title,
            data=dataset(),
            model=build(dataset(), dataset().classes),
            batch_sizes=case.training.batch_size,
            examples=case.examples,
            repeats=case.repeats,
            model_name=describe(part),
            **named,
        )
        check_shape(resolved)
        resolved.check()
        cases.append(resolved)
    return cases


def titles(case: CaseSpecification, where: str) -> list[str]:
    """Return the names of the cases of a section, one for each model.

    Models of the same name are told apart by their options.

    Raises:
        SpecificationError: Two models are equal.
    """
    names = [part.name for part in case.model]
    if len(set(names)) < len(names):
        names = [describe(part) for part in case.model]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise SpecificationError(
                f"{where}.model.{i}",
                expected="models that differ",
                found=f"{name!r} again",
                remedy="remove it, or change an option",
            )
    if len(names) == 1 and case.name is not None:
        return [case.name]
    return [f"{case.name or case.data.name}, {name}" for name in names]


def make_utility(options: dict[str, Any] | None, where: str) -> Utility | None:
    """Return the options to measure the cost of defenses, or None if the specification has no `utility`.

    The numbers are checked before `train` and `test` are loaded.
    """
    if options is None:
        return None
    given = {name: part_of(options[name], f"{where}.{name}") for name in PARTS if name in options}
    numbers = check_options(Utility, {k: v for k, v in options.items() if k not in PARTS}, where)
    parts = {name: load(part, f"{where}.{name}") for name, part in given.items()}
    return Utility(**(numbers | parts))


def resolve_part(
    part: Part, known: dict[str, Any], where: str, kind: Any, *, without: tuple[str, ...] = ()
) -> Any:
    """Return the object that `part` names. It is made with the options of `part` except those in `without`.

    Raises:
        SpecificationError: A name or an option is wrong, or the object lacks the methods of `kind`.
    """
    options = {key: value for key, value in part.options.items() if key not in without}
    return make(find(part.name, known, where), options, where, kind)


def resolve_parts(
    parts: list[Part], known: dict[str, Any], where: str, kind: Any, materials: Materials
) -> list[Any]:
    """Return the objects that `parts` name. A part with swept options gives several objects. See `swept`."""
    return [
        made
        for i, part in enumerate(parts)
        for made in variants(part, known, f"{where}.{i}", kind, materials)
    ]


def variants(
    part: Part, known: dict[str, Any], where: str, kind: Any, materials: Materials
) -> list[Any]:
    """Return the objects that one part names, one for each combination of its swept options."""
    made = []
    factory: Callable[..., Any] = find(part.name, known, where)
    for given in make_links(make_inner_attacks(part.options, where, materials), where, materials):
        options = materials.supply(factory, given, where)
        for key, value in options.items():
            if value in ([], ()):
                raise SpecificationError(
                    f"{where}.{key}",
                    expected="at least one value",
                    found="an empty list",
                    remedy="give a value, or leave the option out",
                )
        if is_object(factory):
            made.append(make(factory, options, where, kind))
            continue
        lists = swept(factory, options)
        materials.check_size(where, {name: len(values) for name, values in lists.items()})
        made += [make(factory, choice, where, kind) for choice in sweep(factory, options)]
    return made


def make_inner_attacks(options: dict[str, Any], where: str, materials: Materials) -> dict[str, Any]:
    """Return the options with every attack among them made into an object.

    The option `attacks` of `auto` is a list. The options in `INNER` hold one attack each.
    """
    for key in INNER:
        if isinstance(options.get(key), (str, dict)):
            inner = make_inner_attacks({"attacks": [options[key]]}, where, materials)["attacks"]
            options = {**options, key: inner[0]}
    if not isinstance(options.get("attacks"), list):
        return options
    parts = read_parts(options["attacks"], f"{where}.attacks")
    made = resolve_parts(parts, ATTACKS, f"{where}.attacks", Attack, materials)
    return {**options, "attacks": tuple(made)}


def make_links(
    options: dict[str, Any], where: str, materials: Materials
) -> Iterator[dict[str, Any]]:
    """Yield the options of a chain with its defenses made into objects.

    If options of the defenses are swept, yield once for each combination of the defenses. If `defenses` is not a list,
    yield the options unchanged.
    """
    if not isinstance(options.get("defenses"), list):
        yield options
        return
    place = f"{where}.defenses"
    links = [
        variants(part, DEFENSES, f"{place}.{i}", Defense, materials)
        for i, part in enumerate(read_parts(options["defenses"], place))
    ]
    materials.check_size(place, {f"link {i}": len(link) for i, link in enumerate(links)})
    for combination in product(*links):
        yield {**options, "defenses": combination}


def make(factory: Any, options: dict[str, Any], where: str, kind: Any) -> Any:
    """Return the part that a class or function makes with checked options.

    A finished object is returned unchanged and takes no options.

    Raises:
        SpecificationError: An option is wrong, or the made object lacks the methods of `kind`.
    """
    if is_object(factory):
        if options:
            raise SpecificationError(
                f"{where}.{next(iter(options))}",
                expected="no options, as the name refers to a finished object",
                found=repr(options),
                remedy="name the class of the object, or leave the options out",
            )
        return factory
    valid = check_options(factory, options, where)
    with guard_user_code(
        where, "a part that can be made", remedy="correct the part or its options"
    ):
        made = factory(**valid)
        fits = isinstance(made, kind) or factory is no_defense
    if not fits:
        raise SpecificationError(
            where,
            expected=f"an object with the methods of leakgauge.{kind.__name__}",
            found=f"an object of type {type(made).__name__}",
            remedy=f"give it these methods: see the docstring of leakgauge.{kind.__name__}",
        )
    return made


def no_defense() -> None:
    """Make no defense. The client sends its update unchanged."""


def describe(part: Part) -> str:
    """Return the text of a part for readers, for example `lenet(width=3)`."""
    options = ", ".join(f"{key}={value!r}" for key, value in part.options.items())
    return f"{part.name}({options})" if options else part.name
