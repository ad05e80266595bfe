"""Comparisons of runs and suites with each other and with published scores."""

import math
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends.device import describe_machine, versions
from ..envs.games import resolve_game, title
from ..errors import UsageError
from ..session import directory
from ..session.files import OTHER_OUT, explained, own_file, real_path, to_json, write_atomically
from ..tools.bench import commit
from ..tools.figures import import_matplotlib
from ..tools.stats import published_scores, t_interval_of_mean
from . import aggregate, compare_plot
from .aggregate import Band, Difference, Estimate
from .compare_inputs import (
    LAST_GAMES,
    NOT_TRAINED,
    OTHER_ESTIMATE,
    Entry,
    ScoredRun,
    curve_of,
    entries_of_suite,
    read_entries,
)
from .compare_table import NAMES, format_range, format_signed, join_names, table

__all__ = ["compare", "compare_entries", "entries_of_suite", "table", "write_comparison"]

DOCUMENT, TABLE = "compare.json", "table.md"
POINTS, THRESHOLDS, DENSE_TO = 60, 201, 2.0
HUMAN, ANCHORED, RAW = "human-normalized score", "normalized score", "raw score"
LARGEST_BYTES = 1 << 20

Anchors = dict[str, tuple[float, float]]
"""The two scores of each game, by its key, that are 0 and 1 when normalized."""


def compare(
    inputs: Sequence[str | Path],
    anchors: str | Path | None = None,
    out: str | Path | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> tuple[Path, dict[str, Any]]:
    """Compare suites, runs and published scores; return the folder and the result.

    inputs: the first is the one that others are compared with. Each is the directory of a suite (an
    entry for each of its variants), a run directory (those with equal settings except for seed and
    game are one entry), or a published column such as `cleanrl_ppo_atari`; `LABEL=PATH` names an
    entry.  anchors: a TOML file with `low` and `high` in a table for each environment, the scores
    that are 0 and 1 when normalized; Atari games have random play and the human.  out: a folder for
    `compare.json`, `table.md` and pictures, whose earlier files are replaced; by default a new one.
    log: called with a line for each run that is left out.
    The score of a run is the mean raw score of its last 100 training games. The result is made of
    plain values; Agarwal et al. 2021 define its statistics (`suites/aggregate.py`).
    UsageError, before anything is written, for inputs that cannot be compared.
    """
    import_matplotlib()  # fails before minutes of reading, not after
    bounds = read_anchors(anchors) if anchors is not None else {}
    document = compare_entries(read_entries(inputs, log), bounds)
    folder = _folder(out)
    write_comparison(document, folder)
    return folder, document


def compare_entries(entries: Sequence[Entry], anchors: Anchors | None = None) -> dict[str, Any]:
    """Compare entries in the games that all of them have, and return the result.

    A single entry has no differences. UsageError if they cannot be compared.
    """
    games = [game for game in entries[0].games if all(game in entry.games for entry in entries)]
    if not games:
        raise UsageError(f"{join_names([entry.name for entry in entries])} have no game in common")
    protocol = _common_protocol(entries, games)
    _require_equal_steps(entries, games)
    anchors = anchors or {}
    bounds = {game: found for game in games if (found := _anchors_of(entries, game, anchors))}
    if len(games) == 1 and not _given(entries, games[0], anchors):
        bounds = {}  # the unit of a single game is the clearest
    scale = RAW
    if len(bounds) == len(games):
        given = any(_given(entries, game, anchors) for game in games)
        scale = ANCHORED if given else HUMAN
    averaged = games if scale != RAW or len(games) == 1 else []
    document: dict[str, Any] = {
        "score": f"mean raw score of the last {LAST_GAMES} training games of a run",
        "scale": scale,
        "protocol": protocol,
        "games": games,
        "titles": {game: _title(entries, game) for game in games},
        "anchors": {game: list(found) for game, found in bounds.items()},
        "frames_per_step": _frames_per_step(entries, averaged),
        "entries": [_entry_document(entry, games) for entry in entries],
        "differences": [],
        "thresholds": [],
        "curve_steps": [],
        "notes": _notes(entries, games, averaged, bounds),
        "origins": sorted({run.origin for game in games for run in _runs(entries, game)}),
        "machine": describe_machine(),
        "versions": versions(),
        "commit": commit(),
    }
    if averaged:
        _add_statistics(document, entries, averaged, bounds if scale != RAW else {})
    return document


def _all_steps(entries: Sequence[Entry], games: Sequence[str]) -> set[int]:
    """Return the numbers of agent steps of entries in games."""
    found = (entry.agent_steps(game) for entry in entries for game in games)
    return {steps for steps in found if steps is not None}


def write_comparison(document: dict[str, Any], folder: Path) -> list[Path]:
    """Write `compare.json`, `table.md` and the pictures into a folder, replacing those there.

    Returns the paths of the pictures.
    """
    with explained(f"cannot write {folder}", OTHER_OUT):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(own_file(folder, DOCUMENT), to_json(document))
        write_atomically(own_file(folder, TABLE), f"{table(document)}\n".encode())
    return compare_plot.figures(document, folder)


def read_anchors(path: str | Path) -> Anchors:
    """Read a TOML file with `low` and `high` for each environment; UsageError if it is wrong."""
    with explained(f"cannot read {path}"), Path(path).expanduser().open("rb") as file:
        content = file.read(LARGEST_BYTES)
    try:
        tables = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    return {game: _anchor(path, game, values) for game, values in tables.items()}


def _anchor(path: str | Path, game: str, values: Any) -> tuple[float, float]:
    """Return the two scores of a game; UsageError if they are not two numbers, low and high."""
    wanted = f"{path}: [{game}] must have two numbers, low and high, with low below high"
    if not isinstance(values, dict) or set(values) != {"low", "high"}:
        raise UsageError(wanted)
    for value in values.values():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UsageError(wanted)
    low, high = float(values["low"]), float(values["high"])
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(wanted)
    return low, high


def _folder(out: str | Path | None) -> Path:
    """Return the folder to write into; a new one, such as `compare-2`, if none is named."""
    if out is None:
        return directory.claim(directory.alternatives(real_path("compare")))
    path = real_path(out)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is not a folder{OTHER_OUT}")
    with explained(f"cannot write {path}", OTHER_OUT):
        path.mkdir(parents=True, exist_ok=True)
    return path


def _common_protocol(entries: Sequence[Entry], games: list[str]) -> str | None:
    """Return the protocol of Atari games; None without any. UsageError for different ones."""
    protocols: dict[str, str] = {}
    for entry in entries:
        for run in entry.runs:
            if run.config.is_atari and run.game in games:
                protocols[run.config.protocol] = entry.name
        if entry.published is not None and entry.name not in NOT_TRAINED:
            protocols["classic"] = entry.name
    if len(protocols) > 1:
        parts = " and ".join(f"{name} in {protocol}" for protocol, name in protocols.items())
        raise UsageError(f"scores of different protocols cannot be compared: {parts}")
    return next(iter(protocols), None)


def _require_equal_steps(entries: Sequence[Entry], games: list[str]) -> None:
    """UsageError for a game in which the steps of entries have different numbers of frames."""
    for game in games:
        frames: dict[int, str] = {}
        for entry in entries:
            frames |= {run.config.frames_per_step: entry.name for run in entry.of_game(game)}
            frames |= {4: entry.name} if entry.published is not None else {}
        if len(frames) > 1:
            parts = " and ".join(f"{count} in {name}" for count, name in frames.items())
            raise UsageError(f"an agent step of {game} has different numbers of frames: {parts}")


def _anchors_of(
    entries: Sequence[Entry], game: str, anchors: Anchors
) -> tuple[float, float] | None:
    """Return the scores of a game that are 0 and 1: the given ones, or random play and a human."""
    given = _given(entries, game, anchors)
    if given or not all(run.config.is_atari for run in _runs(entries, game)):
        return given
    known = published_scores().get(game, {})
    return (known["random"], known["human"]) if {"random", "human"} <= set(known) else None


def _given(entries: Sequence[Entry], game: str, anchors: Anchors) -> tuple[float, float] | None:
    """Return the given anchors of a game, by its key or the name that its runs have."""
    names = (game, *(run.config.game for run in _runs(entries, game)))
    return next((anchors[name] for name in names if name in anchors), None)


def _runs(entries: Sequence[Entry], game: str) -> list[ScoredRun]:
    return [run for entry in entries for run in entry.of_game(game)]


def _title(entries: Sequence[Entry], game: str) -> str:
    runs = _runs(entries, game)
    return title(runs[0].config.game if runs else resolve_game(game))


def _frames_per_step(entries: Sequence[Entry], games: list[str]) -> int:
    """Return the frames in an agent step; 1, so that steps are shown, if games have different."""
    found = {run.config.frames_per_step for game in games for run in _runs(entries, game)}
    return found.pop() if len(found) == 1 else 1


def _entry_document(entry: Entry, games: list[str]) -> dict[str, Any]:
    return {
        "name": entry.name,
        "published": entry.published is not None,
        "agent_steps": {game: entry.agent_steps(game) for game in games},
        "scores": {game: _scores_document(entry, game) for game in games},
        "runs": [str(run.path) for game in games for run in entry.of_game(game)],
        "aggregates": {},
        "profile": None,
        "curve": None,
    }


def _scores_document(entry: Entry, game: str) -> dict[str, Any]:
    scores = entry.scores(game).tolist()
    return {
        "seeds": entry.seeds(game),
        "scores": scores,
        "mean": float(np.mean(scores)),
        "interval": list(t_interval_of_mean(scores)) if len(scores) > 1 else None,
    }


def _add_statistics(
    document: dict[str, Any], entries: Sequence[Entry], games: list[str], bounds: Anchors
) -> None:
    """Add aggregates, differences, profiles and curves over games to the result."""

    def normalized(game: str, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        low, high = bounds.get(game, (0.0, 1.0))
        return (scores - low) / (high - low)

    scores = [[normalized(game, entry.scores(game)) for game in games] for entry in entries]
    every = [each for of_entry in scores for each in of_entry]
    thresholds = _thresholds(every, document["scale"])
    steps = _steps(entries, games)
    document |= {"thresholds": thresholds.tolist(), "curve_steps": steps.tolist()}
    for entry, found, its_scores in zip(entries, document["entries"], scores, strict=True):
        estimates = aggregate.aggregates(its_scores)
        found["aggregates"] = {name: _plain(value) for name, value in estimates.items()}
        found["profile"] = _plain(aggregate.performance_profile(its_scores, thresholds))
        if entry.runs:
            curves = [
                normalized(game, np.stack([curve_of(run, steps) for run in entry.of_game(game)]))
                for game in games
            ]
            found["curve"] = _plain(_curve(curves))
    base, *others = zip(entries, scores, strict=True)
    document["differences"] = [_difference_document(*other, *base, games) for other in others]


def _thresholds(scores: list[NDArray[np.float64]], scale: str) -> NDArray[np.float64]:
    """Return thresholds from the lowest score to the highest.

    Normalized scores may be far above 1: half of their thresholds are below DENSE_TO.
    """
    low, high = float(min(map(np.min, scores))), float(max(map(np.max, scores)))
    margin = (high - low or 1) / 20
    if scale == RAW:
        return np.linspace(low - margin, high + margin, THRESHOLDS)
    low, high = min(0.0, low), max(1.0, high)
    if high <= DENSE_TO:
        return np.linspace(low, high, THRESHOLDS)
    dense = np.linspace(low, DENSE_TO, THRESHOLDS // 2, endpoint=False)
    return np.concatenate([dense, np.geomspace(DENSE_TO, high, THRESHOLDS // 2 + 1)])


def _steps(entries: Sequence[Entry], games: list[str]) -> NDArray[np.float64]:
    """Return the agent steps of the points of learning curves: up to the longest entry's end.

    An entry ends where its shortest run does.
    """
    ends = [
        min(run.config.agent_steps for game in games for run in entry.of_game(game))
        for entry in entries
        if entry.runs
    ]
    if not ends:
        return np.zeros(0)
    grid = np.linspace(0, max(ends), POINTS + 1)[1:]
    return np.unique([*grid, *ends])


def _curve(scores: list[NDArray[np.float64]]) -> Band:
    """Return the learning curve of an entry, nan where a run has no score yet or has ended."""
    known = ~np.any([np.isnan(each).any(axis=0) for each in scores], axis=0)
    if not known.any():
        return Band(np.full(len(known), np.nan), None, None)
    found = aggregate.learning_curve([each[:, known] for each in scores])
    values, low, high = (None if part is None else _spread(part, known) for part in found)
    assert values is not None
    return Band(values, low, high)


def _spread(values: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return an array with the values where `known`, and nan elsewhere."""
    full = np.full(len(known), np.nan)
    full[known] = values
    return full


def _difference_document(
    new: Entry,
    new_scores: list[NDArray[np.float64]],
    base: Entry,
    base_scores: list[NDArray[np.float64]],
    games: list[str],
) -> dict[str, Any]:
    """Compare an entry with the first one."""
    paired = [bool(new.runs) and new.seeds(game) == base.seeds(game) for game in games]
    gaps = aggregate.differences(new_scores, base_scores, paired)
    first = next(iter(gaps))
    needed = _seeds_needed(gaps[first], len(games), all(paired))
    improvement = aggregate.probability_of_improvement(new_scores, base_scores)
    seeds = min(len(each) for each in (*new_scores, *base_scores))
    few = len(games) > 1 and any(map(aggregate.are_few, (new_scores, base_scores)))
    if needed is not None and needed <= seeds:
        few = False  # so large a difference is seen with few seeds
    return {
        "entry": new.name,
        "base": base.name,
        "paired": all(paired),
        "differences": {name: _plain(Estimate(*gap[:2])) for name, gap in gaps.items()},
        "probability_of_improvement": _plain(improvement),
        "seeds_needed": needed,
        "verdict": _verdict(new, base, first, gaps[first], needed, seeds, games, few),
    }


def _seeds_needed(gap: Difference, games: int, paired: bool) -> int | None:
    """Return the seeds that the difference seen would need; None if it cannot be said."""
    if gap.spread is None or gap.value == 0:
        return None
    effect = math.inf if gap.spread == 0 else gap.value / gap.spread
    return aggregate.seeds_needed(effect, games, paired)


def _verdict(
    new: Entry,
    base: Entry,
    name: str,
    gap: Difference,
    needed: int | None,
    seeds: int,
    games: list[str],
    few: bool,
) -> str:
    """Return a sentence that says which entry is better, or why that cannot be told."""
    what = f"{NAMES[name]} {format_signed(gap.value)}"
    in_games = "in each game" if len(games) > 1 else "each"
    if gap.interval is None:
        if not (new.runs and base.runs):
            return f"{what}; no interval: published scores have no seeds"
        return f"{what}; cannot tell: an interval needs at least 2 seeds {in_games}"
    low, high = gap.interval
    seen = f"{what} ({format_signed(low)} to {format_signed(high)})"
    more = "more than" if needed is None else "about"
    wanted = f"{more} {needed or aggregate.MOST_SEEDS:,} seeds {in_games}"
    power = f"({aggregate.POWER:.0%} power, two-sided {1 - aggregate.LEVEL:.0%})"
    if low <= 0 <= high:
        cannot = f"{seen}; cannot tell with {seeds} seeds {in_games}"
        if gap.value == 0:
            return f"{cannot}: no difference is seen"
        return f"{cannot}: a difference of this size needs {wanted} {power}"
    word = "better" if gap.value > 0 else "worse"
    if few:
        return (
            f"{seen}; {new.name} looks {word} than {base.name}, but intervals of so few runs are "
            f"too narrow: a difference of this size needs {wanted} {power}"
        )
    return f"{seen}; {new.name} is {word} than {base.name}"


def _notes(
    entries: Sequence[Entry], games: list[str], averaged: list[str], bounds: Anchors
) -> list[str]:
    """Return lines about what is left out, and what makes the entries differ."""
    notes = []
    # A published column has many games, whose absence says nothing.
    measured = [entry for entry in entries if entry.runs] or entries
    every = dict.fromkeys(game for entry in measured for game in entry.games)
    others = [_title(entries, game) for game in every if game not in games]
    if others:
        notes.append(f"games that not all entries have are left out: {join_names(others)}")
    names = [entry.name for entry in entries]
    by_entry = {entry.name: _all_steps([entry], games) for entry in entries}
    if any(len(_all_steps(entries, [game])) > 1 for game in games):
        parts = [f"{name} {format_range(found)}" for name, found in by_entry.items() if found]
        notes.append(f"agent steps differ, and so does what they reach: {'; '.join(parts)}")
    if not averaged:
        without = [_title(entries, game) for game in games if game not in bounds]
        notes.append(
            f"no aggregates over games: {join_names(without)} "
            f"{'has' if len(without) == 1 else 'have'} no human score; give --anchors FILE.toml"
        )
    notes += [text for name, text in OTHER_ESTIMATE.items() if name in names]
    few = [
        entry.name
        for entry in entries
        if entry.runs and len(games) > 1 and aggregate.are_few([entry.scores(g) for g in games])
    ]
    if averaged and few:
        notes.append(
            f"{join_names(few)}: fewer than {aggregate.FEW_RUNS} runs in all or "
            f"{aggregate.FEW_SEEDS} seeds in a game; bootstrap intervals of so few are too narrow"
        )
    return notes


def _plain(found: Estimate | Band) -> dict[str, Any]:
    """Return plain values as JSON has them; None for nan."""
    return {name: _plain_value(value) for name, value in found._asdict().items()}


def _plain_value(value: Any) -> Any:
    match value:
        case np.ndarray():
            return [None if math.isnan(each) else float(each) for each in value]
        case tuple():
            return list(value)
    return value
