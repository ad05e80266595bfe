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
    """Return the arguments of each command of ppo37, also of those in scripts."""
    lines = [line for block in _blocks(page, "sh") for line in block.splitlines()]
    commands = [
        shlex.split(line.partition(" > ")[0], comments=True) for line in lines if "ppo37 " in line
    ]
    arguments = [
        command[command.index("ppo37") + 1 :] for command in commands if "ppo37" in command
    ]
    return [each for each in arguments if not {".", "--version", "--help"} & set(each)]


@each_page
def test_commands_parse(page: Path) -> None:
    for arguments in _commands(page):
        options = build_parser().parse_args([each for each in arguments if each != "&"])
        assert options.command


@each_page
def test_imports_exist(page: Path) -> None:
    for block in _blocks(page, "python"):
        for line in re.findall(r"^from ppo37\S* import .*$", block, re.MULTILINE):
            exec(line, {})
