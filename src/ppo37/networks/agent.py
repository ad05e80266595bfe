"""The networks: observations in, a distribution over actions and a value out.

A trunk sees single observations, a core may remember, and heads answer. Low precision lives in
the layers of the trunk; core, logits and values are always fp32.

Legend: M sequences of L steps, B = M * L samples, F features, R numbers of memory, A actions.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..algorithm.distributions import Distribution
from ..algorithm.normalization import Moments, first_moments
from ..algorithm.rollout import forget
from ..errors import UsageError
from .policies import Policy


class Sizes(NamedTuple):
    """Of a network: channels of three convolutions, features of a dense layer, cells of an LSTM.

    Without convolutions it is `towers` stacks of two dense layers: two for policy and value each
    their own, one for both together.
    """

    channels: tuple[int, int, int] | None
    features: int
    cells: int = 0
    towers: int = 1


NETWORKS = {
    "nature": Sizes((32, 64, 64), 512),
    "nature_half": Sizes((16, 32, 32), 256),
    "lstm": Sizes((32, 64, 64), 512, 128),
    "mlp": Sizes(None, 64, towers=2),  # D26
    "mlp_shared": Sizes(None, 64),
}

SMALLEST_SIDE, LARGEST_SIDE = 36, 4096
"""Pixels a side: what the three convolutions need, and more than anything that is a screen."""


def orthogonal(layer: nn.Conv2d | nn.Linear, gain: float, generator: torch.Generator) -> None:
    """Orthogonal weights of the given gain, zero biases (Saxe et al. 2014)."""
    nn.init.orthogonal_(layer.weight, gain, generator=generator)  # D02
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def see_contrast(first: nn.Conv2d) -> None:
    """Make the mean of every kernel zero in each plane, and double the weights.

    A game's screen is mostly flat ground. With kernels of random sums the ground's brightness
    drowns the small objects on it; with these a flat patch gives exactly zero, of whatever
    brightness, and what remains is doubled because objects are small. Zero is the kink of ReLU:
    until the weights have moved, rounding decides whether a flat patch passes gradients, so the
    first gradients differ between precisions and kernels (docs/LOG.md). Not part of the reference.
    """
    with torch.no_grad():
        weight = first.weight
        weight.copy_(2.0 * (weight - weight.mean((2, 3), keepdim=True)))


class NatureCNN(nn.Module):
    """The trunk of Mnih et al. 2015: obs [B, C, H, W] uint8 -> features [B, F]."""

    towers = 1

    def __init__(
        self, obs_shape: tuple[int, ...], channels: tuple[int, int, int], features: int
    ) -> None:
        super().__init__()
        planes, height, width = obs_shape
        if min(height, width) < SMALLEST_SIDE:
            raise UsageError(
                f"observations of {height} x {width} pixels are too small for the convolutions, "
                f"which need {SMALLEST_SIDE} x {SMALLEST_SIDE}"
            )
        first, second, third = channels
        self.obs_shape = obs_shape
        self.conv1 = nn.Conv2d(planes, first, 8, stride=4)
        self.conv2 = nn.Conv2d(first, second, 4, stride=2)
        self.conv3 = nn.Conv2d(second, third, 3, stride=1)
        self.dense = nn.Linear(third * _cells(height) * _cells(width), features)

    @property
    def convolutions(self) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d]:
        return self.conv1, self.conv2, self.conv3

    @property
    def first_layers(self) -> list[nn.Conv2d | nn.Linear]:
        return [self.conv1]

    def forward(self, obs: Tensor) -> Tensor:
        # Pixels 0..255 are exact in bf16; dividing the few weights instead of the many pixels
        # is the same function and saves a pass over the images.
        pixels = obs.to(_layer_dtype(obs.device.type))
        x = F.conv2d(pixels, self.conv1.weight / 255.0, self.conv1.bias, self.conv1.stride)  # D22
        x = torch.relu_(x)
        x = torch.relu_(self.conv2(x))
        x = torch.relu_(self.conv3(x))
        return torch.relu_(self.dense(x.flatten(1)))


class MLP(nn.Module):
    """Towers of two dense layers side by side: obs [B, ...] -> features [B, towers * F].

    Observations are fp32, or bytes that are scaled to 0..1 here.
    """

    def __init__(self, obs_shape: tuple[int, ...], features: int, towers: int) -> None:
        super().__init__()
        self.towers = towers
        size = math.prod(obs_shape)
        self.layers = nn.ModuleList(
            nn.ModuleList([nn.Linear(size, features), nn.Linear(features, features)])
            for _ in range(towers)
        )

    @property
    def first_layers(self) -> list[nn.Conv2d | nn.Linear]:
        """Those that read observations."""
        return [layers_of(tower)[0] for tower in self.layers]

    def forward(self, obs: Tensor) -> Tensor:
        x = obs.flatten(1)
        x = x if x.is_floating_point() else x / 255.0
        return torch.cat([self._climb(tower, x) for tower in self.layers], dim=-1)  # D13

    def _climb(self, tower: nn.Module, x: Tensor) -> Tensor:
        for layer in tower.children():
            x = torch.tanh(layer(x))
        return x


class Forgetful(nn.Module):
    """The core of a network that does not remember: features as they are, R = 0."""

    memory_size = 0

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, features: Tensor, memory: Tensor, dones: Tensor) -> tuple[Tensor, Tensor]:
        return features, memory


class LSTM(nn.Module):
    """A core that remembers: long short-term memory (Hochreiter and Schmidhuber 1997) of H cells.

    forward(features [B, F], memory [M, 2 H], dones [M, L]) -> (outputs [B, H], memory [M, 2 H]),
    in fp32. Memory is outputs and cells, both empty again after a step that ended its episode.
    """

    def __init__(self, features: int, cells: int) -> None:
        super().__init__()
        self.features, self.memory_size = cells, 2 * cells
        self.inputs = nn.Linear(features, 4 * cells)
        self.recurrent = nn.Linear(cells, 4 * cells, bias=False)

    def forward(self, features: Tensor, memory: Tensor, dones: Tensor) -> tuple[Tensor, Tensor]:
        outputs = []
        steps = self.inputs(features).unflatten(0, dones.shape).unbind(1)
        for gates, done in zip(steps, dones.unbind(1), strict=True):
            output, cells = memory.chunk(2, dim=-1)
            parts = (gates + self.recurrent(output)).chunk(4, dim=-1)
            let_in, keep, let_out = (part.sigmoid() for part in (parts[0], parts[1], parts[3]))
            cells = keep * cells + let_in * parts[2].tanh()
            output = let_out * cells.tanh()
            outputs.append(output)
            memory = forget(torch.cat([output, cells], dim=-1), done)
        return torch.stack(outputs, dim=1).flatten(0, 1), memory


class Running(nn.Module):
    """Moments that are saved with an agent; nothing is learned of them by gradients.

    They stay on the CPU, where the environments are that use them.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        for name, value in first_moments(shape)._asdict().items():
            self.register_buffer(name, value)

    def _apply(self, fn: Any, recurse: bool = True) -> "Running":
        """What moves an agent to another device leaves these alone."""
        return self

    @property
    def moments(self) -> Moments:
        return Moments(*(self.get_buffer(name) for name in Moments._fields))


class Agent(nn.Module):
    """A policy and a value function on one trunk and core.

    forward(obs [B, *obs_shape] uint8, memory [M, R], dones [M, L])
    -> (distribution over actions [B], values [B], memory [M, R]), fp32.
    With `bf16` the trunk computes in bfloat16 by autocast; parameters stay fp32. `norm_obs` and
    `norm_reward`: it keeps the moments that its environments are normalised by; `forward` then
    expects fp32 observations that are.
    """

    def __init__(
        self, obs_shape: tuple[int, ...], policy: Policy, network: str, seed: int,
        contrast_init: bool = False, norm_obs: bool = False, norm_reward: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        sizes = NETWORKS[network]
        self.trunk = make_trunk(obs_shape, sizes)
        features = sizes.features * self.trunk.towers
        self.core = LSTM(features, sizes.cells) if sizes.cells else Forgetful(features)
        seen = self.core.features // self.trunk.towers
        self.policy_head = nn.Linear(seen, policy.num_outputs)
        self.policy = policy
        self.value_head = nn.Linear(seen, 1)
        self.seen_obs = Running(obs_shape) if norm_obs else None
        self.seen_returns = Running(()) if norm_reward else None
        self.bf16 = False
        generator = torch.Generator().manual_seed(seed)
        for layer in layers_of(self.trunk):
            orthogonal(layer, math.sqrt(2.0), generator)  # D02
        if contrast_init and isinstance(self.trunk, NatureCNN):
            see_contrast(self.trunk.conv1)
        for layer in layers_of(self.core):
            orthogonal(layer, 1.0, generator)  # D32
        orthogonal(self.policy_head, 0.01, generator)  # D02
        orthogonal(self.value_head, 1.0, generator)  # D02

    def forward(
        self, obs: Tensor, memory: Tensor, dones: Tensor
    ) -> tuple[Distribution, Tensor, Tensor]:
        # Each weight is cast once a pass; the cache would be one for the threads of all lanes.
        with torch.autocast(obs.device.type, torch.bfloat16, enabled=self.bf16,
                            cache_enabled=False):  # fmt: skip
            features = self.trunk(obs)
        return self.answer(features, memory, dones)

    def answer(
        self, features: Tensor, memory: Tensor, dones: Tensor
    ) -> tuple[Distribution, Tensor, Tensor]:
        """What forward returns, from the trunk's features [B, F]; always in fp32."""
        # To switch it off here would take longer than the heads do.
        assert not torch.is_autocast_enabled(features.device.type), "`bf16` chooses the precision"
        x, memory = self.core(features.float(), memory, dones)
        towers = x.chunk(self.trunk.towers, dim=-1)
        distribution = self.policy(self.policy_head(towers[0]))
        return distribution, self.value_head(towers[-1]).squeeze(-1), memory

    @property
    def device(self) -> torch.device:
        return self.value_head.weight.device

    @property
    def obs_dtype(self) -> torch.dtype:
        """Of the observations that `forward` expects."""
        return torch.uint8 if self.seen_obs is None else torch.float32

    def empty_memory(self, count: int) -> Tensor:
        """The memory [count, R] at the beginning of an episode."""
        return self.value_head.weight.new_zeros(count, self.core.memory_size)  # D33


def make_trunk(obs_shape: tuple[int, ...], sizes: Sizes) -> NatureCNN | MLP:
    """What sees the observations of a shape; UsageError if none can."""
    if max(obs_shape) > LARGEST_SIDE:
        raise UsageError(f"observations of {obs_shape} are too large; {LARGEST_SIDE} is most")
    if sizes.channels is None:
        return MLP(obs_shape, sizes.features, sizes.towers)
    if len(obs_shape) != 3:
        raise UsageError(
            f"observations of shape {obs_shape} are no images; use observation ram, which stands "
            "for any vector of bytes, and network mlp"
        )
    return NatureCNN(obs_shape, sizes.channels, sizes.features)  # D21


def layers_of(module: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """The convolutions and dense layers of a module, in the order of the data flow."""
    return [layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]


def _cells(side: int) -> int:
    """Pixels left of `side` after the three convolutions."""
    for kernel, stride in ((8, 4), (4, 2), (3, 1)):
        side = (side - kernel) // stride + 1
    return side


def _layer_dtype(device_type: str) -> torch.dtype:
    """The precision that layers compute in at this place."""
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return torch.float32
