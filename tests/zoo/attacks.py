"""Every attack, with the defense and the local training that it is made for, at any budget."""

from __future__ import annotations

from dataclasses import dataclass

import leakgauge as lg
from leakgauge import attacks as A
from leakgauge import defenses as D

LOCAL = lg.FedAvg(epochs=2, minibatch=1, learning_rate=0.05)
"""Two local epochs of steps on one example each."""


@dataclass(frozen=True)
class Raid:
    """An attack, the defense that it undoes, the local training whose update it reads, and the batch sizes."""

    attack: lg.Attack
    defense: lg.Defense | None = None
    training: lg.LocalTraining | None = None
    counts: tuple[int, ...] = (1, 2)


def raids(budget: int) -> dict[str, Raid]:
    """Return one raid for each attack, by name. Searches take about `budget` times three steps."""
    steps = 3 * budget
    matching = A.InvertingGradients(steps=steps)
    second = A.SecondOrder(warm=budget, iterations=2 * budget, stages=1)
    auto = A.Auto(attacks=(A.LinearLayer(), A.RGAP(), A.IDLG(steps=budget), matching))
    one, two = (1,), (2,)
    return {
        "CorrectedSurrogate": Raid(
            A.CorrectedSurrogate(attack=A.VanishingPrior(steps=steps), stages=2, orders=1),
            training=LOCAL,
            counts=two,
        ),
        "DLG": Raid(A.DLG(steps=budget)),
        "IDLG": Raid(A.IDLG(steps=budget), counts=one),
        "RGAP": Raid(A.RGAP(), counts=one),
        "April": Raid(A.April(equations="embedding"), counts=one),
        "AprilMatching": Raid(A.AprilMatching(steps=steps), counts=one),
        "Auto": Raid(auto),
        "BalancedDLG": Raid(A.BalancedDLG(steps=steps)),
        "BayesOptimal": Raid(A.BayesOptimal(steps=steps), D.GaussianNoise(std=1e-3)),
        "CocktailParty": Raid(A.CocktailParty(rounds=budget), counts=two),
        "ConcealmentMatching": Raid(
            A.ConcealmentMatching(attack=second), D.DCS2(steps=2), counts=one
        ),
        "DeepImagePrior": Raid(A.DeepImagePrior(steps=steps, width=4, levels=1)),
        "DropoutInversion": Raid(A.DropoutInversion(attack=matching), D.Dropout(p=0.3)),
        "FeatureInversion": Raid(A.FeatureInversion(steps=steps, rounds=budget)),
        "GradInversion": Raid(A.GradInversion(steps=steps, trials=2)),
        "GradViT": Raid(A.GradViT(steps=steps, trials=1)),
        "Inpainting": Raid(A.Inpainting(attack=matching, steps=steps), D.PixelDropout(share=0.3)),
        "InstaHideDecoding": Raid(
            A.InstaHideDecoding(attack=matching, draws=1), D.InstaHide(mixed=2), counts=two
        ),
        "InvertingGradients": Raid(matching),
        "LinearLayer": Raid(A.LinearLayer()),
        "MixupDecoding": Raid(
            A.MixupDecoding(attack=matching, pairings=1, moves=0), D.Mixup(), counts=two
        ),
        "OneGradient": Raid(A.OneGradient(attack=matching), training=LOCAL, counts=two),
        "OrderInvariant": Raid(A.OrderInvariant(attack=matching), training=LOCAL, counts=two),
        "Peeling": Raid(A.Peeling(rough=2 * budget, steps=steps), counts=one),
        "SecondOrder": Raid(second),
        "SignalMatching": Raid(
            A.SignalMatching(attack=A.VanishingPrior(steps=steps)),
            D.LocalLayers(),
        ),
        "SmoothedMatching": Raid(A.SmoothedMatching(steps=steps)),
        "SoftmaxUnmixing": Raid(
            A.SoftmaxUnmixing(warm=budget, iterations=2 * budget, stages=1), counts=two
        ),
        "Spear": Raid(A.Spear(rounds=2 * budget, samples=16, steps=5)),
        "SpearPlusPlus": Raid(A.SpearPlusPlus(rounds=2 * budget, starts=4, steps=5)),
        "SurrogateModel": Raid(
            A.SurrogateModel(attack=matching, stages=1), training=LOCAL, counts=two
        ),
        "TransformationInversion": Raid(
            A.TransformationInversion(attack=matching, steps=steps), D.ATS()
        ),
        "VanishingPrior": Raid(A.VanishingPrior(steps=steps)),
    }


RAIDS = raids(1)
