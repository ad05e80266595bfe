"""The metrics of a run: one record for each update, a line of `metrics.jsonl`.

`loggers/` writes the records; this module makes them and reads the file.
"""

import itertools
import json
import math
import os
from pathlib import Path
from typing import Any

from ..envs.contract import Episode
from ..errors import UsageError
from .checkpoint_format import fits
from .directory import EVALUATIONS, METRICS
from .files import explained, own_file

FRAMES_PER_STEP = 4
"""Frames of an agent step of Atari, see `Config.frames_per_step`."""
EPISODIC_RETURN, EPISODIC_LENGTH = "charts/episodic_return", "charts/episodic_length"
LAST_100 = "charts/episodic_return_last_100"
CLOCK = ("wall_s", "cpu_s", "charts/SPS")
"""The values that depend on the clock; all others are equal in equal runs."""
RECORD_FORM = {
    "update": int,
    "frames": int,
    "wall_s": float,
    "episodes": [{"env": int, "return": float, "length": int}],
}
"""The values that every record has, see `fits`."""
LONGEST_LINE = 1 << 28
LAST_BYTES = 1 << 14
"""The bytes at the end of a log that are read for its last record, unless it is longer."""


def record_of(
    update: int,
    agent_steps: int,
    frames: int,
    wall_s: float,
    cpu_s: float | None,
    tags: dict[str, float | None],
    episodes: list[Episode],
) -> dict[str, Any]:
    """Make the record of an update, counted from 1; the means are over the games that ended."""
    ended = max(len(episodes), 1)
    return {
        "update": update,
        "agent_steps": agent_steps,
        "frames": frames,
        "wall_s": round(wall_s, 3),
        "cpu_s": None if cpu_s is None else round(cpu_s, 3),
        EPISODIC_RETURN: sum(e.score for e in episodes) / ended if episodes else None,
        EPISODIC_LENGTH: sum(e.length for e in episodes) / ended if episodes else None,
        **tags,
        "episodes": [{"env": e.env, "return": e.score, "length": e.length} for e in episodes],
    }


def without_clock(record: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a record that can be compared between runs."""
    return {key: value for key, value in record.items() if key not in CLOCK}


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read the records of a run; an incomplete last line, which a crash leaves, is ignored.

    UsageError if the file is damaged or the updates do not follow each other.
    """
    path = run / METRICS
    if not path.is_file():
        raise UsageError(f"{run} has no {METRICS}: nothing was logged yet")
    lines = _lines(path)
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise UsageError(f"{path}, line {number} is damaged") from error
        if not _is_record(record):
            raise UsageError(f"{path}, line {number} is not the log of an update")
        if records and not _follows(record, records[-1]):
            raise UsageError(f"{path}, line {number} does not follow the line before it")
        records.append(record)
    return records


def last_record(run: Path) -> dict[str, Any] | None:
    """Read the last complete record of a run, without the others; None if there is none."""
    try:
        record = json.loads(_last_line(run / METRICS))
    except (OSError, ValueError, RecursionError):
        return None
    return record if _is_record(record) else None


def steps_of(record: dict[str, Any]) -> int:
    """Return the agent steps of a record.

    They cannot be computed from `frames` in general: older logs count four frames for each step of
    any environment.
    """
    return int(record.get("agent_steps", record["frames"] // FRAMES_PER_STEP))


def length_to(run: Path, update: int) -> int:
    """Count the bytes of the log up to an update; UsageError if an update is missing."""
    path = own_file(run, METRICS)
    lines = _lines(path) if path.exists() else []
    kept = list(itertools.takewhile(lambda line: _update_of(line) <= update, lines))
    # The first may be any update, because the log may have been moved away before, see below.
    updates = [_update_of(line) for line in kept]
    gap = next((n for n, (a, b) in enumerate(itertools.pairwise(updates), 2) if b != a + 1), 0)
    if lines and (gap or (updates[-1] if updates else 0) != update):
        raise UsageError(
            f"{path} is damaged in line {gap or len(kept) + 1}: it does not have every "
            f"update up to {update}. Repair the file, or move it away to resume without the old log"
        )
    return sum(map(len, kept))


def evaluations_length_to(run: Path, update: int) -> int:
    """Count the bytes of the evaluations up to an update; UsageError if one of them is damaged."""
    path = own_file(run, EVALUATIONS)
    lines = _lines(path) if path.exists() else []
    kept = list(itertools.takewhile(lambda line: _update_of(line) <= update, lines))
    if any(_update_of(line) <= update for line in lines[len(kept) :]):
        raise UsageError(
            f"{path} is damaged in line {len(kept) + 1}. Repair the file, or move it away to "
            "resume without the old evaluations"
        )
    return sum(map(len, kept))


def read_evaluations(run: Path) -> list[dict[str, Any]]:
    """Read the evaluations of a run; none if there is no such file. UsageError if it is damaged."""
    path = own_file(run, EVALUATIONS)
    lines = _lines(path) if path.exists() else []
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()  # an incomplete line, which a crash leaves
    records = [json.loads(line) for line in lines if math.isfinite(_update_of(line))]
    if len(records) < len(lines):
        raise UsageError(f"{path} is damaged")
    return records


def _last_line(path: Path) -> bytes:
    """Read the last complete line of a file, and not much more; empty if there is none."""
    with path.open("rb") as file:
        start = size = file.seek(0, os.SEEK_END)
        wanted, lines = LAST_BYTES, b""
        while start and b"\n" not in lines:
            start = max(size - wanted, 0)
            file.seek(start)
            lines = file.read().rpartition(b"\n")[0]
            wanted *= 8
    return lines.rpartition(b"\n")[2]


def _lines(path: Path) -> list[bytes]:
    """Read the lines of a log with their ends, up to one that is longer than any update's."""
    lines = [b""]
    with explained(f"cannot read {path}"), path.open("rb") as file:
        while len(lines[-1]) < LONGEST_LINE and (line := file.readline(LONGEST_LINE)):
            lines.append(line)
    return lines[1:]


def _is_record(record: Any) -> bool:
    """Return whether a value from JSON is the record of an update."""
    if not fits(record, RECORD_FORM) or record["wall_s"] < 0:
        return False
    return "agent_steps" not in record or fits(record["agent_steps"], int)


def _follows(record: dict[str, Any], before: dict[str, Any]) -> bool:
    """Return whether a record can be that of the next update."""
    later = steps_of(record) >= steps_of(before) and record["wall_s"] >= before["wall_s"]
    return later and record["update"] == before["update"] + 1


def _update_of(line: bytes) -> float:
    """Return the update of a line; infinity for an incomplete one."""
    try:
        return float(json.loads(line)["update"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf
