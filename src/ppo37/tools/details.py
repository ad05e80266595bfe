"""The table of details: a statement of each, its reason, its source and its place in the code.

The table is data/details.toml. The place is found at run time: the line in which a detail happens
has its tag as a comment at the end, `# D05` or, for an auxiliary detail, `# A1`.
"""

import ast
import difflib
import json
import re
import textwrap
import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from ..config import flags
from ..errors import UsageError

SOURCE = Path(__file__).parents[1]
READING_ORDER = ("algorithm/", "networks/", "loop.py", "session/", "config.py", "envs/")
MARK = re.compile(r"\S.*# ((?:[DA]\d+)(?:, [DA]\d+)*)$")
AUXILIARY = "auxiliary"
"""The group of the details that are off by default: their switch turns them on."""
WIDTH = 100
LONGEST_EXCERPT = 30
LEGEND = """
where   file in src/ppo37 and line
needs   options with which the detail is active, if it is not by default
switch  options that turn the detail off (A1 to A4: on)
`ppo37 details 5` explains a detail."""
AROUND = 8
"""Lines shown before and after a mark in a function that is longer than an excerpt."""


class Edit(NamedTuple):
    """A change of the source: `find` occurs exactly once in `file`, a path in the package."""

    file: str
    find: str
    replace: str


class Detail(NamedTuple):
    """One entry of the table; data/details.toml explains the fields."""

    number: int | str
    name: str
    group: str
    statement: str
    why: str
    source: str
    permalink: str
    without: str = ""
    studies: tuple[str, ...] = ()
    task: str | None = None
    equation: str | None = None
    main: str | None = None
    needs: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    switch: dict[str, Any] = {}  # noqa: RUF012
    tests: tuple[str, ...] = ()
    mutant: tuple[Edit, ...] = ()

    @property
    def tag(self) -> str:
        """The comment that marks its lines: D05, A1."""
        return f"D{self.number:02d}" if isinstance(self.number, int) else self.number


class Mark(NamedTuple):
    """A line of the package where a detail happens, counted from 1."""

    file: str
    line: int


class Excerpt(NamedTuple):
    """Consecutive lines of a file; the first has the number `first`."""

    first: int
    lines: list[str]


def load() -> list[Detail]:
    """Return all details in order: 1 to 37, then A1 to A4."""
    text = resources.files("ppo37").joinpath("data/details.toml").read_text("utf-8")
    return [_detail(table) for table in tomllib.loads(text)["detail"]]


@cache
def measured() -> dict[str, Any]:
    """Return what benchmarks/details_seeds.py has measured; empty if it has not been run."""
    file = resources.files("ppo37").joinpath("data/details_seeds.json")
    found: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return found


def over_seeds(tag: str) -> str:
    """Say what a detail is worth over seeds, or that it is not measured."""
    each = measured().get("details", {}).get(tag)
    if each is None:
        return "What it is worth is not measured over seeds."
    low, high = each["interval"]
    numbers = f"{each['difference']:+.2f}, 95% interval {low:+.2f} to {high:+.2f}"
    seeds = f"{len(measured()['seeds'])} seeds of the small game `{each['task']}`"
    if low <= 0.0 <= high:
        return f"No difference seen with {seeds}: without it {numbers}."
    word = "lower" if each["difference"] < 0.0 else "higher"
    return f"The score is {word} without it, over {seeds}: {numbers}."


def find(name: str) -> Detail:
    """Return the detail named 5, 05, D05 or d5, or A3; UsageError if there is none."""
    number = re.fullmatch(r"D?0*(\d+)", name.upper())
    tag = f"D{int(number[1]):02d}" if number else name.upper()
    found = [detail for detail in load() if detail.tag == tag]
    if not found:
        raise UsageError(
            f"there is no detail {name!r}: they are 1 to 37 and A1 to A4 (see `ppo37 details`)"
        )
    return found[0]


def marks(source: Path = SOURCE) -> dict[str, list[Mark]]:
    """Return the marked lines of each tag, in the order of reading."""
    files = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.py"))
    found: dict[str, list[Mark]] = {}
    for file in sorted(files, key=_reading_order):
        for number, line in enumerate((source / file).read_text("utf-8").splitlines(), start=1):
            match = MARK.search(line)
            for tag in match[1].split(", ") if match else ():
                found.setdefault(tag, []).append(Mark(file, number))
    return found


def marks_of(detail: Detail, found: dict[str, list[Mark]]) -> list[Mark]:
    """Return the lines of one detail, the main one first; empty if it has none."""
    own = found.get(detail.tag, [])
    return sorted(own, key=lambda mark: mark.file != detail.main)


def excerpt(mark: Mark, source: Path = SOURCE) -> Excerpt:
    """Return the innermost function or class around a mark, or its lines near the mark."""
    text = (source / mark.file).read_text("utf-8")
    lines = text.splitlines()
    first, last = 1, len(lines)
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        begin = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        end = node.end_lineno or begin
        if begin <= mark.line <= end and end - begin < last - first:
            first, last = begin, end
    if last - first >= LONGEST_EXCERPT:
        first, last = max(first, mark.line - AROUND), min(last, mark.line + AROUND)
    return Excerpt(first, lines[first - 1 : last])


def mutated(edits: tuple[Edit, ...], source: Path = SOURCE) -> dict[str, tuple[str, str]]:
    """Return for each changed file its text before and after the edits.

    ValueError if the text to find does not occur exactly once.
    """
    texts: dict[str, tuple[str, str]] = {}
    for file, old, new in edits:
        original = (source / file).read_text("utf-8")
        before, after = texts.get(file, (original, original))
        if after.count(old) != 1:
            raise ValueError(f"{file} has {old!r} {after.count(old)} times, not once")
        texts[file] = before, after.replace(old, new)
    return texts


def diff(detail: Detail, source: Path = SOURCE) -> str:
    """Return the mutant of a detail as a unified diff; empty if it has none."""
    return "".join(
        line
        for file, (before, after) in mutated(detail.mutant, source).items()
        for line in difflib.unified_diff(
            before.splitlines(keepends=True),
            after.splitlines(keepends=True),
            f"a/{file}",
            f"b/{file}",
            n=1,
        )
    )


def document(detail: Detail, found: dict[str, list[Mark]]) -> dict[str, Any]:
    """Return everything about a detail as plain values."""
    own = marks_of(detail, found)
    code = excerpt(own[0])._asdict() if own else None
    return {
        "tag": detail.tag,
        **detail._asdict(),
        "mutant": [edit._asdict() for edit in detail.mutant],
        "present": bool(own),
        "marks": [mark._asdict() for mark in own],
        "excerpt": code,
    }


def table(details: list[Detail], found: dict[str, list[Mark]]) -> str:
    """Format all details, one per line, with a legend below."""
    rows = [("tag", "detail", "where", "needs", "switch")]
    for detail in details:
        own = marks_of(detail, found)
        where = f"{own[0].file}:{own[0].line}" if own else "-"
        settings = (" ".join(flags(detail.needs)) or "-", " ".join(flags(detail.switch)) or "-")
        rows.append((detail.tag, detail.name, where, *settings))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, LEGEND])


def explanation(detail: Detail, found: dict[str, list[Mark]]) -> str:
    """Format a detail in full: statement, reason, source, tests, mutant and code."""
    own = marks_of(detail, found)
    turned = "on" if detail.group == AUXILIARY else "off"
    facts = {
        "equation": detail.equation,
        "why": textwrap.fill(detail.why, WIDTH - 2),
        "without it": textwrap.fill(detail.without, WIDTH - 2),
        "over seeds": textwrap.fill(over_seeds(detail.tag), WIDTH - 2),
        "what studies found": "\n".join(textwrap.fill(s, WIDTH - 2) for s in detail.studies),
        "source": f"{detail.source}\n{detail.permalink}",
        "needs": " ".join(flags(detail.needs)),
        f"turned {turned} by": " ".join(flags(detail.switch)),
        "tests": "\n".join(detail.tests),
        "where": "\n".join(f"{mark.file}:{mark.line}" for mark in own),
    }
    title = f"{detail.tag}  {detail.name} ({detail.group})"
    parts = [title, textwrap.fill(detail.statement, WIDTH)]
    parts += [f"{name}:\n{_indented(text)}" for name, text in facts.items() if text]
    if detail.mutant:
        parts.append(f"a change that its tests detect:\n{_indented(diff(detail).rstrip())}")
    if own:
        first, lines = excerpt(own[0])
        numbered = [f"{n:4} {line}".rstrip() for n, line in enumerate(lines, start=first)]
        parts.append(f"{own[0].file}:\n" + "\n".join(numbered))
    return "\n\n".join(parts)


def _detail(table: dict[str, Any]) -> Detail:
    known, needed = set(Detail._fields), set(Detail._fields) - set(Detail._field_defaults)
    assert needed <= table.keys() <= known, f"the entry of {table.get('number')} is incomplete"
    edits = tuple(Edit(**edit) for edit in table.get("mutant", ()))
    lists = {name: tuple(table.get(name, ())) for name in ("tests", "studies")}
    return Detail(**{**table, **lists, "mutant": edits})


def _reading_order(file: str) -> tuple[int, str]:
    found = (n for n, start in enumerate(READING_ORDER) if file.startswith(start))
    return next(found, len(READING_ORDER)), file


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())
