"""DLG against the defenses of its own paper: LeNet (sigmoid), batch 1, label recovered as in iDLG.

Noise, precision and sparsity have the strengths of Zhu et al. 2019, section 5. The control of an
image is the same reconstruction scored against another image. The attacker's objective chooses
iterates.

Quick: two images without a defense, and under noise, two precisions and sparsity, with 10 steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch
from common import Options, Row, run_jobs, share, table
from problems import images, lenet, observe, scored

import leakgauge as lg

NAME = "dlg_defenses"
SUCCESS = 1e-2
"""MSE (20 dB) at or below which an image leaks. A defense stops DLG if fewer than half of the images leak."""
STEPS, QUICK_STEPS = 30, 10
"""Calls of L-BFGS, of about 20 evaluations each."""
STDS = (1e-4, 1e-3, 1e-2, 1e-1)
SHARES = (0.01, 0.1, 0.2, 0.3, 0.5, 0.7)


@dataclass(frozen=True)
class Setting:
    """A defense, whether the adversary knows it, and whether the paper says that it stops DLG."""

    defense: lg.Defense | None = None
    known: bool = True
    stops: bool | None = None
    early: bool = False
    """Whether the adversary ends when the noise that it knows explains the rest of the update."""

    @property
    def name(self) -> str:
        """The name in the table."""
        if self.defense is None:
            return "none"
        ending = ", ended early" if self.early else "" if self.known else ", unknown"
        return repr(self.defense) + ending


def settings() -> list[Setting]:
    """Return every defense and strength. The paper's own adversary makes no use of the defense."""
    d = lg.defenses
    found = [Setting(stops=False)]
    for noise in (d.GaussianNoise, d.LaplacianNoise):
        found += [Setting(noise(std=std), stops=std >= 1e-2) for std in STDS]
        found += [Setting(noise(std=std), early=True) for std in STDS]
    found += [Setting(d.Quantization(format="fp16"), stops=False)]
    found += [Setting(d.Quantization(format="bf16"), stops=False)]
    found += [Setting(d.Quantization(format="int8"), stops=True)]
    for known in (False, True):
        found += [Setting(d.TopK(sparsity=s), known, s > 0.2) for s in SHARES]
        found += [Setting(d.RandomSparsification(sparsity=s), known) for s in SHARES]
    return found


SETTINGS = {setting.name: setting for setting in settings()}
QUICK = (
    "none",
    "GaussianNoise(std=0.01)",
    "GaussianNoise(std=0.01), ended early",
    "Quantization(format='fp16')",
    "Quantization(format='int8')",
    "TopK(sparsity=0.5), unknown",
    "TopK(sparsity=0.5)",
)
Job = tuple[int, str]


def count_of(given: Options) -> int:
    """Return the number of images."""
    return 2 if given.quick else 10


def jobs_of(given: Options) -> list[Job]:
    """Return the jobs image by image, so that a run that is cut has rows of each defense."""
    names = QUICK if given.quick else tuple(SETTINGS)
    return [(image, name) for image in range(count_of(given)) for name in names]


def run(job: Job, given: Options) -> Row:
    """Attack one image under one defense, and score the result against it and against another image."""
    image, name = job
    data = images(given.data)
    setting = SETTINGS[name]
    model = lenet(data, given.seed)
    server = lg.Server(defense=setting.known)
    look = partial(observe, data, model, [image], seed=given.seed + image, server=server)
    _, plain = look()
    batch, observation = look(defense=setting.defense)
    steps = QUICK_STEPS if given.quick else STEPS
    attack = lg.attacks.BalancedDLG(labels="recovered", steps=steps)
    if setting.early:
        attack = replace(attack, tolerance=noise_floor(observation))
    guess = attack(observation, seeds=lg.Seeds(given.seed).child(f"image/{image}"))
    # The range is public, so any adversary would clamp its reconstruction to it.
    unit = data.domain.to_unit(guess.inputs).clamp(0, 1)
    guess = replace(guess, inputs=data.domain.from_unit(unit))
    other = (image - 1) % count_of(given)
    decoy = lg.Batch(data.inputs[[other]], data.targets[[other]])
    control = scored(data, decoy, guess)
    row = {"defense": name, "image": image, "attack": repr(attack), "rms_gradient": rms(plain)}
    row |= {"std": getattr(setting.defense, "std", None), "control_of": other}
    return row | scored(data, batch, guess) | {f"control_{k}": control[k] for k in ("mse", "psnr")}


def noise_floor(observation: lg.Observation) -> float:
    """Return the expected objective of BalancedDLG at the truth, from what the adversary knows and sees."""
    std = getattr(observation.knowledge.defense, "std")  # noqa: B009
    tensors = observation.update.tensors.values()
    whole = torch.stack([t.norm() for t in tensors]).norm()
    return float(sum(t.numel() * std**2 / (t.norm() * whole) for t in tensors))


def rms(observation: lg.Observation) -> float:
    """Return the root mean square of the update's entries, in the gradient's own unit."""
    entries = torch.cat([t.flatten() for t in observation.update.tensors.values()])
    return float(entries.square().mean().sqrt())


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    print(rows[0]["attack"])
    print(
        f"An image leaks at an MSE of at most {SUCCESS:g} (20 dB). "
        "A defense stops DLG if fewer than half of the images leak."
    )
    table(
        [
            "defense",
            "std / rms g",
            "median MSE",
            "median dB",
            "control dB",
            "images that leak",
            "here",
            "in the paper",
            "agree",
        ],
        [summary(name, found) for name in SETTINGS if (found := of(rows, name))],
    )
    print(
        "The paper calls its noise levels variances. Read in this way, its 1e-2 is a std of 0.1, "
        "and its 1e-4 a std of 0.01.\n"
        "'unknown': the adversary matches a sparse update as if it were whole.\n"
        "'ended early': the adversary ends when the known noise explains the rest of the update."
    )


def of(rows: list[Row], name: str) -> list[Row]:
    """Return the rows of one setting."""
    return [row for row in rows if row["defense"] == name]


def summary(name: str, rows: list[Row]) -> list[object]:
    """Return one line: medians over images, and whether the paper's verdict agrees with ours."""
    leaked = [row["mse"][0] <= SUCCESS for row in rows]
    stopped = sum(leaked) < len(leaked) / 2
    says = SETTINGS[name].stops
    std = rows[0]["std"]
    return [
        name,
        f"{median(std / row['rms_gradient'] for row in rows):.2g}" if std else "",
        f"{median(row['mse'][0] for row in rows):.1e}",
        f"{median(row['psnr'][0] for row in rows):.1f}",
        f"{median(row['control_psnr'][0] for row in rows):.1f}",
        share(leaked),
        "stopped" if stopped else "leaks",
        "" if says is None else "stopped" if says else "leaks",
        "" if says is None else "yes" if says == stopped else "no",
    ]


if __name__ == "__main__":
    main()
