"""Normalize observations and rewards by running statistics, as for continuous control.

Observations are normalized by their running mean and standard deviation; rewards are divided by
the running standard deviation of the discounted return. Both are clipped.

The arrays are NumPy's: environments give them in every step, often a few numbers only, for which
an operation of PyTorch takes several times as long.

Legend: N environments. Statistics are fp64, in arrays that change in place.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

EPSILON = 1e-8
PSEUDO_COUNT = 1e-4
"""The weight of the initial mean 0 and variance 1, in observations."""


class RunningMeanStd(NamedTuple):
    """Mean and variance [...] of all values so far, and their number (0-d)."""

    mean: Doubles
    variance: Doubles
    number: Doubles


def initial_statistics(shape: tuple[int, ...]) -> RunningMeanStd:
    """Return the statistics before the first value."""
    return RunningMeanStd(np.zeros(shape), np.ones(shape), np.full((), PSEUDO_COUNT))


def add_values(statistics: RunningMeanStd, values: NDArray[Any]) -> None:
    """Add `values` [N, ...] to the statistics, which are then those of all values together.

    mean' = mean + delta * n / (count + n), with delta = mean(values) - mean
    var' = (var * count + var(values) * n + delta^2 * count * n / (count + n)) / (count + n)
    Source: Chan et al. 1979, as in openai/baselines running_mean_std.py.
    """
    values = values.astype(np.float64)
    n, count = len(values), statistics.number
    total = count + n
    mean = values.sum(0) / n
    delta = mean - statistics.mean
    squares = statistics.variance * count + np.square(values - mean).sum(0)
    statistics.variance[...] = (squares + np.square(delta) * (count * n / total)) / total
    statistics.mean[...] += delta * (n / total)
    statistics.number[...] = total


def normalize(obs: NDArray[Any], statistics: RunningMeanStd, clip: float) -> NDArray[np.float32]:
    """Compute (o - mean) / sqrt(var + 1e-8), clipped to [-clip, clip]; [N, ...]."""
    normalized = (obs - statistics.mean) / np.sqrt(statistics.variance + EPSILON)  # D28
    return normalized.clip(-clip, clip).astype(np.float32)  # D29


def discount(returns: Doubles, rewards: NDArray[Any], gamma: float) -> Doubles:
    """Update the discounted sums [N] of all rewards so far: gamma * returns + rewards."""
    return gamma * returns + rewards


def scale(rewards: NDArray[Any], statistics: RunningMeanStd, clip: float) -> NDArray[np.float32]:
    """Divide rewards [N] by the standard deviation of returns, clipped to [-clip, clip].

    The mean is not subtracted: that would change which behaviour is best.
    """
    scaled = rewards / np.sqrt(statistics.variance + EPSILON)  # D30
    return scaled.clip(-clip, clip).astype(np.float32)  # D31
