"""Specifications: correct ones are parsed. Every mistake raises an error of one line that names its place."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.specifications import SMALL, case, cases, refused

import leakgauge as lg
from leakgauge import attacks, defenses
from leakgauge.audit import Source, default_text, parse, read
from leakgauge.audit.case import cells
from leakgauge.audit.materials import DATA, MODELS
from leakgauge.audit.options import names, snake
from leakgauge.audit.resolve import ATTACKS, DEFENSES, resolve

MINE = '''
"""A module of the user's own."""
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.defenses import Undefended

NUMBER = 3


def data(count: int = 4):
    generator = torch.Generator().manual_seed(0)
    return torch.rand((count, 1, 8, 8), generator=generator), torch.arange(count) % 2


def model(domain, classes, width: int = 8):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes))


class Net(nn.Module):
    def __init__(self, hidden: int = 8):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def forward(self, x):
        return self.layers(x)


def loss(output, target):
    return functional.nll_loss(output.log_softmax(-1), target)


@dataclass(frozen=True, kw_only=True)
class Guess:
    value: float = 0.5

    @property
    def requires(self):
        return frozenset({"batch_size"})

    def plan(self, observation):
        return lg.Plan(evaluations=1, search=partial(self.guess, observation))

    def guess(self, observation, seeds, progress):
        batch = observation.batch_size
        return lg.Reconstruction(
            inputs=torch.full((batch, *observation.domain.shape), self.value),
            targets=None,
            found=torch.ones(batch, dtype=torch.bool),
            status=lg.Status.UNCONVERGED,
        )


@dataclass(frozen=True, kw_only=True)
class Shrink(Undefended):
    strength = "factor"
    factor: float = 0.5

    def on_update(self, update, *, seeds):
        return update.map(lambda t: self.factor * t)


guess = Guess(value=0.25)


class Nothing:
    """Neither an attack nor a defense."""
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put a module of the user on the path, and return its name."""
    (tmp_path / "their_own_parts.py").write_text(MINE, "utf-8")
    (tmp_path / "their_broken_parts.py").write_text("def data(:\n", "utf-8")
    (tmp_path / "their_failing_parts.py").write_text("1 / 0\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "their_own_parts", raising=False)
    return "their_own_parts"


def test_the_default_parses() -> None:
    specification = parse(Source(default_text()))
    assert specification.seed == 0
    assert len(specification.cases) >= 3
    assert read(None) == default_text()


def test_the_default_resolves_and_shows_most_attacks_and_defenses() -> None:
    made = cases(default_text())
    planned = list(cells(made))
    assert [cell.index for cell in planned] == list(range(len(planned)))
    shown = {type(cell.attack).__name__ for cell in planned}
    assert len(shown) >= 4
    assert {type(c.defense).__name__ for c in planned} > {"NoneType", "TopK", "GaussianNoise"}
    assert len({c.name for c in made}) == len(made)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("DLG", "dlg"),
        ("IDLG", "idlg"),
        ("LinearLayer", "linear_layer"),
        ("TopK", "top_k"),
        ("InvertingGradients", "inverting_gradients"),
        ("InstaHideDecoding", "instahide_decoding"),
    ],
)
def test_class_names_become_specification_names(name: str, expected: str) -> None:
    assert snake(name) == expected


def test_every_export_has_a_name_of_its_own() -> None:
    for module, known in ((attacks, ATTACKS), (defenses, DEFENSES)):
        assert len(names(module)) == len(module.__all__)
        assert set(known) <= set(names(module))
    assert set(ATTACKS) == set(names(attacks))
    assert set(names(defenses)) - set(DEFENSES) == {"undefended"}
    assert set(DATA) == set(lg.data.LOADERS)
    assert set(MODELS) == set(lg.models.BUILDERS)


class TestWhatIsRight:
    def test_one_case_needs_no_list(self) -> None:
        made = case("seed = 5\n" + SMALL)
        assert made.batch_sizes == [1]
        assert made.defenses == [None]
        assert isinstance(made.attacks[0], attacks.LinearLayer)
        assert made.data.name == "digits"
        assert "[[cases]]" not in SMALL
        listed = case("[[cases]]" + SMALL)
        assert repr(listed.attacks) == repr(made.attacks)

    def test_sections_of_one_case_may_be_tables(self) -> None:
        made = case(
            'data = "digits"\nattacks = "linear_layer"\n'
            '[model]\nname = "mlp"\nwidth = 8\ndepth = 2\n[training]\nbatch_size = 3\n'
            "[threat]\nname = 'server'\nlabels = true\n"
        )
        assert made.batch_sizes == [3]
        assert made.threat == lg.Server(labels=True)

    def test_options_reach_their_part(self) -> None:
        made = case(
            SMALL.replace('"linear_layer"', '{name = "dlg", steps = 7, lr = 0.5}')
            + 'defenses = [{name = "top_k", sparsity = 0.9}]\nrepeats = 2\nname = "mine"\n'
            + "examples = [4, 5]\n"
        )
        assert made.attacks == [attacks.DLG(steps=7, lr=0.5)]
        assert made.defenses == [defenses.TopK(sparsity=0.9)]
        assert (made.repeats, made.name, made.examples) == (2, "mine", [4, 5])
        assert made.model_name == "mlp(width=8, depth=2)"

    def test_whole_numbers_stand_for_reals(self) -> None:
        made = case(SMALL + 'defenses = [{name = "gaussian_noise", std = 1}]')
        assert made.defenses == [defenses.GaussianNoise(std=1.0)]

    def test_lists_are_sweeps(self) -> None:
        made = case(
            SMALL.replace('"linear_layer"', '{name = "dlg", steps = [1, 2], lr = [0.1, 1.0, 2.0]}')
            + 'defenses = ["none", {name = "gaussian_noise", std = [0.1, 0.2]}, "top_k"]\n'
            + "training = {batch_size = [1, 2, 4]}\n"
        )
        assert made.attacks == [attacks.DLG(steps=s, lr=r) for s in (1, 2) for r in (0.1, 1.0, 2.0)]
        assert made.defenses == [
            None,
            defenses.GaussianNoise(std=0.1),
            defenses.GaussianNoise(std=0.2),
            defenses.TopK(),
        ]
        assert made.batch_sizes == [1, 2, 4]
        assert len(list(cells([made]))) == 6 * 4 * 3

    def test_auto_takes_attacks_of_its_own(self) -> None:
        made = case(
            SMALL.replace(
                '"linear_layer"',
                '{name = "auto", attacks = ["linear_layer", {name = "idlg", steps = [3, 4]}]}',
            )
        )
        assert made.attacks == [
            attacks.Auto(
                attacks=(attacks.LinearLayer(), attacks.IDLG(steps=3), attacks.IDLG(steps=4))
            )
        ]

    def test_a_chain_is_swept_link_by_link(self) -> None:
        links = '"top_k", {name = "gaussian_noise", std = [0.1, 0.2]}'
        line = f'defenses = ["none", {{name = "chain", defenses = [{links}]}}]'
        assert case(SMALL + line).defenses == [
            None,
            *(
                defenses.Chain(defenses=(defenses.TopK(), defenses.GaussianNoise(std=std)))
                for std in (0.1, 0.2)
            ),
        ]

    @pytest.mark.parametrize(
        ("links", "words"),
        [
            ('["top_k", "top_j"]', ("defenses.0.defenses.1", "did you mean 'top_k'?")),
            ('["top_k", {name = "top_k", sparsity = 2.0}]', ("defenses.0.defenses.1.sparsity",)),
            ("[]", ("defenses.0.defenses", "at least one value")),
            ('"top_k"', ("defenses.0.defenses", "'top_k'")),
            ('["none"]', ("defenses.0.defenses.0", "'none'")),
        ],
    )
    def test_mistakes_in_a_chain_are_told_by_their_link(
        self, links: str, words: tuple[str, ...]
    ) -> None:
        refused(SMALL + f'defenses = [{{name = "chain", defenses = {links}}}]', *words)

    @pytest.mark.parametrize(
        ("threat", "grants"),
        [
            ("", {"batch_size", "defense", "hyperparameters"}),
            ("threat = 'server'", {"batch_size", "defense", "hyperparameters"}),
            (
                "threat = {name = 'server', labels = true}",
                {"batch_size", "defense", "hyperparameters", "labels"},
            ),
            (
                "threat = {name = 'server', label_counts = true, defense = false}",
                {"batch_size", "hyperparameters", "label_counts"},
            ),
        ],
    )
    def test_a_threat_model_grants_what_is_written(self, threat: str, grants: set[str]) -> None:
        assert case(SMALL + threat).threat.grants == grants

    def test_the_seed_makes_the_model(self) -> None:
        def weights(seed: int | None) -> torch.Tensor:
            (made,) = cases("seed = 1\n" + SMALL, seed=seed)
            return next(made.model.parameters())

        assert torch.equal(weights(None), weights(1))
        assert not torch.equal(weights(None), weights(2))
        assert parse(Source("seed = 1\n" + SMALL, (), 9)).seed == 9
        assert parse(Source("seed = 1\n" + SMALL, ("seed=4",))).seed == 4


class TestMistakes:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (("linear_layer", "linear_layers"), ("cases.0.attacks.0", "did you mean 'linear_la")),
            (("linear_layer", "DLG"), ("cases.0.attacks.0", "'DLG'", "dlg")),
            (("linear_layer", "zzz"), ("'zzz'", ", auto, balanced_dlg", "correct the name")),
            (("mlp", "mpl"), ("cases.0.model", "'mpl'", "did you mean 'mlp'?")),
            (("digits", "digit"), ("cases.0.data", "did you mean 'digits'?")),
            (("linear_layer", ""), ("cases.0.attacks.0", "''")),
        ],
    )
    def test_unknown_names(self, change: tuple[str, str], words: tuple[str, ...]) -> None:
        refused(SMALL.replace(*change), *words)

    def test_an_attack_within_an_attack_is_named_and_checked(self) -> None:
        inner = "attacks = [{name = 'one_gradient', attack = 'linear_layer'}]"
        text = SMALL.replace('attacks = ["linear_layer"]', f"{inner}\ntraining = 'fedavg'")
        case = resolve(parse(Source(text)))[0]
        assert case.attacks == [attacks.OneGradient(attack=attacks.LinearLayer())]
        refused(text.replace("'linear_layer'", "'linear_layr'"), "did you mean 'linear_layer'?")

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("defenses = ['gausian_noise']", ("cases.0.defenses.0", "did you mean 'gaussian_noi")),
            ("defenses = ['none', 'topk']", ("cases.0.defenses.1", "did you mean 'top_k'?")),
            ("training = 'fedavq'", ("cases.0.training", "did you mean 'fedavg'?")),
            ("threat = 'servr'", ("cases.0.threat", "did you mean 'server'?")),
            ("loss = 'cross_entrpy'", ("cases.0.loss", "did you mean 'cross_entropy'?")),
        ],
    )
    def test_unknown_names_of_optional_sections(self, line: str, words: tuple[str, ...]) -> None:
        refused(SMALL + line, *words)

    @pytest.mark.parametrize(
        ("attack", "words"),
        [
            ('{name = "dlg", step = 3}', ("cases.0.attacks.0.step", "did you mean 'steps'?")),
            ('{name = "dlg", zzz = 3}', ("cases.0.attacks.0.zzz", "steps", "remove it")),
            ('{name = "linear_layer", a = 1}', ("attacks.0.a", "no options", "remove it")),
            ('{name = "dlg", steps = "many"}', ("attacks.0.steps", "'many'", "integer")),
            ('{name = "dlg", steps = 1.5}', ("attacks.0.steps", "1.5", "integer")),
            ('{name = "dlg", steps = true}', ("attacks.0.steps", "True", "integer")),
            ('{name = "dlg", steps = 0}', ("attacks.0.steps", "greater than or equal to 1", "0")),
            ('{name = "dlg", steps = [3, 0]}', ("attacks.0.steps", "greater than or equal to 1")),
            ('{name = "dlg", lr = -0.1}', ("attacks.0.lr", "greater than 0", "-0.1")),
            ('{name = "dlg", lr = nan}', ("attacks.0.lr",)),
            ('{name = "dlg", lr = inf}', ("attacks.0.lr",)),
            ('{name = "dlg", tolerance = "x"}', ("attacks.0.tolerance", "'x'", "number")),
            ('{name = "balanced_dlg", labels = "x"}', ("attacks.0.labels", "'joint'", "'x'")),
            ('{name = "dlg", steps = []}', ("attacks.0.steps",)),
            ("{steps = 3}", ("cases.0.attacks.0.name", "add it")),
            ("3", ("cases.0.attacks.0", "3")),
            ("{name = 3}", ("cases.0.attacks.0.name", "string")),
            ('{name = "auto", attacks = ["dlgg"]}', ("attacks.0.attacks.0", "'dlgg'")),
            ('{name = "auto", attacks = [{name = "dlg", steps = 0}]}', ("attacks.0.attacks.0",)),
            ('{name = "auto", attacks = [{steps = 3}]}', ("attacks.0.attacks",)),
            ('{name = "auto", attacks = [3]}', ("attacks.0.attacks",)),
            ('{name = "auto", attacks = []}', ("attacks.0.attacks",)),
            ('{name = "auto", attacks = "dlg"}', ("attacks.0.attacks", "'dlg'")),
        ],
    )
    def test_options_of_an_attack(self, attack: str, words: tuple[str, ...]) -> None:
        refused(SMALL.replace('"linear_layer"', attack), *words)

    @pytest.mark.parametrize(
        ("defense", "words"),
        [
            ("{name = 'gaussian_noise', std = -1}", ("defenses.0.std", "greater than 0", "-1")),
            ("{name = 'gaussian_noise', std = 0}", ("defenses.0.std", "greater than 0")),
            ("{name = 'gaussian_noise', std = 'x'}", ("defenses.0.std", "number", "'x'")),
            ("{name = 'gaussian_noise', std = inf}", ("defenses.0.std",)),
            ("{name = 'gaussian_noise', std = [0.1, -1]}", ("defenses.0.std", "-1")),
            ("{name = 'gaussian_noise', std = []}", ("defenses.0.std",)),
            ("{name = 'top_k', sparsity = 1.0}", ("defenses.0.sparsity", "less than 1", "1.0")),
            ("{name = 'top_k', sparsity = -0.1}", ("defenses.0.sparsity", "-0.1")),
            ("{name = 'quantization', format = 'fp8'}", ("defenses.0.format", "'bf16'", "'fp8'")),
            ("{name = 'none', std = 3}", ("defenses.0.std",)),
        ],
    )
    def test_options_of_a_defense(self, defense: str, words: tuple[str, ...]) -> None:
        refused(SMALL + f"defenses = [{defense}]", *words)

    def test_options_that_are_tuples_or_attacks_are_read(self) -> None:
        attack = "{name = 'mixup_decoding', scout = {name = 'vanishing_prior', steps = 5}}"
        text = (
            SMALL.replace('["linear_layer"]', f"[{attack}]")
            + "defenses = [{name = 'local_layers', names = ['1']}]"
        )
        (case,) = resolve(parse(Source(text)))
        assert list(case.attacks) == [
            lg.attacks.MixupDecoding(scout=lg.attacks.VanishingPrior(steps=5))
        ]
        assert list(case.defenses) == [lg.defenses.LocalLayers(names=("1",))]

    def test_a_defense_after_none_is_named_by_its_own_place(self) -> None:
        line = "defenses = ['none', 'top_k', {name = 'gaussian_noise', std = -1}]"
        refused(SMALL + line, "cases.0.defenses.2.std")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ("training = {batch_size = 0}", ("training.batch_size", "greater than or equal to 1")),
            ("training = {batch_size = -1}", ("training.batch_size", "-1")),
            ("training = {batch_size = 1.5}", ("training.batch_size", "1.5")),
            ("training = {batch_size = 'x'}", ("training.batch_size", "'x'")),
            ("training = {batch_size = true}", ("training.batch_size", "True")),
            ("training = {batch_size = []}", ("training.batch_size", "at least 1")),
            ("training = {batch = 3}", ("cases.0.training.batch",)),
            ("threat = {name = 'server', labels = 1}", ("threat.labels", "boolean", "1")),
            ("threat = {name = 'server', lables = true}", ("did you mean 'labels'?",)),
            ("repeats = 0", ("cases.0.repeats", "greater than or equal to 1")),
            ("repeats = 'x'", ("cases.0.repeats", "'x'")),
            ("examples = [-1]", ("cases.0.examples.0", "-1")),
            ("examples = 3", ("cases.0.examples", "list")),
            ("name = 3", ("cases.0.name", "string")),
            ("atacks = []", ("cases.0.atacks", "did you mean 'attacks'?")),
            ("zzz = 1", ("cases.0.zzz", "remove it")),
            ("defenses = []", ("cases.0.defenses", "at least 1")),
            ("defenses = [3]", ("cases.0.defenses.0",)),
            ("loss = 3", ("cases.0.loss", "string")),
        ],
    )
    def test_sections(self, change: str, words: tuple[str, ...]) -> None:
        refused(SMALL + change, *words)

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("model = {name = 'mlp', widht = 8}", ("cases.0.model.widht", "did you mean 'width'?")),
            ("model = {name = 'mlp', width = 'x'}", ("cases.0.model.width", "'x'")),
            ("model = {name = 'mlp', seed = 3}", ("cases.0.model.seed",)),
            ("model = {name = 'mlp', weights = 3}", ("cases.0.model",)),
            ("model = 3", ("cases.0.model",)),
            ("model = {width = 8}", ("cases.0.model.name", "add it")),
        ],
    )
    def test_models(self, line: str, words: tuple[str, ...]) -> None:
        refused(SMALL.replace('model = {name = "mlp", width = 8, depth = 2}', line), *words)

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("data = {name = 'photos', size = 'big'}", ("cases.0.data.size", "'big'")),
            ("data = {name = 'photos', sise = 16}", ("did you mean 'size'?",)),
            ("data = {name = 'npz'}", ("cases.0.data.path", "add it")),
            ("data = {name = 'npz', path = 'x.npz', split = 'dev'}", ("split", "'train'", "'dev'")),
            ("data = 3", ("cases.0.data",)),
        ],
    )
    def test_data(self, line: str, words: tuple[str, ...]) -> None:
        refused(SMALL.replace('data = "digits"', line), *words)

    @pytest.mark.parametrize(
        ("line", "kind", "words"),
        [
            ("data = {name = 'npz', path = 'gone.npz'}", lg.DataError, ("'gone.npz'",)),
            ("data = {name = 'image_folder', path = 'gone'}", lg.DataError, ("'gone'",)),
            ("data = {name = 'photos', size = 4}", lg.DataError, ("from 8 to 512", "4")),
        ],
    )
    def test_data_that_is_not_there(
        self, line: str, kind: type[Exception], words: tuple[str, ...]
    ) -> None:
        refused(SMALL.replace('data = "digits"', line), *words, kind=kind)

    def test_weights_that_are_not_there(self) -> None:
        text = SMALL.replace("depth = 2", "depth = 2, weights = 'gone.safetensors'")
        refused(text, "gone.safetensors", kind=lg.ModelError)

    def test_a_batch_larger_than_the_data(self) -> None:
        refused(
            SMALL + "training = {batch_size = [1, 2000]}",
            "at most 1797",
            "2000",
            kind=lg.DataError,
        )
        refused(
            SMALL + "training = {batch_size = 3}\nexamples = [0, 1]", "at most 2", kind=lg.DataError
        )
        refused(SMALL + "examples = [1797]", "from 0 to 1796", "1797", kind=lg.DataError)

    def test_knowledge_that_is_not_granted(self) -> None:
        refused(
            SMALL + "threat = {name = 'server', batch_size = false}",
            "LinearLayer",
            "batch_size = true",
            kind=lg.KnowledgeError,
        )

    @pytest.mark.parametrize("section", ["data", "model", "attacks"])
    def test_missing_sections(self, section: str) -> None:
        lines = [line for line in SMALL.splitlines() if not line.startswith(section)]
        refused("\n".join(lines), f"cases.0.{section}", "found nothing", "add it")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", ("cases.0.data",)),
            ("seed = 3", ("cases.0.data",)),
            ("seed = -1" + SMALL, ("seed", "-1")),
            ("seed = 1.5" + SMALL, ("seed", "1.5")),
            ("cases = []", ("cases", "at least 1")),
            ("cases = 3", ("cases", "list", "3")),
            ("sed = 3\n[[cases]]" + SMALL, ("sed",)),
            ("cases = [3]", ("cases.0",)),
            ("data = ", ("TOML",)),
            ("seed = 1\ndata = [1,,]", ("TOML", "line 2")),
            ("[[cases]\n", ("TOML",)),
            ("a = 1\na = 2", ("TOML",)),
            ("\x00", ("TOML",)),
        ],
    )
    def test_whole_files(self, text: str, words: tuple[str, ...]) -> None:
        refused(text, *words)

    def test_several_mistakes_are_counted(self) -> None:
        refused(SMALL + "repeats = 0\nloss = 3", "(and 1 more)")

    def test_files_that_cannot_be_read(self, tmp_path: Path) -> None:
        latin = tmp_path / "latin.toml"
        latin.write_bytes("name = 'größer'".encode("latin-1"))
        for path in (tmp_path / "gone.toml", tmp_path, latin):
            with pytest.raises(lg.SpecificationError) as caught:
                read(path)
            assert "\n" not in str(caught.value)
            assert path.name in str(caught.value)
            assert "readable TOML file" in str(caught.value)

    def test_a_readable_file_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "audit.toml").write_text(SMALL, "utf-8")
        assert read(tmp_path / "audit.toml") == SMALL
        assert read(str(tmp_path / "audit.toml")) == SMALL


TWO = f'[[cases]]\nname = "a"{SMALL}[[cases]]\nname = "b"{SMALL}'


class TestSettings:
    def test_in_every_case(self) -> None:
        made = cases(TWO, "training.batch_size=3", "repeats=2")
        assert [c.batch_sizes for c in made] == [[3], [3]]
        assert [c.repeats for c in made] == [2, 2]

    def test_in_one_case(self) -> None:
        made = cases(TWO, "cases.1.training.batch_size=3")
        assert [c.batch_sizes for c in made] == [[1], [3]]

    def test_lists_by_index(self) -> None:
        made = case(SMALL.replace('"linear_layer"', '"dlg", "idlg"'), "attacks.1.steps=4")
        assert made.attacks == [attacks.DLG(), attacks.IDLG(steps=4)]
        assert case(SMALL, "attacks.0=dlg").attacks == [attacks.DLG()]

    @pytest.mark.parametrize("value", ["dlg", '"dlg"', " 'dlg' ", '{name = "dlg"}', '["dlg"]'])
    def test_strings_with_and_without_quotes(self, value: str) -> None:
        assert case(SMALL, f"attacks={value}").attacks == [attacks.DLG()]

    def test_a_name_takes_options(self) -> None:
        made = case(SMALL.replace("digits", "photos"), "data.size=8", "model.width=4")
        assert made.data.inputs.shape[-1] == 8
        assert made.model_name == "mlp(width=4, depth=2)"

    def test_sections_are_made_on_the_way(self) -> None:
        made = case(SMALL, "threat.name=server", "threat.labels=true")
        assert made.threat == lg.Server(labels=True)

    def test_the_threat_has_its_default_name(self) -> None:
        """The section `[threat]` needs no name, as in `[threat] labels = true` of error messages."""
        assert case(SMALL, "threat.labels=true").threat == lg.Server(labels=True)
        assert case(SMALL + "[threat]\nlabels = true").threat == lg.Server(labels=True)

    def test_lists_and_numbers(self) -> None:
        made = case(SMALL, "training.batch_size=[1, 2]", "defenses={name='top_k', sparsity=1e-1}")
        assert made.batch_sizes == [1, 2]
        assert made.defenses == [defenses.TopK(sparsity=0.1)]

    def test_later_settings_win(self) -> None:
        assert case(SMALL, "repeats=2", "repeats=3").repeats == 3

    def test_a_value_may_have_an_equals_sign(self) -> None:
        assert case(SMALL, "name=a=b").name == "a=b"

    @pytest.mark.parametrize(
        ("setting", "words"),
        [
            ("model", ("--set model", "section.key=value")),
            ("=3", ("--set =3", "section.key=value")),
            ("model..width=3", ("section.key=value",)),
            ("attacks.7.steps=3", ("--set attacks.7.steps=3", "'7'", "indexed from 0")),
            ("attacks.first.steps=3", ("'first'", "indexed from 0")),
            ("attacks.9=dlg", ("'9'", "indexed from 0")),
            ("seed.x=3", ("seed", "integer")),
            ("cases.5.repeats=3", ("'5'",)),
            ("cases.0.model.width.x=3", ("'width'",)),
            ("attacks.-1.steps=3", ("'-1'",)),
            ("attacks.².steps=3", ("'²'",)),
        ],
    )
    def test_paths_that_lead_nowhere(self, setting: str, words: tuple[str, ...]) -> None:
        refused(SMALL, *words, settings=(setting,))

    @pytest.mark.parametrize(
        ("setting", "words"),
        [
            ("model.widht=3", ("cases.0.model.widht", "did you mean 'width'?")),
            ("modle.width=3", ("cases.0.modle", "did you mean 'model'?")),
            ("attacks.0.steps=3", ("cases.0.attacks.0.steps", "no options")),
            ("seed=x", ("seed", "'x'")),
            ("repeats=0", ("cases.0.repeats",)),
            ("cases=3", ("cases", "list")),
        ],
    )
    def test_values_are_checked_as_a_file_s_are(self, setting: str, words: tuple[str, ...]) -> None:
        refused(SMALL, *words, settings=(setting,))

    @pytest.mark.parametrize("text", ["cases = 3", "cases = 'x'", "[cases]\nname = 'x'"])
    def test_on_a_file_whose_cases_are_none(self, text: str) -> None:
        refused(text, settings=("repeats=2",))

    @given(
        path=st.lists(
            st.sampled_from(["cases", "0", "1", "attacks", "model", "name", "seed", "x", "", "²"]),
            max_size=5,
        ),
        value=st.one_of(st.sampled_from(["1", "[", "dlg", "[[]]", "{a = 1}", ""]), st.text()),
        equals=st.sampled_from(["=", ""]),
    )
    @settings(max_examples=150, deadline=None, derandomize=True)
    def test_nothing_but_one_line_comes_of_any_setting(
        self, path: list[str], value: str, equals: str
    ) -> None:
        before = copy.deepcopy(tomllib.loads(TWO))
        try:
            parse(Source(TWO, (".".join(path) + equals + value,)))
        except lg.SpecificationError as error:
            assert "\n" not in str(error)  # noqa: PT017
        assert tomllib.loads(TWO) == before

    @given(st.text(max_size=60))
    @settings(max_examples=100, deadline=None, derandomize=True)
    def test_nothing_but_one_line_comes_of_any_text(self, text: str) -> None:
        with pytest.raises(lg.SpecificationError) as caught:
            parse(Source(text))
        assert "\n" not in str(caught.value)


class TestOwnParts:
    def test_all_of_them(self, mine: str) -> None:
        made = case(
            f"""
            data = {{name = "{mine}:data", count = 6}}
            model = {{name = "{mine}:model", width = 5}}
            loss = "{mine}:loss"
            attacks = [{{name = "{mine}:Guess", value = [0.25, 0.75]}}, "{mine}:guess"]
            defenses = ["none", {{name = "{mine}:Shrink", factor = 0.1}}]
            """
        )
        assert len(made.data) == 6
        assert made.data.domain == lg.ImageDomain(1, 8, 8)
        assert made.model[1].out_features == 5  # type: ignore[index, union-attr]
        assert [repr(a) for a in made.attacks] == [
            "Guess(value=0.25)",
            "Guess(value=0.75)",
            "Guess(value=0.25)",
        ]
        assert repr(made.defenses) == "[None, Shrink(factor=0.1)]"
        assert all(isinstance(a, lg.Attack) for a in made.attacks)
        assert isinstance(made.defenses[1], lg.Defense)

    def test_a_module_class_is_a_builder(self, mine: str) -> None:
        made = case(
            f'data = "{mine}:data"\nmodel = {{name = "{mine}:Net", hidden = 3}}\n'
            'attacks = "linear_layer"'
        )
        assert type(made.model).__name__ == "Net"
        assert not made.model.training

    def test_it_can_be_an_attack_of_auto_s(self, mine: str) -> None:
        text = SMALL.replace(
            '"linear_layer"', f'{{name = "auto", attacks = ["{mine}:Guess", "linear_layer"]}}'
        )
        (auto,) = case(text).attacks
        assert isinstance(auto, attacks.Auto)
        assert repr(auto.attacks) == "(Guess(value=0.5), LinearLayer())"

    @pytest.mark.parametrize("section", ["data", "model", "loss", "attacks", "defenses"])
    @pytest.mark.parametrize(
        ("reference", "words"),
        [
            ("their_own_parts:gone", ("gone",)),
            ("no_such_module_here:x", ("no_such_module_here",)),
            ("their_broken_parts:x", ("their_broken_parts",)),
            (":x", ("':x'",)),
            ("their_own_parts:", ("'their_own_parts:'",)),
        ],
    )
    def test_references_that_lead_nowhere(
        self, mine: str, section: str, reference: str, words: tuple[str, ...]
    ) -> None:
        refused(self.naming(section, reference), *words)

    @pytest.mark.parametrize("section", ["data", "model", "loss", "attacks", "defenses"])
    def test_a_module_that_fails_when_imported(self, mine: str, section: str) -> None:
        refused(self.naming(section, "their_failing_parts:x"), "their_failing_parts")

    def naming(self, section: str, reference: str) -> str:
        kept = [line for line in SMALL.splitlines() if not line.startswith(section)]
        return "\n".join([*kept, f'{section} = "{reference}"'])

    @pytest.mark.parametrize("section", ["data", "model", "loss", "attacks", "defenses"])
    @pytest.mark.parametrize("name", ["NUMBER", "Nothing"])
    def test_things_of_the_wrong_kind(self, mine: str, section: str, name: str) -> None:
        line = refused(self.naming(section, f"{mine}:{name}"), kind=lg.UserError)
        assert mine in line or section in line or name in line

    def test_options_of_an_own_part_are_checked(self, mine: str) -> None:
        attack = f'{{name = "{mine}:Guess", value = "x"}}'
        refused(SMALL.replace('"linear_layer"', attack), "attacks.0.value", "number", "'x'")
        attack = f'{{name = "{mine}:Guess", valeu = 0.5}}'
        refused(SMALL.replace('"linear_layer"', attack), "did you mean 'value'?")
        model = f'{{name = "{mine}:model", width = "x"}}'
        text = SMALL.replace('{name = "mlp", width = 8, depth = 2}', model)
        refused(text, "cases.0.model.width", "'x'")
        refused(SMALL.replace('"digits"', f'{{name = "{mine}:data", number = 3}}'), "number", mine)

    def test_options_of_an_object_that_is_made_already(self, mine: str) -> None:
        """A finished object takes no options. They must not be ignored without an error."""
        attack = f'{{name = "{mine}:guess", value = 0.9}}'
        refused(SMALL.replace('"linear_layer"', attack), "attacks.0", "value")


def test_a_list_of_models_makes_a_case_of_each() -> None:
    models = 'model = ["lenet", {name = "mlp", width = 8}, {name = "mlp", width = 4}]'
    text = SMALL.replace('model = {name = "mlp", width = 8, depth = 2}', models)
    made = resolve(parse(Source(text)))
    assert [each.name for each in made] == [
        "digits, lenet",
        "digits, mlp(width=8)",
        "digits, mlp(width=4)",
    ]
    assert [type(each.model).__name__ for each in made] == ["LeNet", "MLP", "MLP"]
    assert {len(each.attacks) for each in made} == {len(made[0].attacks)}
    short = SMALL.replace(
        'model = {name = "mlp", width = 8, depth = 2}', 'model = ["lenet", "mlp"]'
    )
    assert [each.name for each in resolve(parse(Source(short)))] == ["digits, lenet", "digits, mlp"]


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ('["lenet", "lenett"]', ("cases.0.model.1", "'lenett'", "did you mean 'lenet'?")),
        ("[]", ("cases.0.model",)),
        ('["mlp", 3]', ("cases.0.model.1", "3")),
        ('["mlp", "mlp"]', ("cases.0.model.1", "'mlp' again", "models that differ")),
    ],
)
def test_wrong_lists_of_models(models: str, words: tuple[str, ...]) -> None:
    text = SMALL.replace('{name = "mlp", width = 8, depth = 2}', models)
    refused(text, *words)


def test_parsing_draws_nothing_from_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    case(SMALL)
    assert torch.equal(before, torch.random.get_rng_state())


def test_catalog_and_resolver_agree_on_knowledge() -> None:
    makers: dict[str, Callable[..., Any]] = ATTACKS
    assert all(make().requires <= lg.Knowledge.names() for make in makers.values())
