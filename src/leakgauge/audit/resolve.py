"""From a specification to the objects of an audit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.nn import functional

from leakgauge import attacks, data, defenses, federated, models, threats
from leakgauge.audit.case import Case
from leakgauge.audit.options import checked, find, names, sweep
from leakgauge.audit.specification import CaseSpecification, Part, Specification
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
TRAININGS = {"fedsgd": federated.FedSGD}
THREATS = {"server": threats.Server}


def resolve(specification: Specification) -> list[Case]:
    """Cases with their data and models, checked whole. Raises UserError for the first mistake."""
    seeds = Seeds(specification.seed)
    return [resolve_case(i, case, seeds) for i, case in enumerate(specification.cases)]


def resolve_case(index: int, case: CaseSpecification, seeds: Seeds) -> Case:
    where = f"cases.{index}"
    # Names and options of every part first: they are cheap to check and the likeliest mistakes.
    attack_parts = each(case.attacks, ATTACKS, f"{where}.attacks")
    defense_parts = each(
        [part for part in case.defenses if part.name != "none"], DEFENSES, f"{where}.defenses"
    )
    training = one(case.training, TRAININGS, f"{where}.training", without=("batch_size",))
    threat = one(case.threat, THREATS, f"{where}.threat")
    loss = find(case.loss, LOSSES, f"{where}.loss")
    builder = find(case.model.name, MODELS, f"{where}.model")
    weights = case.model.options.get("weights")
    options = {k: v for k, v in case.model.options.items() if k != "weights"}
    options = checked(builder, options, f"{where}.model")
    dataset = load(case.data, f"{where}.data")
    if dataset.classes is None:
        raise SpecificationError(
            f"{where}.data",
            expected="a data set with classes",
            found=f"{dataset.name!r} without",
            remedy="state how many classes it has",
        )
    seed = seeds.child(where).integer("model")
    model = models.build(
        builder, dataset.domain, dataset.classes, seed=seed, weights=weights, **options
    )
    resolved = Case(
        name=case.name or f"{case.data.name}, {case.model.name}",
        data=dataset,
        model=model,
        attacks=attack_parts,
        defenses=([None] if any(p.name == "none" for p in case.defenses) else []) + defense_parts,
        batch_sizes=case.training.batch_size,
        loss=loss,
        training=training,
        threat=threat,
        examples=case.examples,
        repeats=case.repeats,
        model_name=describe(case.model),
    )
    resolved.check()
    return resolved


def load(part: Part, where: str) -> Dataset:
    """The data set that `part` names, from a loader or a user's own factory."""
    if ":" in part.name and part.name not in DATA:
        return data.custom(part.name, **part.options)
    loader = find(part.name, DATA, where)
    dataset: Dataset = loader(**checked(loader, part.options, where))
    return dataset


def one(part: Part, known: dict[str, Any], where: str, *, without: tuple[str, ...] = ()) -> Any:
    """The object that `part` names, made with its options."""
    options = {key: value for key, value in part.options.items() if key not in without}
    return make(find(part.name, known, where), options, where)


def each(parts: list[Part], known: dict[str, Any], where: str) -> list[Any]:
    """The objects that `parts` name; a list among an option's values is a sweep."""
    made = []
    for i, part in enumerate(parts):
        factory: Callable[..., Any] = find(part.name, known, f"{where}.{i}")
        options = nested(part.options, f"{where}.{i}")
        made += [make(factory, chosen, f"{where}.{i}") for chosen in sweep(factory, options)]
    return made


def nested(options: dict[str, Any], where: str) -> dict[str, Any]:
    """Options with attacks among them (auto's) made into objects."""
    if not isinstance(options.get("attacks"), list):
        return options
    parts = [Part(name=p) if isinstance(p, str) else Part(**p) for p in options["attacks"]]
    return {**options, "attacks": tuple(each(parts, ATTACKS, f"{where}.attacks"))}


def make(factory: Any, options: dict[str, Any], where: str) -> Any:
    """Call a class or factory with checked options; an object that is a part already takes none."""
    if not isinstance(factory, type) and isinstance(factory, (Attack, Defense, LocalTraining)):
        return factory
    return factory(**checked(factory, options, where))


def describe(part: Part) -> str:
    """`lenet(width=3)`: a part as a reader sees it."""
    options = ", ".join(f"{key}={value!r}" for key, value in part.options.items())
    return f"{part.name}({options})" if options else part.name
