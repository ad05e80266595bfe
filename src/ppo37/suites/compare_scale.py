"""The scale on which games are averaged: normalized scores, where two anchors are known."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..session.files import read_toml
from ..tools.stats import published_scores
from .compare_inputs import Entry, runs_of

HUMAN, ANCHORED, RAW = "human-normalized score", "normalized score", "raw score"
LARGEST_BYTES = 1 << 20

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
    """Return the scale of all games: raw if one has no anchors.

    A single game is raw unless its anchors are given: its own unit is the clearest.
    """
    named = {game: _given(entries, game, given) for game in games}
    known = {game: named[game] or _human(entries, game) for game in games}
    found = {game: anchors for game, anchors in known.items() if anchors is not None}
    missing = [game for game in games if game not in found]
    if missing or (len(games) == 1 and not any(named.values())):
        return Scale(RAW, found, missing)
    return Scale(ANCHORED if any(named.values()) else HUMAN, found, [])


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
    low, high = float(values["low"]), float(values["high"])
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(wanted)
    return low, high


def _given(entries: Sequence[Entry], game: str, given: Anchors) -> tuple[float, float] | None:
    """Return the given anchors of a game, by its key or the name that its runs have."""
    names = (game, *(run.config.game for run in runs_of(entries, game)))
    return next((given[name] for name in names if name in given), None)


def _human(entries: Sequence[Entry], game: str) -> tuple[float, float] | None:
    """Return the scores of random play and the human in an Atari game."""
    known = published_scores().get(game, {})
    atari = all(run.config.is_atari for run in runs_of(entries, game))
    if not atari or not {"random", "human"} <= set(known):
        return None
    return known["random"], known["human"]
