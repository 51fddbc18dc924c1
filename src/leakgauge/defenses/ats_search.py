"""The search of ATS. Gao, Guo, Zhang, Qiu, Wen, Liu: Privacy-preserving Collaborative Learning with Automatic
Transformation Search, CVPR 2021, section 4. Its Jacobian score is that of Mellor, Turner, Storkey, Crowley: Neural
Architecture Search without Training, ICML 2021.

    x(t) = (1 - t) x_0 + t T(x),   x_0 uniform noise;   GradSim(t) = cos(grad at x(t), grad at T(x)), mean over tensors
    S_pri = integral of GradSim over t in [0, 1], mean over images         the less the better; a model trained briefly
    S_acc = - sum_i (log(v_i + e) + 1 / (v_i + e)),   v eigenvalues of the correlations of the rows df(T(x))/dT(x)
                                                                           the more the better; the model untrained
    of policies drawn at random: those with S_acc at least a threshold, by S_pri

As the authors' code has it, from which also: e = 1e-5, 20 steps of t, five images a class, 1600 policies of at most
three operations, S_acc over 100 images, threshold -85. What of it the paper itself states we could not check.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from leakgauge.core import DataError, Loss, Seeds, Tensors, copied, trainable
from leakgauge.core.ranges import Count, Positive, Whole
from leakgauge.defenses.ats import ATS, LIBRARY
from leakgauge.federated.training.fedsgd import FedSGD, stateless

EPSILON = 1e-5


class Found(NamedTuple):
    """A policy in ATS' notation, its S_pri (less: more private) and its S_acc (more: more useful)."""

    policy: str
    privacy: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class ATSSearch:
    """Policies for `ATS`, best first: `"+".join(found.policy for found in search(...)[:2])` is a hybrid of two.

    `candidates`: policies drawn, of up to `longest` operations. `threshold`: the least S_acc, which falls with
    `jacobians`, the number of images that it is of. `examples`: images that S_pri is of, `bins` steps of t each.
    `epochs`: of the brief training, by SGD at `learning_rate` in minibatches of `minibatch`; 0 leaves the model as it
    is. The training's settings are ours.
    """

    candidates: Count = 1600
    longest: Count = 3
    threshold: float = -85.0
    examples: Count = 50
    bins: Count = 20
    jacobians: Count = 100
    epochs: Whole = 10
    learning_rate: Positive = 0.05
    minibatch: Count = 32

    def __call__(
        self, model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, *, seeds: Seeds
    ) -> list[Found]:
        """Those of the drawn policies above the threshold, least S_pri first; the model is left as it was.

        inputs (N, C, H, W) in [0, 1], targets (N,): the searcher's own data. Raises DataError where no policy passes.
        """
        untrained = copied(model).eval()
        trained = self.trained(model, loss, inputs, targets, seeds=seeds).eval()
        some, many = inputs[: self.examples], inputs[: self.jacobians]
        found = []
        for policy in self.drawn(seeds):
            ats, own = ATS(policies=policy), seeds.child(policy)
            shown = ats.on_batch(many, targets[: self.jacobians], seeds=own.child("accuracy"))[0]
            accuracy = accuracy_score(untrained, shown)
            if accuracy >= self.threshold:
                shown, labels = ats.on_batch(some, targets[: len(some)], seeds=own.child("privacy"))
                privacy = privacy_score(trained, loss, shown, labels, bins=self.bins, seeds=own)
                found.append(Found(policy, privacy, accuracy))
        if not found:
            raise DataError(
                "search of ATS",
                expected=f"a policy whose accuracy score is at least {self.threshold:g}",
                found=f"none of {self.candidates}",
                remedy="lower threshold, or draw more candidates",
            )
        return sorted(found, key=lambda one: one.privacy)

    def drawn(self, seeds: Seeds) -> list[str]:
        """The policies to try, in ATS' notation, each once; each place holds an operation, or none."""
        generator = seeds.generator("candidates")
        table = torch.randint(
            -1, len(LIBRARY), (self.candidates, self.longest), generator=generator
        )
        texts = ("-".join(str(i) for i in row if i >= 0) for row in table.tolist())
        return list(dict.fromkeys(texts))

    def trained(
        self, model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, *, seeds: Seeds
    ) -> nn.Module:
        """A copy of the model after the brief training."""
        model = copied(model).train()
        descent = torch.optim.SGD(model.parameters(), lr=self.learning_rate, momentum=0.9)
        generator = seeds.generator("training")
        with seeds.isolated("training"):
            for _ in range(self.epochs):
                order = torch.randperm(len(inputs), generator=generator)
                for start in range(0, len(inputs), self.minibatch):
                    batch = order[start : start + self.minibatch]
                    descent.zero_grad()
                    loss(model(inputs[batch]), targets[batch]).backward()  # type: ignore[no-untyped-call]
                    descent.step()
        return model


def privacy_score(
    model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, *, bins: int, seeds: Seeds
) -> float:
    """S_pri of transformed images (N, C, H, W): how early on the way to them gradients point as theirs do."""
    generator = seeds.generator("noise")
    areas = []
    for i in range(len(inputs)):
        image, label = inputs[i : i + 1], targets[i : i + 1]
        noise = torch.rand(image.shape, generator=generator).to(image)
        aim = FedSGD()(model, loss, image, label)
        curve = [
            similarity(FedSGD()(model, loss, torch.lerp(noise, image, step / bins), label), aim)
            for step in range(bins + 1)
        ]
        areas.append((sum(curve) - (curve[0] + curve[-1]) / 2) / bins)
    return math.fsum(areas) / len(areas)


def similarity(one: Tensors, other: Tensors) -> float:
    """The mean over tensors of the cosine of two gradients."""
    each = [cosine_similarity(t.flatten(), other[n].flatten(), dim=0) for n, t in one.items()]
    return float(torch.stack(each).mean())


def accuracy_score(model: nn.Module, inputs: Tensor) -> float:
    """S_acc of transformed images (N, C, H, W): how unlike each other the network's linear maps at them are."""
    leaf = inputs.detach().clone().requires_grad_()
    output = stateless(model, trainable(model), leaf)
    (rows,) = torch.autograd.grad(output.sum(), leaf)
    values = torch.linalg.eigvalsh(torch.corrcoef(rows.flatten(1).double()))
    # A correlation of two equal rows leaves an eigenvalue of -1e-16.
    values = values.clamp_min(0) + EPSILON
    return -float((values.log() + 1 / values).sum())
