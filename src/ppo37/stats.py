"""Statistics of scores, and the published ones to compare with."""

import csv
import math
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .envs.games import score_key

RESAMPLES = 10_000
REACHED_COLUMNS = ("game", "preset", "agent_steps", "score", "runs", "total_timesteps")


class Reached(NamedTuple):
    """The mean score that so many runs of `total_timesteps` had after `agent_steps`."""

    agent_steps: int
    score: float
    runs: int
    total_timesteps: int


def interval_of_mean(scores: list[float], level: float = 0.95) -> tuple[float, float]:
    """Bootstrap percentile interval of the mean; resampling is seeded, so it repeats."""
    values = np.asarray(scores, dtype=float)
    picks = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    means = values[picks].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def t_interval_of_mean(values: list[float], level: float = 0.95) -> tuple[float, float]:
    """Student's t-interval of the mean of two values or more, which are taken to be normal.

    For a handful of values, where resampling them is known to give intervals that are too narrow.
    """
    assert len(values) > 1, "one value says nothing of the spread"
    half = t_bound(len(values) - 1, level) * np.std(values, ddof=1) / math.sqrt(len(values))
    mean = np.mean(values)
    return float(mean - half), float(mean + half)


def t_bound(freedom: int, level: float = 0.95) -> float:
    """The t that Student's |t| with `freedom` degrees stays below with probability `level`."""
    low, high = 0.0, math.pi / 2  # of the angle, in which everything is bounded
    for _ in range(100):
        angle = (low + high) / 2
        low, high = (angle, high) if _t_probability(angle, freedom) < level else (low, angle)
    return math.sqrt(freedom) * math.tan(low)


def _t_probability(angle: float, freedom: int) -> float:
    """P(|t| < sqrt(freedom) tan(angle)): Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = 0.0
    for power in range(odd, freedom - 1, 2):  # of the cosine in `term`
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


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


def reference(game: str) -> dict[str, float]:
    """The published scores of one game; empty if there are none."""
    return published_scores().get(score_key(game), {})


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
        Reached(int(row["agent_steps"]), float(row["score"]), int(row["runs"]),
                int(row["total_timesteps"]))
        for row in _rows("reached.csv")
        if (row["game"], row["preset"]) == (game, preset)
    ]  # fmt: skip


def _rows(name: str) -> Iterator[dict[str, str]]:
    """The rows of a table that comes with the package."""
    yield from csv.DictReader(
        resources.files("ppo37").joinpath(f"data/{name}").read_text().splitlines()
    )
