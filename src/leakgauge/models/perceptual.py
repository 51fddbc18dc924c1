"""Weights of LPIPS: loaded from the user's files, or downloaded once on request."""

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
    """A file of weights: its local name, the authors' address, and the sha256 of the download."""

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
    f"set ${VARIABLE} to a folder and call leakgauge.models.fetch_lpips(), which downloads "
    f"weights/{BACKBONE.name} and weights/{HEADS.name} into it, or give the paths of both files"
)


def lpips_squeeze(
    backbone: str | Path = BACKBONE.name, heads: str | Path = HEADS.name
) -> LpipsSqueeze:
    """Load LPIPS on SqueezeNet 1.1 from two safetensors files.

    Each pair of files is loaded once in a process. Nothing is downloaded: `fetch_lpips` does that.
    Paths are looked up as in `load_weights`.

    Args:
        backbone: Weights of an ImageNet SqueezeNet 1.1, with torchvision's key names. A
            classifier in the file is ignored.
        heads: The authors' weights of LPIPS, version 0.1.

    Returns:
        The metric.

    Raises:
        ModelError: A file is missing or does not fit.

    References:
        Zhang, Isola, Efros, Shechtman, Wang. The Unreasonable Effectiveness of Deep Features as a
        Perceptual Metric. CVPR 2018. arXiv:1801.03924.

    Example:
        >>> import leakgauge as lg
        >>> distance = lg.models.lpips_squeeze()  # doctest: +SKIP
    """
    found = [_found(path) for path in (backbone, heads)]
    if None in found:
        missing = [str(p) for p, f in zip((backbone, heads), found, strict=True) if f is None]
        raise ModelError(
            "LPIPS",
            expected="two files of weights",
            found="no " + " and no ".join(missing),
            remedy=REMEDY,
        )
    return _loaded(*(str(path) for path in found))


def has_lpips() -> bool:
    """Return whether `lpips_squeeze()` finds both files of weights.

    Example:
        >>> import leakgauge as lg
        >>> lg.models.has_lpips() in (True, False)
        True
    """
    return all(_found(source.name) is not None for source in (BACKBONE, HEADS))


def fetch_lpips(folder: str | Path | None = None) -> None:
    """Download the two files of weights of LPIPS, about 5 MB.

    Files that exist are kept. No other function of LeakGauge uses the internet, and LeakGauge never
    calls this one itself. Each download is checked against a known sha256 before it is read.
    Reading it runs no code.

    Args:
        folder: Target folder. The default is `$LEAKGAUGE_DATA/weights`.

    Raises:
        ModelError: There is no folder, a download fails, or its sha256 differs.

    References:
        Zhang, Isola, Efros, Shechtman, Wang. The Unreasonable Effectiveness of Deep Features as a
        Perceptual Metric. CVPR 2018. arXiv:1801.03924.

    Example:
        >>> import leakgauge as lg
        >>> lg.models.fetch_lpips("weights")  # doctest: +SKIP
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
    """Download a file, check it, and convert it to safetensors."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            arrived, written = Path(scratch, "arrived"), Path(scratch, "written")
            torch.hub.download_url_to_file(
                source.url, str(arrived), hash_prefix=source.sha256, progress=False
            )
            save_file(torch.load(arrived, map_location="cpu", weights_only=True), written)
            written.replace(folder / source.name)
    except (OSError, RuntimeError) as error:  # torch.hub raises RuntimeError for a wrong hash.
        raise ModelError(
            f"download of {source.url}",
            expected=f"a file of sha256 {source.sha256}, and a folder that can be written",
            found=str(error),
            remedy=f"try again, or put {source.name} into {str(folder)!r} yourself",
        ) from error


def _found(path: str | Path) -> Path | None:
    """Return the path of a file of weights, or None if it is missing."""
    try:
        return find_file(path, "weights", error=ModelError)
    except ModelError:
        return None


@cache
def _loaded(backbone: str, heads: str) -> LpipsSqueeze:
    """Return LPIPS with the weights of two files."""
    # New modules draw weights from the global generator. `seeded` restores its state.
    with seeded(0):
        features, weighing = SqueezeNet().double(), Heads().double()
    load_weights(features, backbone, unread=("classifier.",))
    load_weights(weighing, heads)
    return LpipsSqueeze(features, weighing)
