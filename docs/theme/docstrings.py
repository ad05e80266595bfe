"""An extension of Griffe that prepares the docstrings of the source for the site.

Equations are rendered, shapes are set as code, and trailing comments describe the fields of
tuples. The source itself stays plain text.
"""

import re
from typing import Any

import griffe
from tex import tex

EQUATION = re.compile(r"^(E\d): (.*)$", re.MULTILINE)
SHAPE = re.compile(r"\[[\w+*, .|=-]+\](?!\()")
ARGUMENTS = re.compile(r"^[a-z]\w*(?: \0\d+\0)?(?:, [a-z]\w*(?: \0\d+\0)?)*(?=: )", re.MULTILINE)
COMMENT = re.compile(r"\S\s+# (.*)$")


def as_markdown(docstring: str) -> str:
    """Return a plain docstring as Markdown."""
    blocks = re.split(r"(\n\n)", docstring)
    return "".join(block if block.startswith("    ") else _block(block) for block in blocks)


def _block(text: str) -> str:
    stored: list[str] = []

    def store(markdown: str) -> str:
        """Keep finished Markdown out of the reach of the next steps."""
        stored.append(markdown)
        return f"\0{len(stored) - 1}\0"

    def arguments(names: re.Match[str]) -> str:
        return "\n\n" + re.sub(r"(?<!\0)\b[a-z]\w*", lambda name: store(f"`{name[0]}`"), names[0])

    text = re.sub(r"`[^`\n]*`", lambda code: store(code[0]), text)
    text = EQUATION.sub(lambda e: f"\n{e[1]}: " + store(f"\\({tex(e[2])}\\)") + "\n", text)
    text = re.sub(r"https?://\S+?(?=[.,;)]*(?:\s|$))", lambda url: store(f"<{url[0]}>"), text)
    text = SHAPE.sub(lambda shape: store(f"`{shape[0]}`"), text)
    text = re.sub(r"(?<=\S)  (?=\S)", "\n\n", text)  # two spaces part one argument from the next
    text = ARGUMENTS.sub(arguments, text)
    text = re.sub(r"\n(?=(?:Source:|Returns) )", "\n\n", text)
    text = re.sub(r"([*_<\[\\])", r"\\\1", text)
    while "\0" in text:
        text = re.sub("\0(\\d+)\0", lambda n: stored[int(n[1])], text)
    return text


class PlainDocstrings(griffe.Extension):
    """Markdown from plain docstrings, and tables of the fields of named tuples."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Add a table of the fields of a named tuple: their types and trailing comments."""
        fields = [item for item in cls.attributes.values() if not item.name.startswith("_")]
        if cls.docstring and fields and "NamedTuple" in map(str, cls.bases):
            rows = ["| field | type | |", "|---|---|---|"]
            for field in fields:
                comment = COMMENT.search(field.lines[-1])
                kind = str(field.annotation).replace("|", "\\|")
                meaning = as_markdown(comment[1]) if comment else ""
                rows.append(f"| `{field.name}` | `{kind}` | {meaning} |")
            cls.docstring.value += "\n\n" + "\n".join(rows)
