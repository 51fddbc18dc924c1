"""After a signal, a killed process or a full disk, finished records are kept and no process is left running."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from support.made import cell, end, header, training

import leakgauge as lg
from leakgauge.audit import Source, execute, plan_from
from leakgauge.audit.crew import Crew, Member, ending
from leakgauge.audit.folder import JobResult, RunFolder, append_whole
from leakgauge.audit.signals import Stopped, code_of, held, stoppable
from leakgauge.cli import main
from leakgauge.interrupts import is_command

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")

LIMIT = 200.0
"""Time limit of each wait in seconds. It is far longer than any wait here takes, even on a busy machine."""

PARTS = """
import os
import signal
import time
from functools import partial
from dataclasses import dataclass
from pathlib import Path

import torch
import leakgauge as lg

HERE = Path(__file__).parent


def data(count=40):
    generator = torch.Generator().manual_seed(0)
    return torch.rand((count, 1, 2, 2), generator=generator), torch.arange(count) % 3


@dataclass(frozen=True)
class Quick:
    requires = frozenset({"batch_size"})

    def plan(self, observation):
        return lg.Plan(evaluations=1, search=partial(self.guess, observation))

    def act(self):
        pass

    def guess(self, observation, seeds, progress):
        self.act()
        return lg.Reconstruction(
            inputs=torch.full((1, 1, 2, 2), 0.5),
            targets=None,
            found=torch.ones(1, dtype=torch.bool),
            status=lg.Status.UNCONVERGED,
        )


@dataclass(frozen=True)
class Endless(Quick):
    def act(self):
        (HERE / "pid").write_text(str(os.getpid()))
        while True:
            torch.ones(64, 64) @ torch.ones(64, 64)


@dataclass(frozen=True)
class Deaf(Quick):
    '''Compute in C for years, without releasing Python's global lock.'''

    def act(self):
        (HERE / "pid").write_text(str(os.getpid()))
        sum(range(10**15))


@dataclass(frozen=True)
class Stubborn(Quick):
    '''Catch Ctrl-C and go on.'''

    def act(self):
        try:
            (HERE / "pid").write_text(str(os.getpid()))
            time.sleep(600)
        except KeyboardInterrupt:
            (HERE / "swallowed").touch()
            time.sleep(600)


@dataclass(frozen=True)
class Killed(Quick):
    def act(self):
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class KilledOnce(Quick):
    def act(self):
        if not (HERE / "killed").exists():
            (HERE / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""

SPEC = """
data = "their_stubborn_parts:data"
model = {{name = "mlp", width = 4, depth = 2}}
attacks = [{attacks}]
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder that holds a module of the user."""
    (tmp_path / "their_stubborn_parts.py").write_text(PARTS, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("their_stubborn_parts", None)
    return tmp_path


def spec(*attacks: str) -> str:
    """Return a specification with these classes of PARTS as its attacks."""
    return SPEC.format(attacks=", ".join(f'"their_stubborn_parts:{name}"' for name in attacks))


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Wait until `condition` returns a true value, and return this value. Fail after LIMIT seconds.

    Args:
        condition: Function to call again and again.
        what: The awaited event, for the message of the failure.
    """
    limit = time.monotonic() + LIMIT
    while not (found := condition()):
        assert time.monotonic() < limit, f"not seen: {what}"
        time.sleep(0.02)
    return found


def has_ended(pid: int) -> bool:
    """Return whether a process has ended. A zombie, whose exit code nobody has read yet, counts as ended."""
    stat = Path(f"/proc/{pid}/stat")
    if sys.platform != "linux":
        return (
            subprocess.run(["ps", "-p", str(pid)], capture_output=True, check=False).returncode != 0
        )
    try:
        return stat.read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def pid_of(here: Path) -> int:
    """Wait until an attack of PARTS runs, and return the id of its process."""
    found = here / "pid"
    return int(wait_for(lambda: found.is_file() and found.read_text(), "an attack"))


def records(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run as dictionaries, in the order of the file."""
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


@contextmanager
def start(
    *command: str, paths: tuple[Path, ...] = (), executable: str = sys.executable
) -> Iterator[subprocess.Popen[str]]:
    """Start a program in its own session and yield its process.

    If the program still runs at the end of the block, kill it and all processes that it started.

    Args:
        command: Arguments of the program.
        paths: Folders to put first on PYTHONPATH.
        executable: The program. The default is Python.
    """
    search = os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # In the background, tests inherit an ignored Ctrl-C. In a terminal, Ctrl-C has its default action.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def audit(text: str, here: Path, *, workers: int) -> Any:
    """Start `leakgauge audit` on a specification in its own process. See `start`."""
    (here / "spec.toml").write_text(text, "utf-8")
    command = ["-m", "leakgauge", "audit", "spec.toml", "--out", "run", "--workers", str(workers)]
    return start(*command, paths=(here,))


def test_sigterm_keeps_what_is_finished_and_writes_the_report(here: Path) -> None:
    """The first cell never ends. The record of the second cell is written all the same."""
    with audit(spec("Endless", "Quick"), here, workers=2) as process:
        worker = pid_of(here)
        written = here / "run/records.jsonl"
        wait_for(lambda: '"type":"cell"' in written.read_text("utf-8"), "a record")
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=LIMIT)
    assert process.returncode == 143
    assert "Traceback" not in told
    assert "Kept: 1 record." in told
    wait_for(lambda: has_ended(worker), "the end of the worker")
    first, quick, last = records(here / "run")
    assert (first["planned"], quick["index"], quick["attack"]["name"]) == (2, 1, "quick")
    assert (last["completed"], last["planned"], last["interrupted"]) == (1, 2, True)
    assert "This report is partial" in (here / "run/report.html").read_text("utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, Python's lock must be free")
def test_no_worker_outlives_its_parent(here: Path) -> None:
    """The kernel ends even a worker that handles no signals."""
    with audit(spec("Deaf", "Quick"), here, workers=2) as process:
        worker = pid_of(here)
        process.kill()
        process.communicate()
        wait_for(lambda: has_ended(worker), "the end of the worker")


def test_a_second_ctrl_c_ends_at_once(here: Path) -> None:
    with audit(spec("Stubborn"), here, workers=1) as process:
        pid_of(here)
        process.send_signal(signal.SIGINT)
        wait_for((here / "swallowed").exists, "the first Ctrl-C")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT)
    assert process.returncode == -signal.SIGINT


def test_a_killed_worker_is_replaced_and_its_audit_tried_once_more(here: Path) -> None:
    planned = plan_from(Source(spec("Killed", "KilledOnce", "Quick")))
    run = execute(planned, out=here / "run", workers=2)
    killed, once, quick = run.cells
    assert [cell.status for cell in (once, quick)] == ["unconverged", "unconverged"]
    assert killed.status == "failed"
    assert killed.failure.step == "worker"
    assert "its process ended twice, the last time by signal 9 (SIGKILL" in killed.message
    assert killed.data.examples == quick.data.examples
    assert run.failures == [killed]
    assert (here / "run" / killed.failure.log).is_file()
    assert records(here / "run")[-1]["interrupted"] is False
    assert not multiprocessing.active_children()


STUB = "import sys, time\nprint('importing', flush=True)\ntime.sleep(600)\n"
SCRIPT = "import sys\nfrom leakgauge.cli import main\nsys.exit(main())\n"


@pytest.mark.parametrize("how", ["module", "script"])
def test_ctrl_c_while_importing_shows_no_traceback(here: Path, how: str) -> None:
    """A stub replaces torch. Its import lasts until the signal comes."""
    (here / "stub").mkdir()
    (here / "stub/torch.py").write_text(STUB, "utf-8")
    (here / "bin").mkdir()
    (here / "bin/leakgauge").write_text(SCRIPT, "utf-8")
    command = ["-m", "leakgauge"] if how == "module" else [str(here / "bin/leakgauge")]
    with start(*command, "list", "attacks", paths=(here / "stub",)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert told == "leakgauge: interrupted. Nothing was recorded.\n"


@pytest.mark.parametrize(
    ("program", "words", "expected"),
    [
        ("-m", ["python", "-m", "leakgauge", "list"], True),
        ("/usr/bin/leakgauge", ["python", "/usr/bin/leakgauge"], True),
        ("leakgauge.exe", ["leakgauge.exe"], True),
        ("-m", ["python", "-m", "pytest", "leakgauge"], False),
        ("train.py", ["python", "train.py", "-m", "leakgauge"], False),
        ("", ["python"], False),
    ],
)
def test_a_program_that_imports_the_package_keeps_its_own_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, program: str, words: list[str], expected: bool
) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    monkeypatch.setattr(sys, "orig_argv", words)
    assert is_command() is expected


class TestHandlers:
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_signal_is_raised_with_its_exit_code(self, number: signal.Signals, code: int) -> None:
        before = signal.getsignal(number)
        with pytest.raises(Stopped) as caught, stoppable():
            signal.raise_signal(number)
        assert code_of(caught.value) == code
        assert signal.getsignal(number) is before

    def test_one_that_the_process_ignores_stays_ignored(self) -> None:
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            with stoppable(), held():
                signal.raise_signal(signal.SIGTERM)
        finally:
            signal.signal(signal.SIGTERM, before)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_held_until_the_block_ends(self, number: signal.Signals) -> None:
        done = []

        def work() -> None:
            with held():
                with held():
                    signal.raise_signal(number)
                    done.append("inner")
                done.append("outer")

        with pytest.raises(Stopped), stoppable():
            work()
        assert done == ["inner", "outer"]

    def test_the_exit_code_of_a_run(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (here / "their_ending_parts.py").write_text(
            "import signal\nfrom their_stubborn_parts import Quick\n"
            "class Ending(Quick):\n    def act(self): signal.raise_signal(signal.SIGTERM)\n"
        )
        text = spec("Quick").replace("]", ', "their_ending_parts:Ending"]')
        (here / "spec.toml").write_text(text, "utf-8")
        assert main(["audit", "spec.toml", "--out", "run", "--workers", "1"]) == 143
        assert [r["type"] for r in records(here / "run")] == ["header", "cell", "end"]
        assert "This report is partial" in (here / "run/report.html").read_text("utf-8")
        assert "Interrupted. Kept: " in capsys.readouterr().err


class TestCrew:
    def test_results_that_are_on_their_way_are_not_lost(self) -> None:
        """A signal comes after a worker has sent its results, but before the parent has read them."""
        found: list[JobResult] = []
        crew = Crew(Source(""), [], 0, on_progress=lambda *_: None, on_result=found.append)
        mine, theirs = multiprocessing.Pipe()
        crew.members.append(Member(cast(Any, None), mine))
        theirs.send(JobResult(cell(index=3), {"a.png": b"x" * 1000}))
        theirs.send(JobResult(training(index=4)))
        theirs.close()
        crew.collect()
        assert [result.index for result in found] == [3, 4]

    @pytest.mark.parametrize(
        ("code", "words"),
        [
            (1, "with exit code 1"),
            (-9, "by signal 9 (SIGKILL, for example when the machine runs out of memory)"),
            (-11, "by signal 11 (SIGSEGV)"),
        ],
    )
    def test_how_a_process_ended(self, code: int, words: str) -> None:
        assert ending(code) == words


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Limit each file to `size` bytes inside the block, to simulate the full disk of a container."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestDisks:
    def test_a_line_is_written_whole_or_not_at_all(self, tmp_path: Path) -> None:
        path = tmp_path / "lines"
        append_whole(path, b"x" * 60)
        with room_for(100), pytest.raises(OSError, match="File too large"):
            append_whole(path, b"y" * 60)
        assert path.read_bytes() == b"x" * 60

    @pytest.mark.parametrize("room", [4000, 9000])
    def test_a_full_disk_is_one_line(
        self, here: Path, capsys: pytest.CaptureFixture[str], room: int
    ) -> None:
        (here / "spec.toml").write_text(spec("Quick") + "repeats = 40", "utf-8")
        with room_for(room):
            assert main(["audit", "spec.toml", "--out", "run", "--workers", "1"]) == 1
        *_, told = capsys.readouterr().err.splitlines()
        whole = records(here / "run")
        assert told.startswith("leakgauge: output folder 'run': expected")
        assert f"the first {len(whole)} lines of records.jsonl are complete" in told
        assert [record["type"] for record in whole] == ["header", *["cell"] * (len(whole) - 1)]
        assert (here / "run/records.jsonl").read_text().endswith("\n")
        page = lg.write_report(here / "run").read_text("utf-8")
        assert "This report is partial" in page
        named = {name for cell in whole[1:] for names in cell["images"].values() for name in names}
        assert {str(p.relative_to(here / "run")) for p in here.rglob("*.png")} == named

    def test_a_disk_that_is_full_for_the_report_alone(
        self, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any, **__: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        (here / "spec.toml").write_text(spec("Quick"), "utf-8")
        monkeypatch.setattr(Path, "write_text", full)
        assert main(["audit", "spec.toml", "--out", "run", "--workers", "1"]) == 1
        *_, told = capsys.readouterr().err.splitlines()
        assert "'run'" in told
        assert "no space left on device" in told
        assert "the records are complete" in told
        assert len(records(here / "run")) == 3

    def test_a_folder_that_is_gone(self, tmp_path: Path) -> None:
        folder = RunFolder(tmp_path / "run")
        folder.append(header())
        (tmp_path / "run/records.jsonl").unlink()
        (tmp_path / "run").rmdir()
        with pytest.raises(lg.OutputLost, match="run"):
            folder.append(end())
