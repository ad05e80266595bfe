"""Learning curves: the scores of whole games against frames and against wall time."""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..config import NOT_IN_PRESETS, Config, changes
from ..envs.games import title
from ..errors import UsageError
from ..session import directory
from ..session.files import beside, own_folder, real_path
from ..session.metrics import read_metrics
from .stats import reference, running_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WINDOW_GAMES = 100
GRID_POINTS = 400
DOTS, MEANS, BAND, DASHED = "games", "means", "band", "published"
"""The ids that the parts of a drawing carry, for whoever looks into the figure."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind people can tell apart, without its yellow."""
LEGEND_LETTERS, HANDLE_LETTERS = 140, 10
"""What a row of the legend has room for, and what an entry takes beside its label."""
TELLING = ("device", "observation", "action_space", "network")
"""Settings that say more than what follows from them."""
NOT_COMPARED = ("seed", "precision", "kernels", "threads")
"""Settings in which the runs of a group may differ: the last three are the machine's choice."""
DASHES = ("solid", (0, (5, 1.5)), (0, (1, 1)))
"""For more curves than colours."""
INK, FAINT_INK = "#222222", "#707070"
STYLE: dict[str, Any] = {
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#B0B0B0",
    "axes.grid": True,
    "grid.color": "#E8E8E8",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": FAINT_INK,
    "ytick.color": FAINT_INK,
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.12,
}
ROW_INCHES, WIDTH_INCHES, DPI = 4.0, 11.0, 150
HEADER_INCHES = 1.0

PUBLISHED = (
    ("random", "random"),
    ("human", "human"),
    ("ppo_paper", "PPO paper"),
    ("cleanrl_ppo_atari", "CleanRL"),
)
"""Columns of data/scores.csv that are drawn, and what they are called."""
MARGIN = 0.15
"""A published score is drawn within this part of the data's height above or below the data."""
NEAR = 0.055
"""Labels closer than this part of the axis' height would overlap and are drawn as one."""


class History(NamedTuple):
    """The whole games G of one run in the order in which they ended, all [G].

    `frames` and `minutes` of a game are those of the end of its update.
    """

    config: Config
    name: str
    frames: NDArray[np.float64]
    minutes: NDArray[np.float64]
    scores: NDArray[np.float64]
    means: NDArray[np.float64]


class Line(NamedTuple):
    """One curve to draw: a run, or the seeds of one setting averaged (`averaged`)."""

    histories: list[History]
    averaged: bool
    label: str
    colour: str
    dashes: Any


class Axis(NamedTuple):
    """What the games are drawn against: a column of History, its unit and its label."""

    column: str
    unit: float
    label: str


AXES = (Axis("frames", 1e6, "frames (millions)"), Axis("minutes", 1.0, "wall time (minutes)"))


def plot(
    runs: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    group: bool = False,
    warn: Callable[[str], None] | None = None,
) -> Path:
    """Draw the learning curves of one run or several as a PNG, and return its path.

    out: by default `plots/return.png` in the run, or `comparison.png` here for several runs.
    group: see `figure`.  warn: hears of runs without a finished game, which are left out.
    UsageError if no run has one, for an output that cannot be written, and without matplotlib.
    """
    runs = [runs] if isinstance(runs, (str, Path)) else list(runs)
    paths = list(dict.fromkeys(directory.run_of(Path(run)) for run in runs))
    if not paths:
        raise UsageError("nothing to plot: name at least one run")
    path = real_path(out) if out is not None else default_output(paths)
    if path.suffix.lower() != ".png":
        raise UsageError(f"cannot plot to {path}: the name must end in .png")
    histories = _with_games(paths, warn or (lambda _: None))
    drawing = figure(histories, group=group)
    save_png(drawing, path, make_folder=out is None)
    return path


def save_png(drawing: "Figure", path: Path, make_folder: bool = False) -> None:
    """Write a picture as one step, in a new folder if asked; UsageError if that cannot be."""
    temporary = beside(path)
    try:
        if make_folder:
            path.parent.mkdir(exist_ok=True)
        drawing.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; choose another --out") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def default_output(runs: list[Path]) -> Path:
    """Where a plot goes if nobody says."""
    if len(runs) > 1:
        return real_path("comparison.png")
    return own_folder(runs[0], "plots") / "return.png"


def _with_games(runs: list[Path], warn: Callable[[str], None]) -> list[History]:
    """The histories of those runs that have one; UsageError if none has."""
    found, lacking = [], list[UsageError]()
    for run in runs:
        try:
            found.append(read_history(run))
        except NoGames as error:
            lacking.append(error)
    if not found:
        raise lacking[0]
    for lack in lacking:
        warn(str(lack))
    return found


class NoGames(UsageError):
    """A run in which no game has ended yet."""


def read_history(run: Path) -> History:
    """The finished games of a run directory, which may still be training.

    UsageError if none has ended yet.
    """
    games = [
        (float(record["frames"]), record["wall_s"] / 60, float(game["return"]))
        for record in read_metrics(run)
        for game in record["episodes"]
    ]
    if not games:
        raise NoGames(f"no game of {run} has ended yet: there is nothing to plot")
    frames, minutes, scores = np.array(games, float).T
    means = running_mean(scores, WINDOW_GAMES)
    return History(directory.read_config(run), run.name, frames, minutes, scores, means)


def figure(histories: list[History], *, group: bool = False) -> "Figure":
    """One row of two panels per game: raw scores against frames and against wall time.

    Without `group` every run is a line, the mean of its last 100 games, over a dot per game.
    With it, runs that differ in nothing but their seed and how the machine computes are one line,
    the mean over seeds of that running mean, in a band from the lowest seed to the highest, over
    the stretch that all of them cover.
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
    """Runs as lines to draw, each with a label that tells it from the others of its game.

    Equal labels have equal colours, also in the rows of different games.
    """
    groups: dict[Any, list[History]] = {}
    for number, history in enumerate(histories):
        key = _without(history.config, NOT_COMPARED) if group else number
        groups.setdefault(key, []).append(history)
    members = list(groups.values())
    labels = _labels(members, group)
    styles = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    lines = []
    for label, some in zip(labels, members, strict=True):
        turn, colour = divmod(styles[label], len(COLOURS))
        lines.append(Line(some, group, label, COLOURS[colour], DASHES[turn % len(DASHES)]))
    return lines


def _without(config: Config, names: Sequence[str]) -> Config:
    """A configuration with the default of these settings, so that they tell none apart."""
    return dataclasses.replace(config, **{name: getattr(Config, name) for name in names})


def over_seeds(
    histories: list[History], column: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A grid [P] over the stretch of `column` that all runs cover, and each run's running mean
    there [runs, P], linear between games."""
    curves = [_last_of_each(getattr(history, column), history.means) for history in histories]
    start = max(float(x[0]) for x, _ in curves)
    end = min(float(x[-1]) for x, _ in curves)
    if start > end:
        names = ", ".join(history.name for history in histories)
        raise UsageError(f"{names} have no stretch of {column} in common; plot them ungrouped")
    grid = np.linspace(start, end, GRID_POINTS)
    return grid, np.stack([np.interp(grid, x, y) for x, y in curves])


def _draw_row(panels: Iterable["Axes"], game: str, lines: list[Line], alone: bool) -> None:
    left, right = panels
    for panel, axis in ((left, AXES[0]), (right, AXES[1])):
        for line in lines:
            _draw_line(panel, line, axis, dot_alpha=0.22 if len(lines) == 1 else 0.12)
        panel.set_xlabel(axis.label)
        panel.set_xlim(left=0)
    left.set_ylabel("raw score of a whole game")
    right.tick_params(axis="y", length=0)
    named = f"{title(game)}, {lines[0].label}" if alone else title(game)
    left.set_title(named)
    protocols = {h.config.protocol for line in lines for h in line.histories}
    _draw_published(left, right, game, "machado" if "machado" in protocols else "classic")


def _draw_line(panel: "Axes", line: Line, axis: Axis, dot_alpha: float) -> None:
    style = {"color": line.colour, "linestyle": line.dashes, "linewidth": 2.2, "gid": MEANS}
    if line.averaged:
        grid, means = over_seeds(line.histories, axis.column)
        x = grid / axis.unit
        panel.fill_between(
            x,
            means.min(axis=0),
            means.max(axis=0),
            color=line.colour,
            alpha=0.18,
            linewidth=0,
            gid=BAND,
        )
        panel.plot(x, means.mean(axis=0), label=line.label, **style)
        return
    history = line.histories[0]
    x = getattr(history, axis.column) / axis.unit
    panel.plot(
        x,
        history.scores,
        linestyle="none",
        marker="o",
        markersize=3.2,
        alpha=dot_alpha,
        color=line.colour,
        markeredgewidth=0,
        gid=DOTS,
    )
    panel.plot(*_last_of_each(x, history.means), label=line.label, **style)


def _draw_published(left: "Axes", right: "Axes", game: str, protocol: str) -> None:
    """Dashed lines at the published scores near the data, named at the right edge."""
    low, high = left.dataLim.intervaly
    reach = MARGIN * max(high - low, 1.0)
    known = reference(game, protocol)
    scores = sorted(
        (known[column], name)
        for column, name in PUBLISHED
        if column in known and low - reach <= known[column] <= high + reach
    )
    for score, _ in scores:
        for panel in (left, right):
            panel.axhline(
                score, color=FAINT_INK, linewidth=1.0, dashes=(4, 3), zorder=1.5, gid=DASHED
            )
    bottom, top = left.get_ylim()
    named = [(score, f"{name} {number(score)}") for score, name in scores]
    for height, text in _merged(named, NEAR * (top - bottom)):
        right.text(
            1.015,
            height,
            text,
            transform=right.get_yaxis_transform(),
            va="center",
            color=FAINT_INK,
            fontsize=9.5,
        )


def number(score: float) -> str:
    """`1,234.5`, `\N{MINUS SIGN}3`: with the sign that the axis has."""
    return f"{score:,.1f}".removesuffix(".0").replace("-", "\N{MINUS SIGN}")


def _merged(labels: list[tuple[float, str]], distance: float) -> list[tuple[float, str]]:
    """Labels by rising height; those nearer to each other than `distance` become one."""
    merged: list[list[tuple[float, str]]] = []
    for label in labels:
        if merged and label[0] - merged[-1][-1][0] < distance:
            merged[-1].append(label)
        else:
            merged.append([label])
    return [
        (sum(height for height, _ in some) / len(some), "\n".join(text for _, text in some[::-1]))
        for some in merged
    ]


def _explain(drawing: "Figure", lines: list[Line], group: bool) -> None:
    """Say above the panels what is drawn, and below them which line is which."""
    what = f"dots: single games; lines: mean of the last {WINDOW_GAMES}"
    if group:
        what = (
            f"lines: mean over seeds of the mean of the last {WINDOW_GAMES} games; "
            "bands: lowest to highest seed"
        )
    text = f"Scores of whole games during training.  {what.capitalize()}"
    if any(drawn.get_gid() == DASHED for panel in drawing.axes for drawn in panel.lines):
        text += "\nDashed: published scores, those of PPO after 40 million frames"
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
    """Preset and seeds of each line; where two of a game are alike, also what they differ in.

    A setting that is as in the preset is not told.
    """
    configs = [some[0].config for some in members]
    labels = [f"{some[0].config.preset}, {_seeds(some, group)}" for some in members]
    others = [f.name for f in dataclasses.fields(Config) if f.name not in (*TELLING, "seed")]
    for name in (*TELLING, *reversed(others)):
        values = [_setting(config, name) for config in configs]
        if any(values):
            labels = _told_apart(labels, configs, values)
    return _told_apart(labels, configs, [some[0].name for some in members])


def _setting(config: Config, name: str) -> str:
    """A setting in words; none if it is the preset's."""
    told = name in NOT_IN_PRESETS or name in changes(config)
    return f"{name} {getattr(config, name)}" if told else ""


def _told_apart(labels: list[str], configs: list[Config], values: list[str]) -> list[str]:
    """The labels, with the value added where lines of one game agree in label but not in value."""
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
    """Of points [G] with rising x, the last at each x: games of one update end together."""
    last = np.append(x[1:] > x[:-1], True)
    return x[last], y[last]


def import_matplotlib() -> tuple[Any, Callable[..., "Figure"]]:
    """matplotlib and its Figure, on use; UsageError without it.

    Figures are drawn to files, whatever screen MPLBACKEND names, and what matplotlib has to say of
    its folders is no concern of who reads stderr.
    """
    os.environ["MPLBACKEND"] = "agg"
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("plotting needs matplotlib: pip install matplotlib") from error
    return matplotlib, Figure
