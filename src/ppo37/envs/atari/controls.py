"""Action spaces of Atari: one of a game's actions, three choices, or a continuous joystick.

The actions of a policy are checked and converted here, on their way to the emulator only; a rollout
stores what the policy drew.

Legend: N environments.
"""

import itertools
from collections.abc import Collection
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..contract import check_actions

HORIZONTAL, VERTICAL, BUTTON = ("LEFT", "", "RIGHT"), ("DOWN", "", "UP"), ("", "FIRE")
"""The parts of an action's name that the choices add."""
CHOICES = (len(HORIZONTAL), len(VERTICAL), len(BUTTON))
THRESHOLD = 0.5
"""The distance from the center (FIRE: from 0) from which on the joystick has an effect."""


class Controls(Protocol):
    """The conversion from an action space to the actions of an engine."""

    names: tuple[str, ...]
    """The actions, or the parts of an action."""
    neutral: NDArray[Any]
    """The engine's action that does nothing; all its actions have this type and shape."""
    fire: NDArray[Any]
    """The engine's action FIRE."""

    def to_engine(self, actions: NDArray[Any], num_envs: int) -> NDArray[Any]:
        """Convert a policy's actions to the engine's; ValueError naming the first invalid one."""

    def check(self, engine_actions: NDArray[Any], num_envs: int) -> None:
        """Raise ValueError naming the first invalid one of the engine's actions."""


class DiscreteActions:
    """The actions that `names` lists; actions [N] int64."""

    neutral: NDArray[Any] = np.array(0, np.uint8)

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.fire: NDArray[Any] = np.array(names.index("FIRE") if "FIRE" in names else 0, np.uint8)

    def to_engine(self, actions: NDArray[np.int64], num_envs: int) -> NDArray[np.int64]:
        self.check(actions, num_envs)
        return actions

    def check(self, engine_actions: NDArray[np.int64], num_envs: int) -> None:
        check_actions(engine_actions, num_envs, len(self.names))


class MultiDiscreteActions:
    """Three choices at once, of `CHOICES` each: actions [N, 3] int64.

    Choice 0 is LEFT, DOWN and no FIRE. The 18 combinations are the engine's 18 actions.
    """

    names: tuple[str, ...] = ("LEFT_RIGHT", "DOWN_UP", "FIRE")
    neutral: NDArray[Any] = np.array(0, np.uint8)

    def __init__(self, engine_names: tuple[str, ...]) -> None:
        names = [[[action_name(x, y, b) for b in BUTTON] for y in VERTICAL] for x in HORIZONTAL]
        self._numbers = np.vectorize(engine_names.index)(names)
        self.fire: NDArray[Any] = np.array(engine_names.index("FIRE"), np.uint8)

    def to_engine(self, actions: NDArray[np.int64], num_envs: int) -> NDArray[np.int64]:
        for choices, size in zip(actions.T, CHOICES, strict=True):
            check_actions(choices, num_envs, size)
        return self._numbers[tuple(actions.T)]

    def check(self, engine_actions: NDArray[np.int64], num_envs: int) -> None:
        check_actions(engine_actions, num_envs, self._numbers.size)


class ContinuousActions:
    """The continuous joystick of the ALE (Farebrother and Castro 2024); actions [N, 3] fp32.

    Each part is clipped to [-1, 1] and then scaled: the radius to [0, 1], the angle to [-pi, pi],
    and FIRE, which is pressed above 0. So a policy of mean 0 and std 1 reaches all positions; with
    the engine's own bounds half of its radii would be 0.
    """

    names: tuple[str, ...] = ("RADIUS", "ANGLE", "FIRE")
    neutral: NDArray[Any] = np.zeros(3, np.float32)
    fire: NDArray[Any] = np.array([0.0, 0.0, 1.0], np.float32)

    def to_engine(self, actions: NDArray[np.float32], num_envs: int) -> NDArray[np.float32]:
        self.check(actions, num_envs)
        radius, angle, fire = actions.clip(-1.0, 1.0).T  # D27
        parts = ((radius + 1.0) / 2.0, angle * np.pi, (fire + 1.0) / 2.0)
        return np.stack(parts, axis=1).astype(np.float32)

    def check(self, engine_actions: NDArray[np.float32], num_envs: int) -> None:
        shape = engine_actions.shape
        if shape != (num_envs, 3):
            raise ValueError(f"expected {num_envs} actions of 3 numbers; got {shape}")
        invalid = np.flatnonzero(~np.isfinite(engine_actions).all(axis=1))
        if len(invalid):
            env = int(invalid[0])
            raise ValueError(f"action {engine_actions[env]} of environment {env} is not finite")


def make_controls(action_space: str, engine_names: tuple[str, ...]) -> Controls:
    """Make the controls of an action space.

    engine_names: the engine's actions; all 18, except for `discrete`.
    """
    if action_space == "continuous":
        return ContinuousActions()
    if action_space == "joystick":
        return MultiDiscreteActions(engine_names)
    return DiscreteActions(engine_names)


def action_dims(action_space: str, names: tuple[str, ...]) -> tuple[int, ...]:
    """Return the number of choices of each part of an action; none for real numbers."""
    if action_space == "discrete":
        return (len(names),)
    return CHOICES if action_space == "joystick" else ()


def action_name(x: str, y: str, fire: str) -> str:
    """Return the name of the action with these choices."""
    return (y + x + fire) or "NOOP"


def action_mask(action_space: str, names: tuple[str, ...], known: Collection[str]) -> list[bool]:
    """Return which outputs of a policy have an effect in a game with the actions `known`.

    For `joystick` these are the choices that at least one action of the game needs. Choices are
    drawn independently, so some combinations of them may still have no effect.
    """
    if action_space == "discrete":
        return [name in known for name in names]
    parts = (HORIZONTAL, VERTICAL, BUTTON)
    needed = [choices for choices in itertools.product(*parts) if action_name(*choices) in known]
    used = zip(parts, zip(*needed, strict=True), strict=True)
    return [choice in some for choices, some in used for choice in choices]


def joystick_action(engine_action: NDArray[np.float32]) -> tuple[str, float]:
    """Convert a continuous action [3] of the engine to an action's name and a paddle's speed."""
    radius, angle, fire = (float(part) for part in engine_action)
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    sides = [int(part > THRESHOLD) - int(part < -THRESHOLD) + 1 for part in (x, y)]
    name = action_name(HORIZONTAL[sides[0]], VERTICAL[sides[1]], BUTTON[int(fire > THRESHOLD)])
    return name, radius
