"""What a run logs: `metrics.jsonl`, the truth, and TensorBoard events beside it."""

import itertools
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ..envs.contract import Episode
from ..errors import RunError, UsageError
from .directory import METRICS, log_lines
from .files import own_file, sync_directory, write_atomically

FRAMES_PER_STEP = 4
EPISODIC_RETURN, EPISODIC_LENGTH = "charts/episodic_return", "charts/episodic_length"
LAST_100 = "charts/episodic_return_last_100"
CLOCK = ("wall_s", "charts/SPS")
"""What the wall clock decides; all else in a record is the same whenever the run is."""


class Log(Protocol):
    """Where updates and games go."""

    def write(self, record: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """One object per update, appended and flushed."""

    def __init__(self, run: Path, update: int) -> None:
        """Go on after `update` updates: lines of later ones, which a crash left, are cut off.

        UsageError, and nothing cut off, if a line before them is damaged.
        """
        self._path = own_file(run, METRICS)
        if self._path.exists():
            length = length_to(run, update)
            with self._path.open("r+b") as file:
                file.truncate(length)
        self._file = self._path.open("a+")
        sync_directory(run)

    def write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(_finite(record)) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Wait until all lines are on the disk, under their name even if someone removed it."""
        if not self._path.exists():
            self._file.seek(0)
            write_atomically(self._path, self._file.read().encode())
            self._file.close()
            self._file = self._path.open("a+")
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Scalars under CleanRL's tags, against agent steps."""

    def __init__(self, run: Path, agent_steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Events from `purge_step` on, which a crash left behind, are not shown any more.
        self._writer = SummaryWriter(str(run), purge_step=agent_steps + 1, flush_secs=30)

    def write(self, record: dict[str, Any]) -> None:
        step = record["agent_steps"]
        per_game = {EPISODIC_RETURN: "return", EPISODIC_LENGTH: "length"}
        points = [(t, v) for t, v in record.items() if "/" in t and t not in per_game]
        for tag, key in per_game.items():  # every game on its own, not their mean
            points += [(tag, episode[key]) for episode in record["episodes"]]
        for tag, value in points:
            if value is not None:
                self._writer.add_scalar(tag, value, step)

    def close(self) -> None:
        self._writer.close()


class NoLogs:
    """The logs of a rank that keeps none."""

    def write(self, record: dict[str, Any]) -> None: ...

    def sync(self) -> None: ...

    def close(self) -> None: ...


class Logs:
    """All logs of a run; RunError where one cannot be written."""

    def __init__(self, run: Path, update: int, agent_steps: int) -> None:
        """Go on after `update` updates of `agent_steps` steps in all."""
        self._run = run
        with self._in_words():
            self._lines = JsonLines(run, update)
            self._logs: list[Log] = [self._lines, TensorBoard(run, agent_steps)]

    def write(self, record: dict[str, Any]) -> None:
        with self._in_words():
            for log in self._logs:
                log.write(record)

    def sync(self) -> None:
        """Wait until a checkpoint may tell of what was written: no crash loses it any more."""
        with self._in_words():
            self._lines.sync()

    def close(self) -> None:
        with self._in_words():
            for log in self._logs:
                log.close()

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"cannot write the logs of {self._run}: {error.strerror}; its last checkpoint is "
                "valid, resume from it"
            ) from error


def length_to(run: Path, update: int) -> int:
    """Count the bytes of the log up to an update; UsageError if they do not tell of every one."""
    path = own_file(run, METRICS)
    lines = log_lines(path) if path.exists() else []
    kept = list(itertools.takewhile(lambda line: _update_of(line) <= update, lines))
    # From wherever it begins: it may have been moved away once, as it says below.
    updates = [_update_of(line) for line in kept]
    gap = next((n for n, (a, b) in enumerate(itertools.pairwise(updates), 2) if b != a + 1), 0)
    if lines and (gap or (updates[-1] if updates else 0) != update):
        raise UsageError(
            f"{path} is damaged in line {gap or len(kept) + 1}: it does not tell of every update "
            f"to {update}. Mend it, or move it away to go on without what was logged before"
        )
    return sum(map(len, kept))


def record_of(
    update: int,
    agent_steps: int,
    wall_s: float,
    tags: dict[str, float | None],
    episodes: list[Episode],
) -> dict[str, Any]:
    """One line of the log, `update` counting from 1; the means are over the games that ended."""
    ended = max(len(episodes), 1)
    tags = {
        EPISODIC_RETURN: sum(e.score for e in episodes) / ended if episodes else None,
        EPISODIC_LENGTH: sum(e.length for e in episodes) / ended if episodes else None,
        **tags,
    }
    return {
        "update": update,
        "agent_steps": agent_steps,
        "frames": FRAMES_PER_STEP * agent_steps,
        "wall_s": round(wall_s, 3),
        **tags,
        "episodes": [{"env": e.env, "return": e.score, "length": e.length} for e in episodes],
    }


def without_clock(record: dict[str, Any]) -> dict[str, Any]:
    """What of a record can be compared between runs."""
    return {key: value for key, value in record.items() if key not in CLOCK}


def _update_of(line: bytes) -> float:
    """The update that a line is of; infinity for a torn one."""
    try:
        return float(json.loads(line)["update"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf


def _finite(value: Any) -> Any:
    """JSON has no nan and no infinity: they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value
