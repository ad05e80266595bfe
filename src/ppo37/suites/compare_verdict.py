"""The difference of an entry to the first one, in numbers and in a sentence."""

import math
from typing import Any

from . import aggregate
from .aggregate import Difference, Estimate, Scores, plain
from .compare_inputs import Entry
from .compare_table import NAMES, format_estimate


def difference_document(
    new: Entry, new_scores: Scores, base: Entry, base_scores: Scores, games: list[str]
) -> dict[str, Any]:
    """Compare an entry with the first one.

    `seeds_needed` and the sentence are about the IQM, or about the mean where there is one game.
    """
    paired = [bool(new.runs) and new.seeds(game) == base.seeds(game) for game in games]
    gaps = aggregate.differences(new_scores, base_scores, paired)
    improvement = aggregate.probability_of_improvement(new_scores, base_scores)
    name = next(iter(gaps))
    needed = _seeds_needed(gaps[name], len(games), all(paired))
    seeds = min(len(each) for each in (*new_scores, *base_scores))
    few = len(games) > 1 and any(map(aggregate.are_few, (new_scores, base_scores)))
    each = "in each game" if len(games) > 1 else "each"
    verdict = "no interval: published scores have no seeds"
    if new.runs and base.runs:
        verdict = _verdict(new.name, base.name, gaps[name], needed, seeds, each, few)
    found = {name: plain(Estimate(*gap[:2])) for name, gap in gaps.items()}
    return {
        "entry": new.name,
        "base": base.name,
        "paired": all(paired),
        "differences": found,
        "probability_of_improvement": plain(improvement),
        "seeds_needed": needed,
        "verdict": f"{NAMES[name]} {format_estimate(found[name], sign=True)}; {verdict}",
    }


def _seeds_needed(gap: Difference, games: int, paired: bool) -> int | None:
    """Return the seeds that this difference needs, see `seeds_needed`; None if that is unknown."""
    if gap.spread is None or gap.value == 0:
        return None
    effect = math.inf if gap.spread == 0 else gap.value / gap.spread
    return aggregate.seeds_needed(effect, games, paired)


def _verdict(
    new: str, base: str, gap: Difference, needed: int | None, seeds: int, each: str, few: bool
) -> str:
    """Return which entry is better, or why that cannot be told.

    seeds: the smallest number in a game.  each: the text that follows a number of seeds.  few:
    whether the interval is too narrow.
    """
    if gap.interval is None:
        return f"cannot tell: an interval needs at least 2 seeds {each}"
    more = "more than" if needed is None else "about"
    wanted = (
        f"a difference of this size needs {more} {needed or aggregate.MOST_SEEDS:,} seeds {each} "
        f"({aggregate.POWER:.0%} power, two-sided {1 - aggregate.LEVEL:.0%})"
    )
    low, high = gap.interval
    if low <= 0 <= high:
        why = wanted if gap.value else "no difference is seen"
        return f"cannot tell with {seeds} seeds {each}: {why}"
    word = "better" if low > 0 else "worse"
    if few:
        # The number of seeds is an estimate from the same few runs.
        more_seeds = needed is None or needed > seeds
        return (
            f"{new} looks {word} than {base}, but intervals of fewer than {aggregate.FEW_RUNS} "
            f"runs or {aggregate.FEW_SEEDS} seeds in a game are too narrow"
            + (f": {wanted}" if more_seeds else "")
        )
    return f"{new} is {word} than {base}"
