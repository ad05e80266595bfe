"""The figure of an ablation study: the effect of each detail, and the learning curves."""

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..config import from_dict
from ..envs.games import title
from ..presets import describe
from ..tools.figures import (
    BAND,
    COLORS,
    DOTS,
    FAINT_INK,
    INK,
    MEANS,
    STYLE,
    frames_or_steps,
    import_matplotlib,
    line_style,
)
from .seeds import named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INTERVAL, ZERO = "interval", "zero"
"""Ids of the parts that only this figure has; the others are in figures.py."""
WIDTH_INCHES, ROW_INCHES, FRAME_INCHES, LEAST_INCHES = 13.0, 0.5, 2.2, 5.0
ARM_COLORS = COLORS[:-1]
"""Without black, which is for the arm with all details."""
LABEL_LETTERS = 24
DOTS_BELOW = 0.24
"""Distance of the dots of seeds below their interval, in rows, so that both are visible."""
NEAR = 0.047
"""Smallest distance of the names at the ends of curves, as a fraction of the axis height."""


def figure(document: dict[str, Any]) -> "Figure":
    """Draw score differences on the left, the most negative on top; learning curves on the right.

    document: the result of `ablate`, in which every arm has a score.
    """
    matplotlib, new_figure = import_matplotlib()
    base, *arms = document["arms"]
    styles = {
        arm["name"]: dict(zip(("color", "linestyle"), line_style(i, ARM_COLORS), strict=True))
        for i, arm in enumerate(arms)
    }
    arms = sorted(arms, key=lambda arm: arm["score_difference"]["mean"] or 0.0)
    height = max(LEAST_INCHES, FRAME_INCHES + ROW_INCHES * len(arms))
    with matplotlib.rc_context(STYLE):
        drawing = new_figure(figsize=(WIDTH_INCHES, height), layout="constrained")
        left, right = drawing.subplots(1, 2, width_ratios=(1.0, 1.35))
        _draw_differences(left, arms, styles)
        _draw_curves(right, document, base, arms, styles)
        drawing.suptitle(_explanation(document), x=0.01, ha="left", fontsize=11, color=FAINT_INK)
    return drawing


def format_difference(gap: dict[str, Any]) -> str:
    """Format a difference as `-1.82 (-3.10 to -0.54)`; the mean only if there is no interval."""
    if gap["mean"] is None:
        return "no pair of runs"
    if gap["interval"] is None:
        return _signed(gap["mean"])
    low, high = gap["interval"]
    return f"{_signed(gap['mean'])} ({_signed(low)} to {_signed(high)})"


def format_seeds(seeds: list[int]) -> str:
    """Format seeds as `seed 1` or `seeds 1-3`."""
    return f"seed{'s' if len(seeds) > 1 else ''} {named(seeds)}"


def _signed(value: float) -> str:
    return f"{value:+,.2f}" if abs(value) < 100 else f"{value:+,.0f}"


def _draw_differences(
    panel: "Axes", arms: list[dict[str, Any]], styles: dict[str, dict[str, Any]]
) -> None:
    """Draw a row for each arm: its interval, its mean, and a dot for each seed."""
    panel.axvline(0, color=INK, linewidth=1.2, zorder=1.5, gid=ZERO)
    for row, arm in enumerate(arms):
        _draw_row(panel, row, arm["score_difference"], styles[arm["name"]]["color"])
    labels = [textwrap.fill(arm["label"], LABEL_LETTERS) for arm in arms]
    panel.set_yticks(range(len(arms)), labels)
    for label, arm in zip(panel.get_yticklabels(), arms, strict=True):
        label.set_color(styles[arm["name"]]["color"])
    panel.tick_params(axis="y", length=0)
    panel.grid(visible=False, axis="y")
    panel.set_ylim(len(arms) - 0.5, -0.5)
    panel.spines["left"].set_visible(False)
    panel.set_xlabel("score of the arm, minus score with all details")
    panel.set_title("What changes without a detail, or with one more")
    intervals = any(arm["score_difference"]["interval"] for arm in arms)
    head = "mean (95% interval)" if intervals else "one seed"
    style: dict[str, Any] = {"va": "bottom", "fontsize": 10, "color": FAINT_INK}
    panel.text(1.02, 1.01, head, transform=panel.transAxes, **style)


def _draw_row(panel: "Axes", row: int, gap: dict[str, Any], color: str) -> None:
    """Draw the difference of one arm."""
    if gap["interval"] is not None:
        bar: dict[str, Any] = {"linewidth": 3.4, "solid_capstyle": "butt", "gid": INTERVAL}
        panel.plot(gap["interval"], [row, row], color=color, **bar)
    seeds = list(gap["by_seed"].values()) if gap["interval"] else []
    dots: dict[str, Any] = {
        "marker": "o",
        "markersize": 4.5,
        "color": "white",
        "markeredgewidth": 1.3,
    }
    heights = [row + DOTS_BELOW] * len(seeds)
    panel.plot(seeds, heights, linestyle="none", markeredgecolor=color, gid=DOTS, **dots)
    if gap["mean"] is not None:
        diamond: dict[str, Any] = {"marker": "D", "markersize": 8, "markeredgecolor": "white"}
        panel.plot([gap["mean"]], [row], linestyle="none", color=color, gid=MEANS, **diamond)
    text = format_difference(gap).replace("-", "\N{MINUS SIGN}")  # as on the axes
    style: dict[str, Any] = {"va": "center", "fontsize": 10, "color": FAINT_INK}
    panel.text(1.02, row, text, transform=panel.get_yaxis_transform(), **style)


def _draw_curves(
    panel: "Axes",
    document: dict[str, Any],
    base: dict[str, Any],
    arms: list[dict[str, Any]],
    styles: dict[str, dict[str, Any]],
) -> None:
    """Draw each arm's mean over seeds; the base on top, with a band from lowest to highest."""
    per_step = from_dict(document["config"]).frames_per_step
    frames = np.asarray(document["curve_steps"]) * per_step / 1e6
    frames = frames - frames[0] / 2  # the value of a slice is drawn at its middle
    ends = []
    for arm in arms:
        mean, style = _curves(arm).mean(axis=0), styles[arm["name"]]
        panel.plot(frames, mean, linewidth=1.8, gid=MEANS, label=arm["label"], **style)
        ends.append((float(mean[-1]), arm["name"].replace("_", " "), style["color"]))
    curves = _curves(base)
    if len(curves) > 1:
        low, high = curves.min(axis=0), curves.max(axis=0)
        panel.fill_between(frames, low, high, color=INK, alpha=0.14, linewidth=0, gid=BAND)
    mean = curves.mean(axis=0)
    panel.plot(frames, mean, color=INK, linewidth=3.4, gid=MEANS, label=base["label"], zorder=4)
    _name_ends(panel, [*ends, (float(mean[-1]), base["label"], INK)], float(frames[-1]))
    panel.set_xlim(0, document["agent_steps"] * per_step / 1e6)
    panel.set_xlabel(f"{frames_or_steps(per_step)} (millions)")
    panel.set_ylabel("raw score of a whole game")
    panel.set_title("Learning curves of the arms")


def _name_ends(panel: "Axes", ends: list[tuple[float, str, str]], last: float) -> None:
    """Name curves at their ends (height, name, color), moved apart where they would overlap."""
    ends = sorted(ends)
    bottom, top = panel.get_ylim()
    heights = spread([height for height, _, _ in ends], NEAR * (top - bottom), bottom, top)
    line: dict[str, Any] = {
        "arrowstyle": "-",
        "linewidth": 0.7,
        "alpha": 0.6,
        "shrinkA": 1,
        "shrinkB": 2,
    }
    for (height, name, color), shown in zip(ends, heights, strict=True):
        panel.annotate(
            name,
            (last, height),
            xytext=(1.06, shown),
            textcoords=panel.get_yaxis_transform(),
            va="center",
            color=color,
            fontsize=10,
            fontweight="bold" if color == INK else "normal",
            annotation_clip=False,
            arrowprops={**line, "color": color, "relpos": (0, 0.5)},
        )


def spread(heights: list[float], distance: float, bottom: float, top: float) -> list[float]:
    """Move rising heights as little as necessary to be `distance` apart within the bounds.

    Neighbors that are too near become a block around their mean, and so do blocks.
    """
    blocks: list[list[float]] = []
    for height in heights:
        blocks.append([height])
        while len(blocks) > 1 and _overlap(blocks[-2], blocks[-1], distance, bottom, top):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    return [
        _lowest(block, distance, bottom, top) + turn * distance
        for block in blocks
        for turn in range(len(block))
    ]


def _overlap(
    below: list[float], above: list[float], distance: float, bottom: float, top: float
) -> bool:
    """Return whether two blocks are too near."""
    highest = _lowest(below, distance, bottom, top) + (len(below) - 1) * distance
    return _lowest(above, distance, bottom, top) < highest + distance


def _lowest(block: list[float], distance: float, bottom: float, top: float) -> float:
    """Return the new height of the lowest item of a block."""
    length = (len(block) - 1) * distance
    wanted = sum(block) / len(block) - length / 2
    return max(bottom, min(wanted, top - length))


def _curves(arm: dict[str, Any]) -> NDArray[np.float64]:
    """Return the learning curves of an arm, [runs, P]."""
    return np.array([run["curve"] for run in arm["runs"] if run["curve"] is not None], float)


def _explanation(document: dict[str, Any]) -> str:
    """Return the text above the panels."""
    settings, seeds = document["config"], document["seeds"]
    config = from_dict(settings)
    base = describe(config, without=("total_timesteps",))
    text = (
        f"{title(config.game)}, {base}, "
        f"{document['agent_steps'] * config.frames_per_step:,} "
        f"{frames_or_steps(config.frames_per_step)}, "
        f"{format_seeds(seeds)}\n"
    )
    curves = "Learning curves of one seed"
    if len(seeds) == 1:
        text += "Diamonds: difference of one seed, which does not tell an effect from chance"
    else:
        text += (
            "Diamonds: mean difference, dots: single seeds, bars: 95% interval of the mean "
            "(Student's t)"
        )
        curves = "Curves: mean over seeds; band: lowest to highest seed"
    text += (
        "\nScore: mean raw score of the whole games that ended in the last quarter of the "
        f"steps.  {curves}"
    )
    missing = len(document["missing"])
    return f"{text}\nNot complete: {missing} runs are missing" if missing else text
