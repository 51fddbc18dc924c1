"""DCS-2 against its formula, and its adaptive adversary."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import images, refusal, sigmoid_cnn
from torch.nn import functional

import leakgauge as lg
from leakgauge.attacks.concealment_matching import as_pair, labels_of_pair, targets_of_pair
from leakgauge.core import ConcealedExamples, ModelError, SpecificationError, effect
from leakgauge.defenses import DCS2
from leakgauge.defenses.dcs2 import _Concealed, cosine, inner, project
from leakgauge.federated.training.wrapper import Task
from leakgauge.inversion.simulation.simulator import simulator

LOSS = functional.cross_entropy


def concealing(defense: DCS2) -> _Concealed:
    training = defense.on_training(lg.FedSGD(), seeds=lg.Seeds(0))
    assert isinstance(training, _Concealed)
    return training


class TestDCS2:
    def test_what_is_shared_is_the_mean_of_private_and_invented(self) -> None:
        batch, model, training = images(2), sigmoid_cnn(), concealing(DCS2(steps=5))
        own = lg.FedSGD()(model, LOSS, batch.inputs, batch.targets)
        others = training.draw_labels(model, batch.inputs, batch.targets)
        assert not bool((others == batch.targets).any())
        invented = training.invent(Task(model, LOSS, batch.inputs, batch.targets), others, own)
        rows = torch.eye(4)
        mixed = 0.7 * rows[others] + 0.3 * rows[batch.targets]
        both = lg.FedSGD()(
            model,
            LOSS,
            torch.cat([batch.inputs, invented]),
            torch.cat([rows[batch.targets], mixed]),
        )
        found = training(model, LOSS, batch.inputs, batch.targets)
        assert float(inner(found, own)) > 0
        assert all(torch.allclose(found[n], 2 / 3 * t, atol=1e-6) for n, t in both.items())

    def test_the_invented_gradient_turns_to_the_private_one_and_the_image_away(self) -> None:
        batch, model = images(1), sigmoid_cnn()
        own = lg.FedSGD()(model, LOSS, batch.inputs, batch.targets)
        angles, distances = [], []
        for steps in (0, 60):
            training = concealing(DCS2(steps=steps))
            others = training.draw_labels(model, batch.inputs, batch.targets)
            found = training.invent(Task(model, LOSS, batch.inputs, batch.targets), others, own)
            angles.append(float(cosine(lg.FedSGD()(model, LOSS, found, others), own)))
            distances.append(float((found - batch.inputs).norm()))
        assert angles[1] > angles[0] + 0.1
        assert distances[1] > distances[0]

    def test_the_search_ends_where_it_is_far_enough(self) -> None:
        batch, model = images(1), sigmoid_cnn()
        own = lg.FedSGD()(model, LOSS, batch.inputs, batch.targets)
        found = [
            concealing(DCS2(steps=steps, enough=1e-6)).invent(
                Task(model, LOSS, batch.inputs, batch.targets), torch.tensor([1]), own
            )
            for steps in (10, 50)
        ]
        assert torch.equal(*found)

    def test_what_points_against_is_turned(self) -> None:
        own = {"a": torch.tensor([1.0, 0.0])}
        turned = project({"a": torch.tensor([-3.0, 1.0])}, own)["a"]
        assert turned.tolist() == pytest.approx([0.0, 1.0], abs=5e-3)
        least = project({"a": torch.tensor([-0.1, 1.0])}, own)["a"]
        assert least.tolist() == pytest.approx([0.4, 1.0])
        kept = {"a": torch.tensor([0.1, 1.0])}
        assert project(kept, own) is kept

    def test_other_targets_and_local_steps_are_refused(self) -> None:
        with pytest.raises(SpecificationError, match="one gradient"):
            DCS2().on_training(lg.FedAvg(), seeds=lg.Seeds(0))
        with pytest.raises(ModelError, match="class labels"):
            concealing(DCS2(steps=0))(sigmoid_cnn(), LOSS, images(1).inputs, torch.rand(1, 4))


class TestWhoKnowsIt:
    def test_the_pair_explains_the_update(self, observe: Callable[..., lg.Observation]) -> None:
        """The true pair, with the labels read from the update, matches the scaled update to rounding."""
        batch, model, defense = images(1), sigmoid_cnn(), DCS2(steps=5)
        seen = observe(model, batch, under=defense)
        training = defense.on_training(lg.FedSGD(), seeds=lg.Seeds(7).child("defense"))
        assert isinstance(training, _Concealed)
        others = training.draw_labels(model, batch.inputs, batch.targets)
        *_, slopes = seen.update.tensors.values()
        assert labels_of_pair(seen, slopes) == (int(batch.targets), int(others))
        own = lg.FedSGD()(model, LOSS, batch.inputs, batch.targets)
        invented = training.invent(Task(model, LOSS, batch.inputs, batch.targets), others, own)
        concealed = effect(seen, ConcealedExamples)
        assert concealed is not None
        pair = as_pair(seen, concealed)
        targets = targets_of_pair(int(batch.targets), int(others), defense.mixing, 4, batch.inputs)
        found = simulator(pair, create_graph=False)(torch.cat([batch.inputs, invented]), targets)
        assert all(torch.allclose(found[n], t, atol=1e-6) for n, t in pair.update.tensors.items())

    def test_other_observations_are_refused(self, observe: Callable[..., lg.Observation]) -> None:
        attack = lg.attacks.ConcealmentMatching(attack=lg.attacks.InvertingGradients(steps=1))
        with pytest.raises(lg.KnowledgeError, match="defense"):
            attack.plan(observe(sigmoid_cnn(), images(1)))
        under = DCS2(steps=0)
        assert refusal(attack, observe(sigmoid_cnn(), images(2), under=under))
        assert refusal(attack, observe(sigmoid_cnn(), images(1), under=under)) is None
