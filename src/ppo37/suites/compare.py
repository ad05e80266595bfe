"""Comparisons of runs and suites with each other and with published scores."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends.device import commit, describe_machine, versions
from ..envs.games import resolve_game, title
from ..errors import UsageError
from ..session import directory
from ..session.files import OTHER_OUT, explained, own_file, real_path, to_json, write_atomically
from ..tools.figures import import_matplotlib
from ..tools.stats import t_interval_of_mean
from . import aggregate, compare_plot
from .aggregate import Band, plain
from .compare_inputs import (
    OTHER_ESTIMATE,
    Entry,
    common_protocol,
    curve_of,
    entries_of_suite,
    read_entries,
    require_equal_steps,
    runs_of,
)
from .compare_scale import RAW, Anchors, Scale, read_anchors, scale_of
from .compare_table import format_range, join_names, table
from .compare_verdict import difference_document
from .suite_results import LAST_GAMES

__all__ = ["compare", "compare_entries", "entries_of_suite", "table", "write_comparison"]

DOCUMENT, TABLE = "compare.json", "table.md"
POINTS, THRESHOLDS, DENSE_TO = 60, 201, 2.0


def compare(
    inputs: Sequence[str | Path],
    anchors: str | Path | None = None,
    out: str | Path | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> tuple[Path, dict[str, Any]]:
    """Compare suites, runs and published scores; return the folder and the result.

    inputs: the others are compared with the first. Each is the directory of a suite, a run
    directory, or a published column such as `cleanrl_ppo_atari`; `LABEL=PATH` names an entry. Each
    variant of a suite is an entry; runs with equal settings, except for seed and game, are one.
    anchors: a TOML file with a table for each environment, whose `low` and `high` are the scores
    that become 0 and 1; for Atari games these are random play and the human.  out: a folder for
    `compare.json`, `table.md` and pictures, whose earlier files are replaced; by default a new one.
    log: called with a line for each run that is left out.
    The score of a run is the mean raw score of its last 100 training games. The result consists of
    plain values; Agarwal et al. 2021 define its statistics (`suites/aggregate.py`).
    UsageError, before anything is written, for inputs that cannot be compared.
    """
    import_matplotlib()  # fails before minutes of reading, not after
    bounds = read_anchors(anchors) if anchors is not None else {}
    document = compare_entries(read_entries(inputs, log), bounds)
    folder = results_folder(out, "compare")
    write_comparison(document, folder)
    return folder, document


def compare_entries(entries: Sequence[Entry], anchors: Anchors | None = None) -> dict[str, Any]:
    """Compare entries in the games that all of them have, and return the result.

    A single entry has no differences. UsageError if they cannot be compared.
    """
    games = [game for game in entries[0].games if all(game in entry.games for entry in entries)]
    if not games:
        raise UsageError(_nothing_in_common(entries))
    protocol = common_protocol(entries, games)
    require_equal_steps(entries, games)
    scale = scale_of(entries, games, anchors or {})
    document: dict[str, Any] = {
        "score": f"mean raw score of the last {LAST_GAMES} training games of a run",
        "scale": scale.name,
        "protocol": protocol,
        "games": games,
        "titles": {game: _title(entries, game) for game in games},
        "anchors": {game: list(found) for game, found in scale.anchors.items()},
        "frames_per_step": _frames_per_step(entries, games),
        "entries": [_entry_document(entry, games) for entry in entries],
        "differences": [],
        "thresholds": [],
        "curve_steps": [],
        "notes": _notes(entries, games, scale),
        "origins": sorted({run.origin for game in games for run in runs_of(entries, game)}),
        "machine": describe_machine(),
        "versions": versions(),
        "commit": commit(),
    }
    if scale.name != RAW or len(games) == 1:
        _add_statistics(document, entries, games, scale)
    return document


def _nothing_in_common(entries: Sequence[Entry]) -> str:
    """Return why entries have no game in common: published columns that have none of the games."""
    trained = {game: None for entry in entries if entry.runs for game in entry.games}
    lacking = [e.name for e in entries if e.published and not trained.keys() & set(e.games)]
    if trained and lacking:
        names = join_names([_title(entries, game) for game in trained])
        have = "has" if len(lacking) == 1 else "have"
        return f"{join_names(lacking)} {have} no published score of {names}; leave this out"
    return f"{join_names([entry.name for entry in entries])} have no game in common"


def write_comparison(document: dict[str, Any], folder: Path) -> list[Path]:
    """Write `compare.json`, `table.md` and the pictures into a folder, replacing those there.

    Returns the paths of the pictures.
    """
    with explained(f"cannot write {folder}", OTHER_OUT):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(own_file(folder, DOCUMENT), to_json(document))
        write_atomically(own_file(folder, TABLE), f"{table(document)}\n".encode())
    return compare_plot.figures(document, folder)


def results_folder(out: str | Path | None, name: str) -> Path:
    """Return the folder to write into; a new one, such as `compare-2`, if none is named."""
    if out is None:
        return directory.claim(directory.alternatives(real_path(name)))
    path = real_path(out)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is not a folder{OTHER_OUT}")
    with explained(f"cannot write {path}", OTHER_OUT):
        path.mkdir(parents=True, exist_ok=True)
    return path


def _title(entries: Sequence[Entry], game: str) -> str:
    runs = runs_of(entries, game)
    return title(runs[0].config.game if runs else resolve_game(game))


def _frames_per_step(entries: Sequence[Entry], games: list[str]) -> int:
    """Return the frames of an agent step; 1, so that steps are shown, if the games differ in it."""
    found = {run.config.frames_per_step for game in games for run in runs_of(entries, game)}
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
    document: dict[str, Any], entries: Sequence[Entry], games: list[str], scale: Scale
) -> None:
    """Add aggregates, differences, profiles and curves over games to the result."""
    scores = [[scale.normalized(game, entry.scores(game)) for game in games] for entry in entries]
    every = [each for of_entry in scores for each in of_entry]
    thresholds = _thresholds(every, scale.name)
    steps = _steps(entries, games)
    document |= {"thresholds": thresholds.tolist(), "curve_steps": steps.tolist()}
    for entry, found, its_scores in zip(entries, document["entries"], scores, strict=True):
        estimates = aggregate.aggregates(its_scores)
        found["aggregates"] = {name: plain(value) for name, value in estimates.items()}
        found["profile"] = plain(aggregate.performance_profile(its_scores, thresholds))
        if entry.runs:
            found["curve"] = plain(_curve(entry, games, scale, steps))
    base, *others = zip(entries, scores, strict=True)
    document["differences"] = [difference_document(*other, *base, games) for other in others]


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
    """Return the agent steps of the points of learning curves, up to the end of the longest entry.

    An entry ends where its shortest run ends.
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


def _curve(entry: Entry, games: list[str], scale: Scale, steps: NDArray[np.float64]) -> Band:
    """Return the learning curve of an entry, nan where a run has no score yet or has ended."""
    scores = []
    for game in games:
        curves = np.stack([curve_of(run, steps) for run in entry.of_game(game)])
        scores.append(scale.normalized(game, curves))
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


def _notes(entries: Sequence[Entry], games: list[str], scale: Scale) -> list[str]:
    """Return notes on what is left out, and on what else differs between the entries."""
    notes = []
    # A published column has many games that nobody trained; they need no note.
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
    if scale.missing and len(games) > 1:
        missing = join_names([_title(entries, game) for game in scale.missing])
        have = "has" if len(scale.missing) == 1 else "have"
        notes.append(
            f"no aggregates over games: {missing} {have} no human score; give --anchors FILE.toml"
        )
    notes += [text for name, text in OTHER_ESTIMATE.items() if name in names]
    short = [
        run.path.name
        for game in games
        for run in runs_of(entries, game)
        if len(run.ends) < LAST_GAMES
    ]
    if short:
        notes.append(
            f"fewer than {LAST_GAMES} games had ended, all of them count: {join_names(short)}"
        )
    few = [
        entry.name
        for entry in entries
        if entry.runs and len(games) > 1 and aggregate.are_few([entry.scores(g) for g in games])
    ]
    if scale.name != RAW and few:
        notes.append(
            f"{join_names(few)}: fewer than {aggregate.FEW_RUNS} runs in all or "
            f"{aggregate.FEW_SEEDS} seeds in a game; bootstrap intervals of so few are too narrow"
        )
    return notes


def _all_steps(entries: Sequence[Entry], games: Sequence[str]) -> set[int]:
    """Return the numbers of agent steps of entries in games."""
    found = (entry.agent_steps(game) for entry in entries for game in games)
    return {steps for steps in found if steps is not None}
