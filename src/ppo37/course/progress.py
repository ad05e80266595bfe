"""The exercises that are done, in a file of the user."""

import json
from pathlib import Path

from ..machine import user_folder
from ..session.files import real_path, write_atomically


def path() -> Path:
    """Return `ppo37/course.json` in the folder for the state of programs."""
    return real_path(user_folder("XDG_STATE_HOME", ".local/state") / "ppo37" / "course.json")


def done() -> set[str]:
    """Return the names of the exercises that are done; none if the file cannot be read."""
    try:
        return _read()
    except (OSError, RuntimeError, ValueError):  # RuntimeError: no home directory
        return set()


def mark(name: str) -> str:
    """Note that an exercise is done. Returns why that is not possible; empty if it was."""
    try:
        file = path()
        names = _read()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, (json.dumps({"done": sorted({*names, name})}) + "\n").encode())
    except ValueError:
        return f"{file} is damaged, so it was not changed; move it away"
    except (OSError, RuntimeError) as error:
        return f"it could not be noted as done: {getattr(error, 'strerror', None) or error}"
    return ""


def _read() -> set[str]:
    """Read the file; ValueError if it is damaged."""
    file = path()
    if not file.exists():
        return set()
    found = json.loads(file.read_text())
    if not isinstance(found, dict) or not isinstance(found.get("done"), list):
        raise ValueError(found)
    return {name for name in found["done"] if isinstance(name, str)}
