"""The end of a model: its head, the reduction of its loss, and the label of one example."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.outputs import (
    CLASSES,
    DOMAIN,
    LOSSES,
    TwoHeads,
    batch_of,
    network,
    observed,
    seeded,
)
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.analytic.label_recovery import BestLabels
from leakgauge.inversion import FixedLabels, LastLayer
from leakgauge.output import OneLabel, contribution_of, head_of, label_of_one, reduction_of


def after_steps(model: nn.Module, steps: int) -> nn.Module:
    """Return a network after some steps of training on noise."""
    descent = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(steps):
        batch = batch_of(64, seed=100 + step)
        descent.zero_grad()
        functional.cross_entropy(model(batch.inputs), batch.targets).backward()
        descent.step()
    return model


class Twice(TwoHeads):
    """A network that calls its head twice: on each example and on its mirror image."""

    def forward(self, x: Tensor) -> Tensor:
        one, two = (self.body(v.flatten(1)).tanh() for v in (x, x.flip(-1)))
        both: Tensor = (self.answer(one) + self.answer(two)) / 2
        return both


class Tied(TwoHeads):
    """A network whose head and body share a weight."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x.flatten(1)).tanh()
        z: Tensor = self.answer(h + h @ self.answer.weight.T @ self.answer.weight)
        return z


class Finished(nn.Module):
    """A network with a function after its output."""

    def __init__(self, finish: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.finish = network(nn.Tanh), finish

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(self.net(x))


def convolutional(*after: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.Tanh(), *after)


HEADS: dict[str, tuple[Callable[[], nn.Module], str | None]] = {
    "plain": (lambda: network(nn.Tanh), "3"),
    "two heads": (TwoHeads, "answer"),
    "called twice": (Twice, None),
    "tied": (Tied, None),
    "view": (lambda: Finished(lambda z: z.view(len(z), CLASSES, 1).squeeze(-1)), "net.3"),
    "scaled": (lambda: Finished(lambda z: z * 4), "net.3"),
    "log_softmax": (lambda: Finished(lambda z: z.log_softmax(-1)), "net.3"),
    "softmax": (lambda: Finished(lambda z: z.softmax(-1)), "net.3"),
    "a function of it": (lambda: Finished(torch.tanh), None),
    "above 0 alone": (lambda: Finished(torch.relu), None),
    "skip": (lambda: Finished(lambda z: z + z.detach().mean()), None),
    "convolution": (
        lambda: convolutional(nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, CLASSES, 1), nn.Flatten()),
        "3",
    ),
    "pooled behind": (
        lambda: convolutional(nn.Conv2d(6, CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        "2",
    ),
    "whole field": (lambda: convolutional(nn.Conv2d(6, CLASSES, 4), nn.Flatten()), "2"),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_head_is_what_the_output_depends_on(name: str) -> None:
    make, expected = HEADS[name]
    found = head_of(seeded(make), DOMAIN)
    assert (None if found is None else found.name) == expected


@pytest.mark.parametrize(
    "name", ["two heads", "scaled", "log_softmax", "convolution", "pooled behind", "whole field"]
)
@pytest.mark.parametrize("count", [1, 4])
def test_labels_are_read_from_any_head(name: str, count: int) -> None:
    loss = functional.nll_loss if name == "log_softmax" else functional.cross_entropy
    right = 0
    for seed in range(2):
        batch = batch_of(count, seed)
        observation = observed(seeded(HEADS[name][0], seed), batch, loss)
        found = BestLabels()(observation, seeds=lg.Seeds(seed)).labels
        right += int(torch.equal(found, batch.targets.sort().values))
    assert right == 2


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("steps", [0, 20], ids=["new", "trained"])
def test_the_label_of_one_with_features_of_both_signs(
    activation: type[nn.Module], bias: bool, steps: int
) -> None:
    right = certain = 0
    for seed in range(20):
        model, batch = (
            after_steps(network(activation, bias=bias, seed=seed), steps),
            batch_of(1, seed),
        )
        observation = observed(model, batch)
        found = label_of_one(observation)
        assert isinstance(found, OneLabel)
        right += found.label == int(batch.targets)
        certain += found.certain
        if seed == 0:
            read = LastLayer().prepare(observation)
            assert isinstance(read, FixedLabels)
            assert torch.equal(read.labels, batch.targets)
    assert (right, certain) == (20, 20)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_the_label_of_one_under_any_loss(name: str, bias: bool) -> None:
    for seed in range(3):
        batch = batch_of(1, seed)
        observation = observed(network(nn.Tanh, bias=bias, seed=seed), batch, LOSSES[name])
        assert (
            BestLabels()(observation, seeds=lg.Seeds(0)).labels.tolist() == batch.targets.tolist()
        )


class TestReduction:
    @pytest.mark.parametrize("name", LOSSES)
    def test_a_batch_is_foretold(self, name: str) -> None:
        loss, batch = LOSSES[name], batch_of(6, seed=3)
        found = reduction_of(loss, CLASSES)
        assert found is not None
        assert (found.divisors is None) == ("sum" in name)
        outputs = torch.randn((6, CLASSES), generator=torch.Generator().manual_seed(1))

        def slope(rows: slice) -> Tensor:
            point = outputs[rows].clone().requires_grad_()
            (found,) = torch.autograd.grad(loss(point, batch.targets[rows]), [point])
            return found.double()

        own = torch.cat([slope(slice(i, i + 1)) for i in range(6)])
        expected = found.fractions(batch.targets).unsqueeze(1) * own
        assert torch.allclose(slope(slice(None)), expected, rtol=1e-4, atol=1e-6 * float(own.max()))

    def test_other_reductions_are_not_taken_for_these(self) -> None:
        def squared(outputs: Tensor, targets: Tensor) -> Tensor:
            return functional.cross_entropy(outputs, targets) ** 2

        assert reduction_of(squared, CLASSES) is None
        assert reduction_of(nn.CrossEntropyLoss(ignore_index=3), CLASSES) is None
        assert reduction_of(functional.mse_loss, CLASSES) is None

    def test_weights_of_labels_that_are_not_known_are_a_reason(self) -> None:
        weighed = observed(network(nn.ReLU), batch_of(4), LOSSES["class weights"])
        assert "class weights" in str(contribution_of(weighed))
        known = observed(network(nn.ReLU), batch_of(4), LOSSES["class weights"], labels=True)
        assert not isinstance(contribution_of(known), lg.Inapplicable)


@pytest.mark.parametrize("name", LOSSES)
def test_counts_are_right_or_not_said_to_be_told(name: str) -> None:
    """For a sum and for a mean, all counts are right. For any other loss, no count is called certain."""
    for seed in range(2):
        batch = batch_of(6, seed)
        observation = observed(network(nn.ReLU, seed=seed), batch, LOSSES[name])
        reading = BestLabels().prepare(observation)
        if isinstance(reading, lg.Inapplicable):
            assert name == "focal"
            continue
        read = reading(lg.Seeds(0))
        truth = torch.bincount(batch.targets, minlength=CLASSES)
        assert read.counts is not None
        if name in ("mean", "sum", "faint", "temperature", "smoothed"):
            assert torch.equal(read.counts, truth)
        assert not read.certified or torch.equal(read.counts, truth)
        assert torch.equal(read.counts, truth) or "proven by the update" not in str(read.notes)
