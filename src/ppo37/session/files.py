"""Paths from users, and writes of files that a crash cannot leave incomplete."""

import errno
import json
import os
import secrets
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UsageError

TEMPORARY = ".ppo37-*.tmp"
"""Names of files that are being written, or were being written when a process was killed."""
LARGEST_TOML = 1 << 20
OTHER_OUT = "; choose another --out"
"""The advice in messages about an output that cannot be written."""


@contextmanager
def explained(what: str, advice: str = "", kind: type[Exception] = UsageError) -> Iterator[None]:
    """Raise an OSError of the block as an error of class `kind`: "{what}: {reason}{advice}"."""
    try:
        yield
    except OSError as error:
        raise kind(f"{what}: {error.strerror}{advice}") from error


def real_path(path: str | Path) -> Path:
    """Make a path absolute, without `~`, `..` and links. It is called for every path of a user.

    UsageError if no file can have this name.
    """
    try:
        str(path).encode()
        found = Path(os.path.realpath(Path(path).expanduser()))
    except OSError as error:
        raise UsageError(f"cannot find the working directory: {error.strerror}") from error
    except UnicodeEncodeError as error:  # Python could use it, TensorBoard could not
        raise UsageError(f"{str(path)!r} is not UTF-8; choose another name") from error
    except (RuntimeError, ValueError) as error:  # no such user for `~`; a zero byte
        raise UsageError(f"{str(path)!r} cannot be a path: {error}") from error
    try:
        found.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UsageError(f"{path}: {error.strerror}; choose a shorter one") from error
    return found


def shown(path: Path) -> str:
    """Return a path as it is printed: relative to the working directory if it is inside."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def one_line(text: str, letters: int = 200) -> str:
    """Return the beginning of a text as one line that can be printed."""
    line = " ".join(text.split())
    return "".join(letter for letter in line if letter.isprintable())[:letters]


def own_file(folder: Path, name: str) -> Path:
    """Return the path of a file in the directory of a run or of many runs; it need not exist.

    UsageError if it is a link, so that nothing outside is written, or not a file.
    folder: as `real_path` returns it.
    """
    path = _own(folder, name)
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a file; move it away")
    return path


def own_folder(folder: Path, name: str) -> Path:
    """Return the path of a folder in the directory of a run or of many runs, like `own_file`."""
    path = _own(folder, name)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is not a folder; move it away")
    return path


def _own(folder: Path, name: str) -> Path:
    path = folder / name
    if path.is_symlink() or Path(os.path.realpath(path)) != path:
        raise UsageError(f"{path} is a link, and a run does not follow links; remove it")
    return path


def beside(path: Path) -> Path:
    """Return a new temporary path in the folder of `path`, to be renamed to it when complete."""
    return path.with_name(TEMPORARY.replace("*", secrets.token_hex(8)))


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Wait until the file names of a directory are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file: after a crash it is the old one or the new one."""
    temporary = beside(path)
    try:
        write_synced(temporary, content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file of a user; UsageError, with its name, if it cannot be read."""
    file = real_path(path)
    with explained(f"cannot read {path}"):
        content = file.open("rb").read(LARGEST_TOML + 1)
    if len(content) > LARGEST_TOML:
        raise UsageError(f"{path} is larger than a file of settings can be")
    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error


def to_json(value: Any) -> bytes:
    """Encode a value as readable JSON, always as the same bytes; ValueError for nan and inf."""
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def space_missing(directory: Path, needed_bytes: int) -> str | None:
    """Return a message if the disk of `directory` has less than `needed_bytes` free, else None."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free >= needed_bytes:
        return None
    return (
        f"no space left: the disk of {directory} has {free / 1e6:.1f} MB free and "
        f"{needed_bytes / 1e6:.1f} MB are needed"
    )
