"""Objects that a text names: `module:name`, or `file.py:name`; and the hash of their source.

Importing a module executes it. So these functions may get only texts that the user has typed, never
those that a file of a run contains.
"""

import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from ..errors import UsageError

IMPORTLIB = ("<frozen importlib", importlib.__file__)
"""How the names of the files begin that implement `import` in Python."""


class _WorkingDirectory:
    """A finder of modules in a folder, for texts that the user typed and for modules in the folder.

    With `sys.path`, all libraries would find them, too. Some libraries try to import modules that
    are not installed, and any file of that name would be executed.
    """

    folder: Path | None = None

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: Any = None
    ) -> ModuleSpec | None:
        """Find a module that is not installed; see `importlib.abc.MetaPathFinder`."""
        if path is not None or self.folder is None or not self._is_for_the_user(self.folder):
            return None
        return PathFinder.find_spec(name, [str(self.folder)], target)

    @staticmethod
    def _is_for_the_user(folder: Path) -> bool:
        """Return whether the import statement is in this module, or in a file of the folder.

        Libraries that are installed in the folder, as in a virtual environment, do not count.
        """
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and frame.f_code.co_filename.startswith(IMPORTLIB):
            frame = frame.f_back
        if frame is None or frame.f_globals is globals():
            return frame is not None
        parents = Path(frame.f_code.co_filename).parents
        installed = [path for path in map(Path, sys.path) if folder in path.parents]
        return folder in parents and not any(path in parents for path in installed)


_WORKING_DIRECTORY = _WorkingDirectory()


def find_in(folder: Path) -> None:
    """Find the user's modules in a folder, too, after all that is installed."""
    _WORKING_DIRECTORY.folder = folder
    if _WORKING_DIRECTORY not in sys.meta_path:
        sys.meta_path.append(_WORKING_DIRECTORY)
    importlib.invalidate_caches()


def working_directory() -> Path | None:
    """Return the folder of `find_in`; None if there is none."""
    return _WORKING_DIRECTORY.folder


def load_module(name: str) -> ModuleType:
    """Import a module by its name, or a file by its path; UsageError if that fails."""
    if name.endswith(".py"):
        return _load_file(Path(name).expanduser().resolve())
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise UsageError(f"cannot import {name}: {type(error).__name__}: {error}") from error


def load_object(text: str) -> Any:
    """Return the object `module:name` or `file.py:name`; UsageError if it does not exist."""
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

    Lists become tuples, because shapes have to be tuples.
    """
    name, _, arguments = text.strip().partition(" ")
    try:
        found = json.loads(arguments or "{}")
    except ValueError as error:
        raise UsageError(f"the arguments of {name} are not JSON ({error}): {arguments}") from error
    if not isinstance(found, dict):
        raise UsageError(
            f'the arguments of {name} must be an object, as {{"stack_size": 4}}, not {arguments}'
        )
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
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception | SystemExit):
            raise
        raise UsageError(f"cannot execute {path}: {type(error).__name__}: {error}") from error
    return module
