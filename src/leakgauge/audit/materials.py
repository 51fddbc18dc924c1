"""Data sets, networks and public examples, made from their names and tables in a specification."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from leakgauge import data, models
from leakgauge.audit.grid import check_size
from leakgauge.audit.options import Options, check_options, explain, find, takes, type_hints
from leakgauge.audit.specification import Named, Part
from leakgauge.core import Attack, Defense, Domain, LocalTraining, Seeds, SpecificationError
from leakgauge.core.references import guard_user_code
from leakgauge.data import Dataset

DATA = {name: getattr(data, name) for name in data.LOADERS}
MODELS = {name: getattr(models, name) for name in models.BUILDERS}
Build = Callable[[Dataset, int | None], nn.Module]
"""A function that builds a model for the domain of a data set, with the given number of classes."""
BuildFor = Callable[[Domain, int], nn.Module]
"""A function that builds a model for a domain and a number of classes."""


def model_builder(part: Part, where: str, seed: int) -> Build:
    """Return a function that builds the model of `part`. It runs later, when the data is known.

    The name and the options of the model are checked now.

    Raises:
        SpecificationError: The name or an option is wrong.
    """
    build_for = model_maker(part, where, seed)

    def build(dataset: Dataset, classes: int | None) -> nn.Module:
        if classes is None:
            raise SpecificationError(
                where,
                expected="a data set with classes",
                found=f"{dataset.name!r}, a data set without classes",
                remedy="set the number of classes of the data set",
            )
        return build_for(dataset.domain, classes)

    return build


def model_maker(part: Part, where: str, seed: int) -> BuildFor:
    """Return a function that builds the model of `part` for a domain. Its name and its options are checked now.

    Raises:
        SpecificationError: The name or an option is wrong.
    """
    builder = find(part.name, MODELS, where)
    weights = part.options.get("weights")
    if weights is not None and not isinstance(weights, str):
        raise SpecificationError(
            f"{where}.weights",
            expected="the path of a safetensors file",
            found=repr(weights),
            remedy="give a path in quotes, or leave weights out",
        )
    train = part.options.get("train", False)
    if not isinstance(train, bool):
        raise SpecificationError(
            f"{where}.train",
            expected="true for train mode, or false for evaluation mode",
            found=repr(train),
            remedy="write true or false, without quotes",
        )
    for name in ("domain", "classes", "seed"):
        if name in part.options:
            raise SpecificationError(
                f"{where}.{name}",
                expected=f"no option {name}, which the data or the command gives",
                found=repr(part.options[name]),
                remedy="leave it out",
            )
    own = ("weights", "train")
    given = {name: value for name, value in part.options.items() if name not in own}
    options = check_options(builder, given, where)

    def build(domain: Domain, classes: int) -> nn.Module:
        return models.build(
            builder,
            domain,
            classes,
            seed=seed,
            weights=weights,
            train=train,
            **options,
        )

    return build


@dataclass(frozen=True)
class Materials:
    """Maker of the networks and public examples that a specification names in the options of a part.

    Args:
        dataset: Function that returns the data set of the case. Networks are made for its domain.
        seeds: Seeds of the case. The weights of networks are drawn from them.
        most: Largest number of parts in one sweep. None allows any number.
    """

    dataset: Callable[[], Dataset]
    seeds: Seeds
    most: int | None = None

    def check_size(self, where: str, lists: Mapping[str, int]) -> None:
        """Raise SpecificationError if a sweep has more than `most` parts. None of them has been made yet."""
        check_size(where, {f"values of {name}": count for name, count in lists.items()}, self.most)

    def supply(self, factory: Any, options: Options, where: str) -> Options:
        """Return the options, with networks and examples in place of their names and tables.

        A list of names or tables is a sweep, as for other options.
        """
        # `make` reports two mistakes: an object that is given options, and a name that cannot make a part.
        if is_object(factory) or not callable(factory):
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
        """Return a network for the domain of the case's data.

        The option `classes` sets the number of its classes. The default is that of the data.

        Raises:
            SpecificationError: The name or an option is wrong.
        """
        options = part.options
        classes = options.pop("classes", None)
        if classes is not None and (not isinstance(classes, int) or classes is True or classes < 1):
            raise SpecificationError(
                f"{where}.classes",
                expected="a number of classes, at least 1",
                found=repr(classes),
                remedy="correct the number, or leave classes out to use the number of the data set",
            )
        build = model_builder(Part(name=part.name, **options), where, self.seeds.integer(where))
        return build(self.dataset(), self.dataset().classes if classes is None else classes)

    def examples(self, part: Part, where: str) -> Tensor:
        """Return all inputs of a data set."""
        return load(part, where).inputs


def part_of(value: Any, where: str) -> Part:
    """Return a part from its name or from a table with a name. Raise SpecificationError if it is neither."""
    try:
        return TypeAdapter(Named).validate_python(value, strict=True)
    except ValidationError as error:
        raise explain(error, where, ["name"]) from error


def load(part: Part, where: str) -> Dataset:
    """Return the data set that `part` names, from one of our loaders or from a user's function."""
    if ":" in part.name and part.name not in DATA:
        return data.custom(part.name, **part.options)
    loader = find(part.name, DATA, where)
    dataset: Dataset = loader(**check_options(loader, part.options, where))
    return dataset


def read_parts(values: list[Any], where: str) -> list[Part]:
    """Return parts from a list of names and tables. Raise SpecificationError for any other value."""
    try:
        return TypeAdapter(list[Named]).validate_python(values, strict=True)
    except ValidationError as error:
        raise explain(error, where, ["name"]) from error


def is_object(factory: Any) -> bool:
    """Return whether `factory` is a finished part, not a class or function that makes one."""
    # The look-up of methods may run code of a user's object.
    with guard_user_code(
        f"an object of type {type(factory).__name__}", "a part whose methods can be looked up"
    ):
        return not isinstance(factory, type) and isinstance(
            factory, (Attack, Defense, LocalTraining)
        )
