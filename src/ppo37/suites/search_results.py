"""The results of a search: how much work each candidate needs, as JSON, table and picture."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..session.files import own_file
from ..tools.callbacks import UNTIL_GAMES, score_text
from ..tools.figures import FAINT_INK, MEANS, STYLE, import_matplotlib, line_style, save_png
from ..tools.stats import t_interval_of_mean
from . import folder
from .compare_table import markdown_table
from .seeds import named

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = DOCUMENT, PAGE, PICTURE = "search.json", "search.md", "search.png"
STEPS, CPU = WORK = "agent_steps", "cpu_s"
"""The measures of work: agent steps and CPU seconds."""
NAMES = {STEPS: "agent steps", CPU: "CPU seconds"}


class Attempt(NamedTuple):
    """One run of a candidate: the work until it reached the score, or until its end.

    error: why the run failed; its work is then 0.  origin: its processor, commit and versions.
    """

    seed: int
    reached: bool
    agent_steps: int
    cpu_s: float
    wall_s: float
    error: str | None = None
    origin: str = ""


def ranking(attempts: dict[str, list[Attempt]], measure: str) -> list[str]:
    """Return the names of candidates with the same seeds, the fastest first.

    The order is that of the mean log work; see `works`.
    """
    costs = works(attempts, measure)
    return sorted(attempts, key=lambda name: (float(np.mean(np.log(costs[name]))), name))


def works(attempts: dict[str, list[Attempt]], measure: str) -> dict[str, list[float]]:
    """Return the work of each run of each candidate, by one of the measures of WORK.

    A run that did not reach the score counts with the largest work of all runs: a common limit, up
    to which the candidates are compared (restricted means). Its own length would not do, because
    candidates whose steps are cheap would gain by failing.
    """
    limit = max((float(getattr(a, measure)) for each in attempts.values() for a in each), default=0)
    return {
        name: [float(getattr(a, measure)) if a.reached else max(limit, 1.0) for a in each]
        for name, each in attempts.items()
    }


def write_results(
    path: Path,
    wanted: dict[str, Any],
    attempts: dict[str, list[Attempt]],
    decided: int,
    dropped: dict[str, int],
) -> dict[str, Any]:
    """Write the three files of a search, and return the document.

    wanted: what it is made of.  attempts: the runs of each candidate, the base first.  decided: the
    rounds that are over.  dropped: the round after which a candidate was dropped, by its name.
    """
    document = {
        "search": wanted,
        "decided": decided,
        "dropped": dropped,
        "candidates": candidates_of(attempts),
    }
    folder.write_document(path / DOCUMENT, document)
    folder.write_file(path / PAGE, (table(document) + "\n").encode())
    if any(attempts.values()):
        save_png(figure(document), own_file(path, PICTURE))
    return document


def candidates_of(attempts: dict[str, list[Attempt]]) -> dict[str, dict[str, Any]]:
    """Return the numbers of each candidate; ratios are to the base, over the seeds of both."""
    base = next(iter(attempts))
    found: dict[str, dict[str, Any]] = {
        name: {"runs": [a._asdict() for a in each], "reached": sum(a.reached for a in each)}
        for name, each in attempts.items()
    }
    for measure in WORK:
        costs = {name: np.log(each) for name, each in works(attempts, measure).items()}
        for name, each in attempts.items():
            if not each:
                continue
            found[name][measure] = float(np.exp(costs[name].mean()))
            if name != base:  # both are in the order of the seeds
                pairs = list(zip(each, attempts[base], strict=False))
                differences = costs[name] - costs[base][: len(each)]
                found[name][f"{measure}_ratio"] = _ratio(list(differences), pairs)
    return found


def _ratio(differences: list[float], pairs: list[tuple[Attempt, Attempt]]) -> dict[str, Any]:
    """Return a ratio of work, and its 95% interval, from paired differences of logarithms.

    pairs: the runs of the candidate and of the base.  A pair of which none reached the score says
    nothing. If a candidate has no run at the score, its work is a limit, and the ratio is only a
    bound: "at least", or "at most" if that is so for the base.
    """
    bound = None
    if not any(base.reached for _, base in pairs):
        bound = "at most"
    if not any(own.reached for own, _ in pairs):
        bound = "at least"
    interval = None
    if bound is None and sum(own.reached or base.reached for own, base in pairs) > 1:
        interval = [math.exp(limit) for limit in t_interval_of_mean(differences)]
    return {"value": math.exp(float(np.mean(differences))), "interval": interval, "bound": bound}


def table(document: dict[str, Any]) -> str:
    """Return the table of the candidates in Markdown, the fastest first, and its notes."""
    wanted, candidates = document["search"], document["candidates"]
    dropped, rank = document["dropped"], wanted["rank"]
    names = sorted(candidates, key=lambda name: _key(candidates[name], rank))
    head = ["candidate", "seeds", "reached", "agent steps", "of the base's"]
    head += ["CPU seconds", "of the base's", "dropped after"]
    rows = []
    for name in names:
        each = candidates[name]
        if not each["runs"]:
            continue
        rows.append(
            [
                name,
                named([run["seed"] for run in each["runs"]]),
                f"{each['reached']} of {len(each['runs'])}",
                f"{each['agent_steps']:,.0f}",
                _ratio_text(each.get("agent_steps_ratio")),
                _digits(each["cpu_s"]),
                _ratio_text(each.get("cpu_s_ratio")),
                f"round {dropped[name]}" if name in dropped else "",
            ]
        )
    errors = [
        f"- {name}, seed {run['seed']}: {run['error']}"
        for name in names
        for run in candidates[name]["runs"]
        if run["error"]
    ]
    origins = sorted({run["origin"] for c in candidates.values() for run in c["runs"]} - {""})
    notes = [
        f"Work until the mean of the last {UNTIL_GAMES} training games is at least "
        f"{score_text(wanted['until'])}: geometric means over the seeds. A run that did not reach "
        "it counts with the largest work of all runs, which is a lower bound of what it would have "
        "needed. Ratios: paired by seed, with Student's 95% interval of the mean logarithm; "
        "candidates with fewer seeds are compared over these.",
        f"Rounds of {', '.join(map(str, wanted['rounds']))} seeds. After each the slower half by "
        f"{NAMES[rank]} was dropped, but not the base, {wanted['base']}.",
        *(f"Runs: {origin}." for origin in origins),
    ]
    if len(origins) > 1:
        notes.append("CPU seconds of different processors or versions cannot be compared.")
    failed = ["", "Failed:", "", *errors] if errors else []
    return "\n".join([markdown_table(head, rows), "", *notes, *failed])


def _key(candidate: dict[str, Any], rank: str) -> tuple[int, float]:
    """Return a key that sorts candidates: those with more seeds first, then the faster ones."""
    return -len(candidate["runs"]), candidate.get(rank, math.inf)


def _digits(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.1f}"


def _ratio_text(ratio: dict[str, Any] | None) -> str:
    if ratio is None:
        return ""
    interval = ratio["interval"]
    bounds = "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"
    return f"{ratio['bound'] or ''} {ratio['value']:.2f}{bounds}".strip()


def figure(document: dict[str, Any]) -> "Figure":
    """Draw which part of the runs has reached the score, by their CPU time."""
    matplotlib, new_figure = import_matplotlib()
    candidates = {n: each for n, each in document["candidates"].items() if each["runs"]}
    with matplotlib.rc_context(STYLE):
        drawing = new_figure(figsize=(11.0, 5.2), layout="constrained")
        panel = drawing.subplots()
        for index, (name, each) in enumerate(candidates.items()):
            color, dashes = line_style(index)
            ends = sorted(run["cpu_s"] for run in each["runs"] if run["reached"])
            parts = np.arange(len(ends) + 1) / len(each["runs"])
            limit = max(run["cpu_s"] for run in each["runs"])
            panel.plot(
                [0.0, *ends, limit],
                [*parts, parts[-1]],
                drawstyle="steps-post",
                linewidth=2.2,
                color=color,
                linestyle=dashes,
                label=f"{name} ({len(each['runs'])} seeds)",
                gid=MEANS,
            )
        panel.set_ylim(-0.02, 1.05)
        panel.set_xlim(left=0.0)
        panel.set_xlabel("CPU time of training (seconds)")
        panel.set_ylabel("part of the runs at the score")
        panel.set_title(f"Runs that have reached {score_text(document['search']['until'])}")
        text = "A line that ends below 1: the other runs did not reach it within their steps"
        drawing.suptitle(text, x=0.01, ha="left", fontsize=11, color=FAINT_INK)
        drawing.legend(loc="outside lower left", ncols=4)
    return drawing
