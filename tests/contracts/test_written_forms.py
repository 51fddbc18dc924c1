"""The private batch is recognized in every form that the effects of a defense may hold, and nothing else is."""

from __future__ import annotations

import array
import base64
import io
import pickle
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import numpy as np
import pytest
import torch
from conftest import mlp
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.core import Domain
from leakgauge.core.effects import Misleading
from leakgauge.defenses import Undefended
from leakgauge.threats.likeness import Likeness
from leakgauge.threats.secrets import Secrets

B = 4
TARGETS = torch.tensor([2, 0, 3, 1])
DOMAIN = lg.ImageDomain(3, 8, 8)


def private() -> lg.Batch:
    """Return a batch of different examples."""
    generator = torch.Generator().manual_seed(5)
    return lg.Batch(torch.rand((B, 3, 8, 8), generator=generator), TARGETS.clone())


def images(seed: int, count: int = B) -> Tensor:
    """Return other images that are smooth like photographs."""
    coarse = torch.rand((count, 3, 3, 3), generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(coarse, size=(8, 8), mode="bilinear")


def pixels(x: Tensor) -> Tensor:
    """Return the 8-bit values of images in [0, 1]."""
    return (255 * x).round().byte()


def in_context(x: Tensor) -> ContextVar[Tensor]:
    variable = ContextVar[Tensor]("held")
    variable.set(x.clone())
    return variable


def claiming(held: Any) -> Undefended:
    """Return a defense that changes nothing. Its effect holds `held` in a place that client and adversary share."""

    class Claiming(Undefended):
        effects = (Misleading(believed=lambda update: (held, update)[1]),)

    return Claiming()


def observe(held: Any, *, model: nn.Module | None = None) -> lg.Observation:
    owner = lg.Client(
        model=mlp(192) if model is None else model,
        loss=functional.cross_entropy,
        domain=DOMAIN,
        classes=4,
        defense=claiming(held),
    )
    return lg.Server().observe(owner, private(), seeds=lg.Seeds(0))


GRAPHS: dict[str, Callable[[Tensor], Any]] = {
    "leaf of a graph": lambda x: x.clone().requires_grad_() * 2 + 0 * x.sum(),
    "leaf two steps away": lambda x: (x.clone().requires_grad_() + 1).sum(),
    "step of a graph": lambda x: (x.clone().requires_grad_() + 1).sum().grad_fn,
    "saved tensor": lambda x: (torch.ones_like(x, requires_grad=True) * x).sum(),
    "variable of a context": in_context,
    "memory behind a view": lambda x: torch.cat([torch.zeros(5), x[0].flatten()])[:5],
}
BYTES: dict[str, Callable[[Tensor], Any]] = {
    "uint8 bytes": lambda x: pixels(x).numpy().tobytes(),
    "float16 bytes": lambda x: x.numpy().astype("float16").tobytes(),
    "float64 bytes": lambda x: x.numpy().astype("float64").tobytes(),
    "float32 bytes at an odd offset": lambda x: b"abc" + x[0].numpy().tobytes(),
    "bytearray": lambda x: bytearray(pixels(x[1]).numpy().tobytes()),
    "memoryview": lambda x: memoryview(x.numpy().tobytes()),
    "BytesIO": lambda x: io.BytesIO(x.numpy().tobytes()),
    "storage": lambda x: x.clone().untyped_storage(),
    "records": lambda x: x.numpy().copy().view([("a", "f4")]),
    "pickle": lambda x: pickle.dumps(x.numpy()),
    "base64": lambda x: base64.b64encode(x.numpy().tobytes()),
    "base64 text": lambda x: base64.urlsafe_b64encode(x.numpy().tobytes()).decode(),
    "hexadecimal digits": lambda x: pixels(x).numpy().tobytes().hex(),
}
COLLECTIONS: dict[str, Callable[[Tensor], Any]] = {
    "array": lambda x: array.array("d", x[0].flatten().tolist()),
    "scalars of torch": lambda x: list(x[0].flatten()),
    "scalars of NumPy": lambda x: tuple(np.float32(value) for value in x[0].flatten().tolist()),
    "rows": lambda x: list(x[0].flatten(0, 1)),
    "deque": lambda x: deque(x.flatten().tolist()),
    "set": lambda x: set(x[0].flatten().tolist()),
    "frozenset": lambda x: frozenset(x[0].double().flatten().tolist()),
    "values": lambda x: dict(enumerate(x[0].flatten().tolist())),
    "keys": lambda x: dict.fromkeys(x[0].flatten().tolist()),
    "complex": lambda x: [complex(0, value) for value in x[0].flatten().tolist()],
    "text": lambda x: str(x[0].tolist()),
    "short text": lambda x: " ".join(f"{value:.4f}" for value in x[0].flatten().tolist()),
    "texts": lambda x: [f"{value:.4f}" for value in x[0].flatten().tolist()],
    "repr of an array": lambda x: repr(x[0].double().numpy()),
    "text as bytes": lambda x: str(x.flatten().tolist()).encode(),
}
LABELS: dict[str, Callable[[Tensor], Any]] = {
    "labels of NumPy": lambda _: tuple(np.int64(label) for label in TARGETS.tolist()),
    "labels of torch": lambda _: list(TARGETS),
    "labels as text": lambda _: str(TARGETS.tolist()),
    "labels as repr": lambda _: repr(TARGETS),
    "labels as int64 bytes": lambda _: TARGETS.numpy().tobytes(),
    "labels as uint8 bytes": lambda _: bytes(TARGETS.tolist()),
}
TRANSFORMS: dict[str, Callable[[Tensor], Any]] = {
    "negated": lambda x: -x,
    "in [-1, 1]": lambda x: 2 * x - 1,
    "normalized": lambda x: (x - x.mean()) / x.std(),
    "negated pixels": lambda x: 255 - pixels(x),
    "transposed": lambda x: x.transpose(2, 3).contiguous(),
    "channels last": lambda x: x.permute(0, 2, 3, 1).contiguous(),
    "BGR of OpenCV": lambda x: pixels(x.flip(1)).permute(0, 2, 3, 1).contiguous().numpy(),
    "mirrored": lambda x: x.flip(-1),
    "turned by 180 degrees, scaled": lambda x: 3 - x.flip(-1, -2) / 7,
    "examples last": lambda x: x.flatten(1).T.contiguous(),
    "negated numbers": lambda x: [-value for value in x.flatten().tolist()],
}
FORMS = GRAPHS | BYTES | COLLECTIONS | LABELS | TRANSFORMS


@pytest.mark.parametrize("form", FORMS)
def test_the_batch_is_found_in_every_form(form: str) -> None:
    held = FORMS[form](private().inputs)
    with pytest.raises(lg.ModelError, match=r"observation\.knowledge\.defense.*held") as caught:
        observe(held)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", {**BYTES, **COLLECTIONS, **TRANSFORMS})
def test_other_images_are_no_alarm(form: str) -> None:
    known, make = secrets(private().inputs, DOMAIN), FORMS[form]
    for seed in range(5):
        drawn = torch.rand(B, 3, 8, 8, generator=torch.Generator().manual_seed(100 + seed))
        assert known.find_in(make(images(seed))) is known.find_in(make(drawn)) is None
    assert known.find_in(make(private().inputs)) is not None


INNOCENT: dict[str, Any] = {
    "version": "1.2.3.4",
    "numbers": "[3, 1, 2, 0]",
    "sentence": "2 clients, 0 dropouts, 3 rounds, 1 server",
    "other labels": np.array([0, 2, 1, 3]),
    "levels": set(range(256)),
    "zeros": torch.zeros(B, 3, 8, 8),
    "ramp": torch.linspace(-1, 1, 192).view(3, 8, 8),
    "graph of parameters": (nn.Linear(8, 8).weight * 2).sum(),
    "counts": {"a": 1, "b": 2, "c": 3, "d": 4},
    "one hot": torch.eye(192),
    "long text": "abcdefgh" * 100,
}


@pytest.mark.parametrize("kind", INNOCENT)
def test_innocent_facts_are_no_alarm(kind: str) -> None:
    observe(INNOCENT[kind])


def secrets(inputs: Tensor, domain: Domain) -> Secrets:
    return Secrets.of([lg.Batch(inputs, torch.zeros(len(inputs), dtype=torch.long))], (), domain)


def test_regular_examples_are_told_from_what_a_model_may_hold() -> None:
    """Any two ramps are affine copies of each other, and so are two masks or two constants."""
    ramp = torch.linspace(0, 1, 192).view(3, 8, 8)
    rising = torch.arange(8.0)[:, None] + 3 * torch.arange(8.0) / 31
    mask = (torch.arange(192) % 5 < 2).float().view(3, 8, 8)
    plain = torch.stack([ramp, (rising / 10).expand(3, 8, 8), mask, torch.full((3, 8, 8), 0.5)])
    assert not len(Likeness.of(plain).rows)
    known = secrets(plain, DOMAIN)
    for held in (2 * ramp + 5, 1 - mask, torch.zeros(3, 8, 8)):
        assert known.find_in(held) is None
    assert known.find_in(ramp) == known.find_in(mask) == "an example of the private batch"


def test_a_weight_that_one_step_made_a_multiple_of_an_example_is_no_copy() -> None:
    """One step on one example from zero weights makes this weight. The server knows this model by its protocol."""
    inputs = private().inputs
    known = secrets(inputs, DOMAIN)
    moved = nn.Parameter(-0.3 * inputs[:1].flatten(1).expand(4, -1).clone())
    assert known.find_in(moved, learned=True) is None
    assert known.find_in(moved) == "an example of the private batch"
    assert known.find_in(inputs.clone(), learned=True) == "an example of the private batch"


def test_weights_that_a_hook_makes_are_learned_too() -> None:
    """Weights and data drawn with one seed are affine copies of each other."""
    torch.manual_seed(5)
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(192, 4))
    observe(None, model=nn.Sequential(nn.Flatten(), layer))


def test_the_mean_of_unscaled_features_is_no_example() -> None:
    """One feature in large units would dominate the comparison of raw rows. So rows are compared without units."""
    generator = torch.Generator().manual_seed(0)
    columns = [lg.Column(f"x{i}", 0.0, 1.0) for i in range(39)]
    domain = lg.TableDomain((lg.Column("large", 0.0, 1e6), *columns))
    rows = torch.rand(6, 40, generator=generator)
    rows[:, 0] *= 1e6
    known = secrets(rows, domain)
    assert known.find_in(2 * rows.mean(0)) is None
    assert known.find_in(1 - domain.to_unit(rows)) == "an example of the private batch"
