"""References in specifications: `package.module:name` finds a user's own part, or is refused in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import images, mlp
from torch import nn

import leakgauge as lg
from leakgauge.audit import plan
from leakgauge.audit.resolve import resolve
from leakgauge.audit.specification import Source, parse
from leakgauge.core import allowance
from leakgauge.core.installed import required_distributions, required_modules
from leakgauge.core.references import import_part
from leakgauge.models import build

OWN = """
from __future__ import annotations
import functools
import os
import pathlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import torch
from torch import nn

import leakgauge as lg

if TYPE_CHECKING:
    from nowhere import Unknown

system = os.system
save = torch.save
number = 3
text = "x\\x1b[2J"
tensor = torch.zeros(3)


def data(count: int = 4):
    return torch.rand(count, 1, 4, 4), torch.arange(count) % 2


few = functools.partial(data, count=2)


@functools.lru_cache
def cached():
    return data()


class Made:
    @staticmethod
    def data():
        return data()


def failing(count=4):
    raise ValueError("no\\n\\x1b[2Jexamples")


def leaving():
    raise SystemExit(3)


def nothing():
    return None


def annotated(value: Unknown = 0):
    return lg.defenses.Clipping()


def private(_count=4):
    return data()


def model(domain, classes, width: int = 4):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, classes))


def huge(domain, classes):
    return nn.Linear(10**6, 10**6)


def deep(domain, classes):
    return nn.Sequential(*(nn.Linear(1, 1) for _ in range(10**6)))


def no_network(domain, classes):
    return "network"


class Strange:
    def __getattr__(self, name):
        raise RuntimeError(name)


strange = Strange()


class Mute(Exception):
    def __str__(self):
        raise SystemExit("in str")


def mute(count=4):
    raise Mute


def closing(count=4):
    raise GeneratorExit


def expanded():
    return torch.zeros(1).expand(2**40).view(2**34, 1, 8, 8), torch.zeros(1).long().expand(2**34)


class Broken(torch.Tensor):
    @classmethod
    def __torch_function__(cls, *args, **kwargs):
        raise RuntimeError("broken")


class Plain(torch.Tensor):
    pass


def broken():
    return torch.rand(4, 1, 4, 4).as_subclass(Broken), torch.tensor([0, 1, 0, 1])


def plain():
    return torch.rand(4, 1, 4, 4).as_subclass(Plain), torch.tensor([0, 1, 0, 1])


def empty(domain, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, classes, device="meta"))


class MuteModel(nn.Module):
    def __init__(self, domain, classes):
        super().__init__()
        self.layer = nn.Linear(16, classes)

    def forward(self, x):
        raise Mute


def mute_loss(output, target):
    raise GeneratorExit


def of_one(output):
    return output.mean()
"""

SPECIFICATION = """
data = "own_named_parts:data"
model = "own_named_parts:model"
attacks = ["linear_layer"]
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_named_parts.py").write_text(OWN)
    (tmp_path / "leaves_at_import.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "fails_at_import.py").write_text("\n\nraise ValueError('not\\ntoday')\n")
    (tmp_path / "ends_at_import.py").write_text("class E(BaseException): pass\nraise E('now')\n")
    (tmp_path / "closes_at_import.py").write_text("raise GeneratorExit\n")
    (tmp_path / "mute_at_import.py").write_text(
        "class E(Exception):\n    def __str__(self): return 3\nraise E\n"
    )
    (tmp_path / "waits_at_import.py").write_text("raise KeyboardInterrupt\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in list(sys.modules):
        if name in ("own_named_parts", "leaves_at_import", "fails_at_import", "waits_at_import"):
            monkeypatch.delitem(sys.modules, name)
    return "own_named_parts"


def line_of(call: Callable[[], object], kind: type[Exception] = lg.UserError) -> str:
    with pytest.raises(kind) as caught:
        call()
    line = str(caught.value)
    assert line.isprintable()
    return line


def specified(**changes: str) -> list[lg.Case]:
    lines = dict(line.split(" = ", 1) for line in SPECIFICATION.strip().splitlines())
    text = "\n".join(f"{key} = {value}" for key, value in (lines | changes).items())
    return resolve(parse(Source(text)))


NO_PARTS = [
    "builtins:open",
    "builtins:exec",
    "sys:exit",
    "os:system",
    "posix:system",
    "os.path:join",
    "pathlib:Path",
    "subprocess:run",
    "shutil:rmtree",
    "antigravity:x",
    "this:s",
    "torch:save",
    "torch:load",
    "torch.hub:load",
    "numpy:save",
    "numpy:fromfile",
    "PIL.Image:open",
    "safetensors.torch:save_file",
    "leakgauge.cli:main",
    "leakgauge.audit:audit",
    "leakgauge.report:write",
    "joblib:load",
    "sympy:sympify",
    "pytest:main",
    "_pytest.config:main",
    "torchgen.utils:run",
    "pip:main",
    "functorch.compile:config",
    "own_named_parts:system",
    "own_named_parts:save",
    "own_named_parts:Path",
    "own_named_parts:os.system",
    "own_named_parts:pathlib",
    "own_named_parts:number",
    "own_named_parts:text",
    "own_named_parts:tensor",
]


@pytest.mark.parametrize("reference", NO_PARTS)
@pytest.mark.parametrize("section", ["data", "model", "loss", "attacks", "defenses", "training"])
def test_what_others_wrote_is_no_part(own: str, section: str, reference: str) -> None:
    line = line_of(lambda: specified(**{section: repr(reference)}), lg.SpecificationError)
    assert "of your own module" in line
    assert repr(reference) in line


def test_modules_of_python_are_not_even_imported(own: str) -> None:
    """Some modules act when they are imported. The module `antigravity` opens a browser."""
    line_of(lambda: import_part("antigravity:fly", "x"))
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("name", ["data", "few", "cached", "Made.data", "Made"])
def test_what_its_user_wrote_is(own: str, name: str) -> None:
    assert callable(import_part(f"{own}:{name}", "data"))
    if name != "Made":
        assert len(lg.data.custom(f"{own}:{name}")) in (2, 4)


@pytest.mark.parametrize(
    "reference", ["torch.nn.functional:cross_entropy", "torch.nn:Linear", "leakgauge.data:digits"]
)
def test_modules_losses_and_our_own_parts_may_be_named(reference: str) -> None:
    assert callable(import_part(reference, "loss"))


@pytest.mark.parametrize(
    "reference",
    [
        "x",
        ":x",
        "x:",
        "x:y:z",
        "x:.y",
        "x.:y",
        "..x:y",
        ".:y",
        "x\0y:z",
        "x y:z",
        "x\x1b[2J:y",
        ":",
    ],
)
def test_references_of_another_form(own: str, reference: str) -> None:
    line_of(lambda: import_part(reference, "data"), lg.SpecificationError)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("leaves_at_import", "SystemExit: 0 (leaves_at_import.py, line 2)"),
        ("fails_at_import", "ValueError: not today (fails_at_import.py, line 3)"),
        ("ends_at_import", "E: now (ends_at_import.py, line 2)"),
        ("closes_at_import", "GeneratorExit: "),
        ("mute_at_import", "E: a text that cannot be read"),
        ("not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
    ],
)
def test_a_module_that_cannot_be_imported(own: str, module: str, words: str) -> None:
    assert words in line_of(lambda: import_part(f"{module}:x", "data"), lg.SpecificationError)


def test_ctrl_c_during_an_import_is_none_of_its_faults(own: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        import_part("waits_at_import:x", "data")


@pytest.mark.parametrize(
    ("section", "value", "words"),
    [
        ("data", '"own_named_parts:failing"', "ValueError: no \\x1b[2Jexamples"),
        ("data", '"own_named_parts:leaving"', "SystemExit: 3"),
        ("data", '"own_named_parts:nothing"', "type NoneType"),
        ("data", '"own_named_parts:mute"', "Mute: a text that cannot be read"),
        ("data", '"own_named_parts:closing"', "GeneratorExit"),
        ("data", '"own_named_parts:expanded"', "numbers in all examples"),
        ("data", '"own_named_parts:broken"', "RuntimeError: broken"),
        ("model", '"own_named_parts:failing"', "ValueError: no"),
        ("model", '"own_named_parts:mute"', "Mute: a text that cannot be read"),
        ("model", '"own_named_parts:closing"', "GeneratorExit"),
        ("model", '"own_named_parts:no_network"', "a torch.nn.Module"),
        ("attacks", '"own_named_parts:failing"', "own_named_parts.py, line"),
        ("attacks", '"own_named_parts:leaving"', "SystemExit"),
        ("attacks", '"own_named_parts:nothing"', "type NoneType"),
        ("attacks", '"own_named_parts:Made"', "methods of leakgauge.Attack"),
        ("attacks", '"own_named_parts:strange"', ""),
        ("training", '"own_named_parts:nothing"', "methods of leakgauge.LocalTraining"),
        ("threat", '"own_named_parts:nothing"', "methods of leakgauge.ThreatModel"),
        ("defenses", '"own_named_parts:nothing"', "type NoneType"),
        ("defenses", '"own_named_parts:annotated"', "name 'Unknown' is not defined"),
        ("defenses", '{name = "own_named_parts:private", count = 3}', ""),
        ("loss", '"own_named_parts:Made"', ""),
        ("loss", '"own_named_parts:leaving"', ""),
    ],
)
def test_factories_that_are_none(own: str, section: str, value: str, words: str) -> None:
    assert words in line_of(lambda: specified(**{section: value}))


@pytest.mark.parametrize(
    ("section", "name", "words"),
    [
        ("model", "MuteModel", "Mute: a text that cannot be read"),
        ("model", "empty", "device meta"),
        ("loss", "mute_loss", "GeneratorExit"),
        ("loss", "of_one", "the loss to (outputs, targets)"),
    ],
)
def test_parts_that_fail_when_they_run(own: str, section: str, name: str, words: str) -> None:
    assert words in line_of(lambda: plan(specified(**{section: f'"{own}:{name}"'})), lg.ModelError)


def test_a_tensor_of_a_class_of_its_own_becomes_a_plain_one(own: str) -> None:
    assert type(lg.data.custom(f"{own}:plain").inputs) is torch.Tensor


def test_an_exception_whose_text_fails_is_told_of_an_attack(
    own: str, observe: Callable[..., lg.Observation]
) -> None:
    class Attack(lg.BaseAttack):
        requires = frozenset({"batch_size"})

        def prepare(self, observation: lg.Observation) -> lg.Plan | lg.Inapplicable:
            import_part(f"{own}:mute", "data")()
            raise AssertionError

    line = line_of(lambda: Attack().plan(observe(mlp(), images(1))), lg.AttackError)
    assert "Mute: a text that cannot be read" in line


def test_a_users_own_package_may_bear_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's module may have the name of an installed package, since it lies in another folder."""
    (tmp_path / "playwright.py").write_text("def data(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in list(sys.modules):
        if name.partition(".")[0] == "playwright":
            monkeypatch.delitem(sys.modules, name)
    assert callable(import_part("playwright:data", "data"))
    monkeypatch.delitem(sys.modules, "playwright")


def test_requirements_are_followed_to_their_end() -> None:
    assert {"torch", "sympy", "mpmath", "joblib", "pytest", "pluggy", "pip"} <= (
        required_distributions()
    )
    assert "leakgauge" not in required_modules()


@pytest.mark.parametrize(
    ("name", "words"), [("huge", "entries in all its tensors"), ("deep", "at most 10,000 tensors")]
)
def test_a_model_that_no_memory_holds_is_not_built(own: str, name: str, words: str) -> None:
    assert words in line_of(lambda: specified(model=f'"{own}:{name}"'), lg.ModelError)


@pytest.mark.parametrize(
    "model",
    [
        '{name = "mlp", width = 9223372036854775807}',
        '{name = "mlp", depth = 9223372036854775807}',
        '{name = "mlp", width = 1000000}',
        '{name = "mlp", depth = 1000000, width = 1}',
        '{name = "vit", dim = 1000000, heads = 1}',
        '{name = "lenet", width = 1000000}',
        '{name = "convnet", width = 1000000}',
    ],
)
def test_reference_networks_of_any_size(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "memory", lambda: 2**30)
    line_of(lambda: specified(data='{name = "photos", size = 16}', model=model), lg.UserError)


def test_counting_changes_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    domain = lg.ImageDomain(3, 16, 16)
    for builder in (lg.models.lenet, lg.models.vit, lg.models.resnet18):
        counted = build(builder, domain, 5, seed=3)
        plain = builder(domain, 5, seed=3)
        states = zip(counted.state_dict().values(), plain.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in states)


def test_the_allowance_follows_the_memory_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(domain: Any, classes: int) -> nn.Module:
        return nn.Linear(100, 10)

    domain = lg.ImageDomain(1, 4, 4)
    monkeypatch.setattr(allowance, "memory", lambda: 1010 * allowance.BYTES_AN_ENTRY)
    build(small, domain, 2)
    monkeypatch.setattr(allowance, "memory", lambda: 1009 * allowance.BYTES_AN_ENTRY)
    with pytest.raises(lg.ModelError, match=r"at most 1,009 entries.*at least 1,010"):
        build(small, domain, 2)


def test_a_defense_that_extends_the_model_is_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def client(latent: int) -> lg.Client:
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
        return lg.Client(
            model=model,
            loss=nn.functional.cross_entropy,
            domain=lg.ImageDomain(1, 4, 4),
            classes=2,
            defense=lg.defenses.Precode(latent=latent),
        )

    monkeypatch.setattr(allowance, "memory", lambda: 10_000 * allowance.BYTES_AN_ENTRY)
    client(8).global_model(seeds=lg.Seeds(0))
    with pytest.raises(lg.ModelError, match=r"Precode.*at most 10,000 entries"):
        client(10**9).global_model(seeds=lg.Seeds(0))


def test_a_check_runs_one_epoch_however_many_there_are() -> None:
    calls = []

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        calls.append(len(target))
        return nn.functional.cross_entropy(output, target)

    client = lg.Client(
        model=nn.Sequential(nn.Flatten(), nn.Linear(16, 2)),
        loss=loss,
        domain=lg.ImageDomain(1, 4, 4),
        classes=2,
        training=lg.FedAvg(epochs=1_000_000, minibatch=1, shuffle=False),
    )
    client.check(lg.Batch(torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 0])))
    assert len(calls) < 20


@pytest.mark.parametrize("option", ["epochs", "minibatch"])
def test_counts_have_a_largest_value(option: str) -> None:
    training = f'{{name = "fedavg", {option} = 9223372036854775807}}'
    data = '{name = "photos", size = 8}'
    line = line_of(lambda: specified(data=data, model='"mlp"', training=training))
    assert f"training.{option}" in line
    assert "less than or equal to" in line
