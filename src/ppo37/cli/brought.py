"""The user's own classes, named by texts on the command line, which alone may name modules.

A file of a run, or a file of settings, may have such a text, too. What it names is imported only if
the same text is on the command line, so that a run from a stranger cannot execute anything.
"""

import shlex
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import ENV_SETTINGS, Config, brought_flags
from ..errors import UsageError

if TYPE_CHECKING:
    from ..build import Brought
    from ..envs import EnvFactory

OPTIONS = ("env", "imports", "wrappers", "network")
"""The settings whose values may name modules."""


def typed_texts(options: Namespace) -> set[str]:
    """Return the texts on the command line that may be imported, with the real paths of files."""
    found: list[str] = list(getattr(options, "allow", None) or [])
    for name in ("game", "env", "network"):
        value = getattr(options, name, None)
        found += [value] if isinstance(value, str) else []
    for name in ("imports", "wrappers", "loggers"):
        found += getattr(options, name, None) or []
    return {absolute(text) for text in found}


def absolute(text: str) -> str:
    """Return `file.py:Class` with the real path of the file, and any other text unchanged."""
    name, brace, arguments = text.partition(" {")  # a wrapper may have arguments
    file, colon, path = (name, "", "") if name.endswith(".py") else name.rpartition(":")
    if not file.endswith(".py"):
        return text
    return f"{Path(file).expanduser().resolve()}{colon}{path}{brace}{arguments}"


def brought(config: Config, options: Namespace) -> "Brought":
    """Import what a configuration names, if the same text is on the command line.

    UsageError with the options to repeat otherwise.
    """
    from ..build import Brought
    from ..envs.source import EnvSource, is_plain_id, may_import

    texts = [config.env or "", *config.imports, *config.wrappers, config.network]
    named = [text for text in texts if not is_plain_id(text) or text in config.imports]
    typed = typed_texts(options)
    missing = [text for text in named if absolute(text) not in typed]
    repeat = [flag for flag in brought_flags(config) if flag.partition("=")[2] in missing]
    given = config.env in typed or getattr(options, "env_kwargs", None) is not None
    if config.env and is_plain_id(config.env) and not given and may_import(config.env_kwargs):
        missing.append(f"{config.env} {config.env_kwargs}")
        repeat.append(f"--env={config.env}")
    if missing:
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


def environments(settings: dict[str, Any], options: Namespace) -> "EnvFactory | None":
    """Return the factory of the user's own environments that settings name; see `brought`."""
    parts = {name: value for name, value in settings.items() if name in ("env", *ENV_SETTINGS)}
    return brought(Config(**parts), options).make_envs


def with_real_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with the real paths of the files that they name."""
    found = dict(settings)
    for name in OPTIONS:
        match found.get(name):
            case str() as text:
                found[name] = absolute(text)
            case tuple() | list() as texts:
                found[name] = tuple(map(absolute, texts))
    return found


def brought_object(text: str) -> Any:
    """Return the object that a text on the command line names."""
    from ..envs.loading import load_object

    add_working_directory()
    return load_object(text)


def add_working_directory() -> None:
    """Find the user's modules in the working directory, too, after all that is installed."""
    from ..envs.loading import find_in

    find_in(Path.cwd())
