"""Every module by name, with its domain and its loss."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

import leakgauge as lg
from zoo.goals import CLASSES, Goal
from zoo.modules import (
    Applied,
    Attending,
    Auxiliary,
    Caching,
    Called,
    Checkpointed,
    Counting,
    Cube,
    CubeOnce,
    Embedded,
    Fourier,
    Functional,
    Heads,
    Listed,
    Looping,
    Mixed,
    Odd,
    OneD,
    Optional,
    Patches,
    Recurrent,
    Residual,
    Shared,
    ThreeD,
    Tied,
    Unused,
    branching,
    checked,
    cnn,
    detached,
    frozen,
    initialized,
    mlp,
    normalized,
    plain,
    scaled_in_place,
    scripted,
    segmenter,
    shifted_in_place,
    through_numpy,
    traced,
)

IMAGE = lg.ImageDomain(1, 8, 8)
TABLE = lg.TableDomain.from_ranges([f"c{i}" for i in range(36)], [-4.0] * 36, [4.0] * 36)


@dataclass(frozen=True)
class Animal:
    """A module of the zoo.

    Args:
        name: Its name.
        build: Builds the module.
        domain: The domain of its inputs.
        goal: The name of its loss, in `GOALS`.
        hostile: Words that an AttackError on it must contain. None if any AttackError is a defect.
    """

    name: str
    build: Callable[[], nn.Module]
    domain: lg.ImageDomain | lg.TableDomain = IMAGE
    goal: str = "cross_entropy"
    hostile: str | None = None

    def module(self) -> nn.Module:
        """Return a new module, with parameters from a fixed seed."""
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            return self.build()


def batch_of(animal: Animal, goal: Goal, count: int, *, seed: int = 0) -> lg.Batch:
    """Return a private batch of `count` examples, uniform in the domain."""
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand((count, *animal.domain.shape), generator=generator)
    like = next(iter(animal.module().parameters()))
    dtype = like.dtype if like.dtype in (torch.float64, torch.bfloat16, torch.float16) else None
    inputs = animal.domain.from_unit(unit)
    targets = goal.draw(count, generator)
    if dtype is not None:
        inputs = inputs.to(dtype)
        targets = targets.to(dtype) if targets.is_floating_point() else targets
    return lg.Batch(inputs, targets)


def client_of(
    animal: Animal, goal: Goal, *, training: lg.LocalTraining | None = None, **more: object
) -> lg.Client:
    """Return a client that trains the module on the loss."""
    return lg.Client(
        model=animal.module(),
        loss=goal.loss,
        domain=animal.domain,
        classes=goal.classes,
        training=training or lg.FedSGD(),
        **more,
    )


def zoo() -> dict[str, Animal]:
    """Return every module, by name."""
    weight_norm, spectral_norm = (
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
    )
    listed = [
        Animal("mlp", mlp),
        Animal("mlp_tanh", partial(mlp, act=nn.Tanh)),
        Animal("mlp_no_bias", partial(mlp, bias=False)),
        Animal("linear", lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))),
        Animal("many_outputs", partial(mlp, outputs=20), goal="many_classes"),
        Animal("nested", lambda: nn.Sequential(nn.Sequential(mlp(outputs=12)), nn.Linear(12, 4))),
        Animal("functional", Functional),
        Animal("residual", Residual),
        Animal("looping", Looping),
        Animal("rnn", partial(Recurrent, nn.RNN), TABLE),
        Animal("lstm", partial(Recurrent, nn.LSTM), TABLE),
        Animal("gru", partial(Recurrent, nn.GRU), TABLE),
        Animal("bidirectional", partial(Recurrent, nn.RNN, bidirectional=True), TABLE),
        Animal("multihead", partial(Attending, "multihead"), TABLE),
        Animal("encoder", partial(Attending, "encoder"), TABLE),
        Animal("fused_attention", partial(Attending, "fused"), TABLE),
        Animal("patches", Patches),
        Animal("batch_norm", lambda: cnn(nn.BatchNorm2d(4))),
        Animal("batch_norm_eval", lambda: cnn(nn.BatchNorm2d(4)).eval()),
        Animal("batch_norm_momentless", lambda: cnn(nn.BatchNorm2d(4, track_running_stats=False))),
        Animal("layer_norm", lambda: cnn(nn.LayerNorm([4, 4, 4]))),
        Animal("group_norm", lambda: cnn(nn.GroupNorm(2, 4))),
        Animal("instance_norm", lambda: cnn(nn.InstanceNorm2d(4, affine=True))),
        Animal("rms_norm", lambda: cnn(nn.RMSNorm([4, 4, 4]))),
        Animal("local_response", lambda: cnn(nn.LocalResponseNorm(2))),
        Animal("conv1d", OneD, TABLE),
        Animal("conv3d", ThreeD),
        Animal(
            "conv_transpose",
            lambda: nn.Sequential(
                nn.ConvTranspose2d(1, 2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(578, 4)
            ),
        ),
        Animal("grouped", lambda: cnn(nn.Conv2d(4, 4, 3, padding=1, groups=2))),
        Animal("embedding", Embedded, TABLE),
        Animal("tied", Tied, TABLE),
        Animal("shared", Shared, TABLE),
        Animal("unused", Unused),
        Animal("tuple_heads", partial(Heads, "tuple"), goal="tuple"),
        Animal("named_heads", partial(Heads, "named"), goal="tuple"),
        Animal("dict_heads", partial(Heads, "dict"), goal="keyed"),
        Animal("auxiliary", Auxiliary),
        Animal("mixed_precision", Mixed),
        Animal("bfloat16", lambda: mlp().bfloat16()),
        Animal("half", lambda: mlp(act=nn.Tanh).half()),
        Animal("double", lambda: mlp().double()),
        Animal("regression", partial(mlp, 36, 1), TABLE, "mse_one"),
        Animal("one_logit", partial(mlp, 36, 1), TABLE, "bce_one"),
        Animal("multi_label", mlp, goal="bce_many"),
        Animal("segmenter", segmenter, goal="pixelwise"),
        Animal("frozen", frozen),
        Animal("lazy", lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), hostile="lazy"),
        Animal("lazy_initialized", initialized),
        Animal("compiled", lambda: torch.compile(mlp(), backend="eager")),
        Animal("parallel", lambda: nn.DataParallel(mlp())),
        Animal("weight_norm", lambda: normalized(weight_norm)),
        Animal("weight_norm_hook", lambda: normalized(nn.utils.weight_norm)),
        Animal("spectral_norm", lambda: normalized(spectral_norm)),
        Animal("spectral_norm_train", lambda: normalized(spectral_norm, steps=True)),
        Animal("spectral_norm_hook", lambda: normalized(nn.utils.spectral_norm)),
        Animal("checkpoint", partial(Checkpointed, False)),
        Animal("checkpoint_reentrant", partial(Checkpointed, True), hostile="checkpoint"),
        Animal("own_function", partial(Applied, inside=Cube.apply)),
        Animal("once_differentiable", partial(Applied, inside=CubeOnce.apply)),
        Animal("random", partial(Applied, inside=lambda z: z + 0.1 * torch.rand_like(z))),
        Animal("random_numpy", partial(Applied, inside=lambda z: z * float(np.random.rand()))),
        Animal("numpy_scale", partial(Applied, inside=detached)),
        Animal("numpy_values", partial(Applied, inside=through_numpy)),
        Animal("in_place_scale", partial(Applied, scaled_in_place)),
        Animal("in_place_shift", partial(Applied, shifted_in_place)),
        Animal("assert_shape", partial(Applied, checked("shape"))),
        Animal("assert_range", partial(Applied, checked("range")), hostile="pixels in"),
        Animal("assert_dtype", partial(Applied, checked("dtype"))),
        Animal(
            "assert_varied",
            partial(Applied, checked("varied")),
            hostile="an image that is not flat",
        ),
        Animal("assert_alone", partial(Applied, checked("alone")), hostile="one or two examples"),
        Animal("no_float64", partial(Applied, checked("single"))),
        Animal("branching", partial(Applied, branching)),
        Animal("caching", Caching),
        Animal("counting", Counting),
        Animal("parameter_list", Listed),
        Animal("own_call", Called),
        Animal("second_argument", Optional),
        Animal("odd_parameters", Odd),
        Animal("complex_inside", Fourier),
        Animal("scripted", scripted),
        Animal("traced", traced),
        Animal("max_pool", lambda: nn.Sequential(nn.MaxPool2d(2), mlp(16))),
        Animal(
            "max_pool_later", lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), mlp(36))
        ),
        Animal("avg_pool", lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.AvgPool2d(2), mlp(36))),
        Animal(
            "adaptive_pool",
            lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(2), mlp(16)),
        ),
        Animal("relu", plain(nn.ReLU())),
        Animal("hardsigmoid", plain(nn.Hardsigmoid())),
        Animal("hardswish", plain(nn.Hardswish())),
        Animal("gelu", plain(nn.GELU())),
        Animal("silu", plain(nn.SiLU())),
        Animal("softplus", plain(nn.Softplus())),
        Animal("prelu", lambda: cnn(act=nn.PReLU())),
        Animal("sigmoid", plain(nn.Sigmoid())),
        Animal("absolute", partial(Applied, inside=torch.abs)),
        Animal("root_at_zero", partial(Applied, inside=lambda z: torch.relu(z).sqrt())),
        Animal("dropout", lambda: cnn(nn.Dropout(0.3))),
        Animal("dropout_first", lambda: nn.Sequential(nn.Dropout(0.3), mlp())),
        Animal("softmax_end", lambda: nn.Sequential(mlp(), nn.Softmax(1)), goal="nll"),
    ]
    return {animal.name: animal for animal in listed}


ZOO = zoo()
