"""Check the pages in docs/learn against the code: run their examples and compare what they quote.

    python docs/learn/check.py

- A Python block is run in the root of the repository. If a `text` block follows it, that must be
  what it prints.
- A Python block with a title is a quote: each part of it between lines "..." must be in that file.
- A picture that a page shows must exist.
"""

import contextlib
import io
import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BLOCK = re.compile(
    r'^```python(?: title="([^"\n]+)")?\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?', re.S | re.M
)
PICTURE = re.compile(r"!\[.*?\]\((.+?)\)")


def quote_error(file: str, code: str) -> str | None:
    """Return what is wrong with a quote of a file, or None."""
    source = _without_indent((ROOT / file).read_text())
    parts = re.split(r"^ *\.\.\.\n", code, flags=re.M)
    missing = [part for part in parts if _without_indent(part) not in source]
    return f"not in {file}:\n{missing[0]}" if missing else None


def example_error(code: str, expected: str) -> str | None:
    """Run an example. Returns how its output differs from `expected` (if given), or None."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "example", "exec"), {"__name__": "example"})
    if expected and printed.getvalue() != expected:
        return f"prints\n{printed.getvalue()}instead of\n{expected}"
    return None


def errors(page: Path) -> list[str]:
    """List what is wrong on one page."""
    text = page.read_text()
    found = [f"no picture {name}" for name in PICTURE.findall(text) if not (HERE / name).exists()]
    for title, code, output in BLOCK.findall(text):
        error = quote_error(title, code) if title else example_error(code, output)
        found += [error] if error else []
    return found


def _without_indent(code: str) -> str:
    return "\n".join(line.strip() for line in code.strip().splitlines())


def main() -> None:
    os.chdir(ROOT)
    wrong = [f"{page.name}: {e}" for page in sorted(HERE.glob("*.md")) for e in errors(page)]
    sys.exit("\n".join(wrong) or None)


if __name__ == "__main__":
    main()
