"""The defenses of `frontier.py`, each at up to three strengths, with the attack of its adaptive adversary."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import leakgauge as lg
from leakgauge import attacks, defenses
from leakgauge.federated import FedAvg

RATE = 0.1
"""Rate of the server for a gradient, and rate of local steps."""
STEPS, QUICK_STEPS = 500, 10


@dataclass(frozen=True)
class Setting:
    """One defense at one strength, and how the model or its training differ from the undefended ones."""

    family: str
    strength: float | str = ""
    defense: lg.Defense | None = None
    model: dict[str, Any] = field(default_factory=dict)
    steps: int = 0
    factor: float = 1.0
    """Factor of the server's rate."""
    quality: bool = True
    """Whether accuracy is measured."""
    size: int = 4
    """Number of examples of the attacked batch. Training always takes 32."""

    @property
    def name(self) -> str:
        """The name in the table."""
        return f"{self.family} {self.strength}".strip()


def settings() -> list[Setting]:
    """Return all settings in the order of the table: none, data, model, gradient."""
    return [Setting("none"), *of_data(), *of_model(), *of_gradient()]


def of_data() -> list[Setting]:
    """Return the settings of defenses that change the data."""
    d = defenses
    policies = {"hybrid": {}, "43-18-18": {"policies": "43-18-18"}, "3-1-7": {"policies": "3-1-7"}}
    return [
        *(Setting("ATS", name, d.ATS(**given)) for name, given in policies.items()),
        *(Setting("pixel dropout", s, d.PixelDropout(fraction=s)) for s in (0.3, 0.5, 0.7)),
        *(Setting("patch dropout", s, d.PatchDropout(fraction=s)) for s in (0.3, 0.5, 0.7)),
        Setting("DCS-2, batch 1", "", d.DCS2(), size=1, quality=False),
        *(Setting("mixup", a, d.Mixup(alpha=a)) for a in (0.2, 1.0, 5.0)),
        *(Setting("InstaHide", k, d.InstaHide(mixed=k)) for k in (2, 4, 6)),
        *(
            Setting(
                "InstaHide + top-k",
                share,
                d.Chain(defenses=(d.InstaHide(), d.TopK(sparsity=share))),
            )
            for share in (0.5, 0.9, 0.99)
        ),
    ]


def of_model() -> list[Setting]:
    """Return the settings of defenses that change the model or its training."""
    d = defenses
    return [
        *(Setting("dropout", p, model={"dropout": p}) for p in (0.1, 0.25, 0.5)),
        *(Setting("filters", n, model={"channels": n}) for n in (4, 24, 48)),
        *(Setting("activation", name, model={"activation": name}) for name in ("sigmoid", "gelu")),
        *(Setting("batch", size, size=size, quality=False) for size in (1, 8, 16)),
        *(Setting("local steps", n, steps=n) for n in (1, 5, 20)),
        *(Setting("PRECODE", n, d.Precode(latent=n)) for n in (256, 64, 16)),
        Setting("local layers", "last", d.LocalLayers(last=1)),
        Setting("local layers", "first", d.LocalLayers(last=0, first=1)),
        Setting("local layers", "both", d.LocalLayers(last=1, first=1)),
        Setting("PRECODE", "64, batch 1", d.Precode(latent=64), size=1, quality=False),
        Setting("local layers", "last, batch 1", d.LocalLayers(last=1), size=1, quality=False),
    ]


def of_gradient() -> list[Setting]:
    """Return the settings of defenses that change the update."""
    d = defenses
    stds, shares = (1e-3, 1e-2, 1e-1), (0.5, 0.9, 0.99)
    dgc = [d.DGC(sparsity=share) for share in (0.9, 0.99, 0.999)]
    return [
        *(Setting("Gaussian", std, d.GaussianNoise(std=std)) for std in stds),
        *(Setting("Laplacian", std, d.LaplacianNoise(std=std)) for std in stds),
        *(Setting("clipping", norm, d.Clipping(norm=norm)) for norm in (1.0, 0.3, 0.1)),
        *(
            Setting("DP-SGD", z, d.DPSGD(max_norm=1.0, noise_multiplier=z))
            for z in (0.01, 0.1, 1.0)
        ),
        *(
            Setting("DP-FedAvg", z, d.DPFedAvg(max_norm=1.0, noise_multiplier=z))
            for z in (0.001, 0.01, 0.1)
        ),
        *(Setting("precision", name, d.Quantization(format=name)) for name in PRECISIONS),
        Setting("sign", "", d.Sign()),
        *(Setting("QSGD", n, d.StochasticQuantization(levels=n)) for n in (127, 7, 1)),
        *(Setting("top-k", share, d.TopK(sparsity=share)) for share in shares),
        *(Setting("random", share, d.RandomSparsification(sparsity=share)) for share in shares),
        # Momentum correction sums past gradients as momentum does. The factor keeps the length of a step.
        *(Setting("DGC", one.sparsity, one, factor=1 - one.momentum) for one in dgc),
        *(Setting("Soteria", s, d.Soteria(sparsity=s, probes=16)) for s in (0.3, 0.6, 0.9)),
        *(Setting("layer pruning", s, d.LayerPruning(fraction=s)) for s in (0.25, 0.5, 0.75)),
        *(Setting("Outpost", n, d.Outpost(noise=n)) for n in (0.08, 0.8, 8.0)),
    ]


PRECISIONS: tuple[Literal["fp16", "bf16", "int8"], ...] = ("fp16", "bf16", "int8")
SETTINGS = {setting.name: setting for setting in settings()}
HEADLINE = ("none", "Gaussian 0.1", "top-k 0.5")
"""Settings whose attacks have all their steps in a quick run."""
QUICK = (*HEADLINE, "mixup 1.0", "local steps 5")


def training_of(setting: Setting) -> dict[str, Any]:
    """Return the arguments of a client for its local training."""
    if not setting.steps:
        return {}
    return {"training": FedAvg(epochs=setting.steps, learning_rate=RATE)}


def attack_of(setting: Setting, *, known: bool, quick: bool) -> lg.BaseAttack:
    """Return the attack of an adversary that knows the defense, or of one that does not."""
    steps = QUICK_STEPS if quick else STEPS
    plain = attacks.VanishingPrior(steps=steps)
    if setting.steps:
        stages = 2 if quick else 20
        corrected = attacks.CorrectedSurrogate(stages=stages)
        return corrected if known else attacks.OneGradient(attack=plain)
    if not known:
        return plain
    noisy = attacks.BayesOptimal(descent="lbfgs", steps=3 * steps)
    rounded = attacks.BayesOptimal(descent="lbfgs", steps=steps, prior="smoothness")
    inpainting = attacks.Inpainting(attack=plain)
    dropout = attacks.DropoutInversion(attack=plain, weight=0.0, start="mean")
    scout, pairings = attacks.VanishingPrior(steps=steps // 3), 1 if quick else 24
    signal = attacks.SignalMatching(attack=replace(plain, steps=2 * steps))
    special: dict[str, lg.BaseAttack] = {
        "PRECODE": signal,
        "ATS": attacks.TransformationInversion(attack=plain),
        "pixel dropout": inpainting,
        "patch dropout": inpainting,
        "DCS-2, batch 1": attacks.ConcealmentMatching(attack=plain),
        "Gaussian": noisy,
        "Laplacian": noisy,
        "DP-SGD": noisy,
        "DP-FedAvg": noisy,
        "QSGD": rounded,
        "dropout": dropout,
        "mixup": attacks.MixupDecoding(attack=plain, scout=scout, pairings=pairings, moves=3),
        "InstaHide": attacks.InstaHideDecoding(attack=plain, draws=2 if quick else 8),
        "InstaHide + top-k": attacks.InstaHideDecoding(attack=plain, draws=2 if quick else 8),
    }
    if setting.family == "local layers" and str(setting.strength).startswith("last"):
        return signal
    return special.get(setting.family, plain)
