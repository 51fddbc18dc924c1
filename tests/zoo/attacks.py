"""Every attack at a small budget, with the defense and the local training that it is made for."""

from __future__ import annotations

from dataclasses import dataclass

import leakgauge as lg
from leakgauge import attacks as A
from leakgauge import defenses as D

LOCAL = lg.FedAvg(epochs=2, minibatch=1, learning_rate=0.05)
MATCHING = A.InvertingGradients(steps=3)


@dataclass(frozen=True)
class Raid:
    """An attack, the defense that it undoes, and the local training whose update it reads."""

    attack: lg.Attack
    defense: lg.Defense | None = None
    training: lg.LocalTraining | None = None


RAIDS = {
    "DLG": Raid(A.DLG(steps=1)),
    "IDLG": Raid(A.IDLG(steps=1)),
    "RGAP": Raid(A.RGAP()),
    "April": Raid(A.April()),
    "AprilMatching": Raid(A.AprilMatching(steps=3)),
    "Auto": Raid(A.Auto(attacks=(A.LinearLayer(), A.RGAP(), A.IDLG(steps=1), MATCHING))),
    "BalancedDLG": Raid(A.BalancedDLG(steps=3)),
    "BayesOptimal": Raid(A.BayesOptimal(steps=3), D.GaussianNoise(std=1e-3)),
    "CocktailParty": Raid(A.CocktailParty(rounds=1)),
    "ConcealmentMatching": Raid(
        A.ConcealmentMatching(attack=A.SecondOrder(warm=1, iterations=2, stages=1)),
        D.DCS2(steps=2),
    ),
    "DeepImagePrior": Raid(A.DeepImagePrior(steps=3, width=4, levels=1)),
    "DropoutInversion": Raid(A.DropoutInversion(attack=MATCHING), D.Dropout(p=0.3)),
    "FeatureInversion": Raid(A.FeatureInversion(steps=3, rounds=1)),
    "GradInversion": Raid(A.GradInversion(steps=3, trials=2)),
    "GradViT": Raid(A.GradViT(steps=3, trials=1)),
    "Inpainting": Raid(A.Inpainting(attack=MATCHING, steps=2), D.PixelDropout(share=0.3)),
    "InstaHideDecoding": Raid(A.InstaHideDecoding(attack=MATCHING, draws=1), D.InstaHide(mixed=2)),
    "InvertingGradients": Raid(MATCHING),
    "LinearLayer": Raid(A.LinearLayer()),
    "MixupDecoding": Raid(A.MixupDecoding(attack=MATCHING, pairings=1, moves=0), D.Mixup()),
    "OneGradient": Raid(A.OneGradient(attack=MATCHING), training=LOCAL),
    "OrderInvariant": Raid(A.OrderInvariant(attack=MATCHING), training=LOCAL),
    "Peeling": Raid(A.Peeling(rough=2, steps=3)),
    "SecondOrder": Raid(A.SecondOrder(warm=1, iterations=2, stages=1)),
    "SignalMatching": Raid(A.SignalMatching(attack=A.VanishingPrior(steps=3))),
    "SmoothedMatching": Raid(A.SmoothedMatching(steps=3)),
    "SoftmaxUnmixing": Raid(A.SoftmaxUnmixing(warm=1, iterations=2, stages=1)),
    "Spear": Raid(A.Spear(rounds=2, samples=16, steps=5)),
    "SpearPlusPlus": Raid(A.SpearPlusPlus(rounds=2, starts=4, steps=5)),
    "SurrogateModel": Raid(A.SurrogateModel(attack=MATCHING, stages=1), training=LOCAL),
    "TransformationInversion": Raid(A.TransformationInversion(attack=MATCHING, steps=2), D.ATS()),
    "VanishingPrior": Raid(A.VanishingPrior(steps=3)),
}
