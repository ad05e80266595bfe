"""Signals: a run saves or stops, and its results do not change."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import (
    LIMIT_S,
    log_without_times,
    long_train_command,
    tiny,
    tiny_options,
    wait_for_first_update,
    wait_until,
)

from ppo37 import evaluate, load_agent, train
from ppo37.session import checkpoint
from ppo37.session.signals import Signals

LINUX = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="looks at processes in /proc"
)


def _long_training(run: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(long_train_command(run), stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)],
)
def test_a_signal_leaves_an_agent_that_evaluates_and_resumes(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = _long_training(run)
    wait_for_first_update(run)
    process.send_signal(number)
    process.send_signal(number)  # a second one is ignored
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    done = len((run / "metrics.jsonl").read_text().splitlines())
    assert load_agent(run).state["update"] == done
    assert len(evaluate(run, episodes=2).scores) == 2
    assert not json.loads((run / "summary.json").read_text())["finished"]


def test_a_request_to_save_during_an_evaluation_reaches_the_run() -> None:
    with Signals() as run:
        with Signals() as evaluation:
            os.kill(os.getpid(), signal.SIGUSR1)
        assert evaluation.take_save()
        assert run.take_save()


def test_sigusr1_saves_and_training_continues(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = _long_training(run)
    wait_for_first_update(run)
    assert not checkpoint.numbered(run / "checkpoints")
    process.send_signal(signal.SIGUSR1)
    wait_until(lambda: bool(checkpoint.numbered(run / "checkpoints")))
    first = checkpoint.numbered(run / "checkpoints")[0]
    length = (run / "metrics.jsonl").stat().st_size
    wait_until(lambda: (run / "metrics.jsonl").stat().st_size > length)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 143
    assert checkpoint.load(first).state["update"] < load_agent(run).state["update"]


@LINUX
@pytest.mark.slow
def test_signals_at_any_moment_change_nothing(tmp_path: Path) -> None:
    """A run with many SIGUSR1, stopped and resumed twice, equals an uninterrupted run."""
    # Long enough that the run is still active when this process notices an update.
    steps = 100 * 64
    config = tiny(preset="classic", num_minibatches=4, update_epochs=4, total_timesteps=steps)
    train(config, tmp_path / "whole")
    run, log = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    command = [
        "train",
        "catch",
        "--preset",
        "classic",
        "--total-timesteps",
        str(steps),
        "--out",
        str(run),
        *tiny_options("seed", "num_envs", "num_steps", "network", "precision", "kernels"),
    ]
    codes = []
    for lines in (6, 14, 1000):
        codes.append(_run_with_signals(command, log, lines))
        command = ["resume", str(run)]
    assert codes == [143, 143, 0]
    ends = [checkpoint.load_newest(each / "checkpoints")[0] for each in (run, tmp_path / "whole")]
    assert checkpoint.fingerprint(ends[0]) == checkpoint.fingerprint(ends[1])
    assert log_without_times(run) == log_without_times(tmp_path / "whole")


def _run_with_signals(arguments: list[str], log: Path, lines: int) -> int:
    """Send many SIGUSR1, and two SIGTERM after `lines` updates. Returns the exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ppo37", *arguments], stderr=subprocess.DEVNULL
    )
    wait_until(lambda: _handles(signal.SIGUSR1, process.pid))
    stops = 0
    while process.poll() is None:
        process.send_signal(signal.SIGUSR1)
        if stops < 2 and log.exists() and log.read_bytes().count(b"\n") >= lines:
            process.send_signal(signal.SIGTERM)
            stops += 1
        time.sleep(0.01)
    return process.returncode


@LINUX
@pytest.mark.parametrize(
    ("command", "game"),
    [
        ("eval --episodes 1000000", "finished_run"),
        pytest.param("record --out video.mp4", "breakout_run", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)],
)
def test_playing_stops_at_once_and_leaves_nothing(
    number: signal.Signals,
    code: int,
    command: str,
    game: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(request.getfixturevalue(game), "run")
    word, *more = command.split()
    _stop_while_playing([word, "run", *more], number, code)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def _stop_while_playing(arguments: list[str], number: signal.Signals, code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "ppo37", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: _handles(signal.SIGUSR1, process.pid))
    process.send_signal(signal.SIGUSR1)  # nothing to save: nothing happens
    process.send_signal(number)
    process.send_signal(number)
    out, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == code, errors
    assert out == ""
    assert "Traceback" not in errors


def _handles(number: signal.Signals, pid: int) -> bool:
    """Return whether a process has a handler for a signal."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    assert caught
    return bool(int(caught[1], 16) >> (number - 1) & 1)


@pytest.mark.slow
def test_training_continues_when_nobody_reads_stderr(tmp_path: Path) -> None:
    """For example because Ctrl-C ended `tee` too."""
    process = _long_training(tmp_path / "run")
    assert process.stderr is not None
    for _ in range(4):
        process.stderr.readline()
    process.stderr.close()
    log = tmp_path / "run" / "metrics.jsonl"
    wait_until(lambda: log.exists() and log.read_text().count("\n") > 2)
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT_S) == 130
    assert load_agent(tmp_path / "run").state["update"] == log.read_text().count("\n")
