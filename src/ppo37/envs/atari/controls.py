"""Three ways to hold the joystick: one of a game's actions, three choices, or real numbers.

A policy's actions are checked and translated here, on their way to the emulator and nowhere
else; what a rollout keeps is what the policy drew.

Legend: N environments.
"""

from collections.abc import Collection
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..contract import check_actions

SIDEWAYS, UPWARDS, BUTTON = ("LEFT", "", "RIGHT"), ("DOWN", "", "UP"), ("", "FIRE")
"""What each choice of a joystick adds to the name of an action."""
CHOICES = tuple(map(len, (SIDEWAYS, UPWARDS, BUTTON)))
THRESHOLD = 0.5
"""How far the stick must be from the centre, and FIRE from 0, to count."""


class Controls(Protocol):
    """An action space, between a policy and the engine."""

    names: tuple[str, ...]
    """Of the actions, or of the parts that each action has."""
    neutral: NDArray[Any]
    """The engine's action that does nothing; its type and shape are those of all of them."""
    fire: NDArray[Any]
    """The engine's action FIRE."""

    def press(self, actions: NDArray[Any], num_envs: int) -> NDArray[Any]:
        """The engine's actions for those of a policy; ValueError naming the first wrong one."""
        ...

    def check(self, pressed: NDArray[Any], num_envs: int) -> None:
        """ValueError naming the first of the engine's actions that it could not take."""
        ...


class DiscreteActions:
    """One of the actions that `names` lists; actions [N] int64."""

    neutral: NDArray[Any] = np.array(0, np.uint8)

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.fire: NDArray[Any] = np.array(names.index("FIRE") if "FIRE" in names else 0, np.uint8)

    def press(self, actions: NDArray[np.int64], num_envs: int) -> NDArray[np.int64]:
        self.check(actions, num_envs)
        return actions

    def check(self, pressed: NDArray[np.int64], num_envs: int) -> None:
        check_actions(pressed, num_envs, len(self.names))


class MultiDiscreteActions:
    """Three choices at once, `CHOICES`: actions [N, 3] int64, from left, down and not FIRE.

    Each of the 18 combinations is one of the engine's 18 actions, and each action a combination.
    """

    names: tuple[str, ...] = ("LEFT_RIGHT", "DOWN_UP", "FIRE")
    neutral: NDArray[Any] = np.array(0, np.uint8)

    def __init__(self, engine_names: tuple[str, ...]) -> None:
        self._numbers = np.array(
            [
                [[engine_names.index(combination(x, y, fire)) for fire in BUTTON] for y in UPWARDS]
                for x in SIDEWAYS
            ]
        )
        self.fire: NDArray[Any] = np.array(engine_names.index("FIRE"), np.uint8)

    def press(self, actions: NDArray[np.int64], num_envs: int) -> NDArray[np.int64]:
        for choices, size in zip(actions.T, CHOICES, strict=True):
            check_actions(choices, num_envs, size)
        return self._numbers[tuple(actions.T)]

    def check(self, pressed: NDArray[np.int64], num_envs: int) -> None:
        check_actions(pressed, num_envs, self._numbers.size)


class ContinuousActions:
    """The continuous stick of the ALE (Farebrother and Castro 2024); actions [N, 3] fp32.

    Of each part -1 to 1 counts, and what is beyond is cut off: the radius from 0 to 1, the angle
    from -pi to pi, and FIRE, pressed above 0. So a policy of mean 0 and deviation 1 reaches all
    that the stick can do; by the engine's own bounds half of its radii would be none.
    """

    names: tuple[str, ...] = ("RADIUS", "ANGLE", "FIRE")
    neutral: NDArray[Any] = np.zeros(3, np.float32)
    fire: NDArray[Any] = np.array([0.0, 0.0, 1.0], np.float32)

    def press(self, actions: NDArray[np.float32], num_envs: int) -> NDArray[np.float32]:
        self.check(actions, num_envs)
        radius, angle, fire = actions.clip(-1.0, 1.0).T  # D27
        stick = ((radius + 1.0) / 2.0, angle * np.pi, (fire + 1.0) / 2.0)
        return np.stack(stick, axis=1).astype(np.float32)

    def check(self, pressed: NDArray[np.float32], num_envs: int) -> None:
        if pressed.shape != (num_envs, 3):
            raise ValueError(f"expected {num_envs} actions of 3 numbers; got {pressed.shape}")
        broken = np.flatnonzero(~np.isfinite(pressed).all(axis=1))
        if len(broken):
            env = int(broken[0])
            raise ValueError(f"action {pressed[env]} of environment {env} is not finite")


def make_controls(action_space: str, engine_names: tuple[str, ...]) -> Controls:
    """The controls of an action space over an engine's actions: all 18, but for `discrete`."""
    if action_space == "continuous":
        return ContinuousActions()
    return (
        MultiDiscreteActions(engine_names)
        if action_space == "joystick"
        else DiscreteActions(engine_names)
    )


def sizes(action_space: str, names: tuple[str, ...]) -> tuple[int, ...]:
    """How many choices each part of an action has; a real number counts as one."""
    if action_space == "discrete":
        return (len(names),)
    return CHOICES if action_space == "joystick" else (1,) * len(names)


def combination(x: str, y: str, fire: str) -> str:
    """The name of the action with these choices."""
    return (y + x + fire) or "NOOP"


def possible(action_space: str, names: tuple[str, ...], known: Collection[str]) -> list[bool]:
    """Which logits of a policy mean something to a game that knows the actions `known`.

    Of a joystick it is the choices that some action of the game's needs; of those that are left
    each combination can still be drawn, because they are drawn independently.
    """
    if action_space == "discrete":
        return [name in known for name in names]
    found = {
        (x, y, b)
        for x in SIDEWAYS
        for y in UPWARDS
        for b in BUTTON
        if combination(x, y, b) in known
    }
    parts = zip((SIDEWAYS, UPWARDS, BUTTON), zip(*found, strict=True), strict=True)
    return [choice in needed for choices, needed in parts for choice in choices]


def stick(pressed: NDArray[np.float32]) -> tuple[str, float]:
    """The name of the action, and the strength of a paddle, of one action of the engine's [3]."""
    radius, angle, fire = (float(part) for part in pressed)
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    sides = [int(part > THRESHOLD) - int(part < -THRESHOLD) + 1 for part in (x, y)]
    name = combination(SIDEWAYS[sides[0]], UPWARDS[sides[1]], BUTTON[int(fire > THRESHOLD)])
    return name, radius
