"""Settings in a TOML file: read for `--config`, and written by `ppo37 config`.

Names and values are those of `Config`; None is written as "none", as on the command line.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from ..config import Config, checked_in_file
from ..errors import UsageError
from ..session.files import read_toml


def read_settings(path: str | Path) -> dict[str, Any]:
    """Return the settings in a file, by name; UsageError, with the file's name, if one is wrong."""
    values = read_toml(path)
    for name, value in values.items():
        if isinstance(value, dict):
            raise UsageError(f"{path}: [{name}] is a table; a file of settings has no tables")
    try:
        return checked_in_file(values)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def to_toml(config: Config, title: str) -> str:
    """Return all settings as TOML that `read_settings` reads.  title: a comment for the top."""
    lines = [f"# {json.dumps(title)[1:-1]}"]
    lines += [f"{name} = {_toml(value)}" for name, value in dataclasses.asdict(config).items()]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    """Return a value of a setting as TOML."""
    match value:
        case None:
            return '"none"'
        case str():  # the escapes of JSON are those of TOML, except for one character
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case bool():
            return str(value).lower()
        case list() | tuple():
            return f"[{', '.join(map(_toml, value))}]"
    return repr(value)
