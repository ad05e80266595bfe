"""What a user brings, as texts on the command line: only they may name modules to import.

A file of a run, or a file of settings, may hold such a text too. It is imported only if the same
text stands on the command line, so that a run from a stranger cannot execute anything.
"""

import shlex
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import ENV_SETTINGS, Config, flags
from ..errors import UsageError

if TYPE_CHECKING:
    from ..build import Brought
    from ..envs import EnvFactory
    from ..envs.source import EnvSource

OPTIONS = ("env", "imports", "wrappers", "network")
"""The settings whose values may name modules."""


def typed_texts(options: Namespace) -> set[str]:
    """Return the texts on the command line that may be imported, files as their real paths."""
    found: list[str] = list(getattr(options, "allow", None) or [])
    for name in ("game", "env", "network"):
        value = getattr(options, name, None)
        found += [value] if isinstance(value, str) else []
    for name in ("imports", "wrappers", "loggers"):
        found += getattr(options, name, None) or []
    return {absolute(text) for text in found}


def absolute(text: str) -> str:
    """Return `file.py:Class` with the real path of the file, and any other text unchanged."""
    file, colon, rest = text.partition(".py")
    if not colon or (rest and not rest.startswith(":")):
        return text
    return f"{Path(file + colon).expanduser().resolve()}{rest}"


def brought(config: Config, options: Namespace) -> "Brought":
    """Import what a configuration names, if the same text stands on the command line.

    UsageError with the options to repeat otherwise.
    """
    from ..build import Brought
    from ..envs.source import EnvSource, is_plain_id

    texts = [config.env or "", *config.imports, *config.wrappers, config.network]
    named = [text for text in texts if not is_plain_id(text) or text in config.imports]
    typed = typed_texts(options)
    missing = [text for text in named if absolute(text) not in typed]
    if missing:
        values = {name: getattr(config, name) for name in OPTIONS}
        repeat = [flag for flag in flags(values) if flag.partition("=")[2] in missing]
        raise UsageError(
            f"this run imports {', '.join(missing)}, which only you may name: repeat "
            f"{shlex.join(repeat)} on the command line"
        )
    if named:
        add_working_directory()
    make_envs = None
    if config.env is not None:
        make_envs = EnvSource(
            config.env, config.env_kwargs, config.wrappers, config.imports, config.channels
        )
    network = brought_object(config.network) if ":" in config.network else None
    return Brought(make_envs, network)


def source_typed(options: Namespace) -> "EnvSource | None":
    """Return the environments that the command line names; None for games that are built in."""
    from ..envs.games import is_built_in
    from ..envs.source import EnvSource, is_plain_id

    env: str = getattr(options, "env", None) or options.game
    imports, wrappers = (tuple(getattr(options, name, ())) for name in ("imports", "wrappers"))
    if getattr(options, "env", None) is None and is_built_in(env):
        return None
    if not is_plain_id(env) or imports or wrappers:
        add_working_directory()
    kwargs, channels = getattr(options, "env_kwargs", "{}"), getattr(options, "channels", "auto")
    return EnvSource(absolute(env), kwargs, wrappers, imports, channels)


def source_in_file(settings: dict[str, Any], options: Namespace) -> "EnvFactory | None":
    """Return the environments that settings from a file name; UsageError as in `brought`."""
    parts = {name: value for name, value in settings.items() if name in ("env", *ENV_SETTINGS)}
    return brought(Config(**parts), options).make_envs


def brought_object(text: str) -> Any:
    """Return the object that a text on the command line names."""
    from ..envs.loading import load_object

    add_working_directory()
    return load_object(text)


def add_working_directory() -> None:
    """Let modules be found in the working directory, after all that is installed."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
