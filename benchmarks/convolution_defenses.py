"""Defenses that shift consistency suggests, each against it, with their price in accuracy.

Small residual networks of width 16 in four stages. "leak" attacks the gradient of an untrained network at
two images of one label. The attack knows the defense. "price" trains the network on 3000 images of
CIFAR-10 and tells the accuracy on 1000 others. Noise is on each gradient of the training.

Quick: the leak without and with the first defense.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from statistics import median

import torch
from altered_updates import features_row
from common import Options, Row, run_jobs, table
from controls import control_batch, every
from convolution_cells import Cell, data_for, has_data, indices
from defended_networks import Design, Noise, accuracy_of, noise_on
from problems import observe, reconstructed, scored_beside

import leakgauge as lg
from leakgauge import attacks

NAME = "convolution_defenses"
LEVEL = 0.3
"""Noise, in units of the root mean square of the whole gradient."""
EPOCHS = 6
SIZE = 2
DESIGNS = {
    "none": Design(),
    "last stage frozen": Design(frozen=1),
    "last two stages frozen": Design(frozen=2),
    "few late channels": Design(channels=(16, 32, 24, 24)),
    "grouped late kernels": Design(groups=8),
    "depthwise late kernels": Design(depthwise=2),
    "fewer strides": Design(strides=(1, 2, 1, 1)),
    "larger strides early": Design(strides=(2, 2, 2, 1)),
}
NOISES = {
    f"noise {LEVEL} everywhere": "everything",
    f"noise {LEVEL} in the last stage": "exposed",
    f"noise {LEVEL} in its row space": "row space",
}
DEFENSES = (*DESIGNS, *NOISES)


@dataclass(frozen=True)
class Job:
    """One leak or one price of a defense."""

    part: str
    defense: str
    draw: int

    @property
    def design(self) -> Design:
        """The network."""
        return DESIGNS.get(self.defense, DESIGNS["none"])

    @property
    def noise(self) -> Noise | None:
        """The noise on its gradients, or None."""
        part = NOISES.get(self.defense)
        return None if part is None else noise_on(part, LEVEL)


def jobs_of(given: Options) -> list[Job]:
    """Return the leaks, then the prices. Prices need the data folder."""
    if given.quick:
        return [Job("leak", defense, 0) for defense in DEFENSES[:2]]
    parts = ("leak", "price") if has_data(given) else ("leak",)
    return [Job(part, defense, draw) for draw in range(2) for part in parts for defense in DEFENSES]


def run(job: Job, given: Options) -> Row:
    """Measure one job."""
    seed = 1000 * given.seed + job.draw
    row: Row = {**vars(job), "seed": seed}
    if job.part == "price":
        return row | {"accuracy": [accuracy_of(job.design, job.noise, epochs=EPOCHS, seed=seed)]}
    data = data_for("resnet18", False, given)
    model = job.design.build(seed)
    cell = Cell("resnet18", "untrained", "equal", SIZE, job.draw)
    held = indices(cell, data, model, given)
    batch, seen = observe(data, model, held, seed=seed)
    if job.noise is not None:
        generator = lg.Seeds(seed).generator("noise")
        noisy = job.noise(seen.update.tensors, generator)
        seen = replace(seen, update=lg.Update(dict(noisy)))
    guess, spent = reconstructed(attacks.ShiftConsistency(), seen, lg.Seeds(seed))
    others = control_batch(data, held, lg.Seeds(seed).generator("control"))
    row |= spent | {"status": str(guess.status), "message": guess.message}
    row |= {"notes": list(guess.notes)} | features_row(seen, batch.inputs, seed)
    if guess.status == lg.Status.INAPPLICABLE:
        return row
    return row | scored_beside(data, batch, others, guess)


def main() -> None:
    """Run the jobs and print the table."""
    rows = run_jobs(NAME, __doc__, jobs_of, run)
    rows.sort(key=lambda row: DEFENSES.index(row["defense"]))
    lines = []
    for defense, group in groupby(rows, lambda row: row["defense"]):
        some = list(group)
        cells = [_text(some, "error", ".1e"), _text(some, "psnr", ".1f")]
        cells += [_text(some, "control_psnr", ".1f")]
        accuracy = every(some, "accuracy")
        cells += [f"{min(accuracy):.3f} to {max(accuracy):.3f}" if accuracy else "-"]
        lines.append([defense, *cells])
    table(["defense", "feature error", "dB", "control", "accuracy"], lines)
    for row in rows:
        if row.get("status") == "inapplicable":
            print(f"{row['defense']}: {row['message']}")


def _text(rows: list[Row], name: str, form: str) -> str:
    """Return the median of the values of a field, or a dash."""
    values = every(rows, name)
    return f"{median(values):{form}}" if values else "-"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
