"""Auto: which attack is first, when it stops, and what the attacks behind a decisive one know."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import nn

import leakgauge as lg
from leakgauge.attacks import Auto, Entry
from leakgauge.core import Cost
from leakgauge.core.verdicts import report_nothing_found


@dataclass(frozen=True, kw_only=True)
class Told(lg.BaseAttack):
    """An attack that returns gray images with a status, and keeps the labels that it knew."""

    status: lg.Status = lg.Status.UNCONVERGED
    residual: float | None = 0.5
    knew: list[torch.Tensor | None]

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: lg.Observation) -> lg.Plan:
        return lg.Plan(evaluations=1, search=partial(self.search, observation))

    def search(
        self, observation: lg.Observation, seeds: lg.Seeds, progress: lg.Progress
    ) -> lg.Reconstruction:
        self.knew.append(observation.knowledge.labels)
        found = report_nothing_found(observation, self.status, "told", cost=Cost(1))
        if self.status is lg.Status.INAPPLICABLE:
            return found
        count = observation.batch_size
        return replace(
            found,
            targets=torch.arange(count),
            found=torch.ones(count, dtype=torch.bool),
            residual=self.residual,
        )


def observed(batch: int = 2) -> lg.Observation:
    """Return an observation without granted labels."""
    seen = lg.examples.observation(batch_size=batch)
    return replace(seen, knowledge=replace(seen.knowledge, labels=None))


def network() -> nn.Module:
    """Return two convolutions and a pooled head for 8x8 digits, from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 64, 3, padding=1), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
        )
        return model.eval()


def test_shift_consistency_is_first_and_its_certificate_ends_the_search() -> None:
    assert Auto().attacks[0] == Entry(attack=lg.attacks.ShiftConsistency(), decisive=True)
    observation = lg.examples.observation(batch_size=2, model=network())
    found = Auto()(observation, seeds=lg.Seeds(0))
    assert found.status is lg.Status.CERTIFIED
    assert found.notes[0].startswith("chosen by residual: ShiftConsistency")
    assert not any(
        note.startswith(("SecondOrder: un", "InvertingGradients: ")) for note in found.notes
    )


def test_a_refusal_stands_in_the_notes_in_numbers() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()
    attacks = (lg.attacks.ShiftConsistency(), Told(knew=[]))
    observation = lg.examples.observation(batch_size=2, model=model)
    found = Auto(attacks=attacks)(observation, seeds=lg.Seeds(0))
    assert any("ShiftConsistency" in n and "4 channels for 36 positions" in n for n in found.notes)


def test_the_next_attacks_know_the_labels_of_a_decisive_one() -> None:
    first, second = Told(knew=[]), Told(knew=[])
    Auto(attacks=(Entry(attack=first, decisive=True), second))(observed(), seeds=lg.Seeds(0))
    assert first.knew == [None]
    (labels,) = second.knew
    assert labels is not None
    assert labels.tolist() == [0, 1]


def test_labels_of_other_attacks_are_not_passed_on() -> None:
    second = Told(knew=[])
    Auto(attacks=(Told(knew=[]), second))(observed(), seeds=lg.Seeds(0))
    assert second.knew == [None]


def test_granted_labels_stay() -> None:
    second = Told(knew=[])
    seen = lg.examples.observation(batch_size=2)
    Auto(attacks=(Entry(attack=Told(knew=[]), decisive=True), second))(seen, seeds=lg.Seeds(0))
    assert torch.equal(torch.as_tensor(second.knew[0]), torch.as_tensor(seen.knowledge.labels))


@pytest.mark.parametrize("decisive", [True, False])
def test_a_match_by_a_decisive_attack_ends_the_search(decisive: bool) -> None:
    """A batch of several examples may have others of the same update, so that other matches do not end it."""
    observation = lg.examples.observation(batch_size=2, model=network())
    behind = Told(knew=[])

    @dataclass(frozen=True, kw_only=True)
    class Matched(lg.attacks.ShiftConsistency):
        """The attack without its certificate."""

        def prepare(self, observation: lg.Observation) -> lg.Plan | lg.Inapplicable:
            plan = super().prepare(observation)
            assert isinstance(plan, lg.Plan)

            def search(seeds: lg.Seeds, progress: lg.Progress) -> lg.Reconstruction:
                return replace(plan.search(seeds, progress), status=lg.Status.CONVERGED)

            return replace(plan, search=search)

    attacks = (Entry(attack=Matched(steps=15, rounds=1), decisive=decisive), behind)
    found = Auto(attacks=attacks)(observation, seeds=lg.Seeds(0))
    assert found.status is lg.Status.CONVERGED
    assert bool(behind.knew) is not decisive


def test_a_search_that_finds_itself_inapplicable_is_no_result() -> None:
    refused = Told(status=lg.Status.INAPPLICABLE, knew=[])
    found = Auto(attacks=(refused, Told(residual=None, knew=[])))(observed(), seeds=lg.Seeds(0))
    assert found.status is lg.Status.UNCONVERGED
    assert "Told: told" in found.notes
    alone = Auto(attacks=(refused,))(observed(), seeds=lg.Seeds(0))
    assert alone.status is lg.Status.INAPPLICABLE
    assert not bool(alone.found.any())
