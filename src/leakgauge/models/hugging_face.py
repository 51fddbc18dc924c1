"""Vision transformers of Hugging Face `transformers`: ViT and DeiT, as models that give logits.

Beside a CPU build of torch, and without torchvision: only the modules of the networks are imported. (timm imports
torchvision.) Attention is the elementary one, `eager`; searches write fused attention out themselves.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

from leakgauge.core import Domain, ImageDomain, ModelError
from leakgauge.models.parts import counts, images, normalizer, seeded

Family = Literal["vit", "deit"]
_NAMES = {"vit": "ViT", "deit": "DeiT"}


class Logits(nn.Module):
    """A network whose output has `.logits`, as one that takes the domain's values and gives logits (B, classes)."""

    def __init__(self, network: nn.Module, normalize: nn.Module | None = None) -> None:
        super().__init__()
        self.normalize = nn.Identity() if normalize is None else normalize
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of inputs (B, *shape)."""
        logits: Tensor = self.network(self.normalize(x)).logits
        return logits


def hugging_face_vit(
    domain: Domain,
    classes: int,
    *,
    family: Family = "vit",
    patch: int = 4,
    dim: int = 96,
    depth: int = 4,
    heads: int = 4,
    folder: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> nn.Module:
    """A ViT or DeiT of Hugging Face `transformers`, with random weights or from a local `folder`. No download.

    folder: one that `save_pretrained` wrote; it says patch, dim, depth and heads, and must be for the
    domain's images and as many classes. mean and std: one for each channel, of the normalization
    before the network (default: none). In eval mode. Raises ModelError where `transformers` is not
    installed, for a domain other than images that patches tile, a folder that does not fit, and
    options that do not exist.
    """
    image = images(domain, "hugging_face_vit")
    counts("hugging_face_vit", classes=classes, patch=patch, dim=dim, depth=depth, heads=heads)
    if family not in get_args(Family):
        raise _mistake("family as 'vit' or 'deit'", repr(family), "choose one of these")
    config_class, network_class = _classes(family)
    with seeded(seed):
        if folder is not None:
            network = _loaded(network_class, folder)
        else:
            if image.height % patch or image.width % patch or dim % heads:
                found = f"patches of {patch} on {image.height}x{image.width}, {dim} and {heads}"
                raise _mistake("patches that tile, heads that divide dim", found, "mend the option")
            config = config_class(
                image_size=(image.height, image.width),
                num_channels=image.channels,
                num_labels=classes,
                patch_size=patch,
                hidden_size=dim,
                intermediate_size=4 * dim,
                num_hidden_layers=depth,
                num_attention_heads=heads,
                attn_implementation="eager",
            )
            network = network_class(config)
    _check(network, image, classes)
    return Logits(network, normalizer(domain, mean, std)).eval()


def _classes(family: Family) -> tuple[Any, Any]:
    """The configuration and the classifier, from the modules that need no torchvision."""
    name, where = _NAMES[family], f"transformers.models.{family}"
    try:
        configuration = importlib.import_module(f"{where}.configuration_{family}")
        modeling = importlib.import_module(f"{where}.modeling_{family}")
    except ImportError as error:
        raise _mistake(
            "the package transformers",
            str(error),
            'install it: pip install "leakgauge[vision]", or name a model of your own',
        ) from error
    return (
        getattr(configuration, f"{name}Config"),
        getattr(modeling, f"{name}ForImageClassification"),
    )


def _loaded(network_class: Any, folder: str) -> nn.Module:
    try:
        network: nn.Module = network_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, attn_implementation="eager"
        )
    except (OSError, ValueError) as error:
        raise _mistake(
            "a folder that save_pretrained wrote, its weights in safetensors",
            str(error).strip().partition("\n")[0],
            "give the path of such a folder",
        ) from error
    return network


def _check(network: Any, image: ImageDomain, classes: int) -> None:
    """Raise ModelError unless the network is for these images and classes."""
    config = network.config
    size = config.image_size
    sides = (size, size) if isinstance(size, int) else tuple(size)
    found = (config.num_channels, *sides, config.num_labels)
    expected = (image.channels, image.height, image.width, classes)
    if found != expected:
        raise _mistake(
            "channels, height, width and classes {}, {}, {} and {}".format(*expected),
            "{}, {}, {} and {}".format(*found),
            "give data that this network is for",
        )


def _mistake(expected: str, found: str, remedy: str) -> ModelError:
    return ModelError("model 'hugging_face_vit'", expected=expected, found=found, remedy=remedy)
