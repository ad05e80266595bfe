"""The scale on which games are averaged: normalized scores if each game has two anchors."""

import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..config import Config
from ..errors import UsageError
from ..session.files import read_toml
from ..tools.stats import published_scores
from .compare_inputs import Entry, runs_of

HUMAN, ANCHORED, RAW = "human-normalized score", "normalized score", "raw score"

Anchors = dict[str, tuple[float, float]]
"""The two scores of each game, by its key, that are 0 and 1 when normalized."""


class Scale(NamedTuple):
    """The scores that are averaged, the anchors of games, and the games that have none."""

    name: str
    anchors: Anchors
    missing: list[str]

    def normalized(self, game: str, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (scores - low) / (high - low); scores as they are on the raw scale."""
        if self.name == RAW:
            return scores
        low, high = self.anchors[game]
        return (scores - low) / (high - low)


def scale_of(entries: Sequence[Entry], games: Sequence[str], given: Anchors) -> Scale:
    """Return the scale of all games: raw scores if one of them has no anchors.

    A single game is raw unless its anchors are given: its own unit is the clearest.
    """
    configs = {game: [run.config for run in runs_of(entries, game)] for game in games}
    if len(games) > 1:
        given = {**own_anchors(), **given}
    named = {game: _given(game, configs[game], given) for game in games}
    known = {game: anchors_of(game, configs[game], given) for game in games}
    found = {game: anchors for game, anchors in known.items() if anchors is not None}
    missing = [game for game in games if game not in found]
    if missing or (len(games) == 1 and not any(named.values())):
        return Scale(RAW, found, missing)
    return Scale(ANCHORED if any(named.values()) else HUMAN, found, [])


SMALLEST_SCALE = 1e-9


@cache
def own_anchors() -> Anchors:
    """Read the anchors of the package, for environments without published scores."""
    with as_file(files("ppo37") / "data" / "anchors.toml") as path:
        return read_anchors(path)


def read_anchors(path: str | Path) -> Anchors:
    """Read a TOML file with `low` and `high` for each environment; UsageError if it is wrong."""
    return {game: _anchor(path, game, values) for game, values in read_toml(path).items()}


def _anchor(path: str | Path, game: str, values: Any) -> tuple[float, float]:
    """Return the two scores of a game; UsageError if they are not two numbers, low and high."""
    wanted = f"{path}: [{game}] must have two numbers, low and high, with low below high"
    if not isinstance(values, dict) or set(values) != {"low", "high"}:
        raise UsageError(wanted)
    for value in values.values():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UsageError(wanted)
    try:
        low, high = float(values["low"]), float(values["high"])
    except OverflowError as error:  # a whole number of hundreds of digits
        raise UsageError(wanted) from error
    if not (math.isfinite(high - low) and high - low >= SMALLEST_SCALE):
        raise UsageError(wanted)
    return low, high


def anchors_of(game: str, configs: Sequence[Config], given: Anchors) -> tuple[float, float] | None:
    """Return the anchors of a game: the given ones, or random play and the human in Atari.

    game: its key.  configs: those of its runs.
    """
    found = _given(game, configs, given)
    known = published_scores().get(game, {})
    if found or not {"random", "human"} <= known.keys():
        return found
    return (known["random"], known["human"]) if all(c.is_atari for c in configs) else None


def _given(game: str, configs: Sequence[Config], given: Anchors) -> tuple[float, float] | None:
    """Return the given anchors of a game, by its key or the name that its runs have."""
    names = (game, *(config.game for config in configs))
    return next((given[name] for name in names if name in given), None)
