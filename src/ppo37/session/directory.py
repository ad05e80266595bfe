"""Run directories: creating, finding, locking."""

import errno
import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import IO, Any

from ..config import Config, from_dict
from ..errors import RunError, UsageError
from . import checkpoint
from .files import (
    TEMPORARY,
    own_file,
    own_folder,
    real_path,
    space_missing,
    sync_directory,
    to_json,
    write_atomically,
    write_synced,
)

CONFIG, METRICS, SUMMARY, CHECKPOINTS, LOCK = (
    "config.json",
    "metrics.jsonl",
    "summary.json",
    "checkpoints",
    ".lock",
)
BROKEN_BATCH = "broken_batch.safetensors"
RECORD_FORM = {
    "update": int,
    "frames": int,
    "wall_s": float,
    "episodes": [{"env": int, "return": float, "length": int}],
}
"""What a line of the log holds at least."""
LONGEST_LINE = 1 << 28
NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK}
"""How a disk says that it has no locks."""


def default_path(config: Config) -> Path:
    """`runs/{game}__{preset}__s{seed}__{unixtime}`."""
    name = f"{config.game}__{config.preset}__s{config.seed}__{int(time.time())}"
    return real_path(Path("runs", name))


def alternatives(first: Path) -> Iterator[Path]:
    """Give a path, and then the same with -2, -3 and so on appended."""
    return chain([first], (first.with_name(f"{first.name}-{n}") for n in count(2)))


def claim(paths: Iterator[Path]) -> Path:
    """Make the first of these directories that is not there; UsageError if that cannot be."""
    for path in paths:
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(
                f"cannot write {path}: {error.strerror}; choose another --out"
            ) from error
        return path
    raise AssertionError("numbers do not end")


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
    names = {entry.name for entry in path.iterdir() if not entry.match(TEMPORARY)}
    return names <= {LOCK, CHECKPOINTS} and not any((path / CHECKPOINTS).glob("*"))


def create(
    path: Path, document: dict[str, Any], needed_bytes: int, warn: Callable[[str], None]
) -> IO[str]:
    """Make a run directory with its `config.json` and lock it; returns the lock.

    needed_bytes: what the checkpoints of the run will take.  warn: see `lock`.
    """
    require_new(path)
    try:
        own_folder(path, CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        missing = space_missing(path, needed_bytes)
        if missing:
            _remove_unused(path)
            raise UsageError(f"{missing}; free some or choose another --out")
        held = lock(path, warn)
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


def lock(path: Path, warn: Callable[[str], None]) -> IO[str]:
    """Hold a run directory until the returned file is closed; UsageError if another does.

    And remove what killed processes left there half-written. Some network disks have no locks: then
    nothing is held, and `warn` hears of it.
    """
    own_folder(path, CHECKPOINTS)
    for part in (METRICS, SUMMARY):
        own_file(path, part)
    name = own_file(path, LOCK)
    try:
        file = name.open("a")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise UsageError(f"{path} is in use by another process; wait for it or stop it") from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            file.close()
            raise UsageError(f"cannot lock {name}: {error.strerror}") from error
        warn(
            f"the disk of {path} has no locks ({error.strerror}): take care that no other process "
            "trains there"
        )
        return file
    for left in path.glob(TEMPORARY):
        left.unlink(missing_ok=True)
    return file


def put_aside(run: Path, update: int) -> Path | None:
    """Move the checkpoints after an update, and a copy of the log, into `replaced-1` (or -2, ...).

    Returns that folder; None if there are no such checkpoints, which is usual. Where there are no
    checkpoints at all, they may have been lost: then a log is kept, too. UsageError if that folder
    cannot be made.
    """
    checkpoints, log = own_folder(run, CHECKPOINTS), own_file(run, METRICS)
    later = checkpoint.after(checkpoints, update)
    lost = not checkpoint.numbered(checkpoints) and log.exists() and log.stat().st_size > 0
    if not later and not lost:
        return None
    names = [name for name in (METRICS, SUMMARY) if own_file(run, name).exists()]
    folder = claim(run / f"replaced-{n}" for n in count(1))
    try:
        (folder / CHECKPOINTS).mkdir()
        for name in names:
            write_synced(folder / name, (run / name).read_bytes())
        for changed in (folder, run):
            sync_directory(changed)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)  # nothing but copies is in it yet
        raise UsageError(f"cannot write {run}: {error.strerror}") from error
    try:
        for path in later:
            path.rename(folder / CHECKPOINTS / path.name)
        for changed in (folder, run):
            sync_directory(changed / CHECKPOINTS)
    except OSError as error:
        raise UsageError(f"cannot write {run}: {error.strerror}") from error
    return folder


def is_run(path: Path) -> bool:
    """Whether `path` is a run directory; UsageError if that cannot be seen."""
    try:
        return (path / CONFIG).is_file() and (path / CHECKPOINTS).is_dir()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def run_of(path: Path) -> Path:
    """The run directory that RUN (a run directory or a checkpoint in it) names."""
    path = real_path(path)
    if is_run(path):
        return path
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    folder = path.parent
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
    path = real_path(path)
    if is_run(path):
        return checkpoint.load_newest(path / CHECKPOINTS)
    if not (path / checkpoint.MANIFEST).is_file():
        run_of(path)  # says what is wrong with a path that is no checkpoint either
    return checkpoint.load(path), []


def read_document(run: Path) -> dict[str, Any]:
    """What a run says of itself: `config.json`, which is known to be an object."""
    path = run / CONFIG
    document = checkpoint.parse_json(checkpoint.read(path), path)
    if not isinstance(document, dict):
        raise UsageError(f"{path} is damaged")
    return document


def read_config(run: Path) -> Config:
    """The configuration of a run."""
    values = read_document(run).get("config")
    if not isinstance(values, dict):
        raise UsageError(f"{run / CONFIG} is damaged")
    return from_dict(values)


def job_of(run: Path) -> str | None:
    """The job of several processes that began a run; None for any other or no run."""
    try:
        found = read_document(run).get("job")
    except UsageError:
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
    """The updates logged so far; a last line that a crash tore is left out.

    UsageError for what is no log of updates that follow each other.
    """
    path = run / METRICS
    if not path.is_file():
        raise UsageError(f"{run} has no {METRICS}: nothing was logged yet")
    lines = log_lines(path)
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise UsageError(f"{path}, line {number} is damaged") from error
        if not checkpoint.fits(record, RECORD_FORM) or record["wall_s"] < 0:
            raise UsageError(f"{path}, line {number} is not the log of an update")
        if records and not _follows(record, records[-1]):
            raise UsageError(f"{path}, line {number} does not follow the line before it")
        records.append(record)
    return records


def log_lines(path: Path) -> list[bytes]:
    """Read the lines of a log with their ends, up to one that is longer than any update's."""
    lines = [b""]
    try:
        with path.open("rb") as file:
            while len(lines[-1]) < LONGEST_LINE and (line := file.readline(LONGEST_LINE)):
                lines.append(line)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    return lines[1:]


def _follows(record: dict[str, Any], before: dict[str, Any]) -> bool:
    """Tell whether a record can be that of the next update."""
    later = all(record[name] >= before[name] for name in ("frames", "wall_s"))
    return later and record["update"] == before["update"] + 1
