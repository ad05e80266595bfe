"""The promise of `resume`, for anyone to check: a run that was killed ends as one that was not.

Every run is a process of its own, started as a person would, and one of them gets SIGKILL.
"""

import dataclasses
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..config import Config, arguments_of
from ..errors import RunError
from ..session import checkpoint, directory
from ..session.metrics import read_metrics, without_clock
from ..session.signals import Signals
from .processes import Child, finish, running, wait

LATEST = 1.8
"""A run of 2 n updates is killed before it has made this many times n."""
ATTEMPTS = 5
"""Runs that may end before they are killed: so short ones can be faster than this process."""


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
        config,
        total_timesteps=2 * updates * config.batch_size,
        reseed_interval=max(1, updates * config.num_steps // 2),
    )
    every = ("--checkpoint-every", str(updates))
    with tempfile.TemporaryDirectory(prefix="ppo37-verify-") as folder, Signals() as signals:
        whole, killed = Path(folder, "unbroken"), Path(folder, "killed")
        say(f"a run of {2 * updates} updates")
        with running("train", *arguments_of(config), "--out", str(whole)) as run:
            finish(run, signals)
        config = directory.read_config(whole)
        say(f"the same, to be killed after its checkpoint of update {updates}")
        _train_and_kill(config, killed, updates, every, signals)
        done = len(read_metrics(killed))
        resumed_from = checkpoint.load_newest(killed / directory.CHECKPOINTS)[0].state["update"]
        say(f"killed in update {done + 1}; going on from update {resumed_from}")
        with running("resume", str(killed), *every) as run:
            finish(run, signals)
        return Verdict(
            2 * updates,
            done + 1,
            resumed_from,
            _fingerprint(whole),
            _fingerprint(killed),
            _log(whole) == _log(killed),
        )


def _train_and_kill(
    config: Config, path: Path, updates: int, every: Sequence[str], signals: Signals
) -> None:
    """Leave a killed run in the new directory `path`."""
    words = ("train", *arguments_of(config), "--out", str(path), *every)
    for _ in range(ATTEMPTS):
        with running(*words) as run:
            if _kill(run, path, updates, signals):
                return
        shutil.rmtree(path)
    raise RunError("each run ended before it could be killed; use more --updates")


def _kill(run: Child, path: Path, updates: int, signals: Signals) -> bool:
    """SIGKILL at a random moment between the checkpoint of `updates` and twice as many updates.

    A moment is an update that has been logged, not a time, so that it is met on a machine of any
    speed. Returns whether the run was still at work.
    """
    wait(run, signals, (path / directory.CHECKPOINTS / f"{updates:08d}").exists)
    moment = random.randrange(updates, max(updates + 1, int(LATEST * updates)))
    log = path / directory.METRICS
    wait(run, signals, lambda: log.read_bytes().count(b"\n") >= moment)
    run.process.kill()
    code = run.process.wait()
    if code > 0:
        run.fail()
    return code != 0


def _log(run: Path) -> list[dict[str, Any]]:
    return [without_clock(record) for record in read_metrics(run)]


def _fingerprint(run: Path) -> str:
    return checkpoint.fingerprint(checkpoint.load_newest(run / directory.CHECKPOINTS)[0])
