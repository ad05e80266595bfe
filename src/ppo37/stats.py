"""Statistics of scores, and the published ones to compare with."""

import csv
from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from .envs.games import score_key

RESAMPLES = 10_000


def interval_of_mean(scores: list[float], level: float = 0.95) -> tuple[float, float]:
    """Bootstrap percentile interval of the mean; resampling is seeded, so it repeats."""
    values = np.asarray(scores, dtype=float)
    picks = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    means = values[picks].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Mean of the last `window` values (fewer at the start), the same length."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


@lru_cache(maxsize=1)
def published_scores() -> dict[str, dict[str, float]]:
    """Reference scores by game and column; see data/README.md for what each column is."""
    text = resources.files("ppo37").joinpath("data/scores.csv").read_text()
    table = {}
    for row in csv.DictReader(text.splitlines()):
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
