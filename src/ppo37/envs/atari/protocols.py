"""Protocols: the rules by which a game is played, and the shapes of observations."""

from typing import NamedTuple

from ...errors import UsageError
from ..games import game_info

FRAME_SKIP = 4
STACK = 4
SIDE = 84
OBS_SHAPE = (STACK, SIDE, SIDE)
FRAME_SHAPES = {"pixels": (SIDE, SIDE), "ram": (128,)}
"""The shape of one observed frame: the screen, or the bytes of the console's RAM."""
MAX_FRAMES = 108_000
"""Thirty minutes of play at 60 Hz: the limit of all published scores."""


class Protocol(NamedTuple):
    """The rules by which a game is played.

    life_ends_episode: a lost life ends the learning episode, but not the game (D16).
    auto_fire: FIRE is pressed at the start of a game and of a life (D17).
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
    """Return a protocol; UsageError if it does not exist."""
    if name not in PROTOCOLS:
        raise UsageError(f"unknown protocol {name!r}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def rules_of(game: str, protocol: str, action_space: str) -> Protocol:
    """Return a protocol as it applies to a game and an action space.

    All action spaces except `discrete` need all 18 actions; FIRE is then pressed automatically only
    in games that use it.
    """
    rules = protocol_named(protocol)
    if action_space == "discrete":
        return rules
    auto_fire = rules.auto_fire and "FIRE" in game_info(game).known_actions
    return rules._replace(full_action_space=True, auto_fire=auto_fire)
