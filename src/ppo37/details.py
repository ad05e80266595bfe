"""The details of PPO that this package is about: their names, and what turns them off."""

import tomllib
from importlib import resources
from typing import Any, NamedTuple


class Detail(NamedTuple):
    """One detail. `switch`: the settings of Config that turn it off; empty where none do.

    Numbers are as in `D04`; those of auxiliary details as in `A3`, and their switch turns them on.
    """

    number: str
    name: str
    switch: dict[str, Any]


def load() -> list[Detail]:
    """All details, in the order of their numbers."""
    text = resources.files("ppo37").joinpath("details.toml").read_text()
    return [Detail(**entry) for entry in tomllib.loads(text)["detail"]]
