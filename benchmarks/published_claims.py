"""Published claims of simple defenses, against an adversary that ignores them and one that knows them.

Zhu et al. 2019 (Deep Leakage from Gradients): noise of 1e-2 and above and sparsity above 20% stop
leakage, half precision does not. Zhang et al. 2022 (A Survey on Gradient Inversion): dropout, more
or fewer filters, and more local steps help.

LeNet (sigmoid, weights from U(-0.5, 0.5)) and an untrained ResNet-20 in eval mode see one CIFAR-10
image, label withheld. "naive" takes the update for one gradient of the plain network. It is
`second_order` on LeNet and `smoothed_matching` on ResNet-20.

"adaptive" knows the defense. Under noise it has the noise's own distance and weight of the prior
(`bayes_optimal`). It leaves out entries that were not sent, takes dropout's masks as variables, and
simulates local steps. The number of filters is no secret. "either" takes for each image the result
of the adversary that reads more.

The control is the same reconstruction scored against other images of the label, the mean of five
draws. An example leaks as in the report: from 20 dB or an SSIM of 0.5 on, if it is also 3 dB above
the control. A defense stops leakage here if fewer than half of the images leak. It helps if at
least 1 dB less above the control is read than without it. No image counts for more than 40 dB.

Quick: one image on LeNet by both adversaries, without a defense and under noise, fp16, sparsity,
dropout and 5 local steps. Searches are shorter. One image on ResNet-20 without a defense.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from statistics import mean
from typing import Any, Literal

import torch
from common import Options, Row, run_jobs, table
from controls import beside_control
from problems import chosen, client_of, images, reconstructed, shortened
from torch import nn

import leakgauge as lg
from leakgauge import attacks, defenses
from leakgauge.federated import FedAvg
from leakgauge.metrics.leak import IMAGE_RULE

NAME = "published_claims"
COUNT = {"lenet": 3, "resnet20": 3}
NETWORKS = tuple(COUNT)
RATE = 1e-2
STEPS = 300
FINE = 40.0
Adversary = Literal["naive", "adaptive"]
Claimed = Literal["stops", "leaks", "helps"]


@dataclass(frozen=True)
class Setting:
    """One line of the table: the defense, its strength, and the published claim."""

    what: str
    value: float | str = ""
    claimed: Claimed | None = None
    defense: lg.Defense | None = None
    model: dict[str, Any] = field(default_factory=dict)
    steps: int = 0

    @property
    def name(self) -> str:
        """The name in the table."""
        return f"{self.what} {self.value}".strip()


def settings(network: str) -> list[Setting]:
    """Return every defense and strength of one network."""
    found = [Setting("none", claimed="leaks")]
    noises = {"Gaussian": defenses.GaussianNoise, "Laplacian": defenses.LaplacianNoise}
    for what, noise in noises.items():
        for std in (1e-4, 1e-3, 1e-2, 1e-1):
            says: Claimed = "stops" if std >= 1e-2 else "leaks"
            found.append(Setting(what, std, says, noise(std=std)))
    for precision in ("fp16", "bf16"):
        rounding = defenses.Quantization(format=precision)
        found.append(Setting("precision", precision, "leaks", rounding))
    for share in (0.1, 0.2, 0.3, 0.5, 0.9):
        says = "stops" if share > 0.2 else "leaks"
        found.append(Setting("sparsity", share, says, defenses.TopK(sparsity=share)))
    found += [Setting("dropout", p, "helps", model={"dropout": p}) for p in (0.1, 0.25, 0.5)]
    option, widths = ("channels", (4, 48)) if network == "lenet" else ("width", (4, 32))
    found += [Setting("filters", width, "helps", model={option: width}) for width in widths]
    for steps in (1, 5, 20):
        claimed: Claimed = "helps" if steps > 1 else "leaks"
        found.append(Setting("local steps", steps, claimed, steps=steps))
    return found


SETTINGS = {(network, one.name): one for network in NETWORKS for one in settings(network)}
QUICK = ("none", "Gaussian 0.01", "precision fp16", "sparsity 0.5", "dropout 0.25", "local steps 5")


@dataclass(frozen=True)
class Job:
    """One image under one setting, and one adversary."""

    image: int
    network: str
    setting: str
    adversary: Adversary


def adversaries(setting: Setting) -> tuple[Adversary, ...]:
    """Return the adversaries. There is one if the naive adversary ignores nothing."""
    alone = setting.what in ("none", "filters")
    return ("naive",) if alone else ("naive", "adaptive")


def jobs_of(given: Options) -> list[Job]:
    """Return the jobs image by image, so that a run that is cut has rows of each setting."""
    if given.quick:
        cells = [("lenet", name) for name in QUICK] + [("resnet20", "none")]
        return [Job(0, *cell, how) for cell in cells for how in adversaries(SETTINGS[cell])]
    return [
        Job(image, network, name, how)
        for image in range(max(COUNT.values()))
        for network, name in SETTINGS
        if image < COUNT[network]
        for how in adversaries(SETTINGS[network, name])
    ]


@cache
def network_of(given: Options, job: Job) -> nn.Module:
    """Return the network. Its dropout layers alone are in train mode."""
    setting, data = SETTINGS[job.network, job.setting], images(given.data)
    builder = getattr(lg.models, job.network)
    model = lg.models.build(builder, data.domain, 10, seed=0, **setting.model)
    for module in model.modules():
        module.training = isinstance(module, nn.Dropout)
    return model


def attack_of(job: Job, given: Options) -> lg.BaseAttack:
    """Return the attack of this adversary."""
    setting = SETTINGS[job.network, job.setting]
    known = job.adversary == "adaptive"
    lenet = job.network == "lenet"
    steps = 20 if given.quick else STEPS
    plain: Any = attacks.SecondOrder() if lenet else attacks.SmoothedMatching(steps=steps)
    if given.quick and lenet:
        plain = shortened(plain)
    if setting.steps:
        return stepping(job.network, plain, known)
    if known and setting.what in ("Gaussian", "Laplacian"):
        smoothing = 0.0 if lenet else plain.smoothing
        # On LeNet a step costs a tenth of a step of second order.
        longer = 10 * steps if lenet else steps
        return attacks.BayesOptimal(descent="lbfgs", steps=longer, smoothing=smoothing)
    if known and setting.what == "dropout":
        # The masks' mean is not quite 1 - p. A weight on it would keep second order above its tolerance.
        return attacks.DropoutInversion(attack=plain, weight=0.0, start="mean")
    attack: lg.BaseAttack = plain
    return attack


def stepping(network: str, plain: lg.BaseAttack, known: bool) -> lg.BaseAttack:
    """Return an attack on local steps, which takes them for one gradient or corrects for them."""
    if not known:
        return attacks.OneGradient(attack=plain)
    if network == "lenet":
        return attacks.CorrectedSurrogate()
    return attacks.CorrectedSurrogate(attack=attacks.SmoothedMatching(steps=STEPS // 5), stages=5)


def run(job: Job, given: Options) -> Row:
    """Run one attack, and score it beside the control."""
    data, setting = images(given.data), SETTINGS[job.network, job.setting]
    order = torch.randperm(len(data), generator=lg.Seeds(given.seed).generator("images"))
    index = int(order[job.image])
    client = client_of(
        data,
        network_of(given, job),
        defense=setting.defense,
        training=FedAvg(epochs=setting.steps, learning_rate=RATE) if setting.steps else None,
    )
    server = lg.Server(defense=job.adversary == "adaptive")
    seeds = lg.Seeds(given.seed).child(f"{job.network}/{index}")
    seen = server.observe(client, chosen(data, [index]), seeds=seeds)
    attack = attack_of(job, given)
    row = {**vars(job), "seed": given.seed, "index": index, "attack": repr(attack)}
    plan = attack.plan(seen)
    if isinstance(plan, lg.Inapplicable):
        return row | {"inapplicable": plan.reason}
    guess, told = reconstructed(attack, seen, seeds)
    scores = beside_control(data, [index], guess, seeds.generator("controls"))
    told["label"] = guess.targets is not None and int(guess.targets[0]) == int(data.targets[index])
    told["leaked"] = IMAGE_RULE.leaked(
        scores["psnr"][0], scores["control_psnr"][0], scores["ssim"][0], better="higher"
    )
    return row | told | scores | {"residual": guess.residual, "status": str(guess.status)}


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    heads = ["network", "setting", "images"]
    for how in ("naive", "adaptive"):
        heads += [f"{how} dB", "control dB", "SSIM", "leaked"]
    lines = [
        line
        for (network, name), setting in SETTINGS.items()
        if (line := summary(network, name, setting, rows))
    ]
    table([*heads, "published", "holds for naive", "holds for either"], lines)


def summary(network: str, name: str, setting: Setting, rows: list[Row]) -> list[object]:
    """Return one line: means over images, and whether the published claim holds against either adversary."""
    some = {how: of(rows, network, name, how) for how in ("naive", "adaptive")}
    if not some["naive"]:
        return []
    line: list[object] = [network, name, len(some["naive"])]
    for held in some.values():
        line += figures(held)
    plain = of(rows, network, "none", "naive")
    # An adversary that knows the defense is free to ignore it.
    either = [max(pair, key=verdict) for pair in pairs(some["naive"], some["adaptive"])]
    verdicts = (holds(setting.claimed, held, plain) for held in (some["naive"], either))
    return [*line, setting.claimed or "", *verdicts]


def pairs(naive: list[Row], adaptive: list[Row]) -> list[list[Row]]:
    """Return the rows of each image, of the adversaries that have one."""
    done = [row for row in (*naive, *adaptive) if "psnr" in row]
    return [[row for row in done if row["image"] == i] for i in sorted({r["image"] for r in done})]


def of(rows: list[Row], network: str, name: str, how: str) -> list[Row]:
    """Return the rows of one cell."""
    wanted = (network, name, how)
    return [r for r in rows if (r["network"], r["setting"], r["adversary"]) == wanted]


def figures(some: list[Row]) -> list[str]:
    """Return PSNR, its control, SSIM, and how many images leaked."""
    done = [row for row in some if "psnr" in row]
    if not done:
        return [some[0]["inapplicable"][:12] if some else "", "", "", ""]
    values = [f"{mean(row[name][0] for row in done):.1f}" for name in ("psnr", "control_psnr")]
    leaks = f"{sum(row['leaked'] for row in done)}/{len(done)}"
    return [*values, f"{mean(row['ssim'][0] for row in done):.2f}", leaks]


def holds(claimed: Claimed | None, some: list[Row], plain: list[Row]) -> str:
    """Return whether it leaks as published. A defense that should help must take away 1 dB."""
    done = [row for row in some if "psnr" in row]
    if claimed is None or not done:
        return ""
    if claimed == "helps":
        before = {row["image"]: above(row) for row in plain}
        lost = [before[row["image"]] - above(row) for row in done if row["image"] in before]
        return ("yes" if mean(lost) >= 1 else "no") if lost else ""
    stopped = sum(row["leaked"] for row in done) < len(done) / 2
    return "yes" if stopped == (claimed == "stops") else "no"


def verdict(row: Row) -> tuple[bool, float]:
    """Return whether the image leaked, and then how much."""
    return row["leaked"], above(row)


def above(row: Row) -> float:
    """Return the PSNR above the control. Above 40 dB no eye can tell two reconstructions apart."""
    return float(min(row["psnr"][0], FINE) - row["control_psnr"][0])


if __name__ == "__main__":
    main()
