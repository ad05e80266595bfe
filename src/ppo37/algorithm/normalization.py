"""Normalize observations and rewards by running statistics, as for continuous control.

Observations are normalized by their running mean and standard deviation; rewards are divided by
the running standard deviation of the discounted return. Both are clipped.

Legend: N environments. Statistics are fp64, in tensors that change in place.
"""

from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-8
PSEUDO_COUNT = 1e-4
"""The weight of the initial mean 0 and variance 1, in observations."""


class RunningMeanStd(NamedTuple):
    """Mean and variance [...] of all values so far, and their number (0-d)."""

    mean: Tensor
    variance: Tensor
    number: Tensor


def initial_statistics(shape: tuple[int, ...]) -> RunningMeanStd:
    """Return the statistics before the first value."""
    mean = torch.zeros(shape, dtype=torch.float64)
    return RunningMeanStd(mean, torch.ones_like(mean), mean.new_full((), PSEUDO_COUNT))


def add_values(statistics: RunningMeanStd, values: Tensor) -> None:
    """Add `values` [N, ...] to the statistics, which are then those of all values together.

    mean' = mean + delta * n / (count + n), with delta = mean(values) - mean
    var' = (var * count + var(values) * n + delta^2 * count * n / (count + n)) / (count + n)
    Source: Chan et al. 1979, as in openai/baselines running_mean_std.py.
    """
    values = values.double()
    n = len(values)
    total = statistics.number + n
    delta = values.mean(0) - statistics.mean
    squares = statistics.variance * statistics.number + values.var(0, correction=0) * n
    statistics.variance.copy_((squares + delta.square() * statistics.number * n / total) / total)
    statistics.mean.add_(delta * n / total)
    statistics.number.copy_(total)


def normalize(obs: Tensor, statistics: RunningMeanStd, clip: float) -> Tensor:
    """Compute (o - mean) / sqrt(var + 1e-8), clipped to [-clip, clip]; [N, ...] fp32."""
    normalized = (obs - statistics.mean) / (statistics.variance + EPSILON).sqrt()  # D28
    return normalized.clamp(-clip, clip).float()  # D29


def discount(returns: Tensor, rewards: Tensor, gamma: float) -> Tensor:
    """Update the discounted sums [N] of all rewards so far: gamma * returns + rewards."""
    return gamma * returns + rewards


def scale(rewards: Tensor, statistics: RunningMeanStd, clip: float) -> Tensor:
    """Divide rewards [N] by the standard deviation of returns, clipped to [-clip, clip]; fp32.

    The mean is not subtracted: that would change which behaviour is best.
    """
    scaled = rewards / (statistics.variance + EPSILON).sqrt()  # D30
    return scaled.clamp(-clip, clip).float()  # D31
