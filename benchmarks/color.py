"""How much less photographs vary in color than in brightness: the source of the default weights of `Smoothness`.

Quick: the bundled photographs, without the ImageNet samples.
"""

from __future__ import annotations

import os

import common
import torch

import leakgauge as lg
from leakgauge.inversion.objectives.variation import OPPONENT

SETS = {
    "photos (scikit-image, scikit-learn)": lambda: lg.data.photos(),
    "ImageNet samples": lambda: lg.data.npz("imagenet_samples_64.npz"),
}


def ratios(images: torch.Tensor) -> list[float]:
    """Return the energy of the Laplacian of brightness over that of each color axis.

    Images (N, 3, H, W) are halved to 32 x 32 first.
    """
    factor = images.shape[-1] // 32
    axes = torch.nn.functional.normalize(torch.tensor(OPPONENT), dim=1)
    seen = torch.einsum(
        "kc,bchw->bkhw", axes, torch.nn.functional.avg_pool2d(images.float(), factor)
    )
    inner = seen[..., 1:-1, 1:-1]
    laplacian = seen[..., 2:, 1:-1] + seen[..., :-2, 1:-1] + seen[..., 1:-1, 2:]
    energy = (laplacian + seen[..., 1:-1, :-2] - 4 * inner).square().mean((0, 2, 3))
    return [float(energy[0] / e) for e in energy[1:]]


def main() -> None:
    """Run the jobs and print the tables."""
    rows = common.run_jobs("color", __doc__, jobs_of, run, data="named in each row")
    common.table(
        ["photographs", "images", "red - blue", "red - 2 green + blue"],
        [[r["set"], r["images"], *(f"{v:.1f}" for v in r["ratios"])] for r in rows],
    )


def jobs_of(given: common.Options) -> list[str]:
    """Return the names of the sets. Without the data folder, and in a quick run, these are the photographs."""
    alone = given.quick or not os.environ.get("LEAKGAUGE_DATA")
    return [common.PHOTOS] if alone else list(SETS)


def run(name: str, given: common.Options) -> common.Row:
    """Measure one set."""
    data = SETS[name]()
    unit = data.domain.to_unit(data.inputs)
    return {"set": name, "images": len(unit), "ratios": ratios(unit)}


if __name__ == "__main__":
    main()
