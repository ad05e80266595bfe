"""The tables of a comparison, in Markdown."""

from collections.abc import Sequence
from typing import Any

from .seeds import named

NAMES = {
    "iqm": "IQM",
    "median": "median",
    "mean": "mean",
    "optimality_gap": "optimality gap",
}
"""The aggregates, as they are printed."""


def table(document: dict[str, Any]) -> str:
    """Return the result as tables in Markdown."""
    parts = [_aggregates_table(document), _differences_table(document), _games_table(document)]
    lines = (*document["notes"], _intervals(document), _origin(document))
    notes = "\n".join(f"- {line}" for line in lines)
    return "\n\n".join([*(part for part in parts if part), notes])


def _intervals(document: dict[str, Any]) -> str:
    """Describe how scores and intervals were computed."""
    kind = "percentiles of the bootstrap, stratified by game"
    if len(document["games"]) == 1:
        kind = "Student's t over seeds; of P(improvement) the bootstrap, too narrow for few seeds"
    return (
        f"score: {document['score']}; intervals: 95%, {kind}; P(improvement): that a run beats one "
        "of the first entry, ties count 1/2"
    )


def _origin(document: dict[str, Any]) -> str:
    """Describe with what the runs and the comparison were made."""
    protocol = f"protocol {document['protocol']}; " if document["protocol"] else ""
    seeds = f"seeds {_seed_lists(document['entries'])}; "
    runs = "".join(f"runs: {origin}; " for origin in document["origins"] if origin)
    made = f"compared by ppo37 {document['versions']['ppo37']}"
    commit = f", commit {document['commit']}" if document["commit"] else ""
    return f"{protocol}{seeds}{runs}{made}{commit}"


def _seed_lists(entries: list[dict[str, Any]]) -> str:
    """Return the seeds of all entries, or of each where they differ."""
    found = dict[str, list[str]]()
    for entry in entries:
        if not entry["published"]:
            lists = dict.fromkeys(named(each["seeds"]) for each in entry["scores"].values())
            found.setdefault(" or ".join(lists), []).append(entry["name"])
    if len(found) == 1:
        return next(iter(found))
    return ", ".join(f"{seeds} of {join_names(names)}" for seeds, names in found.items()) or "none"


def _aggregates_table(document: dict[str, Any]) -> str:
    names = list(document["entries"][0]["aggregates"])
    if not names:
        return ""
    head = [document["scale"], "seeds", "agent steps", *(NAMES[name] for name in names)]
    rows = [
        [entry["name"], _seeds(entry), _steps_text(entry)]
        + [format_estimate(entry["aggregates"][name]) for name in names]
        for entry in document["entries"]
    ]
    return markdown_table(head, rows)


def _differences_table(document: dict[str, Any]) -> str:
    if not document["differences"]:
        return ""
    found = document["differences"]
    names = list(found[0]["differences"])
    head = [f"minus {found[0]['base']}", "pairs", *(NAMES[name] for name in names)]
    rows = [
        [each["entry"], "by seed" if each["paired"] else "no"]
        + [format_estimate(each["differences"][name], sign=True) for name in names]
        + [format_estimate(each["probability_of_improvement"])]
        for each in found
    ]
    verdicts = "\n".join(f"- **{each['entry']}**: {each['verdict']}" for each in found)
    return f"{markdown_table([*head, 'P(improvement)'], rows)}\n\n{verdicts}"


def _games_table(document: dict[str, Any]) -> str:
    head = ["raw score (seeds)", *(entry["name"] for entry in document["entries"])]
    rows = [
        [document["titles"][game], *(_game_cell(entry, game) for entry in document["entries"])]
        for game in document["games"]
    ]
    return markdown_table(head, rows)


def _game_cell(entry: dict[str, Any], game: str) -> str:
    found = entry["scores"][game]
    seeds = f" ({len(found['seeds'])})" if found["seeds"] else ""
    return f"{format_value(found['mean'])}{seeds}"


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown, with columns of equal width."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|-" + "-|-".join("-" * width for width in widths) + "-|"
    return "\n".join([lines[0], rule, *lines[1:]])


def format_estimate(found: dict[str, Any], sign: bool = False) -> str:
    """Format a value and its interval as `0.52 (0.41 to 0.63)`."""
    write = format_signed if sign else format_value
    if found["interval"] is None:
        return write(found["value"])
    low, high = found["interval"]
    return f"{write(found['value'])} ({write(low)} to {write(high)})"


def format_value(value: float) -> str:
    """Format a score, with decimals only below 1,000."""
    return f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"


def format_signed(value: float) -> str:
    """Format a difference like a score, with its sign."""
    return f"{value:+,.2f}" if abs(value) < 1000 else f"{value:+,.0f}"


def _seeds(entry: dict[str, Any]) -> str:
    counts = {len(found["seeds"]) for found in entry["scores"].values()}
    return "-" if entry["published"] else format_range(counts)


def _steps_text(entry: dict[str, Any]) -> str:
    steps = {count for count in entry["agent_steps"].values() if count is not None}
    return format_range(steps) if steps else "-"


def format_range(numbers: set[int]) -> str:
    """Format the smallest and the largest of some numbers as `3` or `3 to 5`."""
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def join_names(names: Sequence[str], most: int = 8) -> str:
    """Return `a, b and c`; above `most` names, the last ones are replaced by their number."""
    if len(names) > most:
        names = [*names[:most], f"{len(names) - most} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
