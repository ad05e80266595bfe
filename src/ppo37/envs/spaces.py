"""Spaces of Gymnasium as ppo37 uses them: images or vectors, and four kinds of actions.

Legend: N environments.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..config import LARGEST_SIDE
from ..errors import UsageError
from .contract import Spaces

CHANNELS = (1, 3, 4)
"""An axis of one of these lengths is the axis of the channels."""
FEWEST_PIXELS = 8
"""A matrix of bytes with at least this number of rows and columns is an image."""
MARGIN = 0.01
"""The fraction of its range by which an image may exceed it, because numbers are rounded."""
FLATTEN = "use --wrapper gymnasium.wrappers:FlattenObservation"


class Observations(NamedTuple):
    """The conversion of observations.

    convert: from the arrays [N, ...] of the space to [N, *shape] of `dtype`.  text: a description
    for the user.  bounds: the lowest and highest values before the conversion; None if all values
    are allowed.
    """

    shape: tuple[int, ...]
    dtype: str
    convert: Callable[[NDArray[Any]], NDArray[Any]]
    text: str
    bounds: tuple[Any, Any] | None = None


class Actions(NamedTuple):
    """The conversion of actions.

    convert: from the policy's actions [N] or [N, parts] to those of the space.  dims: the number of
    alternatives of each part; empty for real numbers.
    """

    kind: str
    names: tuple[str, ...]
    dims: tuple[int, ...]
    convert: Callable[[NDArray[Any]], NDArray[Any]]


def observations_of(space: spaces.Space[Any], channels: str = "auto") -> Observations:
    """Return the conversion of observations of a space; UsageError if no network reads them.

    channels: the axis of the channels of an image, "first" or "last"; "auto" finds it.
    """
    found = _observations(space, channels)
    if not all(found.shape):
        raise UsageError(f"observations of {space} have no numbers")
    if len(found.shape) == 3 and max(found.shape[1:]) > LARGEST_SIDE:
        raise UsageError(
            f"images of {found.shape[1]} x {found.shape[2]} pixels are too large, the limit is "
            f"{LARGEST_SIDE} on each side; use --wrapper gymnasium.wrappers:ResizeObservation"
        )
    return found


def actions_of(space: spaces.Space[Any]) -> Actions:
    """Return the conversion of actions to a space; UsageError if no policy supports it."""
    found = _actions(space)
    if found is None or not found.names:
        raise UsageError(
            f"actions of {space} are not supported; a policy has Discrete, MultiDiscrete and "
            "MultiBinary actions of one axis, and Box of real numbers"
        )
    return found


def _observations(space: spaces.Space[Any], channels: str) -> Observations:
    match space:
        case spaces.Discrete():
            n, start = int(space.n), int(space.start)
            found = _vector(n, lambda obs: np.arange(start, start + n) == obs[:, None], "one-hot")
            return found._replace(bounds=(start, start + n - 1))
        case spaces.MultiDiscrete() if len(space.shape) == 1:
            firsts, sizes = np.asarray(space.start), np.asarray(space.nvec)
            found = _vector(
                int(sizes.sum()), lambda obs: _one_hot(obs - firsts, sizes), "one-hot, each part"
            )
            return found._replace(bounds=(firsts, firsts + sizes - 1))
        case spaces.MultiBinary():
            found = _vector(math.prod(space.shape), _flat, "vector of 0 and 1")
            return found._replace(bounds=(0, 1))
        case spaces.Box() if len(space.shape) == 0:
            return _vector(1, _flat, "number")
        case spaces.Box() if len(space.shape) in (3, 4):
            return _image(space, channels)
        case spaces.Box() if _is_grayscale(space):
            return _grayscale(space)
        case spaces.Box():
            return _box_vector(space)
    raise UsageError(
        f"observations of {type(space).__name__} cannot be read by a network; if they have a "
        f"fixed size, {FLATTEN}"
    )


def _actions(space: spaces.Space[Any]) -> Actions | None:
    match space:
        case spaces.Discrete():
            n, start = int(space.n), int(space.start)
            names = tuple(str(start + action) for action in range(n))
            return Actions("discrete", names, (n,), lambda actions: actions + start)
        case spaces.MultiDiscrete() if len(space.shape) == 1:
            firsts = np.asarray(space.start)
            dims = tuple(int(n) for n in space.nvec)
            names = tuple(map(str, range(len(dims))))
            return Actions("multi_discrete", names, dims, lambda actions: actions + firsts)
        case spaces.MultiBinary() if len(space.shape) == 1:
            names = tuple(map(str, range(space.shape[0])))
            return Actions(
                "multi_discrete", names, (2,) * len(names), lambda actions: actions.astype(np.int8)
            )
        case spaces.Box() if space.dtype is not None and space.dtype.kind == "f":
            low, high, shape = space.low, space.high, space.shape
            names = tuple(map(str, range(math.prod(shape))))

            def clipped(actions: NDArray[Any]) -> NDArray[Any]:
                return np.clip(actions.reshape(-1, *shape), low, high).astype(space.dtype)  # D27

            return Actions("continuous", names, (), clipped)
    return None


def space_of_observations(shape: tuple[int, ...], dtype: str) -> spaces.Box:
    """Return the Gymnasium space of converted observations."""
    if dtype == "uint8":
        return spaces.Box(0, 255, shape, np.uint8)
    return spaces.Box(-np.inf, np.inf, shape, np.float32)


def _vector(size: int, convert: Callable[[NDArray[Any]], NDArray[Any]], text: str) -> Observations:
    return Observations(
        (size,), "float32", lambda obs: convert(obs).astype(np.float32), f"{text}, {size} numbers"
    )


def _flat(obs: NDArray[Any]) -> NDArray[Any]:
    return obs.reshape(len(obs), -1)


def _one_hot(parts: NDArray[Any], sizes: NDArray[Any]) -> NDArray[Any]:
    columns = zip(parts.T, sizes, strict=True)
    return np.concatenate([np.arange(n) == part[:, None] for part, n in columns], axis=1)


def _box_vector(space: spaces.Box) -> Observations:
    """Return the conversion of a vector, or of a matrix row by row; bytes stay bytes."""
    size = math.prod(space.shape)
    if _is_bytes(space):
        return Observations((size,), "uint8", _flat, f"vector of {size} bytes")
    return _vector(size, _flat, "vector")


def _is_bytes(space: spaces.Box) -> bool:
    """Return whether values are bytes up to 255, which networks divide by 255."""
    return space.dtype == np.uint8 and int(space.high.max()) == 255


def _is_grayscale(space: spaces.Box) -> bool:
    return len(space.shape) == 2 and _is_bytes(space) and min(space.shape) >= FEWEST_PIXELS


def _grayscale(space: spaces.Box) -> Observations:
    height, width = space.shape
    text = f"image of {height} x {width} pixels, 1 channel"
    return Observations((1, height, width), "uint8", lambda obs: obs[:, np.newaxis], text)


def _image(space: spaces.Box, channels: str) -> Observations:
    """Return the conversion of an image, or of a stack of images, whose channels are joined."""
    *stack, first, _, last = space.shape
    if channels == "auto":
        is_first, is_last = first in CHANNELS, last in CHANNELS
        if is_first == is_last:
            raise UsageError(
                f"observations of shape {space.shape}: it is not clear which axis has the "
                f"channels; use --channels first or last (for a vector {FLATTEN})"
            )
        channels = "first" if is_first else "last"
    height, width = space.shape[-2:] if channels == "first" else space.shape[-3:-1]
    planes = math.prod(stack) * (first if channels == "first" else last)
    scale = np.float32(255 if float(space.high.max()) == 255.0 else 1)
    as_bytes = _is_bytes(space)

    def convert(obs: NDArray[Any]) -> NDArray[Any]:
        if channels == "last":
            obs = np.moveaxis(obs, -1, -3)
        obs = obs.reshape(len(obs), planes, height, width)
        return obs if as_bytes else obs.astype(np.float32) / scale

    text = f"image of {height} x {width} pixels, {planes} channels ({channels} axis)"
    dtype, bounds = ("uint8", None) if as_bytes else ("float32", _bounds(space))
    return Observations((planes, height, width), dtype, convert, text, bounds)


def _bounds(space: spaces.Box) -> tuple[float, float] | None:
    """Return the bounds of all pixels, with a margin; None if they are infinite or of booleans."""
    low, high = float(space.low.min()), float(space.high.max())
    margin = MARGIN * (high - low)
    limited = space.dtype != np.bool_ and math.isfinite(margin)
    return (low - margin, high + margin) if limited else None


def action_space_of(found: Spaces) -> gymnasium.Space[Any]:
    """Return the action space of a policy. Real numbers have no bounds: environments clip them."""
    if found.action_space == "continuous":
        return spaces.Box(-np.inf, np.inf, (len(found.action_names),), np.float32)
    if found.action_space == "discrete":
        return spaces.Discrete(len(found.action_names))
    return spaces.MultiDiscrete(np.array(found.action_dims))
