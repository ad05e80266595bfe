"""Exercises on one update: minibatches, normalized advantages, and E9, schedules."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ... import loop
from ...algorithm import losses
from ...algorithm.update import Batch, update
from ...session import changes
from .. import oracle
from ..exercise import Case, Exercise, Function, Mistake, Place, Wrong, normal, numbers

NORMALIZED, MINIBATCHES, SCHEDULES = "Normalized advantages", "Minibatches", "Schedules"


def _normalize(wrong: Wrong, advantages: Tensor) -> Tensor:
    center = advantages.median() if "median" in wrong else advantages.mean()
    centered = advantages if "no_mean" in wrong else advantages - center
    deviation = advantages.std(correction=0 if "divided_by_m" in wrong else 1)
    if "variance" in wrong:
        deviation = deviation.square()
    if "root_mean_square" in wrong:
        deviation = advantages.square().mean().sqrt()
    if "epsilon_in_root" in wrong:
        return centered / (deviation.square() + 1e-8).sqrt()
    if "brackets" in wrong:
        return advantages - advantages.mean() / (deviation + 1e-8)
    if "no_deviation" in wrong:
        return centered.clone()
    if "largest" in wrong:
        deviation = advantages.abs().max()
    if "to_0_and_1" in wrong:
        low, high = advantages.min(), advantages.max()
        return (advantages - low) / (high - low + 1e-8)
    return centered / (deviation if "no_epsilon" in wrong else deviation + 1e-8)


NORMALIZE = Exercise(
    name="normalize_advantages",
    lesson="update",
    signature="normalize_advantages(advantages: Tensor) -> Tensor",
    text="""Normalize the advantages of a minibatch, [M]: mean 0, standard deviation 1.

(A - mean) / (std + 1e-8)

The standard deviation is that of torch.std, which divides by M - 1.

advantages: [M], of the samples of one minibatch.""",
    cases=lambda: [
        Case("for two samples", (torch.tensor([1.0, 3.0]),)),
        Case("for several samples", (normal(numbers(31), 6),)),
        Case("where they are small", (normal(numbers(34), 6) * 1e-4,)),
        Case("with one very large advantage", (torch.tensor([0.0] * 9 + [10.0]),)),
        Case("where the mean is large", (normal(numbers(32), 6) + 50.0,)),
        Case("where all are equal", (torch.full((4,), 2.0),)),
    ],
    oracle=lambda advantages: torch.tensor(oracle.normalize(advantages.tolist(), 1)),
    solve=_normalize,
    mistakes={
        "no_mean": Mistake("It does not subtract the mean.", NORMALIZED),
        "no_deviation": Mistake("It does not divide by the standard deviation.", NORMALIZED),
        "divided_by_m": Mistake(
            "Its standard deviation divides by M, as in openai/baselines, instead of M - 1. In a "
            "large minibatch the difference is small.",
            NORMALIZED,
        ),
        "variance": Mistake("It divides by the variance, not by its root.", NORMALIZED),
        "median": Mistake("It subtracts the median, not the mean.", NORMALIZED),
        "root_mean_square": Mistake(
            "Its deviation is that from 0, not from the mean: subtract the mean first.", NORMALIZED
        ),
        "epsilon_in_root": Mistake(
            "It adds 1e-8 to the variance, under the root; it has to be added to the standard "
            "deviation.",
            NORMALIZED,
        ),
        "brackets": Mistake(
            "Brackets are missing: it divides only the mean by the standard deviation.", NORMALIZED
        ),
        "largest": Mistake("It divides by the largest absolute advantage.", NORMALIZED),
        "to_0_and_1": Mistake(
            "It maps the advantages to 0 ... 1, so that every action becomes likelier.", NORMALIZED
        ),
        "no_epsilon": Mistake(
            "It divides by 0 where all advantages are equal: 1e-8 is missing.", NORMALIZED
        ),
    },
    place=Place(losses, "normalize_advantages"),
    other="to_0_and_1",
)


def _minibatches(wrong: Wrong, permutation: Tensor, num_minibatches: int) -> list[Tensor]:
    size = len(permutation) // num_minibatches
    if "in_order" in wrong:
        permutation = torch.arange(len(permutation))
    if "positions" in wrong:
        permutation = permutation.argsort()
    if "size_and_number" in wrong:
        size = num_minibatches
    if "same" in wrong:
        return [permutation[:size]] * num_minibatches
    if "whole" in wrong:
        return [permutation] * num_minibatches
    if "every_nth" in wrong:
        return [permutation[i::num_minibatches] for i in range(num_minibatches)]
    if "overlap" in wrong:
        return [permutation[i : i + size] for i in range(num_minibatches)]
    parts = [permutation[i : i + size] for i in range(0, len(permutation), size)]
    if "backwards" in wrong:
        parts = parts[::-1]
    if "sorted" in wrong:
        parts = [part.sort().values for part in parts]
    if "one_too_few" in wrong:
        parts = parts[:-1]
    return [part[:-1] for part in parts] if "without_last" in wrong else parts


def with_minibatches(minibatches: Function) -> Function:
    """Return an `update` whose minibatches another function cuts.

    `update` cuts an order into equal parts, so the parts are put one behind the other.
    """

    def cut(
        train_step: Function, batch: Batch, permutations: Tensor, number: int, *more: Any
    ) -> dict[str, float]:
        parts: list[Sequence[Tensor]] = [list(minibatches(order, number)) for order in permutations]
        orders = torch.stack([torch.cat(list(each)) for each in parts])
        return update(train_step, batch, orders, number, *more)

    return cut


MINIBATCH_INDICES = Exercise(
    name="minibatches",
    lesson="update",
    signature="minibatches(permutation: Tensor, num_minibatches: int) -> list[Tensor]",
    text="""Cut a new order of all samples into minibatches of equal size.

The first minibatch has the first M indices of the order, the second one the next M, and so on,
with M = S / num_minibatches. So each sample is used exactly once.

permutation: [S] int64, the indices 0 ... S - 1 in a random order.  num_minibatches divides S.
Returns a list or tuple of num_minibatches tensors [M], which may be views.""",
    cases=lambda: [
        Case("for one minibatch", (torch.tensor([2, 0, 1]), 1)),
        Case("for two minibatches", (torch.tensor([3, 1, 0, 2, 5, 4]), 2)),
        Case("for as many minibatches as samples", (torch.tensor([1, 2, 0]), 3)),
        Case("for many samples", (torch.randperm(24, generator=numbers(33)), 4)),
    ],
    oracle=lambda permutation, number: [
        torch.tensor(part)
        for part in zip(*[iter(permutation.tolist())] * (len(permutation) // number), strict=True)
    ],
    solve=_minibatches,
    mistakes={
        "in_order": Mistake(
            "It does not use the random order: samples of one minibatch are neighbors in time.",
            MINIBATCHES,
        ),
        "positions": Mistake(
            "It gives the positions of the samples in the order, not the samples at these "
            "positions.",
            MINIBATCHES,
        ),
        "size_and_number": Mistake(
            "It takes num_minibatches as the size of a minibatch; it is how many there are.",
            MINIBATCHES,
        ),
        "same": Mistake("All minibatches have the same samples.", MINIBATCHES),
        "whole": Mistake("Every minibatch has all samples.", MINIBATCHES),
        "every_nth": Mistake(
            "Each sample is used once, but not in the asked order: the first minibatch has to have "
            "the first M indices.",
            MINIBATCHES,
        ),
        "backwards": Mistake(
            "The minibatches are in reversed order: the first one has to have the first M indices.",
            MINIBATCHES,
        ),
        "sorted": Mistake("It sorts the indices of each minibatch.", MINIBATCHES),
        "overlap": Mistake(
            "The minibatches overlap: the next one begins M indices later.", MINIBATCHES
        ),
        "one_too_few": Mistake("The last minibatch is missing.", MINIBATCHES),
        "without_last": Mistake(
            "The last index of each minibatch is missing: the end of a slice is not part of it.",
            MINIBATCHES,
        ),
    },
    place=Place(loop, "update", with_minibatches),
    other="same",
    may_share=True,
)


def _linear(wrong: Wrong, start: float, end: float, done: int, total: int) -> float:
    part = done / total
    if "reaches_end" in wrong:
        part = done / (total - 1) if total > 1 else 0.0
    if "one_ahead" in wrong:
        part = (done + 1) / total
    if "one_behind" in wrong:
        part = (done - 1) / total
    if "whole_number" in wrong:
        part = float(done // total)
    if "upwards" in wrong:
        part = 1.0 - part
    if "no_end" in wrong:
        return start * (1.0 - part)
    if "end_twice" in wrong:
        return end + start * (1.0 - part)
    if "absolute" in wrong:
        return end + abs(start - end) * (1.0 - part)
    if "bounded" in wrong:
        return max(start * (1.0 - part), end)
    if "larger" in wrong:
        return max(end + (start - end) * (1.0 - part), end)
    if "geometric" in wrong:
        return start * (end / start) ** part if end > 0.0 else start * (1.0 - part) ** 2
    return end + (start - end) * (1.0 - part)


LINEAR = Exercise(
    name="linear",
    lesson="update",
    signature="linear(start: float, end: float, done: int, total: int) -> float",
    text="""Anneal a setting linearly from `start` towards `end`, which is never reached.

x = end + (start - end) * (1 - done / total)

done, total: agent steps before this update, and in the whole run.""",
    cases=lambda: [
        Case("at the beginning", (1.0, 0.0, 0, 10)),
        Case("in the middle", (1.0, 0.0, 5, 10)),
        Case("in the last update", (2.0, 0.0, 9, 10)),
        Case("with an end above 0", (2.0, 1.0, 3, 10)),
        Case("for a learning rate", (2.5e-4, 1e-5, 7, 11)),
        Case("for a setting that rises", (1.0, 3.0, 4, 10)),
        Case("in a run of one update", (1.0, 0.5, 0, 1)),
    ],
    oracle=lambda start, end, done, total: (
        oracle.linear(start, done, total) + end - oracle.linear(end, done, total)
    ),
    solve=_linear,
    mistakes={
        "reaches_end": Mistake(
            "It reaches the end in the last update; there 1 / K of the way is still left.",
            SCHEDULES,
        ),
        "one_ahead": Mistake(
            "It is one update ahead: the first update has to use `start` itself.", SCHEDULES
        ),
        "whole_number": Mistake(
            "It stays at `start`; a division by // gives 0 until the end.", SCHEDULES
        ),
        "upwards": Mistake(
            "It goes from `end` to `start`: 1 - done / total is 1 at the beginning.", SCHEDULES
        ),
        "no_end": Mistake("It falls to 0 whatever `end` is.", SCHEDULES),
        "end_twice": Mistake(
            "It adds `end`, but the distance to go is start - end, not start.", SCHEDULES
        ),
        "one_behind": Mistake(
            "It is one update behind: `done` counts from 0, not from 1.", SCHEDULES
        ),
        "absolute": Mistake(
            "It uses the absolute distance of start and end, so a setting cannot rise.", SCHEDULES
        ),
        "larger": Mistake(
            "It never goes below `end`, so a setting that should rise is at its end at once.",
            SCHEDULES,
        ),
        "bounded": Mistake(
            "It goes towards 0 and stops at `end`; it has to reach `end` only at the end.",
            SCHEDULES,
        ),
        "geometric": Mistake("It falls by a factor, not by a difference.", SCHEDULES),
    },
    place=Place(changes, "linear"),
    other="upwards",
)

EXERCISES = (MINIBATCH_INDICES, NORMALIZE, LINEAR)
