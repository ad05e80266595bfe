"""The lessons, in their order, and their texts."""

import re
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from .exercises import EXERCISES

FOLDER = Path(str(files(__package__) / "lessons"))
"""The texts in Markdown, with their pictures in `figures/`."""
INDEX, WORDS = "index", "glossary"
"""The first page, and the one that explains all words."""
EQUATION = re.compile(r"^```equation\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""Equations in plain text, as in docstrings."""
QUOTE = re.compile(r'^```python title="([^"]+)"$', re.MULTILINE)
"""The beginning of a quote of a source file."""
PICTURE = re.compile(r"^!\[([^]]*)\]\(([^)]+)\)$", re.MULTILINE)
CHART = re.compile(r"^<!-- chart: (\w+) -->$", re.MULTILINE)
"""The place of an interactive chart."""
FORMULA = re.compile(r"\$([^$\n]+)\$")
SYMBOLS = {
    r"\mid": "|",
    r"\le": "\N{LESS-THAN OR EQUAL TO}",
    r"\ge": "\N{GREATER-THAN OR EQUAL TO}",
    r"\gamma": "\N{GREEK SMALL LETTER GAMMA}",
    r"\delta": "\N{GREEK SMALL LETTER DELTA}",
    r"\epsilon": "\N{GREEK SMALL LETTER EPSILON}",
    r"\lambda": "\N{GREEK SMALL LETTER LAMDA}",
    r"\pi": "\N{GREEK SMALL LETTER PI}",
    r"\rho": "\N{GREEK SMALL LETTER RHO}",
    r"\log": "log",
    r"\exp": "exp",
    r"\mathrm": "",
}
"""The texts for a terminal of the TeX in the lessons."""


class Lesson(NamedTuple):
    """A lesson. Its text is `lessons/{name}.md`; its exercises are those that name it."""

    name: str
    title: str

    @property
    def text(self) -> str:
        """The text in Markdown, with equations as TeX."""
        return read(self.name)

    @property
    def exercises(self) -> list[str]:
        """The names of its exercises."""
        return [name for name, each in EXERCISES.items() if each.lesson == self.name]


def read(name: str) -> str:
    """Return the Markdown of a lesson, of the index or of the glossary."""
    return (FOLDER / f"{name}.md").read_text("utf-8")


def section_of(section: str, lesson: str) -> str:
    """Return the name of the lesson with a section: this one, or else an earlier one."""
    names = [lesson, *LESSONS]
    return next(name for name in names if f"\n## {section}\n" in read(name))


def for_terminal(text: str) -> str:
    """Return the Markdown of a lesson as a terminal can show it: symbols for TeX, no pictures."""
    text = EQUATION.sub(r"```text\n\1```", text)
    text = QUOTE.sub(r"From `\1`:\n\n```python", text)
    text = CHART.sub(r"(a chart with sliders: `ppo37 learn --notebook \1`)", text)
    text = PICTURE.sub(lambda match: f"(picture: {match[1]}; {FOLDER / match[2]})", text)
    return FORMULA.sub(lambda match: _symbols(match[1]), text)


def _symbols(formula: str) -> str:
    for tex, symbol in SYMBOLS.items():
        formula = re.sub(re.escape(tex) + r"(?![a-z])", symbol, formula)
    return formula.replace("{", "").replace("}", "")


LESSONS = {
    name: Lesson(name, title)
    for name, title in (
        ("policy", "What is a policy?"),
        ("return", "Rewards, returns and values"),
        ("advantages", "How much better was an action than expected?"),
        ("ratio", "Learn several times from the same steps"),
        ("clip", "The clipped objective"),
        ("loss", "One loss for policy and value"),
        ("update", "One update"),
        ("pixels", "From pixels to the network"),
        ("memory", "A network that remembers"),
        ("continuous", "Actions that are real numbers"),
        ("training", "Read a training run"),
        ("numbers", "How numbers mislead"),
        ("papers", "Read a PPO paper critically"),
    )
}
