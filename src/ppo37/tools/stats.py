"""Statistics of scores, and published scores to compare with."""

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
NOT_TRAINED = ("random", "human")
"""The published columns that are no agents: they fit every protocol and have no agent steps."""
STICKY = "sticky actions"
PROTOCOLS = {"slm_lab_ppo": STICKY}
"""The protocols of published columns, where it is not `classic`."""
REACHED_COLUMNS = ("game", "preset", "agent_steps", "score", "runs", "total_timesteps")


class Reached(NamedTuple):
    """The mean score after `agent_steps` of a number of runs with this `total_timesteps`."""

    agent_steps: int
    score: float
    runs: int
    total_timesteps: int


def interval_of_mean(values: list[float], level: float = 0.95) -> tuple[float, float] | None:
    """Return a confidence interval of the mean; None for a single value.

    From FEWEST_TO_RESAMPLE values on, it is a bootstrap percentile interval with a fixed seed. For
    fewer values that is known to be too narrow: Student's t-interval, which assumes that they are
    normally distributed.
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
    """Return Student's t-interval of the mean of two or more normally distributed values."""
    from scipy import stats

    assert len(values) > 1, "one value has no spread"
    bound = float(stats.t.ppf((1 + level) / 2, len(values) - 1))
    half = bound * np.std(values, ddof=1) / math.sqrt(len(values))
    mean = np.mean(values)
    return float(mean - half), float(mean + half)


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return the mean of the last `window` values at each (fewer at the start), the same length."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


@lru_cache(maxsize=1)
def published_scores() -> dict[str, dict[str, float]]:
    """Return reference scores by game and column; data/README.md describes the columns."""
    table = {}
    for row in _rows("scores.csv"):
        game = score_key(row.pop("game"))
        table[game] = {name: float(value) for name, value in row.items() if value}
    return table


def reference(game: str, protocol: str = "classic") -> dict[str, float]:
    """Return the comparable published scores of a game by column; empty if there are none.

    For the protocol `machado` these are random play, the human, and the columns with sticky
    actions; their protocols are otherwise not ours.
    """
    found = published_scores().get(score_key(game), {})
    own = "classic" if protocol == "classic" else STICKY
    return {name: score for name, score in found.items() if protocol_of(name) in (None, own)}


def published_curve(game: str) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the learning curve of openai/baselines ppo2 in a game; None if there is none.

    It is the agent steps [P] and the mean scores there [P], for the protocol `classic`; see
    data/README.md.
    """
    key = score_key(game)
    points = [
        (float(row["agent_steps"]), float(row["score"]))
        for row in _rows("curves.csv")
        if score_key(row["game"]) == key
    ]
    if not points:
        return None
    steps, scores = np.array(points).T
    return steps, scores


def protocol_of(column: str) -> str | None:
    """Return the protocol of a published column; None for random play and the human."""
    return None if column in NOT_TRAINED else PROTOCOLS.get(column, "classic")


def human_normalised(game: str, score: float) -> float | None:
    """Return (score - random) / (human - random); None for a game without these two scores."""
    known = reference(game)
    if not {"random", "human"} <= set(known):
        return None
    return (score - known["random"]) / (known["human"] - known["random"])


def reached(game: str, preset: str) -> list[Reached]:
    """Return the scores that runs of this project reached during training; see data/README.md.

    preset: a key of `config.PRESETS`.
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
    """Yield the rows of a CSV file of the package."""
    text = resources.files("ppo37").joinpath("data", name).read_text()
    yield from csv.DictReader(text.splitlines())
