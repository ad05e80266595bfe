"""Writing files so that a crash leaves the old one or the new one, never half of one."""

import json
import os
import shutil
from pathlib import Path
from typing import Any


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
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
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write_synced(temporary, content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def to_json(value: Any) -> bytes:
    """Readable JSON, the same bytes for the same value."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


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
