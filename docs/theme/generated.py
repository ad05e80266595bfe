"""Pages that are made from the package: one for each detail of PPO, and the settings."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from tex import tex

from ppo37 import config, networks
from ppo37.course import lessons
from ppo37.course.charts import CHARTS, Chart, detail_figure
from ppo37.presets import PRESETS
from ppo37.tools import details
from ppo37.tools.details import Detail, Mark

ROOT = Path(__file__).parents[2]
DETAILS = "reference/details/*"
FOLDER = "reference/details"
COURSE = "learn"
"""The folder of the course in the site."""
LESSONS = "src/ppo37/course/lessons"
"""Its folder in the repository."""
UP = "../../.."
"""The root of the repository, seen from the page of a detail."""
GROUPS = {
    "core": "Core",
    "atari": "Atari",
    "continuous": "Continuous control",
    "lstm": "LSTM",
    "multidiscrete": "Several choices at once",
    "auxiliary": "Auxiliary",
}


def pages() -> dict[str, str]:
    """Return the Markdown of every generated page by its path in the site."""
    found = details.marks()
    entries = details.load()
    return {
        f"{FOLDER}/index.md": _index(entries, found),
        **{f"{FOLDER}/{entry.tag}.md": _detail(entry, found) for entry in entries},
        "reference/settings.md": _settings(),
        **{page: _lesson(page) for page in course()},
    }


def course() -> list[str]:
    """Return the pages of the course in their order."""
    names = [lessons.INDEX, *lessons.LESSONS, lessons.WORDS]
    return [f"{COURSE}/{name}.md" for name in names]


def _lesson(page: str) -> str:
    """Return the page of a lesson, with its equations as TeX."""

    def equations(found: re.Match[str]) -> str:
        return "\n\n".join(f"$$\n{tex(line)}\n$$" for line in found[1].splitlines())

    text = lessons.EQUATION.sub(equations, lessons.read(Path(page).stem))
    return lessons.CHART.sub(lambda found: _chart(CHARTS[found[1]]), text)


def _is_different(tag: str) -> bool:
    """Return whether the interval of a detail over seeds excludes 0."""
    each = details.measured().get("details", {}).get(tag)
    return each is not None and not each["interval"][0] <= 0.0 <= each["interval"][1]


def _figure(name: str, root: str) -> str:
    """Return the place of a figure without sliders."""
    return (
        f"<script src='{root}theme/plotly.min.js'></script><script src='charts/{name}.js'></script>"
        f"<div class='chart' data-chart='{name}'><div class='chart-plot'></div></div>"
    )


def _chart(chart: Chart) -> str:
    """Return the sliders of a chart and a place for its figure; charts.js fills both."""
    rows = []
    for name, values in chart.controls.items():
        at = values.index(chart.start[name])
        rows.append(
            f"<label>{name.replace('_', ' ')} <input type='range' min='0' "
            f"max='{len(values) - 1}' value='{at}'> <output></output></label>"
        )
    return (
        "<script src='../theme/plotly.min.js'></script>"
        f"<script src='charts/{chart.name}.js'></script>"
        f"<div class='chart' data-chart='{chart.name}'><p>{chart.text} Live, with code to change: "
        f"<code>ppo37 learn --notebook {chart.name}</code></p>{''.join(rows)}"
        "<div class='chart-plot'></div></div>"
    )


def chart_scripts() -> dict[str, str]:
    """Return the scripts with the figures of each chart, by their paths in the site."""
    found = {f"{COURSE}/charts/{name}.js": _document(chart) for name, chart in CHARTS.items()}
    for tag in filter(_is_different, (entry.tag for entry in details.load())):
        figure = {"controls": [], "figures": {"": detail_figure(tag)}}
        found[f"{FOLDER}/charts/{tag}.js"] = figure
    return {
        path: "window.ppo37Charts = window.ppo37Charts || {};\n"
        f"window.ppo37Charts[{json.dumps(Path(path).stem)}] = {json.dumps(document)};\n"
        for path, document in found.items()
    }


def _document(chart: Chart) -> dict[str, Any]:
    """Return the values of the sliders of a chart, and its figure for each of their positions."""
    controls = [{"name": name, "values": values} for name, values in chart.controls.items()]
    figures = {",".join(map(str, at)): figure for at, figure in chart.all_figures()}
    return {"controls": controls, "figures": figures}


def details_nav() -> list[Any]:
    """Return the navigation of the details, by group."""
    nav: list[Any] = [f"{FOLDER}/index.md"]
    for group, entries in _by_group(details.load()).items():
        nav.append({GROUPS[group]: [{_title(e): f"{FOLDER}/{e.tag}.md"} for e in entries]})
    return nav


def _by_group(entries: list[Detail]) -> dict[str, list[Detail]]:
    return {name: [e for e in entries if e.group == name] for name in GROUPS}


def _title(entry: Detail) -> str:
    return f"{entry.tag} {entry.name}"


def _index(entries: list[Detail], found: dict[str, list[Mark]]) -> str:
    parts = [
        "# The details of PPO",
        "The 37 details have the numbers of [The 37 Implementation Details of PPO]"
        "(https://iclr-blog-track.github.io/2022/03/25/ppo-implementation-details/) (Huang et al. "
        "2022). A1 to A4 are auxiliary and off by default. Each page has the statement, the "
        "reason, the source, the code, a mutant (an edit that removes the detail), and the tests "
        "that fail with this mutant. `ppo37 details D05` prints the same in a terminal.",
    ]
    for group, members in _by_group(entries).items():
        verb = "switched on by" if group == details.AUXILIARY else "switched off by"
        rows = [["", "detail", "file", "needs", verb]]
        for entry in members:
            file = f"`{details.marks_of(entry, found)[0].file}`"
            settings = [_flags(entry.needs), _flags(entry.switch)]
            rows.append([entry.tag, f"[{entry.name}]({entry.tag}.md)", file, *settings])
        parts += [f"## {GROUPS[group]}", _table(rows)]
    return "\n\n".join(parts) + "\n"


def _table(rows: list[list[str]]) -> str:
    """Return a table in Markdown, its head first, without empty columns."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    head, *body = (f"| {' | '.join(cells)} |" for cells in zip(*columns, strict=True))
    return "\n".join([head, "|---" * len(columns) + "|", *body])


def _detail(entry: Detail, found: dict[str, list[Mark]]) -> str:
    own = details.marks_of(entry, found)
    parts = [f"# {_title(entry)}", _text(entry.statement)]
    if entry.equation:
        parts.append(f"$$\n{tex(entry.equation)}\n$$")
    parts.append(f"**Why.** {_text(entry.why)}")
    parts.append(f"**Without it.** {_text(entry.without)}")
    parts += [f"**Found by others.** {_text(study)}" for study in entry.studies]
    shown = "trains a small game" if entry.task else "runs a test that fails"
    parts.append(
        f"`ppo37 details {entry.number} --break` removes it from a copy of the package and {shown}."
    )
    parts.append(f"**Over seeds.** {_text(details.over_seeds(entry.tag))}")
    if _is_different(entry.tag):
        parts.append(_figure(entry.tag, "../../"))
    parts.append(f"**Source.** [{_text(entry.source)}]({entry.permalink})")
    parts.append("\n".join(_facts(entry)))
    parts += ["## In the code", ", ".join(map(_place, own)) + ":", _excerpt(own)]
    parts += [
        "## Mutant",
        "This edit removes the detail. With it, at least one of the tests below must fail "
        "(`make mutants`).",
        f"```diff\n{details.diff(entry).rstrip()}\n```",
        "## Tests",
        "\n".join(f"- {_test(test)}" for test in entry.tests),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(entry: Detail) -> list[str]:
    auxiliary = entry.group == details.AUXILIARY
    facts = {
        "Needs": _flags(entry.needs),
        "Switched on by" if auxiliary else "Switched off by": _flags(entry.switch),
    }
    lines = [f"- {name}: {value}" for name, value in facts.items() if value]
    return lines or ["No setting switches it off."]


def _place(mark: Mark) -> str:
    return f"[`{mark.file}`, line {mark.line}]({UP}/src/ppo37/{mark.file}#L{mark.line})"


def _excerpt(own: list[Mark]) -> str:
    first, lines = details.excerpt(own[0])
    code = "\n".join(lines)
    marked = " ".join(
        str(mark.line - first + 1)
        for mark in own
        if mark.file == own[0].file and first <= mark.line < first + len(lines)
    )
    return f'``` {{.python linenums="{first}" hl_lines="{marked}"}}\n{code}\n```'


def _test(test: str) -> str:
    file, _, name = test.partition("::")
    function = name.partition("[")[0]
    lines = (ROOT / file).read_text("utf-8").splitlines()
    line = next(n for n, text in enumerate(lines, 1) if text.startswith(f"def {function}("))
    return f"[`{name}`]({UP}/{file}#L{line}) in `{file}`"


def _flags(settings: dict[str, Any]) -> str:
    return " ".join(f"`{flag}`" for flag in config.flags(settings))


def _text(text: str) -> str:
    """Escape what Markdown would read as markup."""
    return re.sub(r"([\\*_\[\]<>$])", r"\\\1", text)


def _settings() -> str:
    rows = [["setting", "default", "values", "meaning"]]
    for field in dataclasses.fields(config.Config):
        meaning = _text(field.metadata["help"])
        rows.append([f"`{field.name}`", _value(field.default), _values(field), meaning])
    return "\n\n".join(
        [
            "# Settings",
            "Every setting is a field of [`Config`](api/ppo37.md#ppo37.Config) in Python and an "
            "option of `ppo37 train` in a terminal: `clip_coef` is `--clip-coef`. A field that is "
            "true or false is switched by `--norm-adv` and `--no-norm-adv`.",
            _table(rows),
            "## Presets",
            "A preset replaces some defaults. `fast` has one set of values for a CPU and one for a "
            "GPU, and `auto` is `fast`. An empty cell is the value of `classic`.",
            _presets(),
        ]
    )


def _values(field: "dataclasses.Field[Any]") -> str:
    own = ", or `module:Class`" if field.name == "network" else ""
    if names := config.choices(field.name) or (networks.names() if own else ()):
        return ", ".join(f"`{name}`" for name in names) + own
    kind, optional = config.field_type(field)
    rules = field.metadata
    bounds = [
        f"{word} {rules[name]:,}"
        for name, word in (("above", "above"), ("least", "from"), ("most", "to"))
        if rules[name] is not None
    ]
    words = {bool: "true or false", str: "text", int: "whole number", float: "number"}
    item = config.item_type(field.name)
    plain = words[kind] if item is None else f"list: each a {words[item]}"
    return " ".join([plain, *bounds]) + (", or none" if optional else "")


def _presets() -> str:
    columns = {"`fast`, CPU": "fast_cpu", "`fast`, GPU": "fast_cuda", "`debug`": "debug"}
    sets = [PRESETS[key] for key in columns.values()]
    rows = [["setting", "`classic`", *columns]]
    for field in dataclasses.fields(config.Config):
        if any(field.name in values for values in sets):
            default = PRESETS["classic"].get(field.name, field.default)
            changed = (values.get(field.name, default) for values in sets)
            cells = ["" if value == default else _value(value) for value in changed]
            rows.append([f"`{field.name}`", _value(default), *cells])
    return _table(rows)


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, tuple):
        return ", ".join(map(_value, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else f"`{value}`"
