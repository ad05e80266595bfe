"""Objects that texts of the command line name."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import UsageError


def brought_object(text: str) -> Any:
    """Import the object that `module:Class` names; the working directory is looked at last."""
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        raise UsageError(f"{text!r} is not module:Class")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"cannot import {text}: {error}") from error
