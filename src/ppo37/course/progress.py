"""The exercises that are done, in a file of the user."""

import json
import os
from contextlib import suppress
from pathlib import Path

from ..session.files import write_atomically


def path() -> Path:
    """Return `ppo37/course.json` in the folder for the state of programs."""
    folder = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not folder.is_absolute():  # as its specification asks
        folder = Path.home() / ".local" / "state"
    return folder / "ppo37" / "course.json"


def done() -> set[str]:
    """Return the names of the exercises that are done; none if the file cannot be read."""
    with suppress(OSError, RuntimeError, ValueError):
        found = json.loads(path().read_text())
        if isinstance(found, dict) and isinstance(found.get("done"), list):
            return {name for name in found["done"] if isinstance(name, str)}
    return set()


def mark(name: str) -> None:
    """Note that an exercise is done; a file that cannot be written is no failure."""
    with suppress(OSError, RuntimeError):  # RuntimeError: no home directory
        path().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path(), (json.dumps({"done": sorted({*done(), name})}) + "\n").encode())
