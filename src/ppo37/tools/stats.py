"""Statistics of scores, and the published ones to compare with."""

import csv
import math
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..envs.games import score_key

RESAMPLES, FEWEST_TO_RESAMPLE = 10_000, 20
REACHED_COLUMNS = ("game", "preset", "agent_steps", "score", "runs", "total_timesteps")


class Reached(NamedTuple):
    """The mean score that so many runs of `total_timesteps` had after `agent_steps`."""

    agent_steps: int
    score: float
    runs: int
    total_timesteps: int


def interval_of_mean(values: list[float], level: float = 0.95) -> tuple[float, float] | None:
    """An interval of the mean of some values; None for one value, which says nothing of a spread.

    Of FEWEST_TO_RESAMPLE or more a bootstrap percentile interval; resampling is seeded, so it
    repeats. Of fewer, for which that is known to be too narrow, Student's t-interval, which takes
    them to be normal.
    """
    if len(values) < 2:
        return None
    if len(values) < FEWEST_TO_RESAMPLE:
        return t_interval_of_mean(values, level)
    scores = np.asarray(values, dtype=float)
    picks = np.random.default_rng(0).integers(len(scores), size=(RESAMPLES, len(scores)))
    means = scores[picks].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def t_interval_of_mean(values: list[float], level: float = 0.95) -> tuple[float, float]:
    """Student's t-interval of the mean of two values or more, which are taken to be normal."""
    from scipy import stats

    assert len(values) > 1, "one value says nothing of the spread"
    bound = float(stats.t.ppf((1 + level) / 2, len(values) - 1))
    half = bound * np.std(values, ddof=1) / math.sqrt(len(values))
    mean = np.mean(values)
    return float(mean - half), float(mean + half)


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Mean of the last `window` values (fewer at the start), the same length."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


@lru_cache(maxsize=1)
def published_scores() -> dict[str, dict[str, float]]:
    """Reference scores by game and column; see data/README.md for what each column is."""
    table = {}
    for row in _rows("scores.csv"):
        game = score_key(row.pop("game"))
        table[game] = {name: float(value) for name, value in row.items() if value}
    return table


def reference(game: str, protocol: str = "classic") -> dict[str, float]:
    """The published scores of one game that can be compared with; empty if there are none.

    The agents were trained without sticky actions, which the protocol `machado` has: with it only
    random play and the human are left.
    """
    found = published_scores().get(score_key(game), {})
    return {
        name: score
        for name, score in found.items()
        if protocol == "classic" or name in ("random", "human")
    }


def human_normalised(game: str, score: float) -> float | None:
    """(score - random) / (human - random); None where no reference is known."""
    known = reference(game)
    if not {"random", "human"} <= set(known):
        return None
    return (score - known["random"]) / (known["human"] - known["random"])


def reached(game: str, preset: str) -> list[Reached]:
    """What runs of this project had reached on their way; see data/README.md.

    preset: by its name in `config.PRESETS`.
    """
    return [
        Reached(
            int(row["agent_steps"]),
            float(row["score"]),
            int(row["runs"]),
            int(row["total_timesteps"]),
        )
        for row in _rows("reached.csv")
        if (row["game"], row["preset"]) == (game, preset)
    ]


def _rows(name: str) -> Iterator[dict[str, str]]:
    """The rows of a table that comes with the package."""
    yield from csv.DictReader(
        resources.files("ppo37").joinpath(f"data/{name}").read_text().splitlines()
    )
