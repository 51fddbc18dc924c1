"""Every attack under the contract, with an observation that it is made for.

An exported attack without a line in `configured` runs on an MLP with its defaults, but three `steps` if it has this
option.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from conftest import TEXT, images, sentences
from torch import nn

import leakgauge as lg
from leakgauge import attacks as A
from leakgauge import defenses as D

LOCAL = lg.FedAvg(epochs=2, minibatch=1, learning_rate=0.05)
"""Two local epochs. Each step takes one example."""


def transformer() -> nn.Module:
    """Return a network with a linear patch embedding, for 8x8 gray images of four classes."""
    domain = lg.ImageDomain(1, 8, 8)
    options = {"patch": 2, "dim": 24, "heads": 2, "style": "plain"}
    return lg.models.build(lg.models.vit, domain, 4, **options)


def reader() -> nn.Module:
    """Return a network on sentences of `conftest.TEXT`, with four classes."""
    return lg.models.transformer(TEXT, 4, dim=32, depth=1)


def convolutional(classes: int = 4, *, stride: int = 2, padding_mode: str = "zeros") -> nn.Module:
    """Return a network of two convolutions with more channels than positions, for 8x8 gray images.

    The stride and the kind of padding are those of the first convolution.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, stride, padding=1, padding_mode=padding_mode),  # type: ignore[arg-type]
            nn.ReLU(),
            nn.Conv2d(16, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, classes),
        ).eval()


@dataclass(frozen=True)
class AttackCase:
    """An attack that is quick to test, and the observation that it is made for.

    Args:
        attack: The attack, with few steps.
        defense: The client's defense. None if there is none.
        training: The local training. None if the update is one gradient.
        batch_sizes: Batch sizes that the attack must handle: 1, 2, or both. 2 stands for larger batches, too.
        network: Builds the network. None for an MLP.
        batch: Builds the private batch of a size.
    """

    attack: lg.BaseAttack
    defense: lg.Defense | None = None
    training: lg.LocalTraining | None = None
    batch_sizes: tuple[int, ...] = (1, 2)
    network: Callable[[], nn.Module] | None = None
    batch: Callable[[int], lg.Batch] = images

    @property
    def name(self) -> str:
        """The name of the attack's class."""
        return type(self.attack).__name__

    def made_for(self, batch_size: int) -> bool:
        """Return whether the attack must be able to run on a batch of this size."""
        return batch_size in self.batch_sizes or 1 < max(self.batch_sizes) <= batch_size

    def refused(self, error: object) -> str:
        """Return the message about an attack that cannot run on its own case, with what to do."""
        return (
            f"{self.name} cannot run on its case: {error}. Add AttackCase(A.{self.name}(...), ...) to `configured` "
            "in tests/support/attack_cases.py: the defense, local training, batch sizes or network that it is made for"
        )


def configured(budget: int) -> list[AttackCase]:
    """Return the cases of attacks with slow defaults, and of attacks that need other observations.

    The usual observation is one gradient of an MLP.

    Args:
        budget: A third of the number of steps of most searches.
    """
    steps = 3 * budget
    matching = A.InvertingGradients(steps=steps)
    second = A.SecondOrder(warm=budget, iterations=2 * budget, stages=1)
    one, two = (1,), (2,)
    return [
        AttackCase(A.DLG(steps=budget)),
        AttackCase(A.IDLG(steps=budget), batch_sizes=one),
        AttackCase(A.RGAP(), batch_sizes=one),
        AttackCase(A.April(equations="embedding"), batch_sizes=one, network=transformer),
        AttackCase(A.AprilMatching(steps=steps), batch_sizes=one, network=transformer),
        AttackCase(
            A.Auto(attacks=(A.LinearLayer(), A.RGAP(), A.IDLG(steps=budget), matching)),
        ),
        AttackCase(A.BayesOptimal(steps=steps), D.GaussianNoise(std=1e-3)),
        AttackCase(A.CocktailParty(rounds=budget), batch_sizes=two),
        AttackCase(A.ConcealmentMatching(attack=second), D.DCS2(steps=2), batch_sizes=one),
        AttackCase(
            A.CorrectedSurrogate(attack=A.VanishingPrior(steps=steps), stages=2, orders=1),
            training=LOCAL,
            batch_sizes=two,
        ),
        AttackCase(A.DeepImagePrior(steps=steps, width=4, levels=1)),
        AttackCase(A.DropoutInversion(attack=matching), D.Dropout(p=0.3)),
        AttackCase(A.FeatureInversion(steps=steps, rounds=budget)),
        AttackCase(A.GradInversion(steps=steps, restarts=2)),
        AttackCase(A.GradViT(steps=steps, restarts=1), network=transformer),
        AttackCase(A.Inpainting(attack=matching, steps=steps), D.PixelDropout(fraction=0.3)),
        AttackCase(
            A.InstaHideDecoding(attack=matching, draws=1), D.InstaHide(mixed=2), batch_sizes=two
        ),
        AttackCase(
            A.MixupDecoding(attack=matching, pairings=1, moves=0), D.Mixup(), batch_sizes=two
        ),
        AttackCase(A.OneGradient(attack=matching), training=LOCAL, batch_sizes=two),
        AttackCase(A.OrderInvariant(attack=matching), training=LOCAL, batch_sizes=two),
        AttackCase(A.Peeling(rough=2 * budget, steps=steps), batch_sizes=one),
        AttackCase(second),
        AttackCase(A.ShiftConsistency(steps=steps, rounds=1), network=convolutional),
        AttackCase(A.SignalMatching(attack=A.VanishingPrior(steps=steps)), D.LocalLayers()),
        AttackCase(
            A.SoftmaxUnmixing(warm=budget, iterations=2 * budget, stages=1), batch_sizes=two
        ),
        AttackCase(A.Spear(rounds=2 * budget, samples=16, steps=5)),
        AttackCase(A.SpearPlusPlus(rounds=2 * budget, starts=4, steps=5)),
        AttackCase(A.SurrogateModel(attack=matching, stages=1), training=LOCAL, batch_sizes=two),
        AttackCase(
            A.LAMP(steps=steps, starts=2, tries=2, period=1), network=reader, batch=sentences
        ),
        AttackCase(A.DAGER(), network=reader, batch=sentences),
        AttackCase(A.TAG(steps=steps), network=reader, batch=sentences),
        AttackCase(A.TIGER(steps=steps), network=reader, batch=sentences),
        AttackCase(A.TextDLG(steps=budget), network=reader, batch=sentences),
        AttackCase(A.TokenBag(), network=reader, batch=sentences),
        AttackCase(A.TransformationInversion(attack=matching, steps=steps), D.ATS()),
    ]


def case_of(attack: type[Any], budget: int) -> AttackCase:
    """Return the case of an attack with its defaults, but with three times `budget` steps if it has this option."""
    searches = any(field.name == "steps" for field in fields(attack))
    return AttackCase(attack(steps=3 * budget) if searches else attack())


def attack_cases(budget: int, names: Iterable[str] = A.__all__) -> tuple[AttackCase, ...]:
    """Return one case for each exported attack, in the order of the exports."""
    own = {case.name: case for case in configured(budget)}
    return tuple(own.get(name) or case_of(getattr(A, name), budget) for name in names)


ATTACK_CASES = attack_cases(1)
