"""The command: its lists and files. Every mistake ends it in one line with exit code 2."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image

import leakgauge as lg
from leakgauge.audit.options import names
from leakgauge.cli import main

PARTS = """
import math
import torch
from torch import nn


def data(count=8):
    generator = torch.Generator().manual_seed(0)
    return torch.rand((count, 1, 8, 8), generator=generator), torch.arange(count) % 2


def model(domain, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, classes))


def misfit(domain, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(63, classes))


def nan(domain, classes):
    made = model(domain, classes)
    with torch.no_grad():
        made[1].weight[0, 0] = math.nan
    return made


def interrupting(domain, classes):
    raise KeyboardInterrupt


def vector(output, target):
    return nn.functional.cross_entropy(output, target, reduction="none")


class Unbuilt:
    requires = frozenset({"batch_size"})

    def plan(self, observation):
        import leakgauge

        return leakgauge.Plan(evaluations=1, search=self.guess)

    def guess(self, seeds, progress):
        raise NotImplementedError("not built yet")
"""

SMALL = """
data = "their_parts:data"
model = "their_parts:model"
attacks = ["linear_layer"]
training = {batch_size = [1, 2]}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder that holds a module of the user and a specification."""
    (tmp_path / "their_parts.py").write_text(PARTS, "utf-8")
    (tmp_path / "small.toml").write_text(SMALL, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEAKGAUGE_DATA", raising=False)
    return tmp_path


def audit(*arguments: str) -> int:
    return main(["audit", *arguments, "--workers", "1"])


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and /dev/full")


def strict(text: str) -> Any:
    """Return the value of a text in strict JSON. Fail at NaN and Infinity, which Python's reader would accept."""

    def refuse(token: str) -> NoReturn:
        raise AssertionError(f"{token} is not JSON")

    return json.loads(text, parse_constant=refuse)


EXPORTS: dict[str, Sequence[str]] = {
    "attacks": sorted(names(lg.attacks)),
    "defenses": ["none", *sorted(set(names(lg.defenses)) - {"undefended"})],
    "models": sorted(lg.models.BUILDERS),
    "data": sorted(lg.data.LOADERS),
    "metrics": sorted(lg.metrics.CLOSER),
    "threats": [
        "aggregator",
        "encrypted_update",
        "homomorphic_aggregator",
        "masked_update",
        "neighbor",
        "outsider",
        "secure_aggregator",
        "server",
        "several_rounds",
    ],
}


class TestList:
    @pytest.mark.parametrize("kind", EXPORTS)
    def test_every_exported_name_has_its_line(
        self, capsys: pytest.CaptureFixture[str], kind: str
    ) -> None:
        assert main(["list", kind]) == 0
        shown = capsys.readouterr()
        lines = shown.out.splitlines()
        assert [line.partition(":")[0] for line in lines] == EXPORTS[kind]
        assert all(len(line.partition(": ")[2]) > 15 for line in lines)
        assert shown.err == ""

    def test_threats_say_what_they_grant(self, capsys: pytest.CaptureFixture[str]) -> None:
        main(["list", "threats"])
        lines = capsys.readouterr().out.splitlines()
        assert all("Grants: model, protocol, update, batch_size, defense" in x for x in lines)
        told = [x.partition(":")[0] for x in lines if "hyperparameters, statistics." in x]
        assert told == ["outsider"]
        assert any(x.startswith("aggregator:") and "clients = 4" in x for x in lines)

    def test_attacks_say_what_they_need(self, capsys: pytest.CaptureFixture[str]) -> None:
        main(["list", "attacks"])
        lines = capsys.readouterr().out.splitlines()
        assert all("Needs: model, protocol, update, batch_size" in line for line in lines)
        told = [x.partition(":")[0] for x in lines if "batch_size, defense." in x]
        assert told == [
            "bayes_optimal",
            "concealment_matching",
            "inpainting",
            "instahide_decoding",
            "mixup_decoding",
            "signal_matching",
            "transformation_inversion",
        ]
        assert any(line.startswith("dlg:") and "steps = 300" in line for line in lines)

    def test_a_reader_who_leaves_early_is_no_error(self) -> None:
        command = [sys.executable, "-m", "leakgauge", "list", "attacks"]
        reader = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert reader.stdout is not None
        reader.stdout.close()
        _, told = reader.communicate(timeout=60)
        assert (reader.returncode, told) == (0, b"")

    def test_as_a_module(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "leakgauge", "list", "attacks"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert [line.partition(":")[0] for line in done.stdout.splitlines()] == EXPORTS["attacks"]


class TestAudit:
    def test_records_pictures_and_a_report(
        self, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert audit("small.toml", "--out", "run", "--seed", "5") == 0
        records = [strict(line) for line in (here / "run/records.jsonl").read_text().splitlines()]
        assert [record["type"] for record in records] == ["header", "cell", "cell", "end"]
        assert records[0]["command"] == (
            "leakgauge audit small.toml --out run --seed 5 --workers 1"
        )
        assert records[0]["specification"] == SMALL
        assert records[0]["seed"] == records[1]["seed"] == 5
        page = (here / "run/report.html").read_text("utf-8")
        assert "linear_layer" in page
        assert "This report is partial" not in page
        for cell in records[1:3]:
            for paths in cell["images"].values():
                assert len(paths) == cell["batch_size"]
                assert all((here / "run" / path).is_file() for path in paths)
        shown = capsys.readouterr()
        assert "linear_layer" in shown.out
        assert "run/report.html" in shown.err
        assert "2 audits" in shown.err

    def test_json_on_standard_output(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert audit("small.toml", "--out", "run", "--json") == 0
        told = strict(capsys.readouterr().out)
        written = [strict(line) for line in (here / "run/records.jsonl").read_text().splitlines()]
        assert told["records"] == written
        assert Path(told["report"]).samefile(here / "run/report.html")

    def test_settings_override(self, here: Path) -> None:
        arguments = ("--set", "training.batch_size=3", "--set", "defenses=top_k", "--set", "name=x")
        assert audit("small.toml", "--out", "run", *arguments) == 0
        records = [strict(line) for line in (here / "run/records.jsonl").read_text().splitlines()]
        (cell,) = records[1:-1]
        assert (cell["batch_size"], cell["defense"]["name"], cell["case"]) == (3, "top_k", "x")
        assert records[0]["settings"] == list(arguments[1::2])

    def test_without_a_folder_a_new_one_is_made(self, here: Path) -> None:
        assert audit("small.toml") == 0
        (folder,) = (here / "leakgauge-runs").iterdir()
        assert {"records.jsonl", "report.html", "images"} == {p.name for p in folder.iterdir()}

    def test_an_attack_that_cannot_run_is_no_mistake(self, here: Path) -> None:
        assert audit("small.toml", "--out", "run", "--set", "attacks={name='idlg', steps=1}") == 0
        _, able, unable, _ = (here / "run/records.jsonl").read_text().splitlines()
        assert strict(able)["status"] != "inapplicable"
        assert strict(unable)["status"] == "inapplicable"


def without(section: str) -> str:
    return "\n".join(line for line in SMALL.splitlines() if not line.startswith(section))


BAD: dict[str, tuple[str, tuple[str, ...]]] = {
    "an unknown name": (
        SMALL.replace("linear_layer", "linear_layr"),
        ("attacks.0", "'linear_layr'", "did you mean 'linear_layer'?"),
    ),
    "a wrong type": (
        SMALL.replace('"linear_layer"', '{name = "dlg", steps = "many"}'),
        ("attacks.0.steps", "integer", "'many'"),
    ),
    "a value out of range": (
        SMALL + 'defenses = [{name = "gaussian_noise", std = -1}]',
        ("defenses.0.std", "greater than 0", "-1"),
    ),
    "a missing section": (without("model"), ("model", "add it")),
    "bad TOML": ("data = [", ("TOML",)),
    "a missing data file": (
        SMALL.replace('"their_parts:data"', '{name = "npz", path = "gone.npz"}'),
        ("gone.npz", "LEAKGAUGE_DATA"),
    ),
    "a missing weights file": (
        SMALL.replace('"their_parts:model"', '{name = "mlp", weights = "gone.safetensors"}'),
        ("gone.safetensors",),
    ),
    "a missing module": (SMALL.replace("their_parts:data", "no_such_parts:data"), ("no_such_p",)),
    "a forward that fails on the data's shape": (
        SMALL.replace("their_parts:model", "their_parts:misfit"),
        ("RuntimeError", "1, 8, 8)", "first and last layers"),
    ),
    "a loss that is not a scalar": (
        SMALL + 'loss = "their_parts:vector"',
        ("scalar", "found shape (", "reduce it"),
    ),
    "NaN in a model": (
        SMALL.replace("their_parts:model", "their_parts:nan"),
        ("finite weights", "'1.weight'"),
    ),
    "a batch larger than the data": (
        SMALL.replace("[1, 2]", "[1, 9]"),
        ("at most 8", "batch_size 9"),
    ),
    "knowledge that is not granted": (
        SMALL + "[threat]\nbatch_size = false",
        ("LinearLayer", "batch_size", "[threat] batch_size = true"),
    ),
    "knowledge that is not granted, by name": (
        SMALL + '[threat]\nname = "server"\nbatch_size = false',
        ("LinearLayer", "batch_size", "[threat] batch_size = true"),
    ),
    "an empty sweep": (
        SMALL.replace('"linear_layer"', '{name = "dlg", steps = []}'),
        ("attacks.0.steps",),
    ),
}


class TestMistakes:
    def one_line(self, capsys: pytest.CaptureFixture[str], *words: str) -> None:
        shown = capsys.readouterr()
        assert len(shown.err.splitlines()) == 1, shown.err
        assert shown.err.startswith("leakgauge: ")
        assert "Traceback" not in shown.err
        assert shown.out == ""
        for word in words:
            assert word in shown.err

    @pytest.mark.parametrize("mistake", BAD)
    def test_in_a_specification(
        self, here: Path, capsys: pytest.CaptureFixture[str], mistake: str
    ) -> None:
        text, words = BAD[mistake]
        (here / "bad.toml").write_text(text, "utf-8")
        before = set(here.iterdir()) | {here / "__pycache__"}
        assert audit("bad.toml", "--out", "run") == 2
        self.one_line(capsys, *words)
        assert set(here.iterdir()) <= before

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["audit", "gone.toml"], ("gone.toml", "readable TOML")),
            (["audit", "."], ("readable TOML",)),
            (["audit", "small.toml", "--set", "model"], ("section.key=value",)),
            (["audit", "small.toml", "--set", "attacks.3.steps=2"], ("'3'", "from 0")),
            (["audit", "small.toml", "--set", "repeats=0"], ("repeats",)),
            (["audit", "small.toml", "--workers", "0"], ("--workers", "at least 1")),
            (["audit", "small.toml", "--workers", "two"], ("--workers", "'two'")),
            (["audit", "small.toml", "--seed", "x"], ("--seed", "'x'")),
            (["audit", "small.toml", "--seed", "-1"], ("seed", "-1")),
            (["audit", "small.toml", "--sed", "1"], ("--sed",)),
            (["list", "attack"], ("'attack'", "attacks")),
            (["list"], ("what",)),
            (["adit"], ("'adit'", "audit")),
            ([], ("audit",)),
        ],
    )
    def test_on_the_command_line(
        self,
        here: Path,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        words: tuple[str, ...],
    ) -> None:
        assert main(arguments) == 2
        self.one_line(capsys, *words)
        assert not (here / "leakgauge-runs").exists()

    @pytest.mark.parametrize("out", ["file", "file/inside"])
    def test_output_that_cannot_be_written(
        self, here: Path, capsys: pytest.CaptureFixture[str], out: str
    ) -> None:
        (here / "file").write_text("mine", "utf-8")
        assert audit("small.toml", "--out", out) == 2
        self.one_line(capsys, "output folder", "--out")
        assert (here / "file").read_text("utf-8") == "mine"

    @pytest.mark.parametrize(
        ("out", "words"),
        [
            ("a" * 256, "name too long"),
            ("/".join(["a" * 200] * 30), "name too long"),
            ("a/../../x", "a path through 'a', which is no folder"),
            ("a/../x", "a path through 'a', which is no folder"),
            ("a\0b", "null"),
            pytest.param("/proc/x", "file or directory", marks=LINUX),
            pytest.param("/proc", "file or directory", marks=LINUX),
        ],
    )
    def test_output_that_cannot_be_made(
        self, here: Path, capsys: pytest.CaptureFixture[str], out: str, words: str
    ) -> None:
        before = sorted(here.rglob("*"))
        assert audit("small.toml", "--out", out) == 2
        self.one_line(capsys, "output folder", words)
        with pytest.raises(lg.OutputError):
            lg.audit([], out=out)
        assert sorted(here.rglob("*")) == before

    def test_output_that_goes_up_from_a_folder_that_is_there(self, here: Path) -> None:
        (here / "a").mkdir()
        assert audit("small.toml", "--out", "a/../b/c") == 0
        assert (here / "b" / "c" / "report.html").exists()

    def test_a_source_with_a_name_that_is_too_long(
        self, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for source in ("a" * 300, "a\0b"):
            assert main(["recommend", source]) == 2
            self.one_line(capsys, "no such file or folder")

    def test_output_of_an_earlier_run(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert audit("small.toml", "--out", "run") == 0
        before = {p: p.read_bytes() for p in (here / "run").rglob("*") if p.is_file()}
        capsys.readouterr()
        assert audit("small.toml", "--out", "run", "--seed", "1") == 2
        self.one_line(capsys, "earlier run", "--out")
        assert {p: p.read_bytes() for p in (here / "run").rglob("*") if p.is_file()} == before

    def test_help_is_no_mistake(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["audit", "--help"])
        assert caught.value.code == 0
        assert "SPEC.toml" in capsys.readouterr().out


PRICED = """
data = "digits"
model = {name = "mlp", depth = 2, width = 16}
attacks = ["linear_layer"]
defenses = ["none", {name = "top_k", sparsity = [0.5, 0.999]}]
utility = {clients = 2, rounds = 2, examples = 8}
"""


class TestRecommend:
    def recommend(self, *arguments: str) -> int:
        return main(["recommend", *arguments])

    def test_from_a_specification_and_from_its_run(
        self, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (here / "priced.toml").write_text(PRICED, "utf-8")
        first = ("priced.toml", "--loss", "1", "--out", "run", "--workers", "1")
        assert self.recommend(*first) == 0
        told = capsys.readouterr()
        assert "Use top_k, sparsity = 0.999" in told.out
        assert "\n  Refused:\n    " in told.out
        assert "top_k, sparsity = 0.5: leaks: linear_layer" in told.out
        assert "3 audits" in told.err
        assert "3 trainings" in told.err
        assert (here / "run/report.html").is_file()
        assert self.recommend("run", "--loss", "1") == 0
        assert capsys.readouterr().out == told.out
        assert self.recommend("run", "--json") == 0
        (advice,) = strict(capsys.readouterr().out)
        assert advice["allowed_loss"] == 0.02
        assert {"recommended", "refused", "caveat", "evidence"} <= set(advice)

    def test_an_audit_prints_what_safety_costs(
        self, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (here / "priced.toml").write_text(PRICED, "utf-8")
        assert audit("priced.toml", "--out", "run") == 0
        assert "what safety costs" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["gone"], ("'gone'", "the folder of a run, or a specification")),
            (["."], ("records.jsonl", "leakgauge audit")),
            (["small.toml"], ("utility", "none")),
            (["small.toml", "--loss", "2"], ("--loss", "[0, 1]")),
            (["small.toml", "--loss", "few"], ("--loss", "'few'")),
            ([".", "--seed", "1"], ("--seed", "specification")),
            ([], ("RUN_DIR|SPEC.toml",)),
        ],
    )
    def test_mistakes_are_one_line(
        self,
        here: Path,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        words: tuple[str, ...],
    ) -> None:
        assert self.recommend(*arguments) == 2
        TestMistakes().one_line(capsys, *words)
        assert not (here / "leakgauge-runs").exists()

    def test_a_run_without_utility(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert audit("small.toml", "--out", "run") == 0
        capsys.readouterr()
        assert self.recommend("run") == 2
        TestMistakes().one_line(capsys, "records of trainings", "'run'")


class TestEndings:
    def test_an_attack_that_is_not_built_yet_is_a_failed_audit(
        self, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = SMALL.replace("linear_layer", "their_parts:Unbuilt")
        (here / "unbuilt.toml").write_text(text, "utf-8")
        assert audit("unbuilt.toml", "--out", "run") == 1
        assert "the attack failed: NotImplementedError: not built yet" in capsys.readouterr().err
        *_, end = (here / "run/records.jsonl").read_text().splitlines()
        assert (strict(end)["completed"], strict(end)["failed"]) == (2, 2)

    def test_ctrl_c_while_planning(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        text = SMALL.replace("their_parts:model", "their_parts:interrupting")
        (here / "slow.toml").write_text(text, "utf-8")
        assert audit("slow.toml", "--out", "run") == 130
        assert len(capsys.readouterr().err.splitlines()) == 1
        assert not (here / "run").exists()

    @pytest.mark.skipif(sys.platform == "win32", reason="process groups are POSIX")
    def test_ctrl_c_in_a_terminal(self, here: Path) -> None:
        """Ctrl-C in a terminal interrupts the command and the workers that it started."""
        text = SMALL.replace(
            '"linear_layer"', '"linear_layer", {name = "inverting_gradients", steps = 1000000}'
        )
        (here / "long.toml").write_text(text, "utf-8")
        records = here / "run/records.jsonl"
        command = [sys.executable, "-m", "leakgauge", "audit", "long.toml", "--out", "run"]
        running = subprocess.Popen(
            [*command, "--workers", "2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # In the background, tests inherit an ignored Ctrl-C. In a terminal, Ctrl-C has its default action.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            env={**os.environ, "PYTHONPATH": str(here), "OMP_NUM_THREADS": "1"},
        )
        try:
            limit = time.monotonic() + 200
            while not (records.is_file() and '"type":"cell"' in records.read_text("utf-8")):
                assert running.poll() is None, running.communicate()
                assert time.monotonic() < limit, "no cell was finished"
                time.sleep(0.05)
            os.killpg(running.pid, signal.SIGINT)
            _, told = running.communicate(timeout=60)
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
                running.communicate()
        assert running.returncode == 130
        assert "Traceback" not in told
        first, *cells, end = [strict(line) for line in records.read_text("utf-8").splitlines()]
        assert first["planned"] == 4
        assert {cell["attack"]["name"] for cell in cells} == {"linear_layer"}
        assert end["type"] == "end"
        assert end["interrupted"] is True
        assert end["completed"] == len(cells) in (1, 2)
        assert "This report is partial" in (here / "run/report.html").read_text("utf-8")


@LINUX
class TestStandardOutput:
    """If standard output is full or closed, the run and its report are still complete. The error is one line."""

    COMMANDS = (
        ["list", "attacks"],
        ["audit", "small.toml", "--out", "run", "--workers", "1"],
        ["audit", "small.toml", "--out", "run", "--workers", "1", "--json"],
    )

    def run(self, arguments: Sequence[str], redirection: str, **variables: str) -> tuple[int, str]:
        command = shlex.join([sys.executable, "-m", "leakgauge", *arguments])
        done = subprocess.run(
            f"{command} {redirection}",
            shell=True,
            executable="/bin/bash",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=120,
            check=False,
            env={**os.environ, **variables},
        )
        return done.returncode, done.stderr.decode()

    @pytest.mark.parametrize("arguments", COMMANDS)
    @pytest.mark.parametrize(
        ("redirection", "reason"), [(">/dev/full", "No space left"), (">&-", "closed")]
    )
    def test_full_or_closed(
        self, here: Path, arguments: Sequence[str], redirection: str, reason: str
    ) -> None:
        code, told = self.run(arguments, redirection)
        assert code == 1
        assert "Traceback" not in told
        assert told.splitlines()[-1].startswith("leakgauge: standard output: ")
        assert reason in told
        if arguments[0] == "audit":
            assert (here / "run" / "report.html").stat().st_size > 10_000
            assert '"type":"end"' in (here / "run" / "records.jsonl").read_text("utf-8")

    @pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "2>&1 | head -c 1"])
    def test_progress_that_nobody_can_read(self, here: Path, redirection: str) -> None:
        arguments = ["audit", "small.toml", "--out", "run", "--workers", "1"]
        code, told = self.run(arguments, redirection)
        assert (code, told) == (0, "")
        assert (here / "run" / "report.html").stat().st_size > 10_000
        assert '"type":"end"' in (here / "run" / "records.jsonl").read_text("utf-8")

    @pytest.mark.parametrize("arguments", COMMANDS)
    def test_a_reader_who_leaves_is_no_error(self, here: Path, arguments: Sequence[str]) -> None:
        code, told = self.run(arguments, "| head -c 1; exit ${PIPESTATUS[0]}")
        assert code == 0
        assert "Traceback" not in told

    def test_help_for_a_full_disk(self) -> None:
        code, told = self.run(["audit", "--help"], ">/dev/full")
        assert code == 1
        assert told.startswith("leakgauge: standard output: ")

    def test_an_encoding_without_the_characters(self, here: Path) -> None:
        text = (here / "small.toml").read_text("utf-8")
        (here / "small.toml").write_text(f'name = "caf\u00e9 \u65e5"\n{text}', "utf-8")
        code, told = self.run(self.COMMANDS[1], ">shown", PYTHONIOENCODING="ascii")
        assert (code, "Traceback" in told) == (0, False)
        assert (here / "shown").read_text("ascii")

    def test_a_folder_whose_name_is_no_text(self, here: Path) -> None:
        code, told = self.run(
            ["audit", "small.toml", "--workers", "1", "--out"], "$(printf 'caf\\351')"
        )
        assert (code, "Traceback" in told) == (0, False)
        page = (here / os.fsdecode(b"caf\xe9") / "report.html").read_text("utf-8")
        assert "caf" in page

    def test_classes_whose_names_are_no_text(self, here: Path) -> None:
        for i, name in enumerate((b"c\xff", "d\u202e\x1b[31m".encode())):
            folder = os.fsencode(here / "images") + b"/" + name
            os.makedirs(folder)
            for j in range(2):
                pixels = np.full((8, 8), 40 * (i + 2 * j), np.uint8)
                Image.fromarray(pixels).save(Path(os.fsdecode(folder)) / f"{j}.png")
        (here / "images.toml").write_text(
            'data = {name = "image_folder", path = "images"}\n'
            'model = {name = "mlp", width = 4}\nattacks = ["linear_layer"]\n',
            "utf-8",
        )
        assert audit("images.toml", "--out", "run") == 0
        page = (here / "run" / "report.html").read_text("utf-8")
        assert not {"\x1b", "\u202e"} & set(page)
