"""Paths that people name, and files that a crash leaves as the old or the new one, never half."""

import errno
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from ..errors import UsageError

TEMPORARY = ".ppo37-*.tmp"
"""What is being written, or was when a process was killed."""


def real_path(path: str | Path) -> Path:
    """Make a path absolute, without `~`, `..` and links: first thing with every path of a user.

    UsageError for a name that no file can have.
    """
    try:
        str(path).encode()
        found = Path(os.path.realpath(Path(path).expanduser()))
    except OSError as error:
        raise UsageError(f"cannot find the working directory: {error.strerror}") from error
    except UnicodeEncodeError as error:  # Python may, TensorBoard cannot
        raise UsageError(f"{str(path)!r} is not UTF-8, as names of files have to be") from error
    except (RuntimeError, ValueError) as error:  # no such user for `~`; a zero byte
        raise UsageError(f"{str(path)!r} cannot be the name of a file: {error}") from error
    try:
        found.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UsageError(f"{path}: {error.strerror}; choose a shorter one") from error
    return found


def shown(path: Path) -> str:
    """Write a path for people: from the working directory, if it lies in it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def own_file(folder: Path, name: str) -> Path:
    """Give the path of a file in a run directory or study, which is there or will be.

    UsageError if a link leads elsewhere, so that nothing outside is written, or if something else
    is there.  folder: as `real_path` gives it.
    """
    path = _own(folder, name)
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a file; move it away")
    return path


def own_folder(folder: Path, name: str) -> Path:
    """Give the path of a folder in a run directory or study, as `own_file` does."""
    path = _own(folder, name)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is not a folder; move it away")
    return path


def _own(folder: Path, name: str) -> Path:
    path = folder / name
    if path.is_symlink() or Path(os.path.realpath(path)) != path:
        raise UsageError(f"{path} is a link, and a run keeps its own files; remove the link")
    return path


def beside(path: Path) -> Path:
    """Make up a name in the same folder for what will take the place of `path` when it is whole."""
    return path.with_name(TEMPORARY.replace("*", secrets.token_hex(8)))


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file as one step."""
    temporary = beside(path)
    try:
        write_synced(temporary, content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def to_json(value: Any) -> bytes:
    """Readable JSON, the same bytes for the same value; ValueError for nan and infinity."""
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def space_missing(directory: Path, needed_bytes: int) -> str | None:
    """What to tell people if the disk of `directory` has no room for `needed_bytes`."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free >= needed_bytes:
        return None
    return (
        f"no space left: the disk of {directory} has {free / 1e6:.0f} MB free, and "
        f"{needed_bytes / 1e6:.0f} MB are needed"
    )
