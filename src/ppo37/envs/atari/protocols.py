"""Protocols: the rules by which a game is played, and the sizes of what is seen of it."""

from typing import NamedTuple

from ...errors import UsageError
from ..games import cartridge

FRAME_SKIP = 4
STACK = 4
SIDE = 84
OBS_SHAPE = (STACK, SIDE, SIDE)
FRAME_SHAPES = {"pixels": (SIDE, SIDE), "ram": (128,)}
"""Of what an agent sees of one step: the screen, or the bytes of the console's memory."""
MAX_FRAMES = 108_000
"""Thirty minutes of play at 60 Hz: the cap that all published scores share."""


class Protocol(NamedTuple):
    """How a game is played; the two that the literature compares.

    `life_ends_episode`: a lost life ends the learning episode while the game goes on (D16).
    `auto_fire`: FIRE is pressed at the start of a game and of a life (D17).
    """

    repeat_action_probability: float
    full_action_space: bool
    life_ends_episode: bool
    auto_fire: bool


PROTOCOLS = {
    "classic": Protocol(0.0, False, life_ends_episode=True, auto_fire=True),
    "machado": Protocol(0.25, True, life_ends_episode=False, auto_fire=False),
}


def protocol_named(name: str) -> Protocol:
    """UsageError if there is no such protocol."""
    if name not in PROTOCOLS:
        raise UsageError(f"unknown protocol {name!r}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def rules_of(game: str, protocol: str, action_space: str) -> Protocol:
    """How a game is played: a protocol, and what the action space asks of it.

    All but `discrete` need the whole joystick, and FIRE is then pressed only in games that know
    it.
    """
    rules = protocol_named(protocol)
    if action_space == "discrete":
        return rules
    auto_fire = rules.auto_fire and "FIRE" in cartridge(game).known_actions
    return rules._replace(full_action_space=True, auto_fire=auto_fire)
