"""How often DLG and iDLG finish: LeNet (sigmoid), batch 1, MSE of at most 1e-4.

The papers' settings run, and ours, which are named as ours. The attacker's objective chooses
iterates and restarts.

Quick: all four attacks on one image with two seeds, and 30 steps.
"""

from __future__ import annotations

from statistics import median

from common import Options, Row, run_jobs, share, table
from problems import images, lenet, observe, scored

import leakgauge as lg

NAME = "dlg_convergence"
GOAL = 1e-4
ATTACKS: dict[str, lg.BaseAttack] = {
    "DLG, as in the paper (label unknown)": lg.attacks.DLG(),
    "iDLG, as in the paper": lg.attacks.IDLG(),
    "BalancedDLG, our settings (label unknown)": lg.attacks.BalancedDLG(),
    "BalancedDLG, label read as in iDLG": lg.attacks.BalancedDLG(labels="recovered"),
}
QUICK: dict[str, lg.BaseAttack] = {
    "DLG, as in the paper (label unknown)": lg.attacks.DLG(steps=30),
    "iDLG, as in the paper": lg.attacks.IDLG(steps=30),
    "BalancedDLG, our settings (label unknown)": lg.attacks.BalancedDLG(steps=30),
    "BalancedDLG, label read as in iDLG": lg.attacks.BalancedDLG(steps=30, labels="recovered"),
}
Job = tuple[str, int, int]


def jobs_of(given: Options) -> list[Job]:
    """Return the jobs seed by seed, so that a run that is cut has rows of each attack."""
    pictures, seeds = (range(1), range(2)) if given.quick else (range(10), range(3))
    return [(name, image, seed) for seed in seeds for name in ATTACKS for image in pictures]


def run(job: Job, given: Options) -> Row:
    """Attack one image with one seed, which draws the model and the starts."""
    name, image, seed = job
    data = images(given.data)
    attack = (QUICK if given.quick else ATTACKS)[name]
    batch, observation = observe(data, lenet(data, given.seed + seed), [image])
    guess = attack(observation, seeds=lg.Seeds(given.seed + seed).child(f"image/{image}"))
    row = {"attack": name, "repr": repr(attack), "image": image, "seed": given.seed + seed}
    return row | scored(data, batch, guess)


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    table(
        [
            "attack",
            f"MSE <= {GOAL:g}",
            "label right",
            "median MSE",
            "median dB",
            "evaluations",
            "seconds",
        ],
        [
            summary(name, found)
            for name in ATTACKS
            if (found := [row for row in rows if row["attack"] == name])
        ],
    )


def summary(name: str, rows: list[Row]) -> list[object]:
    """Return one line: medians over images and seeds."""
    return [
        name,
        share(row["mse"][0] <= GOAL for row in rows),
        share(bool(row["label"] and row["label"][0]) for row in rows),
        f"{median(row['mse'][0] for row in rows):.1e}",
        f"{median(row['psnr'][0] for row in rows):.1f}",
        f"{median(row['evaluations'] for row in rows):.0f}",
        f"{median(row['seconds'] for row in rows):.1f}",
    ]


if __name__ == "__main__":
    main()
