"""The promises that BaseAttack keeps for every attack."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch

import leakgauge as lg
from leakgauge.core import CERTIFIED_WITHIN, CONVERGED_WITHIN
from leakgauge.core.verdicts import lower_if_changed

CERTIFIED, CONVERGED, UNCONVERGED = (
    lg.Status.CERTIFIED,
    lg.Status.CONVERGED,
    lg.Status.UNCONVERGED,
)


@dataclass(frozen=True)
class Claims(lg.BaseAttack):
    """An attack that returns the middle of the domain with any status and residual."""

    status: lg.Status = CERTIFIED
    residual: float | None = 0.0
    message: str = "done"
    check_fails: bool = False
    search_fails: bool = False

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: lg.Observation) -> lg.Plan | lg.Inapplicable:
        if self.check_fails:
            raise ZeroDivisionError
        return lg.Plan(evaluations=1, search=partial(self.guess, observation))

    def guess(self, observation: lg.Observation, *_: object) -> lg.Reconstruction:
        if self.search_fails:
            raise RuntimeError("two\nlines")
        batch = observation.batch_size
        return lg.Reconstruction(
            inputs=torch.full((batch, *observation.domain.shape), 0.5),
            targets=None,
            found=torch.ones(batch, dtype=torch.bool),
            status=self.status,
            message=self.message,
            residual=self.residual,
        )


def seen(scale: float = 1.0, *, batch_size: bool = True) -> lg.Observation:
    """Return an observation of one gradient of a linear network, times a scale."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        inputs = torch.rand(2, 1, 2, 2)
    client = lg.Client(
        model=model,
        loss=lambda z, y: scale * torch.nn.functional.cross_entropy(z, y),
        domain=lg.ImageDomain(1, 2, 2),
        classes=3,
    )
    batch = lg.Batch(inputs, torch.tensor([0, 2]))
    return lg.Server(batch_size=batch_size).observe(client, batch, seeds=lg.Seeds(0))


@pytest.mark.parametrize(
    ("claimed", "residual", "allowed"),
    [
        (CERTIFIED, CERTIFIED_WITHIN, CERTIFIED),
        (CERTIFIED, 2 * CERTIFIED_WITHIN, CONVERGED),
        (CERTIFIED, 2 * CONVERGED_WITHIN, UNCONVERGED),
        (CERTIFIED, None, UNCONVERGED),
        (CERTIFIED, float("nan"), UNCONVERGED),
        (CONVERGED, CONVERGED_WITHIN, CONVERGED),
        (CONVERGED, 2 * CONVERGED_WITHIN, UNCONVERGED),
        (CONVERGED, None, UNCONVERGED),
        (UNCONVERGED, 0.0, UNCONVERGED),
    ],
)
def test_a_status_is_never_better_than_its_residual(
    claimed: lg.Status, residual: float | None, allowed: lg.Status
) -> None:
    found = Claims(claimed, residual)(seen(), seeds=lg.Seeds(0))
    assert found.status is allowed
    assert (found.message == "done") == (claimed is allowed)


@pytest.mark.parametrize("residual", [2 * CERTIFIED_WITHIN, 2 * CONVERGED_WITHIN, None])
def test_the_reason_of_a_lowered_status_stands_alone_in_an_empty_message(
    residual: float | None,
) -> None:
    found = Claims(residual=residual, message="")(seen(), seeds=lg.Seeds(0))
    assert found.message.startswith("not ")
    claimed = replace(found, status=CERTIFIED, message="")
    found = lower_if_changed(lg.defenses.Mixup(), claimed)
    assert found.message.startswith("not certified: ")


@pytest.mark.parametrize("attack", [Claims(), lg.attacks.DLG(), lg.attacks.Auto()])
def test_an_update_of_zeros_has_its_own_status(attack: lg.BaseAttack) -> None:
    found = attack(seen(scale=0.0), seeds=lg.Seeds(0))
    assert found.status is lg.Status.NO_SIGNAL
    assert "nothing was observed" in found.message
    assert not found.found.any()


def test_foreign_exceptions_name_the_attack_and_keep_their_cause() -> None:
    with pytest.raises(
        lg.AttackError, match=r"^Claims: its search failed: RuntimeError: two lines$"
    ) as e:
        Claims(search_fails=True)(seen(), seeds=lg.Seeds(0))
    assert isinstance(e.value.__cause__, RuntimeError)
    with pytest.raises(lg.AttackError, match="Claims: its check failed: ZeroDivisionError"):
        Claims(check_fails=True).plan(seen())


def test_missing_knowledge_is_told_before_any_compute() -> None:
    with pytest.raises(lg.KnowledgeError, match="batch_size"):
        Claims(search_fails=True)(seen(batch_size=False), seeds=lg.Seeds(0))


def test_every_attack_has_the_base() -> None:
    for name in lg.attacks.__all__:
        assert issubclass(getattr(lg.attacks, name), lg.BaseAttack), name
