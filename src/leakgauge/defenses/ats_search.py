"""A search for policies of the defense ATS."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from leakgauge.core import DataError, Loss, Seeds, Tensors, deep_copy, trainable
from leakgauge.core.ranges import Count, Positive, Whole
from leakgauge.defenses.ats import ATS, LIBRARY
from leakgauge.federated.training.fedsgd import FedSGD, stateless

EPSILON = 1e-5
"""Added to each eigenvalue, so that its logarithm and its reciprocal are finite."""


class Found(NamedTuple):
    """A policy that the search accepted.

    Args:
        policy: The policy, in the notation of `ATS`.
        privacy: Its privacy score. Lower is more private.
        accuracy: Its accuracy score. Higher is more useful.
    """

    policy: str
    privacy: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class ATSSearch:
    r"""Search for policies of `ATS`, and return the most private first.

    The search draws policies at random. It keeps the policies whose accuracy score reaches
    `threshold`, and sorts them by their privacy score.

    .. math::

        S_{\mathrm{pri}} &= \frac{1}{N} \sum_{i=1}^{N} \int_0^1 \mathrm{sim}\big(g(x_i(t)), g(T(x_i))\big) \, dt \\
        x_i(t) &= (1 - t) \, z_i + t \, T(x_i) \\
        S_{\mathrm{acc}} &= - \sum_j \Big( \log(v_j + \epsilon) + \frac{1}{v_j + \epsilon} \Big)

    Here :math:`T` is the policy, :math:`x_i` one of :math:`N` images, and :math:`z_i` uniform
    noise. The briefly trained model has the gradient :math:`g(x)` at an image :math:`x`. The
    similarity :math:`\mathrm{sim}` is the mean over tensors of the cosine of two gradients. A low
    privacy score means that the gradients agree only close to the transformed image. The rows
    :math:`\partial f(T(x_i)) / \partial T(x_i)` come from the untrained model :math:`f`. The
    :math:`v_j` are the eigenvalues of their correlations, and :math:`\epsilon` is 1e-5.

    The formulas and defaults follow the authors' code: 20 steps of :math:`t`, 1600 policies of at
    most three operations, the accuracy score over 100 images, and the threshold -85. We could not
    check which of them the paper states. For the privacy score, the authors' code takes five images
    of each class. The settings of the brief training are ours.

    Args:
        candidates: Number of policies drawn, at least 1.
        longest: Most operations of one policy, at least 1.
        threshold: Least accuracy score of an accepted policy. The score falls when `jacobians`
            grows.
        examples: Number of images for the privacy score, at least 1.
        bins: Number of steps of the integral over t, at least 1.
        jacobians: Number of images for the accuracy score, at least 1.
        epochs: Epochs of the brief training, at least 0. At 0 the model stays as given.
        learning_rate: Step size of SGD in the brief training, above 0.
        minibatch: Examples of one step of the brief training, at least 1.

    References:
        Gao, Guo, Zhang, Qiu, Wen, Liu. Privacy-preserving Collaborative Learning with Automatic
        Transformation Search. CVPR 2021, section 4. arXiv:2011.12505.

        The accuracy score: Mellor, Turner, Storkey, Crowley. Neural Architecture Search without
        Training. ICML 2021. arXiv:2006.04647.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.defenses.ats_search import ATSSearch
        >>> client, batch = lg.examples.client(), lg.examples.batch(8)
        >>> search = ATSSearch(candidates=4, examples=2, jacobians=4, bins=2, epochs=1, threshold=-1e9)
        >>> policies = search(client.model, client.loss, batch.inputs, batch.targets, seeds=lg.Seeds(0))
        >>> hybrid = "+".join(found.policy for found in policies[:2])
        >>> len(lg.defenses.ATS(policies=hybrid).chains)
        2
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
        """Return the accepted policies, the most private first. The model stays unchanged.

        Args:
            model: The network to protect.
            loss: Its loss.
            inputs: Images (N, C, H, W) in [0, 1], the searcher's own.
            targets: Their labels (N,).
            seeds: The seeds.

        Raises:
            DataError: No policy reaches the threshold.
        """
        untrained = deep_copy(model).eval()
        trained = self.train_briefly(model, loss, inputs, targets, seeds=seeds).eval()
        some, many = inputs[: self.examples], inputs[: self.jacobians]
        found = []
        for policy in self.draw_policies(seeds):
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
                expected=f"a policy with an accuracy score of at least {self.threshold:g}",
                found=f"none of {self.candidates}",
                remedy="lower threshold, or raise candidates",
            )
        return sorted(found, key=lambda one: one.privacy)

    def draw_policies(self, seeds: Seeds) -> list[str]:
        """Draw the policies to try, each listed once. Each of the `longest` places holds one operation or none."""
        generator = seeds.generator("candidates")
        table = torch.randint(
            -1, len(LIBRARY), (self.candidates, self.longest), generator=generator
        )
        texts = ("-".join(str(i) for i in row if i >= 0) for row in table.tolist())
        return list(dict.fromkeys(texts))

    def train_briefly(
        self, model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, *, seeds: Seeds
    ) -> nn.Module:
        """Return a copy of the model after the brief training."""
        model = deep_copy(model).train()
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
    """Compute the privacy score of transformed images (N, C, H, W). Lower is more private.

    The inputs move from noise to the image. The score is high if their gradients soon agree with
    the gradient of the image.
    """
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
    """Return the mean over tensors of the cosine of two gradients."""
    each = [cosine_similarity(t.flatten(), other[n].flatten(), dim=0) for n, t in one.items()]
    return float(torch.stack(each).mean())


def accuracy_score(model: nn.Module, inputs: Tensor) -> float:
    """Compute the accuracy score of transformed images (N, C, H, W). Higher is more useful.

    The score is high if the network's linear maps at the images differ from each other.
    """
    leaf = inputs.detach().clone().requires_grad_()
    output = stateless(model, trainable(model), leaf)
    (rows,) = torch.autograd.grad(output.sum(), leaf)
    values = torch.linalg.eigvalsh(torch.corrcoef(rows.flatten(1).double()))
    # Rounding leaves a negative eigenvalue, about -1e-16, if two rows are equal.
    values = values.clamp_min(0) + EPSILON
    return -float((values.log() + 1 / values).sum())
