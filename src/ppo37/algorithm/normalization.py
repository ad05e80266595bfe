"""Numbers of any size brought to a common scale by what was seen so far.

The details of continuous control: observations become deviations from their running mean, rewards
are divided by how much the discounted return varies. Both are cut off far out.

Legend: N environments. Moments are fp64, in tensors that change in place.
"""

from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-8
PSEUDO_COUNT = 1e-4
"""What mean 0 and variance 1 count for before anything was seen."""


class Moments(NamedTuple):
    """Mean and variance [...] of what was seen so far, and how many that was (0-d)."""

    mean: Tensor
    variance: Tensor
    number: Tensor


def first_moments(shape: tuple[int, ...]) -> Moments:
    """Of nothing yet."""
    mean = torch.zeros(shape, dtype=torch.float64)
    return Moments(mean, torch.ones_like(mean), mean.new_full((), PSEUDO_COUNT))


def add(moments: Moments, seen: Tensor) -> None:
    """Count in `seen` [N, ...], as if all had been seen at once.

    mean' = mean + delta * n / (count + n), with delta = mean(seen) - mean
    var' = (var * count + var(seen) * n + delta^2 * count * n / (count + n)) / (count + n)
    Source: Chan et al. 1979, as in openai/baselines running_mean_std.py.
    """
    seen = seen.double()
    n = len(seen)
    total = moments.number + n
    delta = seen.mean(0) - moments.mean
    squares = moments.variance * moments.number + seen.var(0, correction=0) * n
    moments.variance.copy_((squares + delta.square() * moments.number * n / total) / total)
    moments.mean.add_(delta * n / total)
    moments.number.copy_(total)


def normalize(obs: Tensor, moments: Moments, clip: float) -> Tensor:
    """(o - mean) / sqrt(var + 1e-8), cut off at `clip` on both sides; [N, ...] fp32."""
    deviations = (obs - moments.mean) / (moments.variance + EPSILON).sqrt()  # D28
    return deviations.clamp(-clip, clip).float()  # D29


def discount(returns: Tensor, rewards: Tensor, gamma: float) -> Tensor:
    """Discounted sums [N] of the rewards so far, of which the latest counts whole."""
    return gamma * returns + rewards


def scale(rewards: Tensor, moments: Moments, clip: float) -> Tensor:
    """Rewards [N] in units of the standard deviation of returns, cut off at `clip`; fp32.

    The mean is not taken off: that would change what is worth doing.
    """
    scaled = rewards / (moments.variance + EPSILON).sqrt()  # D30
    return scaled.clamp(-clip, clip).float()  # D31
