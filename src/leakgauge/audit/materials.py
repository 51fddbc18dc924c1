"""What parts hold besides numbers: data sets and networks, from the names and tables that stand for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from leakgauge import data, models
from leakgauge.audit.grid import check_size
from leakgauge.audit.options import Options, checked, explain, find, takes, type_hints
from leakgauge.audit.specification import Named, Part
from leakgauge.core import Attack, Defense, LocalTraining, Seeds, SpecificationError
from leakgauge.core.references import guard_user_code
from leakgauge.data import Dataset

DATA = {name: getattr(data, name) for name in data.LOADERS}
MODELS = {name: getattr(models, name) for name in models.BUILDERS}
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
    """What attacks may hold besides numbers, from the tables that name it: networks and public examples.

    `most`: how many parts one sweep may name; None allows any number.
    """

    dataset: Callable[[], Dataset]
    seeds: Seeds
    most: int | None = None

    def check_size(self, where: str, lists: Mapping[str, int]) -> None:
        """Raise SpecificationError if a sweep names more than `most` parts, before one of them is made."""
        check_size(where, {f"values of {name}": count for name, count in lists.items()}, self.most)

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
            swept = isinstance(value, list)
            each_one = [make_one(part_of(v, place), place) for v in (value if swept else [value])]
            found[name] = each_one if swept else each_one[0]
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


def listed(values: list[Any], where: str) -> list[Part]:
    """Parts from a list of names and tables. Raises SpecificationError."""
    try:
        return TypeAdapter(list[Named]).validate_python(values, strict=True)
    except ValidationError as error:
        raise explain(error, where, ["name"]) from error


def is_object(factory: Any) -> bool:
    """Whether a name stands for a part made already, not for what makes one."""
    # A user's own object may run code of its own where its methods are looked up.
    with guard_user_code(
        f"an object of type {type(factory).__name__}", "a part that can be looked at"
    ):
        return not isinstance(factory, type) and isinstance(
            factory, (Attack, Defense, LocalTraining)
        )
