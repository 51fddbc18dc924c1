"""The weights of LPIPS: found among the user's files, or fetched once where that is asked for."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file

from leakgauge.core import ModelError
from leakgauge.data.files import VARIABLE, find_file
from leakgauge.metrics import Heads, LpipsSqueeze, SqueezeNet
from leakgauge.models.parts import seeded
from leakgauge.models.weights import load_weights


@dataclass(frozen=True)
class Source:
    """A file of weights: its name here, and where its authors publish it, with its sha256."""

    name: str
    url: str
    sha256: str


BACKBONE = Source(
    "imagenet_squeezenet1_1.safetensors",
    "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
    "b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
)
HEADS = Source(
    "lpips_v01_squeeze_lin.safetensors",
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/"
    "082bb24f84c091ea94de2867d34c4544f68e0963/lpips/weights/v0.1/squeeze.pth",
    "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
)
REMEDY = (
    f"give their paths, or set ${VARIABLE} to a folder with weights/{BACKBONE.name} and "
    f"weights/{HEADS.name}, which leakgauge.models.fetch_lpips() downloads into it"
)


def lpips_squeeze(
    backbone: str | Path = BACKBONE.name, heads: str | Path = HEADS.name
) -> LpipsSqueeze:
    """LPIPS on SqueezeNet 1.1 with the weights of two safetensors files, loaded once a process.

    backbone: an ImageNet SqueezeNet 1.1, named as torchvision names it (a classifier in it is not
    read). heads: the authors' weights, version 0.1. Paths are looked up as `load_weights` does.
    Downloads nothing. Raises ModelError for files that are missing or do not fit.
    """
    found = [_found(path) for path in (backbone, heads)]
    if None in found:
        missing = [str(p) for p, f in zip((backbone, heads), found, strict=True) if f is None]
        raise ModelError(
            "LPIPS", expected="its weights", found="no " + " nor ".join(missing), remedy=REMEDY
        )
    return _loaded(*(str(path) for path in found))


def has_lpips() -> bool:
    """Whether both files lie where `lpips_squeeze()` looks."""
    return all(_found(source.name) is not None for source in (BACKBONE, HEADS))


def fetch_lpips(folder: str | Path | None = None) -> None:
    """Download both files into `folder` (default: $LEAKGAUGE_DATA/weights), 5 MB; those there are kept.

    Only this function reaches the network, and nothing calls it but a user. What arrives is checked
    against the sha256 known here before it is read, and read without running code. Raises
    ModelError without a folder, where a download fails, and for another sha256.
    """
    root = os.environ.get(VARIABLE)
    if folder is None and not root:
        raise ModelError(
            "LPIPS",
            expected=f"a folder for its weights, or ${VARIABLE}",
            found="neither",
            remedy=f"set ${VARIABLE}, or call fetch_lpips(folder)",
        )
    target = Path(folder) if folder is not None else Path(root or "", "weights")
    for source in (BACKBONE, HEADS):
        if not (target / source.name).exists():
            _fetch(source, target)


def _fetch(source: Source, folder: Path) -> None:
    """Download, check, convert."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            arrived, written = Path(scratch, "arrived"), Path(scratch, "written")
            torch.hub.download_url_to_file(
                source.url, str(arrived), hash_prefix=source.sha256, progress=False
            )
            save_file(torch.load(arrived, map_location="cpu", weights_only=True), written)
            written.replace(folder / source.name)
    except (OSError, RuntimeError) as error:  # torch.hub tells a wrong hash by RuntimeError
        raise ModelError(
            f"download of {source.url}",
            expected=f"a file of sha256 {source.sha256}, and a folder that can be written",
            found=str(error),
            remedy=f"try again, or put {source.name} into {str(folder)!r} yourself",
        ) from error


def _found(path: str | Path) -> Path | None:
    try:
        return find_file(path, "weights", error=ModelError)
    except ModelError:
        return None


@cache
def _loaded(backbone: str, heads: str) -> LpipsSqueeze:
    # Modules draw their first weights from the global generator, which is not ours to move.
    with seeded(0):
        features, weighing = SqueezeNet().double(), Heads().double()
    load_weights(features, backbone, unread=("classifier.",))
    load_weights(weighing, heads)
    return LpipsSqueeze(features, weighing)
