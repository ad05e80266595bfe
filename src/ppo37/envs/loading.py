"""Objects that a text names: `module:name`, or `file.py:name`; and the hash of their source.

Importing a module executes it. So only texts that the user has typed may come here, never those
that a file of a run contains.
"""

import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import UsageError


def load_module(name: str) -> ModuleType:
    """Import a module by its name, or a file by its path; UsageError if that fails."""
    if name.endswith(".py"):
        return _load_file(Path(name).expanduser().resolve())
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise UsageError(f"cannot import {name}: {type(error).__name__}: {error}") from error


def load_object(text: str) -> Any:
    """Return what `module:name` or `file.py:name` names; UsageError if there is no such thing."""
    module_name, _, path = text.rpartition(":")
    if not module_name or not path:
        raise UsageError(f"{text!r} must be module:name or file.py:name")
    found: Any = load_module(module_name)
    for name in path.split("."):
        if not hasattr(found, name):
            raise UsageError(f"{module_name} has no {path}")
        found = getattr(found, name)
    return found


def name_and_arguments(text: str) -> tuple[str, dict[str, Any]]:
    """Split `module:Class {"argument": value}`; UsageError if the arguments are not JSON.

    Lists become tuples, because a shape has to be one.
    """
    name, _, arguments = text.strip().partition(" ")
    try:
        found = json.loads(arguments or "{}")
    except ValueError as error:
        raise UsageError(f"the arguments of {name} are not JSON ({error}): {arguments}") from error
    if not isinstance(found, dict):
        raise UsageError(f'the arguments of {name} must be as {{"stack_size": 4}}, not {arguments}')
    return name, {key: tuple(v) if isinstance(v, list) else v for key, v in found.items()}


def source_hash(thing: Any) -> str | None:
    """Return the SHA-256 of the file that defines an object; None if it has no file."""
    try:
        path = inspect.getsourcefile(thing if inspect.ismodule(thing) else inspect.unwrap(thing))
        return None if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except (TypeError, OSError):
        return None


def _load_file(path: Path) -> ModuleType:
    """Execute a Python file once in this process, as a module."""
    name = f"ppo37_file_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pickle looks for it there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"cannot execute {path}: {type(error).__name__}: {error}") from error
    return module
