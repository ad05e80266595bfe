"""Run directories: creating, finding, locking."""

import fcntl
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ..config import Config, from_dict
from ..errors import RunError, UsageError
from . import checkpoint
from .files import space_missing, sync_directory, to_json, write_atomically

CONFIG, METRICS, SUMMARY, CHECKPOINTS, LOCK = (
    "config.json", "metrics.jsonl", "summary.json", "checkpoints", ".lock"
)  # fmt: skip
BROKEN_BATCH = "broken_batch.safetensors"


def default_path(config: Config) -> Path:
    """`runs/{game}__{preset}__s{seed}__{unixtime}`."""
    return Path("runs") / f"{config.game}__{config.preset}__s{config.seed}__{int(time.time())}"


def require_new(path: Path) -> None:
    """UsageError if a run cannot be created at `path` because something is there."""
    try:
        if path.is_dir() and _nothing_begun(path):
            return
        if (path / CONFIG).exists():
            raise UsageError(
                f"{path} holds a run already; `ppo37 resume {path}` or choose another --out"
            )
        if path.exists():
            raise UsageError(f"{path} exists and is not empty; choose another --out")
    except OSError as error:
        raise UsageError(f"cannot use {path}: {error.strerror}; choose another --out") from error


def _nothing_begun(path: Path) -> bool:
    """Whether a directory is empty, but for what a crash in `create` may have left."""
    leftovers = {LOCK, CHECKPOINTS, f".{CONFIG}.tmp"}
    names = {entry.name for entry in path.iterdir()}
    return names <= leftovers and not any((path / CHECKPOINTS).glob("*"))


def create(path: Path, document: dict[str, Any], needed_bytes: int) -> IO[str]:
    """Make a run directory with its `config.json` and lock it; returns the lock.

    `needed_bytes` is what the checkpoints of the run will take.
    """
    require_new(path)
    try:
        (path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        missing = space_missing(path, needed_bytes)
        if missing:
            _remove_unused(path)
            raise UsageError(f"{missing}; free some or choose another --out")
        held = lock(path)
        write_atomically(path / CONFIG, to_json(document))
        sync_directory(path.parent)
    except OSError as error:
        _remove_unused(path)
        raise UsageError(f"cannot write {path}: {error.strerror}; choose another --out") from error
    return held


def _remove_unused(path: Path) -> None:
    """Take back what `create` made so far; what is not empty stays."""
    for made in (path / CONFIG, path / LOCK, path / CHECKPOINTS, path):
        with suppress(OSError):
            made.rmdir() if made.is_dir() else made.unlink()


def lock(path: Path) -> IO[str]:
    """Hold a run directory until the returned file is closed; UsageError if another does."""
    try:
        file = (path / LOCK).open("w")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise UsageError(f"{path} is in use by another process; wait for it or stop it") from error
    return file


def is_run(path: Path) -> bool:
    """Whether `path` is a run directory; UsageError if that cannot be seen."""
    try:
        return (path / CONFIG).is_file() and (path / CHECKPOINTS).is_dir()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def run_of(path: Path) -> Path:
    """The run directory that RUN (a run directory or a checkpoint in it) names."""
    path = Path(path)
    if is_run(path):
        return path
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    folder = path.absolute().parent
    if folder.name == CHECKPOINTS and is_run(folder.parent):
        return folder.parent
    if (path / checkpoint.MANIFEST).is_file():
        raise UsageError(
            f"{path} is a published agent, which can be evaluated and recorded; it has no run that "
            "could go on or be drawn"
        )
    raise UsageError(f"{path} is not a run directory (it holds no {CONFIG} and {CHECKPOINTS}/)")


def find_checkpoint(path: Path) -> tuple[checkpoint.Checkpoint, list[str]]:
    """The checkpoint that RUN means, with warnings: itself, or the newest valid one in it."""
    path = Path(path)
    if is_run(path):
        return checkpoint.load_newest(path / CHECKPOINTS)
    if not (path / checkpoint.MANIFEST).is_file():
        run_of(path)  # says what is wrong with a path that is no checkpoint either
    return checkpoint.load(path), []


def read_config(run: Path) -> Config:
    """The configuration of a run."""
    try:
        return from_dict(json.loads((run / CONFIG).read_text())["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{run / CONFIG} is damaged") from error


def job_of(run: Path) -> str | None:
    """The job of several processes that began a run; None for any other or no run."""
    try:
        found = json.loads((run / CONFIG).read_text()).get("job")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def write_summary(run: Path, document: dict[str, Any]) -> None:
    """Replace `summary.json`; RunError if that cannot be written."""
    try:
        write_atomically(run / SUMMARY, to_json(document))
    except OSError as error:
        raise RunError(
            f"cannot write {run / SUMMARY}: {error.strerror}; the checkpoints of the run are valid"
        ) from error


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The updates logged so far; a last line that a crash tore is left out."""
    path = run / METRICS
    if not path.is_file():
        raise UsageError(f"{run} has no {METRICS}: nothing was logged yet")
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            known = {"update", "frames", "wall_s", "episodes"} <= set(record)
        except (ValueError, TypeError) as error:
            if number == len(lines):
                break
            raise UsageError(f"{path}, line {number} is damaged") from error
        if not known:
            raise UsageError(f"{path}, line {number} is not the log of an update")
        records.append(record)
    return records
