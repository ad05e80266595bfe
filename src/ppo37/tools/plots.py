"""Learning curves: the scores of whole games against frames or steps, and against wall time."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..config import Config
from ..envs.games import title
from ..errors import UsageError
from ..presets import NOT_IN_PRESETS, changes
from ..session import directory
from ..session.files import own_folder, real_path
from ..session.metrics import FRAMES_PER_STEP, read_metrics, steps_of
from .figures import (
    BAND,
    DOTS,
    FAINT_INK,
    MEANS,
    STYLE,
    format_number,
    frames_or_steps,
    import_matplotlib,
    line_style,
    save_png,
)
from .stats import published_curve, reference, running_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WINDOW_GAMES = 100
GRID_POINTS = 400
DASHED, CURVE = "published", "published curve"
"""The ids of a line at a published score, and of a published curve; others are in figures.py."""

LEGEND_LETTERS, HANDLE_LETTERS = 140, 10
"""Letters that fit into a row of the legend, and the width of an entry beside its label."""
FIRST_IN_LABELS = ("device", "observation", "action_space", "network")
"""Settings that other settings depend on."""
MAY_DIFFER = ("seed", "precision", "kernels", "threads")
"""Settings that may differ within a group; the last three are chosen for the machine."""
ROW_INCHES, WIDTH_INCHES = 4.0, 11.0
HEADER_INCHES = 1.0

PUBLISHED = {
    "random": "random",
    "human": "human",
    "ppo_paper": "PPO paper",
    "cleanrl_ppo_atari": "CleanRL",
    "slm_lab_ppo": "SLM-Lab",
}
"""Columns of data/scores.csv that are drawn, and their names in the figure."""
MARGIN = 0.15
"""A published score is drawn if it is at most this part of the data's height outside the data."""
NEAR = 0.055
"""Labels closer than this part of the axis' height would overlap and are merged."""


class History(NamedTuple):
    """The whole games of one run in the order in which they ended, each array [G].

    `frames` (in Atari; elsewhere the same as agent steps) and `minutes` are those at the end of the
    update in which the game ended.
    """

    config: Config
    name: str
    frames: NDArray[np.float64]
    minutes: NDArray[np.float64]
    scores: NDArray[np.float64]
    means: NDArray[np.float64]


class Line(NamedTuple):
    """One curve: a run, or the mean over a group of runs (`averaged`)."""

    histories: list[History]
    averaged: bool
    label: str
    color: str
    dashes: Any


class Axis(NamedTuple):
    """A horizontal axis: a field of History, its unit and its label."""

    column: str
    unit: float
    label: str


MINUTES = Axis("minutes", 1.0, "wall time (minutes)")


def plot(
    runs: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    group: bool = False,
    warn: Callable[[str], None] | None = None,
) -> Path:
    """Draw the learning curves of one run or several as a PNG, and return its path.

    out: by default `plots/return.png` in the run, or, for several runs, `comparison.png` in the
    working directory.  group: see `figure`.  warn: called with a message for each run without a
    finished game, which is left out.
    UsageError if no run has one, if the output cannot be written, and without matplotlib.
    """
    runs = [runs] if isinstance(runs, (str, Path)) else list(runs)
    paths = list(dict.fromkeys(directory.run_of(run) for run in runs))
    if not paths:
        raise UsageError("nothing to plot: name at least one run")
    path = real_path(out) if out is not None else default_output(paths)
    if path.suffix.lower() != ".png":
        raise UsageError(f"cannot plot to {path}: the name must end in .png")
    histories = _read_histories(paths, warn or (lambda _: None))
    save_png(figure(histories, group=group), path, make_folder=out is None)
    return path


def default_output(runs: list[Path]) -> Path:
    """Return the path of a plot of these runs if none is given."""
    if len(runs) > 1:
        return real_path("comparison.png")
    return own_folder(runs[0], "plots") / "return.png"


def _read_histories(runs: list[Path], warn: Callable[[str], None]) -> list[History]:
    """Read the runs that have a finished game; UsageError if none has."""
    histories, errors = [], list[UsageError]()
    for run in runs:
        try:
            histories.append(read_history(run))
        except NoGames as error:
            errors.append(error)
    if not histories:
        raise errors[0]
    for no_games in errors:
        warn(str(no_games))
    return histories


class NoGames(UsageError):
    """The error for a run in which no game has ended yet."""


def read_history(run: Path) -> History:
    """Read the finished games of a run directory, which may still be training.

    NoGames, a UsageError, if none has ended yet.
    """
    config = directory.read_config(run)
    games = [
        (
            float(config.frames_per_step * steps_of(record)),
            record["wall_s"] / 60,
            float(game["return"]),
        )
        for record in read_metrics(run)
        for game in record["episodes"]
    ]
    if not games:
        raise NoGames(f"no game of {run} has ended yet: there is nothing to plot")
    frames, minutes, scores = np.array(games, float).T
    means = running_mean(scores, WINDOW_GAMES)
    return History(config, run.name, frames, minutes, scores, means)


def figure(histories: list[History], *, group: bool = False) -> "Figure":
    """Draw a row of two panels per game: raw scores against frames and against wall time.

    Environments that have no frames are drawn against agent steps.

    Without `group`, every run is a line (the mean of its last 100 games) and a dot per game. With
    it, runs that differ only in MAY_DIFFER are one line: the mean over seeds of that running mean,
    in a band from the lowest seed to the highest, over the range that all of them cover.
    """
    if not histories:
        raise UsageError("nothing to plot: name at least one run")
    matplotlib, new_figure = import_matplotlib()
    lines = arrange(histories, group)
    games = sorted({history.config.game for history in histories})
    size = (WIDTH_INCHES, HEADER_INCHES + ROW_INCHES * len(games))
    with matplotlib.rc_context(STYLE):
        drawing = new_figure(figsize=size, layout="constrained")
        panels = drawing.subplots(len(games), 2, sharey="row", squeeze=False)
        for game, row in zip(games, panels, strict=True):
            chosen = [line for line in lines if line.histories[0].config.game == game]
            _draw_row(row, game, chosen, len(lines) == 1)
        _explain(drawing, lines, group)
    return drawing


def arrange(histories: list[History], group: bool) -> list[Line]:
    """Return the lines to draw, each with a label that no other line of its game has.

    Equal labels have equal colors, also in the rows of different games.
    """
    defaults = {name: getattr(Config, name) for name in MAY_DIFFER}
    groups: dict[Any, list[History]] = {}
    for index, history in enumerate(histories):
        key = dataclasses.replace(history.config, **defaults) if group else index
        groups.setdefault(key, []).append(history)
    members = list(groups.values())
    labels = _labels(members, group)
    styles = {label: line_style(i) for i, label in enumerate(dict.fromkeys(labels))}
    return [
        Line(runs, group, label, *styles[label])
        for label, runs in zip(labels, members, strict=True)
    ]


def over_seeds(
    histories: list[History], column: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a grid [P] over the range of `column` that all runs cover, and the running means
    there [runs, P], linear between games."""
    curves = [_last_of_each(getattr(history, column), history.means) for history in histories]
    start = max(float(x[0]) for x, _ in curves)
    end = min(float(x[-1]) for x, _ in curves)
    if start > end:
        names = ", ".join(history.name for history in histories)
        if column == "frames":
            column = frames_or_steps(histories[0].config.frames_per_step)
        raise UsageError(f"{names} have no {column} in common; plot them without --group")
    grid = np.linspace(start, end, GRID_POINTS)
    return grid, np.stack([np.interp(grid, x, y) for x, y in curves])


def _draw_row(panels: Iterable["Axes"], game: str, lines: list[Line], single: bool) -> None:
    """Draw the two panels of a game; `single`: this is the only line of the figure."""
    left, right = panels
    label = frames_or_steps(lines[0].histories[0].config.frames_per_step)
    for panel, axis in ((left, Axis("frames", 1e6, f"{label} (millions)")), (right, MINUTES)):
        for line in lines:
            _draw_line(panel, line, axis, dot_alpha=0.22 if len(lines) == 1 else 0.12)
        panel.set_xlabel(axis.label)
        panel.set_xlim(left=0)
    left.set_ylabel("raw score of a whole game")
    right.tick_params(axis="y", length=0)
    left.set_title(f"{title(game)}, {lines[0].label}" if single else title(game))
    configs = [h.config for line in lines for h in line.histories]
    classic = all(config.protocol == "classic" for config in configs)
    if classic and all(config.is_atari for config in configs):
        _draw_published_curve(left, game)
    _draw_published(left, right, game, "classic" if classic else "machado")


def _draw_line(panel: "Axes", line: Line, axis: Axis, dot_alpha: float) -> None:
    style = {"color": line.color, "linestyle": line.dashes, "linewidth": 2.2, "gid": MEANS}
    if line.averaged:
        grid, means = over_seeds(line.histories, axis.column)
        x, low, high = grid / axis.unit, means.min(axis=0), means.max(axis=0)
        panel.fill_between(x, low, high, color=line.color, alpha=0.18, linewidth=0, gid=BAND)
        panel.plot(x, means.mean(axis=0), label=line.label, **style)
        return
    history = line.histories[0]
    x = getattr(history, axis.column) / axis.unit
    dots: dict[str, Any] = {
        "linestyle": "none",
        "marker": "o",
        "markersize": 3.2,
        "markeredgewidth": 0,
    }
    panel.plot(x, history.scores, color=line.color, alpha=dot_alpha, gid=DOTS, **dots)
    panel.plot(*_last_of_each(x, history.means), label=line.label, **style)


def _draw_published_curve(panel: "Axes", game: str) -> None:
    """Draw the learning curve of openai/baselines, as far as the runs go, if there is one."""
    found = published_curve(game)
    if found is None:
        return
    steps, scores = found
    frames, end = FRAMES_PER_STEP * steps / 1e6, panel.dataLim.x1
    shown = np.append(frames[frames < end], end)
    style: dict[str, Any] = {"color": FAINT_INK, "linewidth": 1.4, "zorder": 1.5, "gid": CURVE}
    panel.plot(shown, np.interp(shown, frames, scores), **style)


def _draw_published(left: "Axes", right: "Axes", game: str, protocol: str) -> None:
    """Draw dashed lines at the published scores near the data, named at the right edge."""
    low, high = left.dataLim.intervaly
    reach = MARGIN * max(high - low, 1.0)
    known = reference(game, protocol)
    scores = sorted(
        (known[column], name)
        for column, name in PUBLISHED.items()
        if column in known and low - reach <= known[column] <= high + reach
    )
    style: dict[str, Any] = {"color": FAINT_INK, "linewidth": 1.0, "dashes": (4, 3), "zorder": 1.5}
    for score, _ in scores:
        left.axhline(score, gid=DASHED, **style)
        right.axhline(score, gid=DASHED, **style)
    bottom, top = left.get_ylim()
    named = [(score, f"{name} {format_number(score)}") for score, name in scores]
    edge: dict[str, Any] = {"transform": right.get_yaxis_transform(), "va": "center"}
    for height, text in _merged(named, NEAR * (top - bottom)):
        right.text(1.015, height, text, color=FAINT_INK, fontsize=9.5, **edge)


def _merged(labels: list[tuple[float, str]], distance: float) -> list[tuple[float, str]]:
    """Merge labels, sorted by height, that are nearer to each other than `distance`."""
    merged: list[list[tuple[float, str]]] = []
    for label in labels:
        if merged and label[0] - merged[-1][-1][0] < distance:
            merged[-1].append(label)
        else:
            merged.append([label])
    return [
        (sum(height for height, _ in near) / len(near), "\n".join(text for _, text in near[::-1]))
        for near in merged
    ]


def _explain(drawing: "Figure", lines: list[Line], group: bool) -> None:
    """Add a description above the panels, and a legend below them."""
    what = f"dots: single games; lines: mean of the last {WINDOW_GAMES}"
    if group:
        what = (
            f"lines: mean over seeds of the mean of the last {WINDOW_GAMES} games; "
            "bands: lowest to highest seed"
        )
    text = f"Scores of whole games during training.  {what.capitalize()}"
    if any(drawn.get_gid() == DASHED for panel in drawing.axes for drawn in panel.lines):
        text += "\nDashed: published scores, those of PPO after 40 million frames"
    if any(drawn.get_gid() == CURVE for panel in drawing.axes for drawn in panel.lines):
        text += "\nGrey line: PPO of openai/baselines, mean of 6 runs"
    drawing.suptitle(text, x=0.01, ha="left", fontsize=11, color=FAINT_INK)
    if len(lines) == 1:
        return
    handles: dict[str, Any] = {}
    for panel in drawing.axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    columns = LEGEND_LETTERS // (max(map(len, handles)) + HANDLE_LETTERS)
    drawing.legend(
        handles.values(), handles.keys(), loc="outside lower left", ncols=min(max(columns, 1), 4)
    )


def _labels(members: list[list[History]], group: bool) -> list[str]:
    """Return preset and seeds of each line; where two of a game are equal, also what differs.

    A setting with the value of the preset is not named.
    """
    configs = [runs[0].config for runs in members]
    labels = [f"{runs[0].config.preset}, {_seeds(runs, group)}" for runs in members]
    others = [
        f.name for f in dataclasses.fields(Config) if f.name not in (*FIRST_IN_LABELS, "seed")
    ]
    for name in (*FIRST_IN_LABELS, *reversed(others)):
        values = [_setting(config, name) for config in configs]
        if any(values):
            labels = _distinguish(labels, configs, values)
    return _distinguish(labels, configs, [runs[0].name for runs in members])


def _setting(config: Config, name: str) -> str:
    """Return name and value of a setting; an empty string if the value is the preset's."""
    named = name in NOT_IN_PRESETS or name in changes(config)
    return f"{name} {getattr(config, name)}" if named else ""


def _distinguish(labels: list[str], configs: list[Config], values: list[str]) -> list[str]:
    """Add the value to the labels that are equal within a game although their values differ."""
    keys = [(config.game, label) for config, label in zip(configs, labels, strict=True)]
    seen: dict[tuple[str, str], set[str]] = {}
    for key, value in zip(keys, values, strict=True):
        seen.setdefault(key, set()).add(value)
    return [
        f"{label}, {value}" if value and len(seen[key]) > 1 else label
        for key, label, value in zip(keys, labels, values, strict=True)
    ]


def _seeds(histories: list[History], group: bool) -> str:
    if not group:
        return f"seed {histories[0].config.seed}"
    count = len({history.config.seed for history in histories})
    return "1 seed" if count == 1 else f"{count} seeds"


def _last_of_each(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the last of the points [G] with equal x: games of one update end together."""
    last = np.append(x[1:] > x[:-1], True)
    return x[last], y[last]
