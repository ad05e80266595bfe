"""Figures by matplotlib: style, colors and files, the same for all plots."""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..session.files import OTHER_OUT, beside, explained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
DOTS, MEANS, BAND = "games", "means", "band"
"""Ids (`gid`) of the parts of a figure, for programs that inspect it."""

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which color-blind people can tell apart, without its yellow."""
DASHES = ("solid", (0, (5, 1.5)), (0, (1, 1)))
"""For more curves than colors."""
INK, FAINT_INK = "#222222", "#707070"
STYLE: dict[str, Any] = {
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#B0B0B0",
    "axes.grid": True,
    "grid.color": "#E8E8E8",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    **dict.fromkeys(("text.color", "axes.labelcolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), FAINT_INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.12,
}


def import_matplotlib() -> tuple[Any, Callable[..., "Figure"]]:
    """Import matplotlib and its Figure; UsageError without it.

    The backend is set to files, whatever MPLBACKEND names. matplotlib's warnings, such as those
    about its cache folder, are not printed.
    """
    os.environ["MPLBACKEND"] = "agg"
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("plotting needs matplotlib: pip install matplotlib") from error
    return matplotlib, Figure


def save_png(drawing: "Figure", path: Path, make_folder: bool = False) -> None:
    """Write a figure, replacing `path` only when it is complete; UsageError if that fails."""
    temporary = beside(path)
    try:
        with explained(f"cannot write {path}", OTHER_OUT):
            if make_folder:
                path.parent.mkdir(exist_ok=True)
            drawing.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def line_style(index: int, colors: Sequence[str] = COLORS) -> tuple[str, Any]:
    """Return the color and the dashes of a line: other dashes when the colors are used up."""
    turn, color = divmod(index, len(colors))
    return colors[color], DASHES[turn % len(DASHES)]


def format_number(score: float) -> str:
    """Format a number like those of the axis: `1,234.5`, `\N{MINUS SIGN}3`."""
    return f"{score:,.1f}".removesuffix(".0").replace("-", "\N{MINUS SIGN}")


def frames_or_steps(frames_per_step: int) -> str:
    """Return what an axis counts: frames if a step has several of them, else agent steps."""
    return "frames" if frames_per_step > 1 else "agent steps"
