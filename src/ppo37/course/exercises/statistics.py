"""An exercise on numbers: the interval of a mean."""

import math

import torch
from torch import Tensor

from .. import oracle
from ..exercise import Case, Exercise, Mistake, Wrong

SECTION = "One run is not a setting"
RUNS = [19.33, 17.80, 20.10, 19.90, 8.53, 19.80, 13.47, 19.83, 17.83, 19.90]
"""The scores of ten runs of `fast` on Pong (docs/results.md)."""


def _interval(wrong: Wrong, scores: Tensor, t: float) -> Tensor:
    count = len(scores)
    deviation = scores.std(correction=0 if "divided_by_n" in wrong else 1)
    center = scores.median() if "median" in wrong else scores.mean()
    if "of_scores" in wrong:
        half = t * deviation
    elif "no_root" in wrong:
        half = t * deviation / count
    elif "one_less" in wrong:
        half = t * deviation / math.sqrt(count - 1)
    elif "normal" in wrong:
        half = 1.96 * deviation / math.sqrt(count)
    elif "no_t" in wrong:
        half = deviation / math.sqrt(count)
    else:
        half = t * deviation / math.sqrt(count)
    if "whole_width" in wrong:
        half = half / 2.0
    if "half_width" in wrong:
        return torch.stack([center, half])
    if "range" in wrong:
        return torch.stack([scores.min(), scores.max()])
    bounds = (
        [center + half, center - half] if "swapped" in wrong else [center - half, center + half]
    )
    return torch.stack(bounds)


def _by_hand(scores: Tensor, t: float) -> Tensor:
    values = scores.tolist()
    center = oracle.mean(values)
    half = t * math.sqrt(oracle.variance(values, 1)) / math.sqrt(len(values))
    return torch.tensor([center - half, center + half])


MEAN_INTERVAL = Exercise(
    name="mean_interval",
    lesson="numbers",
    signature="mean_interval(scores: Tensor, t: float) -> Tensor",
    text="""Compute the 95% interval of a mean, [2]: its lower and its upper end.

mean - t * std / sqrt(n) and mean + t * std / sqrt(n), where std divides by n - 1

scores: [n], one for each run.  t: the number from the table of Student's t distribution.""",
    cases=lambda: [
        Case("for two runs", (torch.tensor([1.0, 3.0]), 12.706)),
        Case("for equal scores", (torch.full((3,), 5.0), 4.303)),
        Case("for the ten runs of Pong", (torch.tensor(RUNS), 2.262)),
    ],
    oracle=_by_hand,
    solve=_interval,
    mistakes={
        "of_scores": Mistake(
            "It does not divide by sqrt(n): that is a range for single runs, not for their mean.",
            SECTION,
        ),
        "no_root": Mistake("It divides by n; the root of n is needed.", SECTION),
        "one_less": Mistake(
            "It divides by sqrt(n - 1). The n - 1 is inside of the standard deviation already.",
            SECTION,
        ),
        "divided_by_n": Mistake("Its standard deviation divides by n, not by n - 1.", SECTION),
        "normal": Mistake(
            "It uses 1.96, the number for very many runs, and not t; for few runs the interval is "
            "then too narrow.",
            SECTION,
        ),
        "no_t": Mistake("t is missing: that is the standard error, not the interval.", SECTION),
        "whole_width": Mistake(
            "It is half as wide as it should be: the same is added and subtracted.", SECTION
        ),
        "half_width": Mistake(
            "It gives the mean and half of the width; the two ends are needed.", SECTION
        ),
        "range": Mistake("It gives the lowest and the highest score.", SECTION),
        "swapped": Mistake("The upper end comes first; the lower one has to.", SECTION),
        "median": Mistake("Its middle is the median, not the mean.", SECTION),
    },
    place=None,
    other="swapped",
)

EXERCISES = (MEAN_INTERVAL,)
