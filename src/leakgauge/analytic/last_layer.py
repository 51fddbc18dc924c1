"""From an observation to the last layer's gradient, and the features that softmax unmixing reads from it."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from leakgauge.analytic.links import Link, link_of
from leakgauge.analytic.softmax_unmixing import Unmixed, unmix
from leakgauge.analytic.whitening import Layer, Noise
from leakgauge.core import Observation
from leakgauge.federated.untouched import output_of

ROUNDING = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.bfloat16: 2.0**-9,
    torch.float16: 2.0**-12,
}
CODED = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def read(
    observation: Observation, generator: torch.Generator, *, noise: Noise | None = None
) -> Unmixed | str:
    """The features that the last layer's gradient tells, or in one line why it tells none.

    noise: of the update, default what a known defense adds, else the rounding that its type and values show.
    """
    found = last_layer(observation)
    if isinstance(found, str):
        return found
    layer, link = found
    if layer.dbias is not None and not bool(layer.dbias.any()):
        return "the gradient of the last layer's bias is 0"
    reason = unreadable(layer, link)
    if reason is not None:
        return reason
    name = layer_name(observation)
    assert name is not None, "last_layer() found it"
    shared = observation.update.tensors[f"{name}.weight"]
    return unmix(
        layer,
        link,
        generator=generator,
        noise=noise or known_noise(observation) or rounding(shared),
        counts=label_counts(observation, len(link.targets)),
    )


def last_layer(observation: Observation) -> tuple[Layer, Link] | str:
    """The linear layer whose output is the model's, with its gradient; the loss's link; or why not."""
    reason = observation.not_one_gradient()
    if reason is not None:
        return reason
    if observation.knowledge.batch_size is None:
        return "needs the batch size"
    name = layer_name(observation)
    if name is None:
        return "the model's output is not that of a linear layer"
    tensors = observation.update.tensors
    if f"{name}.weight" not in tensors:
        return f"the weight of the last layer, {name!r}, is not trained"
    layer = observation.model.get_submodule(name)
    assert isinstance(layer, nn.Linear), "layer_name() names linear layers alone"
    link = link_of(observation.loss, layer.out_features)
    if link is None:
        return "the loss is not cross-entropy, nor another whose gradient is act(z) - target"

    def plain(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.detach().double().cpu()

    weight, dweight = plain(layer.weight), plain(tensors[f"{name}.weight"])
    assert weight is not None
    assert dweight is not None
    if not bool(dweight.any()):
        return "the last layer's gradient is 0"
    bias, dbias = plain(layer.bias), plain(tensors.get(f"{name}.bias"))
    return Layer(weight, bias, dweight, dbias, observation.batch_size), link


def unreadable(layer: Layer, link: Link) -> str | None:
    """Why the layer cannot tell so many examples apart; None where it may."""
    if layer.batch <= min(len(link.targets) - 1, layer.weight.shape[1] + 1):
        return None
    return f"a last layer of {len(link.targets)} outputs cannot tell {layer.batch} examples apart"


def layer_name(observation: Observation) -> str | None:
    """The name of the linear layer that is called once, on one vector an example, last; else None."""
    calls: list[tuple[str, Tensor, Tensor]] = []
    model, domain = observation.model, observation.domain
    like = next(iter(observation.update.tensors.values()))
    parameter = next(model.parameters(), like)
    middle = torch.full((1, *domain.shape), 0.5, dtype=parameter.dtype, device=parameter.device)

    def note(name: str, _: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((name, arguments[0], output))

    modes = {module: module.training for module in model.modules()}
    with ExitStack() as hooks, torch.no_grad():
        # One probe example: normalization by its own statistics would fail, and change buffers.
        for module, mode in modes.items():
            hooks.callback(module.train, mode)
        model.eval()
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                hooks.callback(module.register_forward_hook(partial(note, name)).remove)
        prediction = output_of(model, domain.from_unit(middle))
    for name, inputs, output in calls:
        once = sum(other == name for other, _, _ in calls) == 1
        if once and output is prediction and inputs.ndim == 2:
            return name
    return None


def known_noise(observation: Observation) -> Noise | None:
    """The noise that a known defense adds; None where it adds none."""
    noise = observation.noise
    return None if noise is None else Noise(sigma=noise[0])


def rounding(shared: Tensor) -> Noise:
    """The rounding of an update: its type's, or a shorter one's that all its values fit."""
    computed = ROUNDING.get(shared.dtype, 2.0**-24)
    for dtype in CODED.values():
        if shared.dtype != dtype and bool((shared == shared.to(dtype).to(shared.dtype)).all()):
            return Noise(ROUNDING[dtype], computed)
    return Noise(computed, computed)


def label_counts(observation: Observation, classes: int) -> Tensor | None:
    """How many examples of each class (C,), where granted as class labels or as counts."""
    knowledge = observation.knowledge
    if knowledge.label_counts is not None:
        return knowledge.label_counts.cpu()
    labels = knowledge.labels
    if labels is None or labels.ndim != 1 or labels.is_floating_point():
        return None
    return torch.bincount(labels.cpu(), minlength=classes)
