"""Faults of input and of the system that once lost data, left processes or gave wrong numbers.

One test for each kind, in the order of the table in docs/reliability.md.
"""

import dataclasses
import errno
import fcntl
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import (
    FaultyCatch,
    child_environment,
    fingerprint_and_log,
    long_train_command,
    read_files,
    replace_parts,
    run_command,
    run_start,
    tiny,
    wait_for_first_update,
    wait_until,
)

import ppo37.__main__ as entry
from ppo37 import compiled, evaluate, load_agent, resume, train
from ppo37.backends.device import describe_machine
from ppo37.backends.ranks import own_rank
from ppo37.cli import main
from ppo37.envs import games
from ppo37.envs.catch import Catch
from ppo37.envs.games import resolve_game, shows_ram
from ppo37.errors import RunError, UsageError
from ppo37.session import checkpoint, directory
from ppo37.session.files import own_folder, real_path
from ppo37.session.loggers import Logs
from ppo37.session.metrics import read_metrics
from ppo37.session.view import NoView
from ppo37.tools import processes
from ppo37.tools.plots import plot
from ppo37.tools.record import record
from ppo37.tools.stats import human_normalised, interval_of_mean, reference

LINUX = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes in /proc")


class RecordedNotes(NoView):
    """A view that records the notes of a run."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must be refused in one line. Returns the line."""
    code, out, err = run_command(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), (code, out, err)
    assert err.startswith("ppo37: ")
    return err


def shell(command: list[str], redirections: str) -> list[str]:
    """Return a command of the shell that runs `command` with some streams closed."""
    return ["sh", "-c", f"exec {shlex.join(command)} {redirections}"]


# Data


@pytest.mark.parametrize("out", ["a/..", ".", "kept", "file", "link", "nowhere", "../here"])
def test_an_export_changes_no_existing_file(
    out: str,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = tmp_path / "here"
    (here / "kept").mkdir(parents=True)
    (here / "file").write_text("mine")
    (here / "kept" / "file").write_text("mine too")
    (here / "link").symlink_to("file")
    (here / "nowhere").symlink_to("not there/at all")
    monkeypatch.chdir(here)
    before = read_files(tmp_path)
    assert "choose another --out" in refused(capsys, "export", str(finished_run), "--out", out)
    assert read_files(tmp_path) == before


def test_a_run_never_starts_inside_another(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_files(finished_run)
    monkeypatch.chdir(finished_run)
    for out in ("n/..", ".", f"../{finished_run.name}"):
        message = refused(capsys, "train", "catch", "--preset", "debug", "--out", out)
        assert "holds a run already" in message
    assert read_files(finished_run) == before


def test_a_folder_with_the_name_of_a_checkpoint_is_not_replaced(tmp_path: Path) -> None:
    config = tiny()
    mine = tmp_path / "run" / "checkpoints" / "00000004"

    class MakesFolder(NoView):
        def show(self, *_: Any) -> None:
            mine.mkdir(exist_ok=True)
            (mine / "diary.txt").write_text("mine")

    with pytest.raises(RunError, match="is not a checkpoint; move it away"):
        train(config, tmp_path / "run", checkpoint_every=2, view=MakesFolder())
    assert (mine / "diary.txt").read_text() == "mine"
    assert load_agent(tmp_path / "run").state["update"] == 2


def odd(change: dict[str, Any]) -> Any:
    """Return a factory of catch whose games have a wrong score or length.

    They have it after four updates of `tiny`, and two checkpoints.
    """
    games = replace_parts(episodes=lambda step: [game._replace(**change) for game in step.episodes])
    return partial(FaultyCatch, games, 64)


ODD = [
    {"score": math.nan},
    {"score": -math.inf},
    {"score": 1e17},
    {"score": "seven"},
    {"score": None},
    {"length": 11.5},
    {"length": -1},
    {"env": None},
]


@pytest.mark.parametrize("change", ODD, ids=str)
def test_a_game_that_cannot_be_saved_ends_the_run_with_a_valid_checkpoint(
    change: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="gave the game Episode"):
        train(tiny(total_timesteps=64 * 64), tmp_path / "run", 2, make_envs=odd(change))
    agent = load_agent(tmp_path / "run")
    assert agent.state["update"] >= 4
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    change = {"score": np.float32(3), "length": np.int64(1)}
    train(tiny(total_timesteps=8 * 64), tmp_path / "run", 2, make_envs=odd(change))
    assert load_agent(tmp_path / "run").state["recent"][-1][1:] == [3.0, 1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("action_names", (1, 2, 3)),
        ("action_names", ()),
        ("action_names", ("", "A", "B")),
        ("obs_shape", ()),
        ("obs_shape", (1, 0, 36)),
        ("obs_shape", (1.5, 36, 36)),
        ("obs_shape", (1, 1, 1, 36, 36)),
    ],
    ids=str,
)
def test_environments_are_checked_before_a_run_starts(
    name: str, value: Any, tmp_path: Path
) -> None:
    kind = type("Own", (Catch,), {name: value})
    with pytest.raises(UsageError, match=f"{name} of Own must be"):
        train(tiny(), tmp_path / "run", make_envs=kind)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_cannot_be_loaded_again_is_not_kept(
    finished_run: Path, tmp_path: Path
) -> None:
    saved, _ = checkpoint.load_newest(finished_run / "checkpoints")
    for wrong in ({"action_names": [1]}, {"games": -1}, {"wall_s": math.nan}):
        with pytest.raises(RunError):
            checkpoint.save(tmp_path / "00000009", saved.model, None, {**saved.state, **wrong})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "closed", [pytest.param("<&- 2>&-", marks=pytest.mark.slow), "<&- >&- 2>&-"]
)
def test_output_to_closed_streams_is_dropped(closed: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(shell(long_train_command(run), closed))
    wait_for_first_update(run)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    updates = [json.loads(line)["update"] for line in log_lines(run)]
    assert updates == list(range(1, len(updates) + 1))
    assert load_agent(run).state["update"] == len(updates)


def log_lines(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text().splitlines()


@pytest.mark.slow
def test_only_results_are_on_stdout_when_stderr_is_closed(finished_run: Path) -> None:
    command = [sys.executable, "-m", "ppo37", "eval", str(finished_run)]
    command += ["--episodes", "2", "--json"]
    done = subprocess.run(shell(command, "2>&-"), capture_output=True, text=True)
    assert done.returncode == 0
    assert len(json.loads(done.stdout)["scores"]) == 2


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "checkpoints", "plots", "videos"])
def test_nothing_is_written_through_links_in_a_run(
    name: str, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, mine = tmp_path / "run", tmp_path / "mine"
    shutil.copytree(finished_run, run)
    if (run / name).is_dir() or name in ("plots", "videos"):
        mine.mkdir()
        if name == "checkpoints":
            (run / name).rename(mine / "moved")
            mine = mine / "moved"
    else:
        mine.write_text("mine")
        (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(mine)
    before = read_files(tmp_path)
    command = {"plots": "plot", "videos": "record"}.get(name, "resume")
    assert "is a link" in refused(capsys, command, str(run))
    assert read_files(tmp_path) == before
    assert mine.is_dir() or mine.read_text() == "mine"


def test_a_fifo_in_a_run_blocks_nothing(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / ".lock").unlink()
    os.mkfifo(run / ".lock")
    assert "is not a file" in refused(capsys, "resume", str(run))


def test_total_timesteps_below_the_steps_already_made_are_refused(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    document = json.loads((run / "config.json").read_text())
    document["config"]["total_timesteps"] = 64
    (run / "config.json").write_text(json.dumps(document))
    before = read_files(run)
    assert "has made 384 agent steps" in refused(capsys, "resume", str(run))
    assert read_files(run) == before


@pytest.mark.slow
def test_a_closed_session_leaves_a_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        long_train_command(run),
        stderr=subprocess.DEVNULL,
        # The tests themselves may have been started by nohup.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    wait_for_first_update(run)
    process.send_signal(signal.SIGHUP)
    assert process.wait() == 129
    assert load_agent(run).state["update"] == len(log_lines(run))


@pytest.mark.slow
def test_nohup_keeps_sighup_ignored(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        ["nohup", *long_train_command(run)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for_first_update(run)
    process.send_signal(signal.SIGHUP)
    done = len(log_lines(run))
    wait_until(lambda: len(log_lines(run)) > done + 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143


def test_files_that_an_older_checkpoint_replaces_are_kept(
    finished_run: Path, tmp_path: Path
) -> None:
    run, view = tmp_path / "run", RecordedNotes()
    shutil.copytree(finished_run, run)
    whole, log = fingerprint_and_log(run), log_lines(run)
    for number in (1, 2):
        resume(run / "checkpoints" / "00000004", checkpoint_every=2, view=view)
        aside = run / f"replaced-{number}"
        assert any(f"replaced-{number}" in line for line in view.lines)
        assert checkpoint.load(aside / "checkpoints" / "00000006").state["update"] == 6
        assert len(log_lines(aside)) == len(log)
        assert fingerprint_and_log(run) == whole
    assert log_lines(run / "replaced-1") == log


# Code and processes


@pytest.fixture
def small_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """A function that calls a small library, which is compiled or loaded from a new cache."""
    source = tmp_path / "answer.c"
    source.write_text("int answer(void) { return 42; }\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no compiler")
    monkeypatch.setenv("CC", compiler)
    code = (
        "from pathlib import Path; from ppo37.compiled import library; "
        f"print(library(Path({str(source)!r})).answer())"
    )
    # In a new process for each call: a process that has loaded a library keeps it.
    return lambda: int(subprocess.check_output([sys.executable, "-c", code]))


def cached_library(call: Callable[[], int], tmp_path: Path) -> Path:
    """Call the library once, and return its path in the cache."""
    assert call() == 42
    (found,) = (tmp_path / "cache" / "ppo37").glob("*.so")
    return found


def test_only_the_owner_can_use_the_cache_of_libraries(
    small_library: Callable[[], int], tmp_path: Path
) -> None:
    folder = tmp_path / "cache" / "ppo37"
    assert small_library() == 42
    assert {path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir())} == {0}


@pytest.mark.parametrize("what", ["folder", "file", "link"])
def test_a_library_that_others_could_write_is_not_loaded(
    what: str, small_library: Callable[[], int], tmp_path: Path
) -> None:
    library = cached_library(small_library, tmp_path)
    planted = library.with_name("planted.c")
    planted.write_text("int answer(void) { return 13; }\n")
    subprocess.run([os.environ["CC"], "-shared", "-fPIC", "-o", library, planted], check=True)
    library.with_suffix(".sha256").write_text(compiled._digest(library))
    assert _answer(library) == 13
    if what == "folder":
        library.parent.chmod(0o777)
    elif what == "file":
        library.chmod(0o666)
    else:
        library.rename(tmp_path / "elsewhere")
        library.symlink_to(tmp_path / "elsewhere")
    assert small_library() == 42


def _answer(library: Path) -> int:
    """Call a library in a new process."""
    code = f"import ctypes; print(ctypes.CDLL({str(library)!r}).answer())"
    return int(subprocess.check_output([sys.executable, "-c", code]))


@pytest.mark.parametrize("length", [0, 100, 5000])
def test_a_library_that_was_cut_short_is_made_again(
    length: int, small_library: Callable[[], int], tmp_path: Path
) -> None:
    library = cached_library(small_library, tmp_path)
    whole = library.read_bytes()
    library.write_bytes(whole[:length])
    assert small_library() == 42
    assert library.read_bytes() == whole


def test_a_compiler_that_makes_no_library_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "answer.c"
    source.write_text("int answer(void) { return 42; }\n")
    fake = tmp_path / "fake-cc"
    fake.write_text("#!/bin/sh\nexit 0\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CC", str(fake))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UsageError, match="native kernels could not be made"):
        compiled.library(source)


@LINUX
def test_a_compiler_that_hangs_runs_once_and_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, pids = tmp_path / "hanging-cc", tmp_path / "pids"
    pids.touch()
    fake.write_text(f"#!/bin/sh\necho $$ >> {pids}\nsleep 1000 &\necho $! >> {pids}\nwait\n")
    fake.chmod(0o755)

    class Compiler(subprocess.Popen):  # type: ignore[type-arg]
        def communicate(self, input: Any = None, timeout: float | None = None) -> Any:
            """Start the clock when the fake compiler hangs, however slow the machine is."""
            if self.args[0] == str(fake):  # type: ignore[index]
                assert timeout == 0.5
                wait_until(lambda: len(pids.read_text().split()) == 2)
            return super().communicate(input, timeout)

    monkeypatch.setattr(compiled.subprocess, "Popen", Compiler)
    monkeypatch.setenv("CC", str(fake))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(compiled, "COMPILE_S", 0.5)
    for number in range(3):
        source = tmp_path / f"{number}.c"
        source.write_text("int answer(void) { return 42; }\n")
        with pytest.raises(UsageError, match="did not answer"):
            compiled.library(source)
    started = pids.read_text().split()
    assert len(started) == 2, "the compiler ran more than once"
    wait_until(lambda: not any(map(alive, map(int, started))))


def alive(pid: int) -> bool:
    """Return whether a process exists and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_modules_in_the_working_directory_are_not_executed(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("safetensors", "torch", "json"):
        (tmp_path / f"{name}.py").write_text("open('executed', 'w')\nraise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    with processes.running("fingerprint", str(finished_run)) as child:
        assert child.process.wait() == 0, child.stderr_tail()
    assert not (tmp_path / "executed").exists()


HANGING = """if True:
    import sys, time
    from ppo37 import Config, evaluate, train
    from ppo37.envs.catch import Catch
    from ppo37.session import signals
    signals.AGAIN_S = 0.2
    class Hangs(Catch):
        steps = 0
        def step(self, actions):
            self.steps += 1
            if self.steps == 200:
                sys.stdout.write("hangs\\n")
                sys.stdout.flush()
                time.sleep(10_000)
            return super().step(actions)
    {work}
"""
IN_TRAINING = (
    "from conftest import tiny; train(tiny(total_timesteps=1000 * 64), {run!r}, 2, make_envs=Hangs)"
)


def hanging(work: str) -> "subprocess.Popen[str]":
    """Start some work in a process, and wait until it hangs."""
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING.format(work=work)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=child_environment(),
    )
    assert process.stdout is not None
    if process.stdout.readline() != "hangs\n":
        pytest.fail(f"it ended before it hung: {process.communicate()[1]}")
    return process


def send_until_it_ends(process: "subprocess.Popen[str]", number: signal.Signals) -> str:
    """Send a signal again and again until a process has ended. Returns its stderr."""
    while process.poll() is None:
        process.send_signal(number)
        time.sleep(0.3)
    return process.communicate()[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow), (signal.SIGINT, 130)],
)
def test_a_second_signal_ends_a_process_that_hangs(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = hanging(IN_TRAINING.format(run=str(run)))
    errors = send_until_it_ends(process, number)
    assert process.returncode == code, errors
    assert "to end at once, send the signal again after 0.2 s" in errors
    last = checkpoint.numbered(run / "checkpoints")[0]
    assert f"checkpoint {int(last.name)} is in {run}" in errors
    assert checkpoint.load(last)


@pytest.mark.slow
def test_an_evaluation_that_hangs_is_ended_by_a_second_signal(finished_run: Path) -> None:
    process = hanging(f"evaluate({str(finished_run)!r}, 10_000, make_envs=Hangs)")
    errors = send_until_it_ends(process, signal.SIGINT)
    assert process.returncode == 130, errors


@LINUX
def test_a_killed_parent_leaves_no_training(tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = long_train_command(run)[3:]
    code = f"""if True:
        from ppo37.tools.processes import start
        child = start(*{arguments!r})
        print(child.process.pid, flush=True)
        child.process.wait()
    """
    parent = subprocess.Popen([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    wait_for_first_update(run)
    parent.kill()
    parent.wait()
    wait_until(lambda: not alive(child))
    assert load_agent(run).state["update"] == len(log_lines(run)), "it stopped with a checkpoint"


# Missing or unclear messages


def test_another_processor_is_reported(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, view = tmp_path / "run", RecordedNotes()
    shutil.copytree(finished_run, run)
    resume(run, view=view)
    assert not any("differ from an uninterrupted run" in line for line in view.lines)
    here = {**describe_machine(), "cpu": "Abacus", "isa": "BEADS"}
    monkeypatch.setattr(sys.modules["ppo37.session.start"], "describe_machine", lambda: here)
    resume(run, view=view)
    lines = [line for line in view.lines if "differ from an uninterrupted run" in line]
    assert [("Abacus" in line, "BEADS" in line) for line in lines] == [(True, False), (False, True)]


def test_weights_that_are_not_finite_are_refused(finished_run: Path, tmp_path: Path) -> None:
    saved, _ = checkpoint.load_newest(finished_run / "checkpoints")
    model = {name: weight.clone() for name, weight in saved.model.items()}
    name = max(model, key=lambda name: model[name].numel())
    model[name].view(-1)[3] = math.nan
    broken = checkpoint.save(tmp_path / "broken", model, None, saved.state)
    pytest.importorskip("imageio_ffmpeg")
    for work in (evaluate, record):
        with pytest.raises(UsageError, match=f"not finite, in {name}"):
            work(broken)


@pytest.mark.parametrize("missing", [1, 3, 5])
def test_missing_lines_of_the_log_are_noticed(
    missing: int, finished_run: Path, tmp_path: Path
) -> None:
    lines = log_lines(finished_run)
    del lines[missing]
    log = tmp_path / "metrics.jsonl"
    log.write_text("\n".join(lines) + "\n")
    before = log.read_bytes()
    with pytest.raises(UsageError, match=f"damaged in line {missing + 1}"):
        Logs(tmp_path).start(run_start(tmp_path, 6))
    assert log.read_bytes() == before


class Mine(Catch):
    """A custom environment."""


@pytest.mark.parametrize("factory", [Mine, partial(Mine), lambda *a, **k: Mine(*a, **k)])
def test_a_run_records_that_its_environments_are_custom(factory: Any, tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    run = tmp_path / "run"
    train(tiny(), run, 2, make_envs=factory)
    name = "Mine" if not isinstance(factory, type(lambda: 0)) else "<lambda>"
    for work in (resume, evaluate, record, partial(resume, run / "checkpoints" / "00000002")):
        with pytest.raises(UsageError, match=f"repeat .*test_faults:{name}.* make_envs"):
            work(*([] if isinstance(work, partial) else [run]))
    resume(run, make_envs=factory)
    assert evaluate(run, 2, make_envs=factory).scores
    published = checkpoint.export(checkpoint.load_newest(run / "checkpoints")[0], tmp_path / "out")
    with pytest.raises(UsageError, match="make_envs"):
        evaluate(published)


def test_a_reader_that_closes_the_pipe_causes_no_message() -> None:
    """Without PYTHONUNBUFFERED, which would hide the fault."""
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    command = f"{sys.executable} -m ppo37 games | head -1"
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
        text=True,
        capture_output=True,
        env=variables,
    )
    assert done.stderr == ""
    assert done.returncode in (0, 1), "0 if all of it fitted into the pipe"
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_result_that_cannot_be_written_is_one_line() -> None:
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ppo37", "games"],
            text=True,
            stdout=full,
            stderr=subprocess.PIPE,
            env=variables,
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot write the result: No space left" in done.stderr


def test_help_that_cannot_be_written_is_a_failure() -> None:
    with Path("/dev/full").open("w") as full:
        for option in ("--help", "--version"):
            done = subprocess.run(
                [sys.executable, "-m", "ppo37", option],
                text=True,
                stdout=full,
                stderr=subprocess.PIPE,
            )
            assert (done.returncode, done.stderr.count("\n")) == (1, 1)


CAPABILITIES = "-dac_override,-dac_read_search"
"""Without these, root cannot read a file that nobody may read."""


@pytest.mark.skipif(
    os.geteuid() == 0 and not shutil.which("setpriv"),
    reason="root can read every file, and setpriv is missing",
)
def test_a_file_without_read_permission_is_one_line(finished_run: Path, tmp_path: Path) -> None:
    prefix = []
    if os.geteuid() == 0:
        prefix = ["setpriv", f"--bounding-set={CAPABILITIES}", f"--inh-caps={CAPABILITIES}"]
    runs = [tmp_path / name for name in ("config.json", "metrics.jsonl", "checkpoints")]
    for run in runs:
        shutil.copytree(finished_run, run)
        (run / run.name).chmod(0)
    code = f"""if True:
        from ppo37.cli import main
        for run in {[str(run) for run in runs]}:
            try:
                main(["resume", run])
            except SystemExit as error:
                print(error.code)
    """
    done = subprocess.run([*prefix, sys.executable, "-c", code], capture_output=True, text=True)
    for run in runs:
        (run / run.name).chmod(0o700)
    assert (done.stdout.split(), done.stderr.count("\n")) == (["2"] * 3, 3), done.stderr
    assert done.stderr.count("Permission denied") == 3


NAME = "x" * 256
NO_SUCH_USER = "~nobody-of-this-name/run"
REFUSED = [
    (("train", "catch", "--out", NAME), "name too long"),
    (("train", "catch", "--out", NO_SUCH_USER), "cannot be a path"),
    (("eval", NAME), "name too long"),
    (("plot", NAME), "name too long"),
    (("resume", NAME), "name too long"),
    (("export", NAME, "--out", "x"), "name too long"),
    (("train", "catch", "--num-steps", str(10**12)), "more than 2147483648"),
    (
        (
            "train",
            "catch",
            "--num-steps",
            str(2**27),
            "--total-timesteps",
            str(2**40),
            "--update-epochs",
            "1",
            "--device",
            "cpu",
        ),
        "of memory",
    ),
    (("train", "catch", "--total-timesteps", str(10**30)), "at most 9007199254740992"),
    (("train", "catch", "--reseed-interval", str(2**63)), "at most 9007199254740992"),
    (("train", "catch", "--seed", str(10**30)), "seed must be at most 2147483647"),
    (("train", "catch", "--learning-rate", "1e40"), "learning_rate must be at most 3.4e+38"),
    (("train", "catch", "--clip-coef", "1e40"), "clip_coef must be at most 3.4e+38"),
    (("train", "catch", "--update-epochs", str(2**32)), "more than 2147483648 shuffled steps"),
    (("train", "catch", "--out", "caf\udce9"), "is not UTF-8"),
    (("train", "../pong"), "unknown game '../pong'"),
    (("train", "pong\n"), "unknown game 'pong\\n'"),
    (("train", "ALE/Seaquest-ram-v5", "--observation", "pixels"), "means observation ram"),
    (("train", "pong", "--mode", "1"), "did you mean --modes?"),
    (("train", "pong", "--track"), "(see `ppo37 train --help`)"),
    (("train", "pong", "--lerning-rate", "1"), "did you mean --learning-rate?"),
    (("train", "pong", "--contrst-init"), "did you mean --zero-mean-init?"),
    (("resume", "x", "--contrast-init"), "a setting is fixed when `ppo37 train` starts a run"),
    (
        ("eval", "run", "--learning-rate", "1"),
        "a setting is fixed when `ppo37 train` starts a run",
    ),
    (("resume", "run", "--wrong"), "(see `ppo37 resume --help`)"),
    (("evall",), "invalid choice"),
]


@pytest.mark.parametrize(("arguments", "expected"), REFUSED, ids=lambda part: str(part)[:60])
def test_a_refused_command_is_one_line_and_leaves_no_files(
    arguments: tuple[str, ...],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refused(capsys, *arguments)
    assert not list(tmp_path.iterdir())


def test_impossible_numbers_of_episodes_are_refused(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (0, 10**7, 10**30):
        message = refused(capsys, "eval", str(finished_run), "--episodes", str(number))
        assert "from 1 to 1,000,000" in message


def test_a_damaged_configuration_is_refused(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    for text in ("[" * 100_000, '{"config":' * 100_000, "[]", "null", '{"config": []}', "\0"):
        (run / "config.json").write_text(text)
        for command in ("resume", "plot"):
            assert "damaged" in refused(capsys, command, str(run))


@pytest.mark.parametrize(
    "wrong",
    [{"episodes": None}, {"episodes": [{}]}, {"wall_s": "long"}, {"frames": -1}, {"update": 0.5}],
    ids=str,
)
def test_a_log_with_invalid_values_is_refused(
    wrong: dict[str, Any], finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    lines = [json.loads(line) for line in log_lines(run)]
    lines[2] |= wrong
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "line 3 is not the log of an update" in refused(capsys, "plot", str(run))


@pytest.mark.parametrize("order", [(0, 1, 1, 2), (0, 2, 3), (0, 2, 1, 3)], ids=str)
def test_a_log_with_lines_out_of_order_is_not_plotted(
    order: tuple[int, ...],
    finished_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    lines = log_lines(run)
    (run / "metrics.jsonl").write_text("".join(lines[i] + "\n" for i in order))
    assert "does not follow the line before it" in refused(capsys, "plot", str(run))


def test_files_of_a_run_that_are_too_large_are_refused(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.json", "metrics.jsonl"):
        shutil.copytree(finished_run, tmp_path / name)
        os.truncate(tmp_path / name / name, 1 << 40)  # a sparse file, which uses no space
    assert "larger than any" in refused(capsys, "resume", str(tmp_path / "config.json"))
    log = tmp_path / "metrics.jsonl"
    assert run_command(capsys, "resume", str(log))[0] == 0  # an incomplete last line is normal
    assert read_metrics(log) == read_metrics(finished_run)


def test_a_log_that_is_removed_during_training_is_written_again(tmp_path: Path) -> None:
    config = tiny()

    class Removes(NoView):
        def show(self, record: dict[str, Any], *_: Any) -> None:
            if record["update"] == 3:
                (tmp_path / "run" / "metrics.jsonl").unlink()

    train(config, tmp_path / "run", checkpoint_every=2, view=Removes())
    train(config, tmp_path / "whole", checkpoint_every=2)
    assert fingerprint_and_log(tmp_path / "run") == fingerprint_and_log(tmp_path / "whole")


def test_a_run_without_its_checkpoints_keeps_its_log(finished_run: Path, tmp_path: Path) -> None:
    run, view = tmp_path / "run", RecordedNotes()
    shutil.copytree(finished_run, run)
    log = (run / "metrics.jsonl").read_bytes()
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    resume(run, view=view)
    assert (run / "replaced-1" / "metrics.jsonl").read_bytes() == log
    assert any("are now in" in line for line in view.lines)


def test_several_ranks_without_torchrun_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert "not by torchrun" in refused(capsys, "train", "catch", "--preset", "debug")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK"])
def test_variables_of_torchrun_must_be_numbers(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "RANK"):
        monkeypatch.setenv(variable, "1")
    monkeypatch.setenv(name, "two")
    if name == "WORLD_SIZE":
        assert "torchrun sets WORLD_SIZE to a whole" in refused(capsys, "train", "catch")
    else:
        with pytest.raises(UsageError, match="torchrun sets RANK to a whole number"):
            own_rank()


def interrupted(name: str, error: str) -> subprocess.CompletedProcess[str]:
    """Run the command where loading a module raises an error."""
    code = f"""if True:
        import sys
        class Finder:
            def find_spec(self, name, *_):
                if name == {name!r}:
                    raise {error}
        sys.meta_path.insert(0, Finder())
        sys.argv = ["ppo37", "train", "catch", "--preset", "debug"]
        from ppo37.__main__ import main
        main()
    """
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize(
    "name",
    ["ppo37.cli", "torch", pytest.param("ppo37.backends.cuda_graphs", marks=pytest.mark.slow)],
)
def test_ctrl_c_while_modules_are_loaded_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = interrupted(name, "KeyboardInterrupt")
    assert (done.returncode, done.stderr) == (130, "ppo37: interrupted\n")


@pytest.mark.parametrize("name", ["rich", "torch"])
def test_a_missing_module_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = interrupted(name, f"ModuleNotFoundError(name={name!r})")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"the module {name} is missing; `pip install -e .`" in done.stderr


def test_a_damaged_module_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, error in (
        ("ppo37.cli", "OSError"),
        ("numpy", "ImportError"),
        ("torch", "ImportError"),
    ):
        done = interrupted(name, f"{error}('libodd.so: too short\\nmore of it')")
        assert done.returncode == 2
        assert done.stderr == (
            "ppo37: a module cannot be loaded: libodd.so: too short; install it again\n"
        )


def test_the_error_of_a_killed_child_names_the_signal() -> None:
    with processes.running("games") as child:
        os.kill(child.process.pid, signal.SIGKILL)
        child.process.wait()
        child.stderr.write(b"ppo37: steps 1,024 of 4,096\n")
        assert child.stderr_tail() == "a run was ended by SIGKILL"


def test_the_suggested_next_command_can_be_pasted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my best 'run'"
    code, _, err = run_command(capsys, "train", "catch", "--preset", "debug", "--out", str(out))
    assert code == 0
    line = next(line for line in err.splitlines() if "next: " in line)
    assert shlex.split(line.split("next: ")[1]) == ["ppo37", "eval", str(out)]


def test_intervals_of_few_games() -> None:
    """Compare with the quantiles of Student's t in printed tables."""
    assert interval_of_mean([3.0]) is None
    low, high = interval_of_mean([0.0, 2.0]) or (0, 0)
    assert (low, high) == pytest.approx((1 - 12.7062, 1 + 12.7062), abs=1e-4)
    values = [float(n) for n in range(19)]  # standard deviation sqrt(19 * 20 / 12)
    low, high = interval_of_mean(values) or (0, 0)
    half = 2.100922 * math.sqrt(19 * 20 / 12) / math.sqrt(19)
    assert (low, high) == pytest.approx((9 - half, 9 + half), abs=1e-5)
    low, high = interval_of_mean([*values, 19.0]) or (0, 0)
    assert 6.5 < low < 7.5 < 11.5 < high < 12.5


def test_one_game_has_no_interval(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_command(capsys, "eval", str(finished_run), "--episodes", "1")
    assert code == 0
    assert "one game is too few for an interval" in out
    assert "95%" not in out
    assert "+-" not in out
    _, out, _ = run_command(capsys, "eval", str(finished_run), "--episodes", "1", "--json")
    assert json.loads(out)["interval"] is None


def test_published_scores_are_of_the_same_protocol() -> None:
    assert reference("pong", "classic")["ppo_paper"] == 20.7
    assert "slm_lab_ppo" not in reference("pong", "classic")
    # https://github.com/kengz/SLM-Lab, docs/BENCHMARKS.md at 02477a9, "PPO Lambda Comparison".
    sticky = {"random": -20.7, "human": 14.6, "slm_lab_ppo": 16.69}
    assert reference("pong", "machado") == sticky


def test_no_score_is_minus_zero(
    breakout_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert human_normalised("breakout", 1.699) == pytest.approx(-0.00003, abs=1e-5)
    monkeypatch.setattr("ppo37.tools.stats.human_normalised", lambda *_: -0.00003)
    _, out, _ = run_command(
        capsys, "eval", str(breakout_run), "--episodes", "1", "--protocol", "machado"
    )
    assert "human-normalized 0.00" in out
    assert "ppo_paper" not in out
    assert "published slm_lab_ppo" in out
    assert "slm_lab_ppo has sticky actions, too" in out


def test_a_run_without_games_does_not_prevent_the_plot_of_others(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    empty, out = tmp_path / "empty", tmp_path / "both.png"
    shutil.copytree(finished_run, empty)
    lines = [{**json.loads(line), "episodes": []} for line in log_lines(empty)]
    (empty / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, _, err = run_command(capsys, "plot", str(finished_run), str(empty), "--out", str(out))
    assert code == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert f"no game of {empty} has ended yet" in err
    with pytest.raises(UsageError, match="has ended yet"):
        plot([empty], out)


def test_seeds_of_one_command_are_one_group(finished_run: Path, tmp_path: Path) -> None:
    """Also if the machine chose other precisions, kernels or numbers of threads for some."""
    pytest.importorskip("matplotlib")
    from ppo37.tools.plots import arrange, read_history

    history = read_history(finished_run)
    others = [{"seed": 9}, {"precision": "bf16"}, {"kernels": "native"}, {"threads": 64}]
    same = [history._replace(config=dataclasses.replace(history.config, **o)) for o in others]
    assert len(arrange([history, *same], group=True)) == 1
    other = history._replace(config=dataclasses.replace(history.config, learning_rate=0.1))
    assert len(arrange([history, *same, other], group=True)) == 2


def test_ram_in_a_name_selects_ram_observations(tmp_path: Path) -> None:
    assert resolve_game("ALE/Seaquest-ram-v5") == resolve_game("Seaquest-v4") == "seaquest"
    assert shows_ram("ALE/Seaquest-ram-v5")
    assert not shows_ram("ALE/Seaquest-v5")
    arguments = ["train", "Breakout-ram-v4", "--preset", "debug", "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 0
    assert directory.read_config(tmp_path / "run").observation == "ram"


def test_columns_of_games_do_not_run_into_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run_command(capsys, "games")
    head, *rows = out.splitlines()
    assert len(head.split("  ")) > 4
    for row in rows:
        assert len(row.split()) == 6, row
        assert len(row) == len(head), row


# Machines and disks


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_disk_without_locks_is_reported_and_used(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inject the error at the system call, because the test has no such disk."""

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    view = RecordedNotes()
    assert train(tiny(), tmp_path / "run", view=view).finished
    assert [line for line in view.lines if "has no locks" in line]
    resume(tmp_path / "run", view=view)


def test_runs_of_the_same_second_get_different_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ppo37.session.directory.time.time", lambda: 1234567890)
    name = "catch__classic__s3__1234567890"
    found = [train(tiny(total_timesteps=64)).run for _ in range(3)]
    assert found == [tmp_path / "runs" / name, *(tmp_path / "runs" / f"{name}-{n}" for n in (2, 3))]
    assert len({path.stat().st_ino for path in found}) == 3


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert real_path("~/x") == tmp_path / "x"
    train(tiny(total_timesteps=64), "~/runs/mine")
    assert evaluate("~/runs/mine", 2).scores
    assert not (tmp_path / "~").exists()


def test_on_windows_the_message_says_what_to_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit) as exit_:
        entry.main()
    assert exit_.value.code == 2
    assert capsys.readouterr().err == (
        "ppo37: Windows is not supported; use WSL2 or a Linux container\n"
    )


@pytest.mark.parametrize("spoilt", ["missing", "damaged", "unknown"])
def test_a_rom_that_cannot_be_used(
    spoilt: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Raise the errors of the emulator's package, seen with a ROM that was removed or changed."""
    from ale_py import roms

    def path_of(game: str) -> None:
        if spoilt == "missing":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{game}.bin")
        if spoilt == "damaged":
            raise OSError(f"The hash of {game}.bin does not match! Expected (1), Obtained (2)")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(roms, "get_rom_path", path_of)
    games.rom_of.cache_clear()
    games.game_info.cache_clear()
    for more in ((), ("--observation", "ram")):
        message = refused(capsys, "train", "freeway", "--preset", "debug", *more)
        assert "the ROM of freeway cannot be used" in message
        assert "pip install --force-reinstall ale-py" in message
    assert not list(tmp_path.iterdir())


def test_links_outside_a_run_are_followed(finished_run: Path, tmp_path: Path) -> None:
    """The runs may be on another disk."""
    link = tmp_path / "latest"
    link.symlink_to(finished_run)
    assert directory.run_of(link) == finished_run
    assert own_folder(real_path(link), "plots") == finished_run / "plots"
    assert len(evaluate(link, 2).scores) == 2
