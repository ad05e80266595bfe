"""The pictures of a comparison: aggregates, performance profiles, learning curves, games."""

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..session.files import own_file
from ..tools.figures import (
    BAND,
    DOTS,
    FAINT_INK,
    INK,
    MEANS,
    STYLE,
    frames_or_steps,
    import_matplotlib,
    line_style,
    save_png,
)
from .compare_table import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INTERVAL = "interval"
"""The id of a bar; the others are in figures.py."""
WIDTH_INCHES, CURVE_INCHES = 11.0, 5.2
ROW_INCHES, FRAME_INCHES = 0.42, 1.5
LABEL_LETTERS, LEGEND_LETTERS, HANDLE_LETTERS = 28, 120, 10
MOST_COLUMNS = 4
LINEAR_TO = 4.0
"""If the largest threshold is above this, the axis is logarithmic above 1; else it is linear."""


def figures(document: dict[str, Any], folder: Path) -> list[Path]:
    """Draw the pictures of a comparison into a folder; return their paths.

    document: the result of `compare_entries`. Games without a common scale get the picture of the
    games only.
    """
    drawn = {"games.png": games_figure}
    if document["entries"][0]["aggregates"]:
        drawn = {"aggregates.png": aggregates_figure, "profiles.png": profiles_figure, **drawn}
    if any(entry["curve"] for entry in document["entries"]):
        drawn["curves.png"] = curves_figure
    paths = []
    for name, draw in drawn.items():
        paths.append(own_file(folder, name))
        save_png(draw(document), paths[-1])
    return paths


def aggregates_figure(document: dict[str, Any]) -> "Figure":
    """Draw a panel for each aggregate, with a row for each entry."""
    matplotlib, new_figure = import_matplotlib()
    entries = document["entries"]
    names = list(entries[0]["aggregates"])
    size = (WIDTH_INCHES, FRAME_INCHES + 0.4 + ROW_INCHES * len(entries))
    with matplotlib.rc_context(STYLE):
        drawing = new_figure(figsize=size, layout="constrained")
        panels = drawing.subplots(1, len(names), squeeze=False, sharey=True)[0]
        for name, panel in zip(names, panels, strict=True):
            panel.set_title(NAMES[name], fontsize=12)
            for row, (entry, style) in enumerate(zip(entries, _styles(entries), strict=True)):
                _draw_estimate(panel, row, entry["aggregates"][name], style["color"])
            panel.locator_params(axis="x", nbins=4 if len(names) > 1 else 10)
            panel.tick_params(axis="x", labelsize=9.5)
        _name_rows(panels, entries)
        drawing.supxlabel(document["scale"], fontsize=11, color=INK)
        lower = "; a lower optimality gap is better" if "optimality_gap" in names else ""
        found = [entry["aggregates"].values() for entry in entries]
        bars = any(value["interval"] is not None for values in found for value in values)
        what = "Points and bars: value and 95% interval" if bars else "Points: values"
        _explain(drawing, document, f"{what}{lower}")
    return drawing


def profiles_figure(document: dict[str, Any]) -> "Figure":
    """Draw the fraction of runs above each score."""
    matplotlib, new_figure = import_matplotlib()
    thresholds = np.array(document["thresholds"])
    with matplotlib.rc_context(STYLE):
        drawing = new_figure(figsize=(WIDTH_INCHES, CURVE_INCHES), layout="constrained")
        panel = drawing.subplots()
        for entry, style in zip(document["entries"], _styles(document["entries"]), strict=True):
            _draw_band(panel, thresholds, entry["profile"], entry["name"], style)
        if thresholds[-1] > LINEAR_TO and len(document["games"]) > 1:
            panel.set_xscale("symlog", linthresh=1.0, linscale=0.6)
            panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.set_xlim(thresholds[0], thresholds[-1])
        panel.set_ylim(-0.02, 1.02)
        panel.set_xlabel(document["scale"])
        panel.set_ylabel("part of runs above this score")
        panel.set_title("Performance profiles")
        mean = ["lines: mean over games"] * (len(document["games"]) > 1)
        bands = _bands([entry["profile"] for entry in document["entries"]])
        _explain(drawing, document, "; ".join(mean + bands))
        _add_legend(drawing, panel)
    return drawing


def curves_figure(document: dict[str, Any]) -> "Figure":
    """Draw the IQM, or the mean of one game, during training; published scores as lines."""
    matplotlib, new_figure = import_matplotlib()
    frames = document["frames_per_step"]
    steps = np.array(document["curve_steps"]) * frames / 1e6
    name = next(iter(document["entries"][0]["aggregates"]))
    with matplotlib.rc_context(STYLE):
        drawing = new_figure(figsize=(WIDTH_INCHES, CURVE_INCHES), layout="constrained")
        panel = drawing.subplots()
        for entry, style in zip(document["entries"], _styles(document["entries"]), strict=True):
            if entry["curve"]:
                _draw_band(panel, steps, entry["curve"], entry["name"], style)
                continue
            value = entry["aggregates"][name]["value"]
            line = {"color": style["color"], "linewidth": 1.4, "dashes": (4, 3), "zorder": 1.5}
            label = f"{_literal(entry['name'])} (published)"
            panel.axhline(value, label=label, gid=MEANS, **line)
        panel.set_xlim(0, steps[-1])
        panel.set_xlabel(f"{frames_or_steps(frames)} (millions)")
        panel.set_ylabel(f"{NAMES[name]} of {document['scale']}s")
        panel.set_title("Sample efficiency")
        bands = _bands([entry["curve"] for entry in document["entries"]])
        text = ["Score during training: mean of the last 100 games", *bands]
        _explain(drawing, document, "; ".join(text))
        _add_legend(drawing, panel)
    return drawing


def games_figure(document: dict[str, Any]) -> "Figure":
    """Draw a panel for each game, with a row for each entry and a dot for each seed."""
    matplotlib, new_figure = import_matplotlib()
    games, entries = document["games"], document["entries"]
    rows = math.ceil(len(games) / MOST_COLUMNS)
    columns = math.ceil(len(games) / rows)
    size = (WIDTH_INCHES, 0.7 + rows * (0.85 + 0.3 * len(entries)))
    with matplotlib.rc_context(STYLE):
        drawing = new_figure(figsize=size, layout="constrained")
        panels = drawing.subplots(rows, columns, squeeze=False, sharey=True)
        for panel, game in zip(panels.flat, games, strict=False):
            panel.set_title("" if len(games) == 1 else document["titles"][game], fontsize=11)
            for row, (entry, style) in enumerate(zip(entries, _styles(entries), strict=True)):
                _draw_seeds(panel, row, entry["scores"][game], entry["published"], style["color"])
            panel.margins(x=0.08)
            panel.locator_params(axis="x", nbins=12 // columns)
            panel.tick_params(axis="x", labelsize=9.5)
            panel.xaxis.set_major_formatter(_short)
        for panel in panels.flat[len(games) :]:
            panel.set_visible(False)
        for line in panels:
            _name_rows(line, entries)
        drawing.supxlabel("raw score", fontsize=11, color=INK)
        diamonds = any(entry["published"] for entry in entries)
        published = "; diamonds: published scores" if diamonds else ""
        _explain(drawing, document, f"Dots: single seeds; bars: means{published}")
    return drawing


def _styles(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the color and the dashes of each entry, the same in all pictures."""
    return [
        dict(zip(("color", "linestyle"), line_style(index), strict=True))
        for index in range(len(entries))
    ]


def _draw_estimate(panel: "Axes", row: int, found: dict[str, Any], color: str) -> None:
    """Draw a value, and its interval if there is one."""
    if found["interval"] is not None:
        bar: dict[str, Any] = {"linewidth": 7, "solid_capstyle": "butt", "alpha": 0.35}
        panel.plot(found["interval"], [row, row], color=color, gid=INTERVAL, **bar)
    marker = "o" if found["interval"] is not None else "D"
    dot: dict[str, Any] = {"marker": marker, "markersize": 7.5, "markeredgecolor": "white"}
    panel.plot([found["value"]], [row], linestyle="none", color=color, gid=MEANS, **dot)


def _draw_seeds(
    panel: "Axes", row: int, found: dict[str, Any], published: bool, color: str
) -> None:
    """Draw the scores of an entry in a game: a dot for each seed, and a bar at the mean."""
    if published:
        style: dict[str, Any] = {"marker": "D", "markersize": 7, "markeredgecolor": "white"}
        panel.plot([found["mean"]], [row], linestyle="none", color=color, gid=MEANS, **style)
        return
    bar: dict[str, Any] = {"marker": "|", "markersize": 17, "markeredgewidth": 2.6}
    panel.plot([found["mean"]], [row], linestyle="none", color=color, gid=MEANS, **bar)
    dots: dict[str, Any] = {"marker": "o", "markersize": 5.5, "markeredgewidth": 1.2}
    heights = [row] * len(found["scores"])
    dots |= {"markerfacecolor": "white", "markeredgecolor": color, "linestyle": "none"}
    panel.plot(found["scores"], heights, gid=DOTS, **dots)


def _draw_band(
    panel: "Axes", x: Any, found: dict[str, Any], label: str, style: dict[str, Any]
) -> None:
    """Draw a curve with its band; None in the values leaves a gap."""
    values = np.array(found["values"], float)
    if found["low"] is not None:
        low, high = np.array(found["low"], float), np.array(found["high"], float)
        band: dict[str, Any] = {"alpha": 0.17, "linewidth": 0, "gid": BAND}
        panel.fill_between(x, low, high, color=style["color"], **band)
    panel.plot(x, values, label=_literal(label), linewidth=2.2, gid=MEANS, **style)


def _bands(curves: list[dict[str, Any] | None]) -> list[str]:
    """Return the words for the bands of the curves; none if there are no bands."""
    return ["bands: 95% interval"] * any(curve and curve["low"] is not None for curve in curves)


def _name_rows(panels: Any, entries: list[dict[str, Any]]) -> None:
    """Name the rows of the first panel, and hide the horizontal lines of all panels."""
    for panel in panels:
        panel.set_ylim(len(entries) - 0.5, -0.5)
        panel.grid(visible=False, axis="y")
        panel.tick_params(axis="y", length=0)
        panel.spines["left"].set_visible(False)
    labels = [_wrapped(entry["name"]) for entry in entries]
    panels[0].set_yticks(range(len(entries)), labels, fontsize=10, color=INK)


def _wrapped(name: str) -> str:
    """Break a long name into at most two lines, at spaces and underscores."""
    lines = textwrap.wrap(name.replace("_", "_ "), LABEL_LETTERS, max_lines=2, placeholder="...")
    return _literal("\n".join(lines).replace("_ ", "_"))


def _literal(text: str) -> str:
    """Return a text that matplotlib draws as it is: no equations, and no hidden label."""
    return f"{' ' * text.startswith('_')}{text}".replace("$", r"\$")


def _short(value: float, _: Any) -> str:
    """Format a score on a small axis: 12000 as `12k`."""
    text = f"{value:g}"
    if abs(value) >= 10_000:
        text = f"{value / 1e3:g}k" if abs(value) < 1e6 else f"{value / 1e6:g}M"
    return text.replace("-", "\N{MINUS SIGN}")


def _explain(drawing: "Figure", document: dict[str, Any], what: str) -> None:
    """Add a description above the panels."""
    games = document["games"]
    which = document["titles"][games[0]] if len(games) == 1 else f"{len(games)} games"
    runs = [entry["scores"] for entry in document["entries"] if not entry["published"]]
    counts = sorted({len(found["scores"]) for scores in runs for found in scores.values()})
    seeds = f", {' to '.join(map(str, counts[:1] + counts[1:][-1:]))} seeds" if counts else ""
    seeds = ", 1 seed" if counts == [1] else seeds
    text = f"{which}{seeds}.  {what[:1].upper()}{what[1:]}".rstrip()
    drawing.suptitle(text, x=0.01, ha="left", fontsize=11, color=FAINT_INK)


def _add_legend(drawing: "Figure", panel: "Axes") -> None:
    """Add a legend below the panel."""
    handles, labels = panel.get_legend_handles_labels()
    columns = LEGEND_LETTERS // (max(map(len, labels)) + HANDLE_LETTERS)
    drawing.legend(handles, labels, loc="outside lower left", ncols=min(max(columns, 1), 4))
