"""The pages in docs/how-to: their commands parse, and what they import exists."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT

from ppo37.cli.options import build_parser

PAGES = [*sorted((ROOT / "docs" / "how-to").glob("*.md")), ROOT / "CONTRIBUTING.md"]
BLOCK = re.compile(r"```(sh|python)\n(.*?)```", re.DOTALL)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def _blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in BLOCK.findall(page.read_text()) if name == language]


def _commands(page: Path) -> list[list[str]]:
    """Return the words of each command of ppo37, from `ppo37` on, also those in scripts."""
    lines = [line for block in _blocks(page, "sh") for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines if "ppo37 " in line]
    starts = [line[line.index("ppo37") + 1 :] for line in words if "ppo37" in line]
    return [line for line in starts if not {".", "--version", "--help"} & set(line)]


@each_page
def test_commands_parse(page: Path) -> None:
    for words in _commands(page):
        options = build_parser().parse_args([word for word in words if word != "&"])
        assert options.command


@each_page
def test_imports_exist(page: Path) -> None:
    for block in _blocks(page, "python"):
        for line in re.findall(r"^from ppo37\S* import .*$", block, re.MULTILINE):
            exec(line, {})
