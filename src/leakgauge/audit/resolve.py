"""From a specification to the objects of an audit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn import functional

from leakgauge import attacks, data, defenses, federated, models, threats
from leakgauge.audit.case import Case
from leakgauge.audit.options import (
    Options,
    checked,
    explain,
    find,
    names,
    sweep,
    takes,
    type_hints,
)
from leakgauge.audit.specification import CaseSpecification, Named, Part, Specification
from leakgauge.core import (
    Attack,
    Defense,
    LocalTraining,
    Loss,
    Seeds,
    SpecificationError,
)
from leakgauge.data import Dataset

DATA = {name: getattr(data, name) for name in data.LOADERS}
MODELS = {name: getattr(models, name) for name in models.BUILDERS}
ATTACKS = names(attacks)
DEFENSES = {name: part for name, part in names(defenses).items() if name != "undefended"}
LOSSES: dict[str, Loss] = {"cross_entropy": functional.cross_entropy}
TRAININGS = {"fedsgd": federated.FedSGD, "fedavg": federated.FedAvg}
THREATS = {name: part for name, part in names(threats).items() if name != "threat_model"}


def resolve(specification: Specification) -> list[Case]:
    """Cases with their data and models, checked whole. Raises UserError for the first mistake."""
    seeds = Seeds(specification.seed)
    return [resolve_case(i, case, seeds) for i, case in enumerate(specification.cases)]


def resolve_case(index: int, case: CaseSpecification, seeds: Seeds) -> Case:
    """One case: names and options of every part first, as the likeliest mistakes; then data, then model."""
    where = f"cases.{index}"
    dataset = cache(lambda: load(case.data, f"{where}.data"))
    made = Materials(dataset, seeds.child(where))
    named = {
        "attacks": each(case.attacks, ATTACKS, f"{where}.attacks", Attack, made),
        "defenses": each(
            case.defenses, DEFENSES | {"none": no_defense}, f"{where}.defenses", Defense, made
        ),
        "training": one(
            case.training, TRAININGS, f"{where}.training", LocalTraining, without=("batch_size",)
        ),
        "threat": one(case.threat, THREATS, f"{where}.threat", threats.ThreatModel),
        "loss": find(case.loss, LOSSES, f"{where}.loss"),
    }
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
    resolved.check()
    return resolved


Build = Callable[[Dataset, int | None], nn.Module]
"""A model for a data set's domain, of so many classes."""


def model_builder(part: Part, where: str, seed: int) -> Build:
    """What makes the model that `part` names once the data is known, its options checked now."""
    builder = find(part.name, MODELS, where)
    weights = part.options.get("weights")
    if weights is not None and not isinstance(weights, str):
        raise SpecificationError(
            f"{where}.weights",
            expected="the path of a safetensors file",
            found=repr(weights),
            remedy="correct the value",
        )
    train = part.options.get("train", False)
    if not isinstance(train, bool):
        raise SpecificationError(
            f"{where}.train",
            expected="true for train mode, or false",
            found=repr(train),
            remedy="correct the value",
        )
    own = ("weights", "train")
    given = {name: value for name, value in part.options.items() if name not in own}
    options = checked(builder, given, where)

    def build(dataset: Dataset, classes: int | None) -> nn.Module:
        if classes is None:
            raise SpecificationError(
                where,
                expected="a data set with classes",
                found=f"{dataset.name!r} without",
                remedy="state how many classes it has",
            )
        return models.build(
            builder,
            dataset.domain,
            classes,
            seed=seed,
            weights=weights,
            train=train,
            **options,
        )

    return build


@dataclass(frozen=True)
class Materials:
    """What attacks may hold besides numbers, from the tables that name it: networks and public examples."""

    dataset: Callable[[], Dataset]
    seeds: Seeds

    def supplied(self, factory: Any, options: Options, where: str) -> Options:
        """Options with each table, or name, that stands for a network or for examples made into them.

        A list of several is a sweep, as elsewhere.
        """
        if is_object(factory) or not callable(factory):  # told by `make`
            return options
        makers = {nn.Module: self.network, Tensor: self.examples}
        found = dict(options)
        for name, hint in type_hints(factory).items():
            make_one = next((m for kind, m in makers.items() if takes(hint, kind)), None)
            if make_one is None or name not in options:
                continue
            value, place = options[name], f"{where}.{name}"
            listed = isinstance(value, list)
            each_one = [make_one(part_of(v, place), place) for v in (value if listed else [value])]
            found[name] = each_one if listed else each_one[0]
        return found

    def network(self, part: Part, where: str) -> nn.Module:
        """A network on the audit's domain, of the audit's classes or of so many as `classes` says."""
        options = part.options
        classes = options.pop("classes", None)
        if classes is not None and (not isinstance(classes, int) or classes is True or classes < 1):
            raise SpecificationError(
                f"{where}.classes",
                expected="a number of classes, at least 1",
                found=repr(classes),
                remedy="correct the value, or leave it out for the data's own",
            )
        build = model_builder(Part(name=part.name, **options), where, self.seeds.integer(where))
        return build(self.dataset(), self.dataset().classes if classes is None else classes)

    def examples(self, part: Part, where: str) -> Tensor:
        """The inputs of a data set, all of them."""
        return load(part, where).inputs


def part_of(value: Any, where: str) -> Part:
    """A part from its name, or from a table with a name. Raises SpecificationError."""
    try:
        return TypeAdapter(Named).validate_python(value, strict=True)
    except ValidationError as error:
        raise explain(error, where, ["name"]) from error


def load(part: Part, where: str) -> Dataset:
    """The data set that `part` names, from a loader or a user's own factory."""
    if ":" in part.name and part.name not in DATA:
        return data.custom(part.name, **part.options)
    loader = find(part.name, DATA, where)
    dataset: Dataset = loader(**checked(loader, part.options, where))
    return dataset


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
    made = []
    for i, part in enumerate(parts):
        factory: Callable[..., Any] = find(part.name, known, f"{where}.{i}")
        options = nested(part.options, f"{where}.{i}", materials)
        options = materials.supplied(factory, options, f"{where}.{i}")
        for key, value in options.items():
            if value in ([], ()):
                raise SpecificationError(
                    f"{where}.{i}.{key}",
                    expected="at least one value",
                    found="none",
                    remedy="give one, or leave the option out",
                )
        chosen = [options] if is_object(factory) else sweep(factory, options)
        made += [make(factory, choice, f"{where}.{i}", kind) for choice in chosen]
    return made


def nested(options: dict[str, Any], where: str, materials: Materials) -> dict[str, Any]:
    """Options with attacks among them (auto's; the one that one_gradient runs) made into objects."""
    if isinstance(options.get("attack"), (str, dict)):
        inner = nested({"attacks": [options["attack"]]}, where, materials)["attacks"]
        return {**options, "attack": inner[0]}
    if not isinstance(options.get("attacks"), list):
        return options
    try:
        parts = TypeAdapter(list[Named]).validate_python(options["attacks"], strict=True)
    except ValidationError as error:
        raise explain(error, f"{where}.attacks", ["name"]) from error
    made = each(parts, ATTACKS, f"{where}.attacks", Attack, materials)
    return {**options, "attacks": tuple(made)}


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
    made = factory(**checked(factory, options, where))
    if made is not None and not isinstance(made, kind):
        raise SpecificationError(
            where,
            expected=f"something with the methods of leakgauge.{kind.__name__}",
            found=f"an object of type {type(made).__name__}",
            remedy="see the protocol's docstring",
        )
    return made


def is_object(factory: Any) -> bool:
    """Whether a name stands for a part made already, not for what makes one."""
    return not isinstance(factory, type) and isinstance(factory, (Attack, Defense, LocalTraining))


def no_defense() -> None:
    """The update as it is."""


def describe(part: Part) -> str:
    """`lenet(width=3)`: a part as a reader sees it."""
    options = ", ".join(f"{key}={value!r}" for key, value in part.options.items())
    return f"{part.name}({options})" if options else part.name
