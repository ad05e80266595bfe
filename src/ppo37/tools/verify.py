"""A check of `resume`: a run that was killed and resumed ends like one that was not.

Every run is a separate process, started as a user would start it; one of them gets SIGKILL.
"""

import dataclasses
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..config import Config, arguments_of, brought_flags
from ..errors import RunError
from ..session import checkpoint, directory
from ..session.metrics import read_metrics, without_clock
from ..session.signals import Signals
from .processes import Child, finish, running, wait

LATEST = 1.8
"""A run of 2 n updates is killed before update LATEST * n."""
ATTEMPTS = 5
"""Runs that may end before they are killed: very short ones can be faster than this process."""


class Verdict(NamedTuple):
    """Two runs of `updates` updates: `unbroken` and `resumed` are the fingerprints of their ends.

    The second run was killed in update `killed_in` and resumed after update `resumed_from`.
    """

    updates: int
    killed_in: int
    resumed_from: int
    unbroken: str
    resumed: str
    same_log: bool

    @property
    def identical(self) -> bool:
        """Whether both runs have the same end and the same log."""
        return self.unbroken == self.resumed and self.same_log

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with `identical`."""
        return {**self._asdict(), "identical": self.identical}


def verify_resume(config: Config, updates: int, log: Callable[[str], None]) -> Verdict:
    """Train for 2 x `updates` updates, and again with SIGKILL at a random moment after half.

    config: `total_timesteps` is ignored, and `reseed_interval` is shortened, so that everything
    that happens in a long run happens in this short one.  RunError if a run fails.
    """
    config = dataclasses.replace(
        config,
        total_timesteps=2 * updates * config.batch_size,
        reseed_interval=max(1, updates * config.num_steps // 2),
    )
    every = ("--checkpoint-every", str(updates))
    with tempfile.TemporaryDirectory(prefix="ppo37-verify-") as folder, Signals() as signals:
        whole, killed = Path(folder, "unbroken"), Path(folder, "killed")
        log(f"training for {2 * updates} updates")
        with running("train", *arguments_of(config), "--out", str(whole)) as run:
            finish(run, signals)
        config = directory.read_config(whole)
        log(f"training again, to be killed after the checkpoint of update {updates}")
        _train_and_kill(config, killed, updates, every, signals)
        done = len(read_metrics(killed))
        resumed_from = checkpoint.load_newest(killed / directory.CHECKPOINTS)[0].state["update"]
        log(f"killed in update {done + 1}; resuming after update {resumed_from}")
        with running("resume", str(killed), *every, *brought_flags(config)) as run:
            finish(run, signals)
        return Verdict(
            2 * updates,
            done + 1,
            resumed_from,
            _fingerprint(whole),
            _fingerprint(killed),
            _log_of(whole) == _log_of(killed),
        )


def _train_and_kill(
    config: Config, path: Path, updates: int, every: Sequence[str], signals: Signals
) -> None:
    """Train in the new directory `path`, and kill the run."""
    args = ("train", *arguments_of(config), "--out", str(path), *every)
    for _ in range(ATTEMPTS):
        with running(*args) as run:
            if _kill(run, path, updates, signals):
                return
        shutil.rmtree(path)
    raise RunError("each run ended before it could be killed; use more --updates")


def _kill(run: Child, path: Path, updates: int, signals: Signals) -> bool:
    """Send SIGKILL between update `updates`, once its checkpoint is there, and twice as many.

    The moment is a logged update, not a time, so that it works on a machine of any speed. Returns
    whether the run was still active.
    """
    wait(run, signals, (path / directory.CHECKPOINTS / f"{updates:08d}").exists)
    last = random.randrange(updates, max(updates + 1, int(LATEST * updates)))
    log = path / directory.METRICS
    wait(run, signals, lambda: log.read_bytes().count(b"\n") >= last)
    run.process.kill()
    code = run.process.wait()
    if code > 0:
        run.fail()
    return code != 0


def _log_of(run: Path) -> list[dict[str, Any]]:
    return [without_clock(record) for record in read_metrics(run)]


def _fingerprint(run: Path) -> str:
    return checkpoint.fingerprint(checkpoint.load_newest(run / directory.CHECKPOINTS)[0])
