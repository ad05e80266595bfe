"""The promise of `resume`, for anyone to check: a run that was killed ends as one that was not.

Every run is a process of its own, started as a person would, and one of them gets SIGKILL.
"""

import dataclasses
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .config import Config
from .errors import RunError
from .run import checkpoint, directory
from .run.metrics import without_clock

POLL_S = 0.01


class Verdict(NamedTuple):
    """Two runs of `updates` updates; one was killed in one of them, and went on from before it."""

    updates: int
    killed_in: int
    resumed_from: int
    unbroken: str
    resumed: str
    same_log: bool

    @property
    def identical(self) -> bool:
        """Whether both go on alike, and told the same of themselves."""
        return self.unbroken == self.resumed and self.same_log

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the judgement."""
        return {**self._asdict(), "identical": self.identical}


def verify_resume(config: Config, updates: int, say: Callable[[str], None]) -> Verdict:
    """Run 2 x `updates` updates of `config`, and again with SIGKILL at a random moment after half.

    config: its `total_timesteps` is of no account, and its `reseed_interval` is shortened, so that
    so short a run meets everything that a long one does.  RunError if a run fails.
    """
    config = dataclasses.replace(
        config, total_timesteps=2 * updates * config.batch_size,
        reseed_interval=max(1, updates * config.num_steps // 2),
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="ppo37-verify-") as folder:
        whole, killed = Path(folder, "unbroken"), Path(folder, "killed")
        say(f"a run of {2 * updates} updates")
        _finish(_start("train", config.game, *_settings(config), "--out", str(whole)))
        # The choice of `auto` is a measurement, and may be another one the next time.
        config = dataclasses.replace(config, precision=directory.read_config(whole).precision)
        say(f"the same, to be killed after its checkpoint of update {updates}")
        every = ("--checkpoint-every", str(updates))
        process = _start("train", config.game, *_settings(config), "--out", str(killed), *every)
        spent_s = directory.read_metrics(whole)[-1]["wall_s"]
        _kill(process, killed / directory.CHECKPOINTS / f"{updates:08d}", spent_s / 2)
        done = len(directory.read_metrics(killed))
        resumed_from = checkpoint.load_newest(killed / directory.CHECKPOINTS)[0].state["update"]
        say(f"killed in update {done + 1}; going on from update {resumed_from}")
        _finish(_start("resume", str(killed), *every))
        return Verdict(
            2 * updates, done + 1, resumed_from, _fingerprint(whole), _fingerprint(killed),
            _log(whole) == _log(killed),
        )  # fmt: skip


def _kill(process: "subprocess.Popen[bytes]", awaited: Path, left_s: float) -> None:
    """SIGKILL at a random moment between a checkpoint and the end, `left_s` later."""
    try:
        while not awaited.exists() and process.poll() is None:
            time.sleep(POLL_S)
        time.sleep(random.uniform(0, 0.8 * left_s))
    finally:
        process.kill()
    if process.wait() >= 0:
        raise RunError("the run ended before it could be killed; use more --updates")


def _start(*words: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "ppo37", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _finish(process: "subprocess.Popen[bytes]") -> None:
    """Wait for the end; RunError with the last words if it fails."""
    try:
        _, words = process.communicate()
    finally:
        process.kill()
    if process.returncode != 0:
        raise RunError(words.decode(errors="replace").strip().splitlines()[-1])


def _settings(config: Config) -> list[str]:
    """The options of `ppo37 train` that give this configuration."""
    words = []
    for name, value in dataclasses.asdict(config).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif name != "game":
            words.append(f"--{flag}={value}")
    return words


def _log(run: Path) -> list[dict[str, Any]]:
    return [without_clock(record) for record in directory.read_metrics(run)]


def _fingerprint(run: Path) -> str:
    return checkpoint.fingerprint(checkpoint.load_newest(run / directory.CHECKPOINTS)[0])
