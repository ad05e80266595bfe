"""The seeds of several runs: `--seeds 5`, `--seeds 1-5`, `--seeds 1,4,7`."""

import re
from collections import Counter
from collections.abc import Sequence

from ..errors import UsageError

MOST = 10_000
"""The most seeds; a larger number is probably a typing error."""


def seeds_from(seeds: int | str | Sequence[int], first: int) -> list[int]:
    """Return the seeds that a number, a text or a list names; UsageError if it is wrong.

    A number N means N seeds from `first` on. In a text, `1-5` and `1,4,7` name the seeds, `4-4`
    names one, and a number alone is N.
    """
    match seeds:
        case bool():
            raise _wrong(seeds)
        case int():
            found = _counted(seeds, first)
        case str():
            found = _named(seeds, first)
        case list() | tuple() | range() if len(seeds) <= MOST:
            found = list(seeds)
        case _:
            raise _wrong(seeds)
    if not found or not all(isinstance(seed, int) for seed in found):
        raise _wrong(seeds)
    again = [seed for seed, times in Counter(found).items() if times > 1]
    if again:
        raise UsageError(f"seeds names seed {min(again)} twice")
    return found


def named(seeds: Sequence[int]) -> str:
    """Return the text that names seeds, in their order: `1-3,7`."""
    parts = list[list[int]]()
    for seed in seeds:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ",".join(f"{each[0]}-{each[-1]}" if len(each) > 1 else str(each[0]) for each in parts)


def _counted(number: int, first: int) -> list[int]:
    if not 1 <= number <= MOST:
        raise UsageError(f"seeds must be at least 1 and at most {MOST:,}, not {number}")
    return list(range(first, first + number))


def _named(text: str, first: int) -> list[int]:
    if re.fullmatch(r"\s*\d{1,10}\s*", text):
        return _counted(int(text), first)
    found = list[int]()
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d{1,10})(?:-(\d{1,10}))?\s*", part)
        if ends is None:
            raise _wrong(text)
        low, high = int(ends[1]), int(ends[2] or ends[1])
        if high < low or high - low >= MOST - len(found):
            raise _wrong(text)
        found += range(low, high + 1)
    return found


def _wrong(seeds: object) -> UsageError:
    return UsageError(
        f"seeds takes a number of seeds, such as 5, or names them, as in 1-5 or 1,4,7; not "
        f"{str(seeds)[:80]!r}"
    )
