"""The plan of a suite: games, seeds and variants of settings, from a TOML file or from options.

games = ["pong", "breakout"]    # or a set: "atari5", "classic7", "atari26", "atari57"
seeds = "1-3"                   # or a number of seeds, or a list
preset = "fast"
budget = "15m"                  # or total_timesteps in [settings]
until = 18                      # stop a run at this mean score of its last 20 games

[settings]                      # of every run
num_envs = 8

[variants.base]                 # what is compared; without variants there is one
[variants.higher_rate]
learning_rate = 2e-3
"""

import difflib
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ..build import Brought
from ..config import Config, checked_in_file
from ..errors import UsageError
from ..session.directory import file_name
from ..session.files import read_toml
from ..tools.budget import MOST_STEPS, seconds
from ..tools.callbacks import Until
from ..tools.stats import published_scores
from .seeds import seeds_from

KEYS = ("games", "seeds", "preset", "budget", "until", "settings", "variants")
LONGEST = 40
NAME = re.compile(rf"(?=.{{1,{LONGEST}}}$)[A-Za-z0-9][A-Za-z0-9.-]*(_[A-Za-z0-9.-]+)*")
GAME_SETS = {
    # The five games that best predict the median over all games: Aitchison et al. 2023, table 2.
    "atari5": "battle_zone double_dunk name_this_game phoenix qbert",
    # openai/baselines, benchmarks_atari10M.htm.
    "classic7": "beam_rider breakout enduro pong qbert seaquest space_invaders",
    # Kaiser et al. 2020, "Atari 100k".
    "atari26": "alien amidar assault asterix bank_heist battle_zone boxing breakout "
    "chopper_command crazy_climber demon_attack freeway frostbite gopher hero jamesbond kangaroo "
    "krull kung_fu_master ms_pacman pong private_eye qbert road_runner seaquest up_n_down",
}
"""Sets of games by name; `atari57` has the games with a human score."""

MakeConfig = Callable[[str | None, str | None, dict[str, Any]], Config]
"""make_config(preset, game, changes) -> settings; preset and game are None if not given."""


class Arm(NamedTuple):
    """A variant of the settings in one game; `variant` is empty if the plan has none."""

    variant: str
    config: Config


class Plan(NamedTuple):
    """The arms by name, and the seeds of each.

    budget: the time of each run, as `15m`, or None.  until: the score at which a run stops, see
    `Until`, or None.
    """

    arms: dict[str, Arm]
    seeds: list[int]
    budget: str | None
    until: float | None = None


def read_plan(path: str | Path) -> dict[str, Any]:
    """Return the values of a plan by key; UsageError, with the file's name, if it is not a plan."""
    values = read_toml(path)
    for key in values:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(
                f"{path}: a plan has no key {key!r}, only {', '.join(KEYS)}; settings belong in "
                f"[settings]{hint}"
            )
    for key in ("settings", "variants"):
        if not isinstance(values.get(key, {}), dict):
            raise UsageError(f"{path}: {key} has to be a table, [{key}]")
    return values


def make_plan(values: dict[str, Any], make_config: MakeConfig) -> Plan:
    """Return the plan that the values of KEYS describe; with `seed` a number of seeds begins.

    UsageError for a value that is wrong, an empty list or a duplicate.
    """
    budget, preset = values.get("budget"), values.get("preset")
    for key in ("budget", "preset"):
        if values.get(key, "none") == "" or not isinstance(values.get(key), str | None):
            raise UsageError(f"{key} has to be a text, not {values[key]!r}")
    if budget is not None:
        seconds(budget)
    until = values.get("until")
    if until is not None and type(until) not in (int, float):
        raise UsageError(f"until has to be a score, not {until!r}")
    variants = values.get("variants") or {"": {}}
    if values.get("variants") and "" in variants:
        raise UsageError("a variant needs a name: [variants.NAME]")
    _require_different_names(list(variants))
    arms = dict[str, Arm]()
    for variant, own in variants.items():
        if not isinstance(own, dict):
            raise UsageError(f"variant {variant} has to be a table, [variants.{variant}]")
        if variant and not NAME.fullmatch(variant):
            raise UsageError(
                f"variant {variant[:80]!r}: a name has at most {LONGEST} letters, digits, dots, "
                "dashes and single underscores"
            )
        changes = _settings({**values.get("settings", {}), **own}, variant)
        wanted = changes.pop("preset", preset)
        for name in {"seed", "game"} & changes.keys():
            raise UsageError(f"a plan names {name}s by `{name}s`, not by a setting")
        if budget is not None and "total_timesteps" in changes:
            raise UsageError("budget and total_timesteps exclude each other; use one of them")
        if budget is not None:
            changes["total_timesteps"] = MOST_STEPS
        for game in games_of(values.get("games"), changes):
            config = make_config(wanted, game, changes)
            name = "__".join(filter(None, (variant, file_name(config.game))))
            if name in arms:
                raise UsageError(f"the plan has {config.game} twice")
            arms[name] = Arm(variant, config)
    _require_different(arms)
    first = values.get("seed", next(iter(arms.values())).config.seed)
    if until is not None:
        for arm in arms.values():
            Until(until).check(arm.config, Brought())
    return Plan(arms, seeds_from(values.get("seeds", 3), first), budget, until)


def _require_different_names(variants: list[str]) -> None:
    """Raise UsageError if two names are the same directory on a disk that ignores case."""
    for name, again in itertools.combinations(variants, 2):
        if name.lower() == again.lower():
            raise UsageError(f"variants {name} and {again} have the same name")


def _settings(values: dict[str, Any], variant: str) -> dict[str, Any]:
    """Return checked settings by name; UsageError names the variant that has a wrong one."""
    try:
        return checked_in_file(values)
    except UsageError as error:
        raise UsageError(f"{f'variant {variant}' if variant else 'settings'}: {error}") from error


def games_of(games: Any, changes: dict[str, Any]) -> list[str | None]:
    """Return the games of a list or of a text with commas, which may name sets; None for `env`."""
    if changes.get("env"):
        if games is not None:
            raise UsageError("games and env exclude each other; an environment of your own is one")
        return [None]
    if isinstance(games, str):
        games = games.split(",")
    if not isinstance(games, list) or not games or not all(isinstance(g, str) for g in games):
        raise UsageError('games has to be a list such as ["pong", "breakout"], or a set: atari5')
    found = list[str | None]()
    for name in map(str.strip, games):
        found += _set_of(name) or [name]
    if not all(found):
        raise UsageError("games has an empty name")
    return found


def _set_of(name: str) -> list[str]:
    """Return the games of a set; none if there is no such set."""
    if name == "atari57":
        return [game for game, scores in published_scores().items() if "human" in scores]
    return GAME_SETS.get(name, "").split()


def _require_different(arms: dict[str, Arm]) -> None:
    """Raise UsageError if two arms have the same settings."""
    seen = dict[Config, str]()
    for name, arm in arms.items():
        if arm.config in seen:
            raise UsageError(f"{seen[arm.config]} and {name} have the same settings")
        seen[arm.config] = name
