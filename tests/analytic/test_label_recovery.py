"""Label recovery: counts with repetition from the update alone, or the reason why they cannot be recovered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from conftest import client, images, mlp, sigmoid_cnn
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.analytic.label_recovery import (
    Auxiliary,
    BestLabels,
    Bounds,
    FedAvgCounts,
    GradInversionRule,
    Idlg,
    Ilrg,
    LabelMethod,
    Llg,
    LlgPlus,
    LlgStar,
    Rlg,
    Tilting,
    base,
    recover_labels,
)
from leakgauge.analytic.label_recovery.base import biased_head_of, round_counts
from leakgauge.analytic.label_recovery.bounds import complete_counts
from leakgauge.analytic.label_recovery.llg import take_labels
from leakgauge.analytic.label_recovery.stand_ins import natural, scenes
from leakgauge.analytic.label_recovery.tilting import Tilt, merge
from leakgauge.defenses import RandomSparsification, TopK
from leakgauge.federated import FedAvg

Observe = Callable[..., lg.Observation]
SEEDS = lg.Seeds(3)
REPEATED = [0, 0, 0, 2, 2, 3, 5, 5, 5, 5, 5, 5]


def batch(labels: list[int]) -> lg.Batch:
    return lg.Batch(images(len(labels)).inputs, torch.tensor(labels))


def counts(labels: list[int], classes: int = 8) -> list[int]:
    return torch.bincount(torch.tensor(labels), minlength=classes).tolist()


def observation_of(observe: Observe, labels: list[int], **granted: bool) -> lg.Observation:
    return observe(mlp(classes=8), batch(labels), **granted)


def auxiliary() -> Auxiliary:
    return Auxiliary(images(40, seed=9).inputs, torch.arange(40) % 8)


def refusal(method: LabelMethod, observation: lg.Observation) -> str:
    """Return why the method cannot recover the labels."""
    found = method.prepare(observation)
    assert isinstance(found, lg.Inapplicable)
    return found.reason


METHODS: dict[str, LabelMethod] = {
    "ilrg": Ilrg(),
    "llg_star": LlgStar(),
    "llg_plus": LlgPlus(auxiliary=auxiliary()),
    "tilting": Tilting(),
    "tilting, auxiliary": Tilting(auxiliary=auxiliary()),
    "best": BestLabels(),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("labels", [REPEATED, [4] * 20, [7]], ids=["repeated", "equal", "one"])
def test_counts_with_repetition(observe: Observe, name: str, labels: list[int]) -> None:
    observation = observation_of(observe, labels)
    found = METHODS[name](observation, seeds=SEEDS)
    assert found.counts is not None
    assert int(found.counts.sum()) == len(labels)
    assert found.counts.tolist() == counts(labels)
    assert found.labels.tolist() == labels
    again = METHODS[name](observation, seeds=SEEDS)
    assert again.counts is not None
    assert torch.equal(again.counts, found.counts)


@pytest.mark.parametrize("name", METHODS)
def test_a_reading_checks_nothing_anew(
    observe: Observe, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = METHODS[name].prepare(observation_of(observe, REPEATED))
    assert not isinstance(reading, lg.Inapplicable)

    def again(*_: object) -> None:
        pytest.fail("expected the reading to reuse what `prepare` found")

    monkeypatch.setattr(base, "last_layer", again)
    assert reading(SEEDS).labels.tolist() == REPEATED


def test_idlg_reads_one_label_without_bias_too(observe: Observe) -> None:
    model = mlp(classes=8)
    last = nn.Linear(48, 8, bias=False)
    with torch.no_grad():
        last.weight.copy_(model[-1].weight)
    model[-1] = last
    observation = observe(model, batch([6]))
    assert Idlg()(observation, seeds=SEEDS).labels.tolist() == [6]
    assert Idlg()(observation_of(observe, [6]), seeds=SEEDS).labels.tolist() == [6]
    assert refusal(Idlg(), observation_of(observe, [1, 2])) == "recovers one label: batch 2 > 1"


def test_distinct_labels_by_minima_and_by_separability(observe: Observe) -> None:
    observation = observation_of(observe, [1, 3, 4])
    assert GradInversionRule()(observation, seeds=SEEDS).labels.tolist() == [1, 3, 4]
    presence = Rlg()(observation_of(observe, [1, 3, 3, 4]), seeds=SEEDS)
    assert presence.present.nonzero().flatten().tolist() == [1, 3, 4]
    assert presence.counts is None
    with pytest.raises(ValueError, match="not how many"):
        _ = presence.labels
    assert "batch 12 > 8" in refusal(GradInversionRule(), observation_of(observe, REPEATED))
    assert "batch 12 > 7" in refusal(Rlg(), observation_of(observe, REPEATED))


def test_llg_from_the_gradient_alone_is_near(observe: Observe) -> None:
    found = Llg()(observation_of(observe, REPEATED), seeds=SEEDS).counts
    assert found is not None
    assert int(found.sum()) == 12
    assert int(torch.minimum(found, torch.tensor(counts(REPEATED))).sum()) >= 10
    assert Llg()(observation_of(observe, [4] * 20), seeds=SEEDS).labels.tolist() == [4] * 20


def test_llg_subtracts_the_impact_from_the_class_it_took() -> None:
    sums = torch.tensor([-6.2, -0.9, 0.1, 0.2])
    found = take_labels(sums, 7, torch.tensor(-1.0), torch.zeros(4))
    assert found.tolist() == [6, 1, 0, 0]


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [([0.4, 0.4, 2.4], [1, 0, 3]), ([2.6, 2.6, 0.2], [2, 2, 0]), ([-3.0, 9.0, 0.0], [0, 4, 0])],
    ids=["too few", "too many", "negative"],
)
def test_rounding_corrects_both_ways(estimate: list[float], expected: list[int]) -> None:
    found = round_counts(torch.tensor(estimate, dtype=torch.float64), 4)
    assert int(found.sum()) == 4
    assert (found - torch.tensor(estimate)).square().sum() <= (
        torch.tensor(expected) - torch.tensor(estimate)
    ).square().sum() + 1e-6


def test_smoothed_targets_are_solved_for_or_refused() -> None:
    def smoothed(z: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(z, y, label_smoothing=0.2)

    maker = replace(client(mlp(classes=8), classes=8), loss=smoothed)
    observation = lg.Server().observe(maker, batch(REPEATED), seeds=lg.Seeds(7))
    for method in (Ilrg(), Tilting(), BestLabels()):
        assert method(observation, seeds=SEEDS).labels.tolist() == REPEATED
    for refused in (Llg(), Rlg(), Bounds(), GradInversionRule()):
        assert refusal(refused, observation) == "needs targets of 0 and 1, not smoothed ones"
        with pytest.raises(ValueError, match="smoothed"):
            refused(observation, seeds=SEEDS)


def test_what_is_granted_comes_first_and_soft_targets_have_no_counts(observe: Observe) -> None:
    maker = client(mlp(classes=8), classes=8)
    for granted in ({"labels": True}, {"label_counts": True}):
        observation = lg.Server(**granted).observe(maker, batch(REPEATED), seeds=lg.Seeds(7))
        found = recover_labels(observation, seeds=SEEDS)
        assert found.method == "granted"
        assert found.labels.tolist() == REPEATED
    soft = lg.Batch(images(3).inputs, torch.full((3, 8), 1 / 8))
    observation = lg.Server(labels=True).observe(maker, soft, seeds=lg.Seeds(7))
    assert "soft" in refusal(BestLabels(), observation)


def test_without_the_batch_size_nothing_is_counted(observe: Observe) -> None:
    observation = observation_of(observe, REPEATED, batch_size=False)
    for method in METHODS.values():
        assert refusal(method, observation) == "needs the batch size"
    with pytest.raises(ValueError, match="batch size"):
        recover_labels(observation, seeds=SEEDS)


def test_without_the_bias_gradient_the_default_says_so(observe: Observe) -> None:
    model = mlp(classes=8)
    model[-1].bias.requires_grad_(False)
    observation = observe(model, batch(REPEATED))
    assert "bias" in refusal(Ilrg(), observation)
    found = recover_labels(observation, seeds=SEEDS)
    assert found.method == "llg_star"
    assert "the bias has no gradient: LLG* replaces the default" in found.notes
    assert found.labels.tolist() == REPEATED


def test_poisoning_the_truth_afterwards_changes_nothing(observe: Observe) -> None:
    private = batch(REPEATED)
    observation = observe(mlp(classes=8), private)
    private.targets.fill_(1)
    private.inputs.zero_()
    assert recover_labels(observation, seeds=SEEDS).labels.tolist() == REPEATED


def confident() -> nn.Module:
    """Return a network with outputs far apart, as after training."""
    model = mlp(classes=8)
    model[-1].weight.data.mul_(200)
    return model


def test_a_confident_network_is_not_read_by_stand_ins(observe: Observe) -> None:
    observation = observe(confident(), batch([4] * 20))
    found = Bounds()(observation, seeds=SEEDS)
    assert found.labels.tolist() == [4] * 20
    assert "20 labels are proven" in found.notes[0]


def test_the_prior_fills_only_what_is_not_shown() -> None:
    alike = torch.ones(4).double()
    one = complete_counts(torch.tensor([0, 3, 0, 0]), 12, alike)
    assert one.tolist() == [0, 12, 0, 0]
    every = complete_counts(torch.tensor([1, 5, 1, 1]), 12, alike)
    assert int(every.sum()) == 12
    assert every[1] >= 5
    assert int((every - every.median()).abs()[[0, 2, 3]].max()) <= 1
    nothing = complete_counts(torch.tensor([0, 0, 0, 0]), 8, 0 * alike)
    assert nothing.tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("epochs", [1, 5])
@pytest.mark.parametrize(("size", "momentum"), [(None, 0.0), (None, 0.5), (3, 0.0)])
def test_counts_from_many_local_steps(epochs: int, size: int | None, momentum: float) -> None:
    training = FedAvg(epochs=epochs, minibatch=size, momentum=momentum, weight_decay=1e-3)
    maker = replace(client(mlp(classes=8), classes=8), training=training)
    observation = lg.Server().observe(maker, batch(REPEATED), seeds=lg.Seeds(7))
    assert observation.update.kind == "delta"
    found = recover_labels(observation, seeds=SEEDS)
    assert found.labels.tolist() == REPEATED
    assert bool(found.notes[:1] and "steps" in found.notes[0]) == (epochs > 1 or size == 3)
    assert FedAvgCounts()(observation, seeds=SEEDS).labels.tolist() == REPEATED


def test_one_local_step_is_a_gradient(observe: Observe) -> None:
    training = FedAvg(momentum=0.9, weight_decay=1e-2)
    maker = replace(client(mlp(classes=8), classes=8), training=training)
    delta = lg.Server().observe(maker, batch(REPEATED), seeds=lg.Seeds(7))
    assert Ilrg()(delta, seeds=SEEDS).labels.tolist() == REPEATED
    several = replace(delta, training=replace(training, epochs=2))
    assert "needs one gradient" in refusal(Ilrg(), several)
    gradient = observation_of(observe, REPEATED)
    assert "difference of weights" in refusal(FedAvgCounts(), gradient)


def test_bounds_do_not_prove_what_rounding_of_the_weights_shows() -> None:
    maker = replace(client(mlp(classes=8), classes=8), training=FedAvg(learning_rate=1e-3))
    delta = lg.Server().observe(maker, batch(REPEATED), seeds=lg.Seeds(7))
    head = biased_head_of(delta)
    assert not isinstance(head, lg.Inapplicable)
    least = Bounds().least(delta, head, SEEDS)
    assert bool((least <= torch.bincount(torch.tensor(REPEATED), minlength=8)).all())
    assert bool(least.any())


def test_stand_ins_that_differ_give_way_to_all_classes_alike() -> None:
    one, other = torch.tensor([9.0, 0.0, 3.0]).double(), torch.tensor([0.0, 9.0, 3.0]).double()
    apart = merge([Tilt(one, 0.01), Tilt(other, 0.01)], 12)
    assert apart.counts.tolist() == pytest.approx([4, 4, 4])
    assert apart.spread > 0.5
    alike = merge([Tilt(one, 0.01), Tilt(one, 0.1)], 12)
    assert alike.counts.tolist() == pytest.approx(one.tolist())
    assert alike.spread == pytest.approx(0)
    better = merge([Tilt(one, 1e-4), Tilt(other, 0.1)], 12)
    assert round_counts(better.counts, 12).tolist() == one.long().tolist()


def test_dummies_are_in_the_domain_and_repeat(observe: Observe) -> None:
    observation = observe(mlp(), batch([1, 2]))
    for kind in (natural, scenes):
        drawn = kind(observation, 5, SEEDS.generator("some"))
        unit = observation.domain.to_unit(drawn)
        assert unit.shape == (5, *observation.domain.shape)
        assert float(unit.min()) >= 0
        assert float(unit.max()) <= 1
        assert torch.equal(drawn, kind(observation, 5, SEEDS.generator("some")))
        assert len(torch.unique(unit.std((1, 2, 3)))) == 5


class TestSparsified:
    """A known sparsification: methods leave out the dropped entries, and do not read them as zeros."""

    @pytest.mark.parametrize(
        "defense", [TopK(sparsity=0.9), RandomSparsification(sparsity=0.9)], ids=["top-k", "random"]
    )
    def test_labels_are_read_from_what_was_sent(
        self, defense: lg.Defense, observe: Observe
    ) -> None:
        right = {True: 0, False: 0}
        for draw, labels in enumerate(([0, 0, 1, 1], [2, 2, 2, 3], [1, 3, 3, 0])):
            for known in right:
                seen = observe(sigmoid_cnn(seed=draw), batch(labels), under=defense, defense=known)
                found = recover_labels(seen, seeds=lg.Seeds(draw)).counts
                truth = torch.bincount(torch.tensor(labels), minlength=4)
                right[known] += int(torch.minimum(found, truth).sum())
        assert right[True] >= 10
        assert right[True] > right[False]

    def test_a_bias_of_which_nothing_was_sent_is_no_crash(self, observe: Observe) -> None:
        seen = observe(sigmoid_cnn(), images(3))
        tensors = {**seen.update.tensors, "5.bias": torch.zeros(4)}
        silent = replace(seen, update=lg.Update(tensors))
        for known in (TopK(sparsity=0.5), None):
            told = replace(silent, knowledge=replace(silent.knowledge, defense=known))
            assert int(recover_labels(told, seeds=lg.Seeds(0)).counts.sum()) == 3
