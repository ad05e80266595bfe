"""Shared parts of the commands: settings and callbacks from options, and messages."""

import dataclasses
import json
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..config import Config, implied_by
from ..errors import UsageError
from .brought import brought_object, environments, with_real_paths

if TYPE_CHECKING:
    from ..session.observer import Observer


def config_of(options: Namespace, game: str | None = None, preset: str = "auto") -> Config:
    """Return the configuration that GAME or --env, --config, --preset and the settings define.

    game, preset: used where none is given.
    """
    from .settings_file import read_settings

    typed = settings_of(options)
    if options.game is not None and "env" in typed:
        raise UsageError("give either GAME or --env: pong, CartPole-v1, --env module:Class, ...")
    in_file = read_settings(options.config) if options.config else {}
    if options.game is not None or "env" in typed:
        in_file = {name: v for name, v in in_file.items() if name not in ("game", "env")}
    preset_in_file, game_in_file = in_file.pop("preset", preset), in_file.pop("game", game)
    preset = options.preset or preset_in_file
    game = options.game or (None if "env" in typed else game_in_file)
    return config_from(preset, game, {**in_file, **implied_by(typed)}, options)


def config_from(
    preset: str,
    game: str | None,
    changes: dict[str, Any],
    options: Namespace,
    note: Callable[[str], None] | None = None,
) -> Config:
    """Return the configuration of a preset with changes.

    note: gets the line that says which preset `auto` is; by default it is logged.
    """
    from ..envs.games import is_built_in
    from ..presets import from_preset

    changes = with_real_paths(changes)
    if game is None and changes.get("env") is None:
        raise UsageError("give GAME or --env: pong, CartPole-v1, --env module:Class, ...")
    own = changes.get("env") or (None if game is None or is_built_in(game) else game)
    source = None if own is None else environments({**changes, "env": own}, options)
    config = from_preset(preset, game, make_envs=source, **changes)
    if preset == "auto" and config.env is not None:
        (note or log)(f"auto is the preset {config.preset} for {_kind(config)}")
    return config


def _kind(config: Config) -> str:
    """Describe the observations and actions by which `auto` chooses."""
    if config.observation == "pixels":
        return "images"
    numbers = "real numbers" if config.action_space == "continuous" else "choices"
    return f"vectors and {numbers} as actions"


def settings_of(options: Namespace) -> dict[str, Any]:
    """Return the settings that were given as options, by name."""
    names = {field.name for field in dataclasses.fields(Config)} - {"game", "preset"}
    return {name: value for name, value in vars(options).items() if name in names}


def options_around(options: Namespace) -> dict[str, Any]:
    """Return the arguments of `train` and `resume` that never change the result."""
    from ..session.checkpoint import KEPT
    from ..session.view import ConsoleView

    for name in ("checkpoint-every", "keep", "eval-every", "eval-episodes", "record-every"):
        require_positive(name, getattr(options, name.replace("-", "_")))
    return {
        "checkpoint_every": options.checkpoint_every,
        "view": ConsoleView(),
        "callbacks": _callbacks(options),
        "keep": options.keep or KEPT,
    }


def _callbacks(options: Namespace) -> list["Observer"]:
    """Make the callbacks that the options ask for."""
    from ..tools import callbacks

    made: list[Observer] = []
    max_time = [] if options.max_time is None else [callbacks.MaxTime(options.max_time)]
    if options.eval_every is not None:
        kind = callbacks.KeepBest if options.keep_best else callbacks.EvaluateEvery
        made.append(kind(options.eval_every, options.eval_episodes or callbacks.EPISODES))
    elif options.keep_best or options.eval_episodes is not None:
        name = "keep-best" if options.keep_best else "eval-episodes"
        raise UsageError(f"--{name} needs evaluations; add --eval-every STEPS")
    if options.record_every is not None:
        made.append(callbacks.RecordEvery(options.record_every))
    if options.until is not None:
        made.append(callbacks.Until(options.until))
    # The time limit is the last, so that it counts the time of the others.
    return [*made, *(_logger(text) for text in options.loggers), *max_time]


def _logger(text: str) -> "Observer":
    """Make the observer that --logger names."""
    from ..session.observer import Observer

    found = brought_object(text)
    if not (isinstance(found, type) and issubclass(found, Observer)):
        raise UsageError(f"--logger {text} is not a class of ppo37.Observer")
    try:
        return found()
    except TypeError as error:
        raise UsageError(f"--logger {text} cannot be made without arguments: {error}") from error


def require_positive(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise UsageError(f"--{name} must be at least 1, not {value}")


def log(text: str) -> None:
    """Print a line on stderr."""
    with suppress(OSError):  # nobody reads stderr any more
        print(f"ppo37: {text}", file=sys.stderr)


def print_result(options: Namespace, document: dict[str, Any], text: str) -> None:
    """Print `document` with --json, otherwise `text`."""
    print(json.dumps(document) if options.json else text)
