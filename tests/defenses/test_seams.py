"""The results of a user's own defense are checked. The error is one line and names the defense and the method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.audits import case
from torch import Tensor

import leakgauge as lg


class Own:
    """A defense that changes nothing, except by the one method that a test replaces."""

    def on_batch(self, inputs: Tensor, targets: Tensor, *, seeds: lg.Seeds) -> Any:
        return inputs, targets

    def on_model(self, model: Any, *, seeds: lg.Seeds) -> Any:
        return model

    def on_training(self, training: Any, *, seeds: lg.Seeds) -> Any:
        return training

    def on_update(self, update: lg.Update, *, seeds: lg.Seeds) -> Any:
        return update

    def adapt(self, observed: lg.Update) -> Any:
        return lambda simulated: simulated


WRONG: dict[str, tuple[str, Any, str]] = {
    "no batch": ("on_batch", lambda x, y: None, "expected a tuple of inputs and targets"),
    "inputs alone": ("on_batch", lambda x, y: x, "expected a tuple of inputs and targets"),
    "wide inputs": ("on_batch", lambda x, y: (x.double(), y), "found torch.float64"),
    "wide targets": ("on_batch", lambda x, y: (x, y.double()), "found torch.float64"),
    "a target less": ("on_batch", lambda x, y: (x, y[1:]), "as many targets as inputs"),
    "no training": ("on_training", lambda training: None, "methods of LocalTraining; found None"),
    "a class": ("on_training", lambda training: lg.FedSGD, "found the class FedSGD"),
    "no update": ("on_update", lambda update: None, "expected an Update"),
    "tensors alone": ("on_update", lambda update: update.tensors, "expected an Update"),
    "whole numbers": (
        "on_update",
        lambda update: update.map(lambda t: t.long()),
        "real numbers of 16 to 64 bits; found torch.int64",
    ),
    "NaN": ("on_update", lambda update: update.map(lambda t: t / 0), "NaN or infinite"),
}


def wrong(seam: str, returned: Any) -> Own:
    """Return a defense whose method `seam` applies `returned` to its arguments."""
    defense = Own()
    vars(defense)[seam] = lambda *given, seeds: returned(*given)
    return defense


@pytest.mark.parametrize(("seam", "returned", "words"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("chained", [False, True])
def test_the_defense_and_its_seam_are_named(
    seam: str, returned: Any, words: str, chained: bool
) -> None:
    defense: Any = wrong(seam, returned)
    if chained:
        defense = lg.defenses.Chain(defenses=(lg.defenses.Clipping(norm=1.0), defense))
    with pytest.raises(lg.UserError) as caught:
        lg.audit(case(defenses=[None, defense], batch_sizes=[2]))
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    # The result of a whole chain is checked at its end, in the chain's name.
    name = "Chain" if chained and isinstance(caught.value, lg.UpdateError) else "Own"
    assert f"defense {name}, {seam}" in message


def test_a_training_that_diverges_is_not_the_defenses_fault() -> None:
    training = lg.FedAvg(epochs=3, learning_rate=1e30)
    with pytest.raises(lg.UpdateError) as caught:
        lg.audit(case(defenses=[Own()], training=training))
    assert "on_update" not in str(caught.value)


def test_what_is_right_is_taken() -> None:
    """A defense may return soft targets, another number of examples, and updates in other real types."""
    defense = wrong("on_update", lambda update: update.map(lambda t: t.half()))
    twice = lambda x, y: (torch.cat([x, x]), torch.cat([y, y]))  # noqa: E731
    vars(defense)["on_batch"] = lambda *given, seeds: twice(*given)
    (cell,) = lg.audit(case(defenses=[defense])).cells
    assert cell.failure is None


def test_case_check_refuses_what_is_no_defense_or_attack() -> None:
    for field, name in (("defenses", "Defense"), ("attacks", "Attack")):
        with pytest.raises(lg.SpecificationError, match=f"{field}.*methods of {name}"):
            case(**{field: [object()]}).check()


def test_an_attack_on_a_defense_is_inapplicable_where_there_is_none() -> None:
    known = lg.defenses.GaussianNoise(std=0.1)
    attacks = [lg.attacks.BayesOptimal(steps=2), lg.attacks.LinearLayer()]
    run = lg.audit(case(attacks=attacks, defenses=[None, known]))
    statuses = [(cell.defense.name, cell.attack.name, cell.status) for cell in run.cells]
    assert statuses[0] == ("none", "bayes_optimal", "inapplicable")
    assert "the client has no defense" in run.cells[0].message
    assert all(status != "inapplicable" for _, _, status in statuses[1:])
    with pytest.raises(lg.KnowledgeError, match="grant it"):
        lg.audit(case(attacks=attacks, defenses=[known], threat=lg.Server(defense=False)))
