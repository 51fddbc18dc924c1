"""A user's local training is attacked as well as ours: running it shows what its update reveals."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from support.outputs import LOSSES, batch_of, network, observed
from torch import Tensor, nn
from torch.func import functional_call

import leakgauge as lg
from leakgauge.analytic.label_recovery import BestLabels
from leakgauge.attacks.labels import LabelPlan, plan_labels
from leakgauge.core import UpdateKind
from leakgauge.federated.training.aggregated import Aggregated
from leakgauge.federated.training.calibration import calibrate, one_gradient
from leakgauge.inversion.search.judgment import residual_of


@dataclass(frozen=True)
class Own:
    """Plain SGD in a user's own class, which does not state its steps."""

    kind: UpdateKind = "delta"
    rate: float = 0.05
    steps: int = 1
    factor: float = 1.0
    signs: bool = False

    def __call__(
        self,
        model: nn.Module,
        loss: lg.Loss,
        inputs: Tensor,
        targets: Tensor,
        *,
        create_graph: bool = False,
    ) -> dict[str, Tensor]:
        start = dict(model.named_parameters())
        now = {name: p.detach().clone().requires_grad_() for name, p in start.items()}
        for _ in range(self.steps):
            value = loss(functional_call(model, now, (inputs,)), targets)
            slopes = torch.autograd.grad(value, list(now.values()), create_graph=create_graph)
            moved = [g.sign() if self.signs else g for g in slopes]
            now = {n: p - self.rate * g for (n, p), g in zip(now.items(), moved, strict=True)}
        made = {name: now[name] - start[name] for name in start}
        if self.kind == "gradient":
            made = {name: -self.factor / self.rate * t for name, t in made.items()}
        return made if create_graph else {name: t.detach() for name, t in made.items()}


EXACT = {
    "sgd": Own(),
    "gradient": Own("gradient"),
    "seven gradients": Own("gradient", factor=7.0),
    "uphill": Own("gradient", factor=-1.0),
}
NEAR = {"five steps": Own(steps=5), "signs": Own(rate=1e-3, signs=True)}


@pytest.mark.parametrize("name", [*EXACT, *NEAR])
def test_the_label_of_one(name: str) -> None:
    for seed in range(10):
        batch = batch_of(1, seed)
        model = network(nn.ReLU, seed=seed)
        observation = observed(model, batch, training=(EXACT | NEAR)[name])
        plan = plan_labels(observation)
        assert isinstance(plan, LabelPlan)
        labels, notes = plan.read(lg.Seeds(seed))
        assert torch.equal(labels, batch.targets)
        assert ("proven by the update" in str(notes)) == (name in EXACT)


@pytest.mark.parametrize("name", EXACT)
def test_counts_of_a_batch(name: str) -> None:
    for seed in range(2):
        batch = batch_of(6, seed)
        observation = observed(network(nn.ReLU, seed=seed), batch, training=EXACT[name])
        assert one_gradient(observation)
        found = BestLabels()(observation, seeds=lg.Seeds(seed))
        assert torch.equal(found.labels, batch.targets.sort().values)
        assert "6 of 6 labels are proven" in str(found.notes)


def test_the_size_is_measured() -> None:
    for training, size in ((Own(rate=0.2), 0.2), (Own("gradient", factor=7.0), 7.0)):
        found = calibrate(observed(network(nn.Tanh), batch_of(3), training=training))
        assert found.size == pytest.approx(size, rel=1e-4)
        assert found.exact
    several = observed(network(nn.Tanh), batch_of(3), training=Own(steps=5))
    assert not calibrate(several).exact
    assert not one_gradient(several)


def test_what_is_only_near_a_gradient_is_not_called_told() -> None:
    for seed in range(2):
        batch = batch_of(6, seed)
        for training in (Own(steps=5), lg.FedAvg(learning_rate=0.05, epochs=5)):
            observation = observed(network(nn.ReLU, seed=seed), batch, training=training)
            found = BestLabels()(observation, seeds=lg.Seeds(seed))
            assert not found.certified
            assert "0 of 6 labels are proven" in str(found.notes)


def test_noise_that_nobody_spoke_of_proves_nothing() -> None:
    class Noisy(Own):
        def __call__(self, *arguments: object, **named: bool) -> dict[str, Tensor]:
            made = super().__call__(*arguments, **named)  # type: ignore[arg-type]
            generator = torch.Generator().manual_seed(5)
            return {
                n: t + 1e-3 * torch.randn(t.shape, generator=generator) for n, t in made.items()
            }

    batch = batch_of(6, 1)
    clean = observed(network(nn.ReLU), batch)
    noisy = observed(network(nn.ReLU), batch, training=Noisy("gradient"))
    blurred = lg.Observation(
        **{name: getattr(clean, name) for name in clean.__dataclass_fields__}
        | {"update": noisy.update}
    )
    found = BestLabels()(blurred, seeds=lg.Seeds(0))
    claimed = int(next(n for n in found.notes if "proven by the update" in n).split(" of ")[0])
    truth = torch.bincount(batch.targets, minlength=10)
    assert found.counts is not None
    assert claimed <= int(torch.minimum(found.counts, truth).sum())
    assert not found.certified or torch.equal(found.counts, truth)


@pytest.mark.parametrize("name", ["sum", "class weights"])
def test_the_aggregate_of_losses_that_are_no_mean(name: str) -> None:
    """The mean of clients' sums is not the sum over all, so the adversary simulates each client."""
    batch = batch_of(4, 2)
    client = lg.Client(
        model=network(nn.ReLU).eval(),
        loss=LOSSES[name],
        domain=lg.ImageDomain(1, 8, 8),
        classes=10,
    )
    observation = lg.Aggregator(clients=2).observe(client, batch, seeds=lg.Seeds(0))
    found = lg.Reconstruction(
        inputs=batch.inputs,
        targets=batch.targets,
        found=torch.ones(4, dtype=torch.bool),
        status=lg.Status.UNCONVERGED,
    )
    # The adversary does not know which client holds which example. Only class weights depend on that.
    residual = residual_of(observation, found)
    assert residual is not None
    assert name == "class weights" or residual < 1e-5
    assert isinstance(observation.training, Aggregated)
    if name == "sum":
        read = BestLabels()(observation, seeds=lg.Seeds(0))
        assert torch.equal(read.labels, batch.targets.sort().values)
