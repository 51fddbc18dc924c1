"""Threat models: an observation holds what the options grant, and nothing that leads to the batch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import pytest
import torch
from conftest import client, images, mlp
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge import defenses
from leakgauge.defenses import Undefended

Observe = Callable[..., lg.Observation]
GRANTS = ("batch_size", "labels", "label_counts", "defense", "order", "hyperparameters")
"""Knowledge that can be granted about any model. Statistics need BatchNorm, see test_statistics.py."""


def tensors_of(value: Any, seen: set[int] | None = None) -> Iterator[Tensor]:
    """Yield every tensor that `value` reaches through fields, attributes and closures."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
        inside: list[Any] = [value.grad, value.grad_fn]
    elif isinstance(value, nn.Module):
        inside = [*value.parameters(), *value.buffers(), vars(value)]
    elif isinstance(value, Mapping):
        inside = list(value.values())
    elif isinstance(value, (list, tuple, set, frozenset)):
        inside = list(value)
    elif is_dataclass(value) and not isinstance(value, type):
        inside = [getattr(value, field.name) for field in fields(value)]
    elif callable(value) and getattr(value, "__closure__", None):
        inside = [cell.cell_contents for cell in value.__closure__]
    else:
        inside = []
    for item in inside:
        yield from tensors_of(item, seen)


@pytest.mark.parametrize("granted", [*itertools.product([False, True], repeat=6)])
def test_a_server_grants_exactly_what_its_fields_say(
    observe: Observe, granted: tuple[bool, ...]
) -> None:
    chosen = dict(zip(GRANTS, granted, strict=True))
    noise = defenses.GaussianNoise(std=0.1)
    knowledge = observe(mlp(), images(3), under=noise, **chosen).knowledge
    expected = {name for name, told in chosen.items() if told}
    assert knowledge.granted() == lg.Server(**chosen).grants == expected
    assert knowledge.batch_size in (None, 3)
    assert knowledge.defense in (None, noise)


def test_every_kind_of_knowledge_can_be_granted() -> None:
    assert {field.name for field in fields(lg.Server)} == lg.Knowledge.names()
    assert lg.Knowledge.names() == {*GRANTS, "statistics"}


def test_labels_are_told_without_the_batch_s_order(observe: Observe) -> None:
    targets = torch.tensor([3, 0, 2, 2, 1, 0, 3, 1])
    batch = lg.Batch(images(8).inputs, targets)
    labels = observe(mlp(), batch, labels=True).knowledge.labels
    assert labels is not None
    assert sorted(labels.tolist()) == sorted(targets.tolist())
    assert labels.tolist() != targets.tolist()
    # The seed alone decides the order. It is an order of places, not of labels.
    marked = lg.Batch(batch.inputs, torch.arange(8) % 4)
    again = observe(mlp(), marked, labels=True).knowledge.labels
    assert again is not None
    places = torch.randperm(8, generator=lg.Seeds(7).generator("label order"))
    assert torch.equal(again, marked.targets[places])


def test_soft_labels_are_told_as_they_are(observe: Observe) -> None:
    soft = torch.tensor([[0.25, 0.75, 0, 0], [0, 0, 0.5, 0.5]])
    labels = observe(mlp(), lg.Batch(images(2).inputs, soft), labels=True).knowledge.labels
    assert labels is not None
    assert sorted(labels.tolist()) == sorted(soft.tolist())


def test_label_counts_count(observe: Observe) -> None:
    batch = lg.Batch(images(5).inputs, torch.tensor([1, 1, 0, 1, 2]))
    counts = observe(mlp(), batch, label_counts=True).knowledge.label_counts
    assert counts is not None
    assert counts.tolist() == [1, 3, 1, 0]


@pytest.mark.parametrize("classes", [4, None])
def test_targets_that_are_not_classes_cannot_be_counted(classes: int | None) -> None:
    owner = lg.Client(
        model=mlp(classes=1),
        loss=lambda output, target: (output.squeeze(1) - target).square().mean(),
        domain=lg.ImageDomain(1, 8, 8),
        classes=classes,
    )
    batch = lg.Batch(images(1).inputs, torch.tensor([0.3]))
    with pytest.raises(lg.KnowledgeError, match="grant labels instead") as caught:
        lg.Server(label_counts=True).observe(owner, batch, seeds=lg.Seeds(0))
    assert "\n" not in str(caught.value)


def test_without_a_defense_none_is_told(observe: Observe) -> None:
    assert observe(mlp(), images(1), defense=True).knowledge.defense is None


def test_the_batch_size_that_is_withheld_is_asked_for_in_one_line(observe: Observe) -> None:
    observation = observe(mlp(), images(2), batch_size=False)
    with pytest.raises(lg.KnowledgeError, match="batch_size = true") as caught:
        _ = observation.batch_size
    assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class Handle(Undefended):
    """A defense that returns its argument, and would leave the batch in the update."""

    def on_update(self, update: lg.Update, *, seeds: lg.Seeds) -> lg.Update:
        return update


@pytest.mark.parametrize("under", [None, Handle(), defenses.TopK(sparsity=0.0)])
def test_nothing_in_an_observation_leads_to_the_batch(
    observe: Observe, under: lg.Defense | None
) -> None:
    batch, model = images(3), mlp()
    everything = dict.fromkeys(GRANTS, True)
    observation = observe(model, batch, under=under, **everything)
    found = list(tensors_of(observation))
    assert len(found) >= 2 * len(list(model.parameters())) + 2
    private = {
        batch.inputs.untyped_storage().data_ptr(),
        batch.targets.untyped_storage().data_ptr(),
    }
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    for tensor in found:
        assert tensor.untyped_storage().data_ptr() not in private
        assert tensor.untyped_storage().data_ptr() not in own
        assert tensor.grad_fn is None
        assert tensor is not batch.inputs
        assert tensor is not batch.targets


def test_a_loss_that_only_squares_does_not_alias_it_either() -> None:
    """With a linear model and a linear loss, the gradient is the input itself."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1, bias=False))
    owner = lg.Client(
        model=model,
        loss=lambda output, target: output.sum(),
        domain=lg.ImageDomain(1, 8, 8),
        classes=None,
    )
    batch = lg.Batch(images(1).inputs, torch.zeros(1))
    truth = batch.inputs.clone()
    observation = lg.Server().observe(owner, batch, seeds=lg.Seeds(0))
    batch.inputs.fill_(math.nan)
    assert torch.allclose(observation.update.tensors["1.weight"], truth.flatten(1))


def test_poisoning_the_batch_afterwards_changes_nothing(observe: Observe) -> None:
    everything = dict.fromkeys(GRANTS, True)
    sound = observe(mlp(), images(3), **everything)
    batch = images(3)
    poisoned = observe(mlp(), batch, **everything)
    batch.inputs.fill_(math.nan)
    batch.targets.fill_(0)
    for one, other in zip(tensors_of(sound), tensors_of(poisoned), strict=True):
        assert torch.equal(one, other)


def test_the_observed_model_is_a_copy_at_the_weights_trained_on(observe: Observe) -> None:
    model = mlp()
    observation = observe(model, images(1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    assert all(torch.isfinite(p).all() for p in observation.model.parameters())


def test_same_seed_same_observation(observe: Observe) -> None:
    noise = defenses.GaussianNoise(std=0.1)
    one, other = (observe(mlp(), images(4), under=noise, labels=True) for _ in range(2))
    for name, tensor in one.update.tensors.items():
        assert torch.equal(tensor, other.update.tensors[name])
    assert torch.equal(one.knowledge.labels, other.knowledge.labels)  # type: ignore[arg-type]


class TestNotFinite:
    def test_an_update_that_is_not_finite(self) -> None:
        model = mlp()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1e18)
        with pytest.raises(lg.UpdateError, match="finite values") as caught:
            lg.Server().observe(client(model), images(2), seeds=lg.Seeds(0))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_inputs_that_are_not_finite(self, value: float) -> None:
        batch = images(2)
        batch.inputs[0, 0, 0, 0] = value
        with pytest.raises(lg.UpdateError, match="NaN or infinite"):
            lg.Server().observe(client(mlp()), batch, seeds=lg.Seeds(0))

    def test_a_defense_that_breaks_the_update(self) -> None:
        @dataclass(frozen=True)
        class Division(Undefended):
            def on_update(self, update: lg.Update, *, seeds: lg.Seeds) -> lg.Update:
                return update.map(lambda t: t / 0)

        with pytest.raises(lg.UpdateError, match="strength of the defense"):
            lg.Server().observe(client(mlp(), defense=Division()), images(1), seeds=lg.Seeds(0))

    @pytest.mark.parametrize("value", [math.nan, -math.inf])
    def test_a_model_that_is_not_finite(self, value: float) -> None:
        model = mlp()
        with torch.no_grad():
            model[5].bias[2] = value  # type: ignore[index, union-attr, operator]
        with pytest.raises(lg.ModelError, match=r"'5\.bias'") as caught:
            lg.Server().observe(client(model), images(1), seeds=lg.Seeds(0))
        assert "\n" not in str(caught.value)

    def test_a_loss_that_is_not_a_scalar(self) -> None:
        owner = lg.Client(
            model=mlp(),
            loss=lambda o, t: functional.cross_entropy(o, t, reduction="none"),
            domain=lg.ImageDomain(1, 8, 8),
            classes=4,
        )
        with pytest.raises(lg.ModelError, match="scalar"):
            lg.Server().observe(owner, images(2), seeds=lg.Seeds(0))
