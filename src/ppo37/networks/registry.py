"""The built-in networks by name, and the check of a network of one's own.

A network is a trunk: an `nn.Module` that is made from `obs_shape`, and from `hidden` if its
constructor has that argument (the setting `hidden`: sizes of dense layers). It has

    features: int            the numbers that it gives each head
    separate_critic: bool    optional: the value has features of its own, after those of the policy
    forward(obs [B, *obs_shape]) -> features [B, features * (1 + separate_critic)]

Observations are uint8, to be divided by 255, or float32, which are used unchanged (`scaled`).
`zero_mean_init()`, optional, is what the setting of that name calls. To add a network, write one
file in this folder with `@register("name", ...)`: the modules in it are found by themselves.
"""

import difflib
import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ..config import LARGEST_SIDE, Config
from ..errors import UsageError

MakeTrunk = Callable[..., nn.Module]
M = TypeVar("M", bound=MakeTrunk)

LARGEST_VECTOR = 1 << 20
"""The most numbers of an observation that is no image."""


class Network(NamedTuple):
    """A network by its name: how its trunk is made, and the observations that it can read."""

    name: str
    make: MakeTrunk
    """Makes the trunk: the class, or a function of `obs_shape` and maybe `hidden`."""
    smallest_side: int | None
    """The fewest pixels per side of an image; None if it reads no images."""
    vectors: bool
    cells: int = 0
    """Cells of the LSTM after the trunk; 0 for none."""

    def reads(self, obs_shape: tuple[int, ...]) -> bool:
        """Return whether the network can read observations of this shape."""
        if not is_image(obs_shape):
            return self.vectors
        return self.smallest_side is not None and min(obs_shape[1:]) >= self.smallest_side

    @property
    def takes_hidden(self) -> bool:
        return "hidden" in inspect.signature(self.make).parameters

    def describe_inputs(self) -> str:
        side = self.smallest_side
        images = [] if side is None else [f"images of {side} x {side} pixels or more"]
        images = ["images"] if side == 1 else images
        return " and ".join(images + ["vectors"] * self.vectors)


_NETWORKS: dict[str, Network] = {}


def register(
    name: str, *, smallest_side: int | None = None, vectors: bool = False, cells: int = 0
) -> Callable[[M], M]:
    """Return a decorator that makes a trunk known by `name`; see `Network` for the arguments."""

    def add(make: M) -> M:
        _NETWORKS[name] = Network(name, make, smallest_side, vectors, cells)
        return make

    return add


def built_in() -> dict[str, Network]:
    """Return the built-in networks by name, in alphabetical order."""
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{__package__}.{module.name}")
    return dict(sorted(_NETWORKS.items()))


def readers(obs_shape: tuple[int, ...]) -> list[str]:
    """Return the names of the built-in networks that can read observations of a shape."""
    return [name for name, network in built_in().items() if network.reads(obs_shape)]


def find(network: str | type[nn.Module]) -> Network:
    """Return the built-in network of a name, or one's own, by its class; UsageError if unknown."""
    if not isinstance(network, str):
        if not (isinstance(network, type) and issubclass(network, nn.Module)):
            raise UsageError(f"a network must be a class, a subclass of nn.Module, not {network!r}")
        name = f"{network.__module__}:{network.__qualname__}"
        return Network(name, network, smallest_side=1, vectors=True)
    if ":" in network:
        raise UsageError(
            f"{network} is a network of your own: name it again: --network {network}, "
            "or network=... from Python, with its class"
        )
    known = built_in()
    if network not in known:
        near = difflib.get_close_matches(network, known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(
            f"unknown network {network!r}{hint}; choose from {', '.join(known)}, "
            "or name your own as module:Class"
        )
    return known[network]


def make_trunk(
    network: Network,
    obs_shape: tuple[int, ...],
    obs_dtype: torch.dtype,
    hidden: tuple[int, ...],
    seed: int,
) -> Any:  # nn.Module does not know the attributes that a trunk has
    """Make the layers that read observations of a shape; UsageError if they do not fit.

    seed: of the first weights that the agent does not initialize, in a network of one's own.
    """
    name = network.name
    largest, most, unit = max(obs_shape), LARGEST_SIDE, "pixels per side"
    if not is_image(obs_shape):
        largest, most, unit = math.prod(obs_shape), LARGEST_VECTOR, "numbers"
    if largest > most:
        raise UsageError(f"observations of {obs_shape} are too large; {most:,} {unit} are most")
    if not network.reads(obs_shape):
        raise UsageError(
            f"network {name} reads {network.describe_inputs()}, not {_describe(obs_shape)}; "
            f"networks that can read them: {', '.join(readers(obs_shape))}"
        )
    if hidden != Config.hidden and not network.takes_hidden:
        sized = [other.name for other in built_in().values() if other.takes_hidden]
        raise UsageError(f"network {name} has no setting hidden; {', '.join(sized)} have it")
    arguments = {"hidden": hidden} if network.takes_hidden else {}
    if name in built_in():
        return network.make(obs_shape, **arguments)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _checked(name, network.make, obs_shape, obs_dtype, arguments)


def _checked(
    name: str,
    make: MakeTrunk,
    obs_shape: tuple[int, ...],
    obs_dtype: torch.dtype,
    arguments: dict[str, tuple[int, ...]],
) -> nn.Module:
    """Make a network of one's own, and compute two samples twice; UsageError if it does not fit."""
    try:
        trunk = make(obs_shape, **arguments)
    except Exception as error:
        call = f"the constructor with obs_shape {obs_shape}"
        raise UsageError(_raised(name, call, error)) from error
    features = getattr(trunk, "features", None)
    if not isinstance(trunk, nn.Module) or type(features) is not int or features < 1:
        raise UsageError(
            f"network {name} must be an nn.Module with an attribute `features`, a whole number of "
            f"1 or more, not {features!r}"
        )
    samples = _samples(obs_shape, obs_dtype)
    before = [buffer.clone() for buffer in trunk.buffers()]
    with torch.no_grad():
        try:
            found, again = trunk(samples), trunk(samples)
        except Exception as error:
            call = f"forward of observations {list(samples.shape)}, {obs_dtype},"
            raise UsageError(_raised(name, call, error)) from error
    expected = (len(samples), features * (1 + has_separate_critic(trunk)))
    if not isinstance(found, Tensor) or found.shape != expected or not found.is_floating_point():
        shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise UsageError(
            f"network {name} must return real numbers of shape {list(expected)} for observations "
            f"{list(samples.shape)}, as its `features` {features} say, not {shape}"
        )
    pairs = [(found, again), *zip(before, trunk.buffers(), strict=True)]
    if not found.is_meta and not all(_equal(*pair) for pair in pairs):
        raise UsageError(
            f"network {name} must compute the same again for the same observations and change no "
            "buffer, which dropout and batch normalization do not"
        )
    return trunk


def has_separate_critic(trunk: nn.Module) -> bool:
    """Return whether a trunk gives the value features of its own."""
    return bool(getattr(trunk, "separate_critic", False))


def is_image(obs_shape: tuple[int, ...]) -> bool:
    """Return whether observations are images [C, H, W]; all others are vectors."""
    return len(obs_shape) == 3


def _samples(obs_shape: tuple[int, ...], obs_dtype: torch.dtype) -> Tensor:
    """Return two observations [2, *obs_shape] of all values."""
    count = 2 * torch.Size(obs_shape).numel()
    values = (torch.arange(count) % 251).view(2, *obs_shape)
    return values.to(obs_dtype) if obs_dtype == torch.uint8 else values / 250.0


def _raised(name: str, call: str, error: Exception) -> str:
    why = (str(error).strip().splitlines() or ["no message"])[0]
    return f"network {name}: {call} raised {type(error).__name__}: {why}"


def _equal(found: Tensor, again: Tensor) -> bool:
    return bool(torch.allclose(found, again, rtol=0.0, atol=0.0, equal_nan=True))


def _describe(obs_shape: tuple[int, ...]) -> str:
    if not is_image(obs_shape):
        return f"vectors of shape {obs_shape}"
    return f"images of {obs_shape[1]} x {obs_shape[2]} pixels"
