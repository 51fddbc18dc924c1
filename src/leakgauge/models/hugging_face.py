"""Vision transformers of Hugging Face `transformers`, ViT and DeiT, as models that return logits.

Only the modules of the networks are imported, so a CPU build of torch is enough and torchvision is not needed. The
package timm would import torchvision. The networks use the attention named `eager`, which is not fused. Attacks replace
fused attention of other models themselves.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

from leakgauge.core import Domain, ImageDomain, ModelError
from leakgauge.models.parts import check_counts, normalizer, require_images, seeded

Family = Literal["vit", "deit"]
_NAMES = {"vit": "ViT", "deit": "DeiT"}


class Logits(nn.Module):
    """Wrapper that returns the logits of a network whose output has an attribute `logits`.

    Use it for classifiers of Hugging Face, which return an object instead of a tensor.

    Args:
        network: Network that takes inputs (B, `*shape`).
        normalize: First layer. By default the identity.

    Example:
        >>> from types import SimpleNamespace
        >>> import torch
        >>> import leakgauge as lg
        >>> class Network(torch.nn.Module):
        ...     def forward(self, x):
        ...         return SimpleNamespace(logits=x.sum(1))
        >>> lg.models.Logits(Network())(torch.ones(1, 4, 2))
        tensor([[4., 4.]])
    """

    def __init__(self, network: nn.Module, normalize: nn.Module | None = None) -> None:
        super().__init__()
        self.normalize = nn.Identity() if normalize is None else normalize
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) of inputs (B, `*shape`)."""
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
    """Build a ViT or DeiT of Hugging Face `transformers`.

    Weights are random, or come from a folder. Nothing is downloaded. This builder needs the package
    `transformers`, which `pip install "leakgauge[vision]"` installs.

    Args:
        domain: Domain of the images: channels, height and width.
        classes: Number of classes, at least 1.
        family: "vit" or "deit".
        patch: Side of a patch, in pixels. It must divide both sides of the images.
        dim: Number of values of a token.
        depth: Number of blocks.
        heads: Number of attention heads. It must divide `dim`.
        folder: Folder that `save_pretrained` wrote. If it is given, it determines patch, dim, depth
            and heads. It must fit the domain and the number of classes. By default weights are
            random.
        mean: One mean for each channel, subtracted by the first layer. By default nothing is
            subtracted.
        std: One standard deviation for each channel, above 0, by which the first layer divides.
            Give both or neither.
        seed: Seed of the initial weights. The global random state stays unchanged.

    Returns:
        The network in eval mode, with values in [0, 1] as inputs (B, C, H, W) and logits (B,
        classes) as outputs.

    Raises:
        ModelError: `transformers` is not installed, the domain holds no images that the patches
            tile, the folder does not fit, or an option is unknown. A count is not a whole number
            from 1 to 1,048,576.

    References:
        Dosovitskiy et al. An Image is Worth 16x16 Words: Transformers for Image Recognition at
        Scale. ICLR 2021. arXiv:2010.11929.

        Touvron et al. Training data-efficient image transformers & distillation through
        attention. ICML 2021. arXiv:2012.12877.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.core import ImageDomain
        >>> model = lg.models.hugging_face_vit(ImageDomain(3, 32, 32), 10)  # doctest: +SKIP
    """
    image = require_images(domain, "hugging_face_vit")
    check_counts(
        "hugging_face_vit", classes=classes, patch=patch, dim=dim, depth=depth, heads=heads
    )
    if family not in get_args(Family):
        raise _mistake("the family 'vit' or 'deit'", repr(family), "choose one of the two")
    config_class, network_class = _classes(family)
    with seeded(seed):
        if folder is not None:
            network = _loaded(network_class, folder)
        else:
            if image.height % patch or image.width % patch or dim % heads:
                raise _mistake(
                    "patches that tile the image, and heads that divide dim",
                    f"patches of {patch} on {image.height}x{image.width} pixels, and {heads} heads"
                    f" for dim {dim}",
                    "correct the option patch, dim or heads",
                )
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
    """Return the classes of the configuration and the classifier, from modules that need no torchvision."""
    name, where = _NAMES[family], f"transformers.models.{family}"
    try:
        configuration = importlib.import_module(f"{where}.configuration_{family}")
        modeling = importlib.import_module(f"{where}.modeling_{family}")
    except ImportError as error:
        raise _mistake(
            "the package transformers",
            str(error),
            'run `pip install "leakgauge[vision]"`, or use a model of your own',
        ) from error
    return (
        getattr(configuration, f"{name}Config"),
        getattr(modeling, f"{name}ForImageClassification"),
    )


def _loaded(network_class: Any, folder: str) -> nn.Module:
    """Load the network of a folder. Raise ModelError if the folder holds none."""
    try:
        network: nn.Module = network_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, attn_implementation="eager"
        )
    except (OSError, ValueError) as error:
        raise _mistake(
            "a folder that save_pretrained wrote, with weights in a safetensors file",
            str(error).strip().partition("\n")[0],
            "give the path of a folder that save_pretrained wrote",
        ) from error
    return network


def _check(network: Any, image: ImageDomain, classes: int) -> None:
    """Raise ModelError unless the network fits the images and the number of classes."""
    config = network.config
    size = config.image_size
    sides = (size, size) if isinstance(size, int) else tuple(size)
    found = (config.num_channels, *sides, config.num_labels)
    expected = (image.channels, image.height, image.width, classes)
    if found != expected:
        raise _mistake(
            "channels, height, width and classes {}, {}, {} and {}".format(*expected),
            "{}, {}, {} and {}".format(*found),
            "use data of that shape, or another network",
        )


def _mistake(expected: str, found: str, remedy: str) -> ModelError:
    """Return a ModelError about `hugging_face_vit`."""
    return ModelError("model 'hugging_face_vit'", expected=expected, found=found, remedy=remedy)
