"""The arms of an ablation study: a configuration, and the same with one detail of PPO switched.

Legend: an arm is one configuration. The arm `all` is the given one; each other arm has one detail
switched.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..config import Config, flags, from_dict
from ..errors import UsageError
from ..tools.details import AUXILIARY, Detail, find, load

BASE = "all"


class Arm(NamedTuple):
    """One configuration of a study; `detail` is None for the arm `all`, the base of comparison."""

    detail: Detail | None
    config: Config

    @property
    def name(self) -> str:
        """The arm's name in the names of its runs."""
        return f"{_with_or_without(self.detail)}_{self.detail.tag}" if self.detail else BASE

    @property
    def label(self) -> str:
        """A human-readable name."""
        if self.detail is None:
            return "all details"
        return f"{_with_or_without(self.detail)} {self.detail.tag} {self.detail.name}"


def make_arms(
    config: Config, details: Sequence[str] | None, log: Callable[[str], None]
) -> list[Arm]:
    """Return the arm `all`, and an arm for each detail in which this detail is switched.

    details: see `ablate`.  UsageError for a named detail that cannot be compared; without names,
    such a detail is left out with a message to `log`.
    """
    arms = [Arm(None, config)]
    for detail in _default_details(config) if details is None else _named(details):
        try:
            switched = _switched(config, detail)
        except UsageError as error:
            if details is not None:
                raise
            log(f"left out: {error}")
            continue
        same = [arm.detail.tag for arm in arms if arm.detail and arm.config == switched]
        if same:
            log(f"left out: {detail.tag} ({detail.name}) is the same arm as {same[0]}")
        else:
            arms.append(Arm(detail, switched))
    if len(arms) == 1:
        raise UsageError("no detail can be switched in this configuration; name some by --details")
    return arms


def _with_or_without(detail: Detail) -> str:
    """Return `with` for auxiliary details, which are off by default, and `without` for others."""
    return "with" if detail.group == AUXILIARY else "without"


def _default_details(config: Config) -> list[Detail]:
    """Return the details among the 37 that have an effect and a switch."""
    return [
        detail
        for detail in load()
        if detail.switch and detail.group != AUXILIARY and not _missing(config, detail)
    ]


def _missing(config: Config, detail: Detail) -> dict[str, Any]:
    """Return the settings that a detail needs and the configuration does not have."""
    return {name: value for name, value in detail.needs.items() if getattr(config, name) != value}


def _named(numbers: Sequence[str]) -> list[Detail]:
    """Return the details with these numbers, each once."""
    found = {}
    for number in numbers:
        detail = find(number.strip())
        if not detail.switch:
            some = ", ".join(other.tag for other in load() if other.switch)
            raise UsageError(f"{detail.tag} ({detail.name}) has no switch; choose from {some}")
        found[detail.tag] = detail
    return list(found.values())


def _switched(config: Config, detail: Detail) -> Config:
    """Return the configuration with one detail switched; UsageError if that changes nothing."""
    name, switch = f"{detail.tag} ({detail.name})", detail.switch
    if missing := _missing(config, detail):
        raise UsageError(f"{name} has an effect only with {' '.join(flags(missing))}")
    try:
        switched = from_dict({**dataclasses.asdict(config), **switch})
    except UsageError as error:
        raise UsageError(f"{name} by {' '.join(flags(switch))}: {error}") from error
    if _effective(switched) == _effective(config):
        raise UsageError(f"{name}: {' '.join(flags(switch))} changes nothing in this configuration")
    return switched


def _effective(config: Config) -> Config:
    """Return a configuration that is equal for all configurations with the same effect."""
    return dataclasses.replace(config, frame_stack=config.num_frames)
