"""How a device computes the network: the function that `Agent` defines, arranged for speed.

A CPU that can have them gets kernels of our own (`kernels.py`); what PyTorch computes on a
CPU is arranged for it. There a convolution of stride s costs more than its arithmetic, because the
pixels it reads together lie apart. Regrouping the image in blocks of s x s pixels, each a pixel of
s*s times the channels (space to depth), turns it into a dense convolution of stride 1 with the same
weights in another order: the same sum. All images are channels-last here. Measured in docs/LOG.md.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..algorithm.distributions import Distribution
from ..errors import UsageError
from ..networks.agent import Agent, NatureCNN
from .native.kernels import Trunk, Weights, features, kernels_for, layers, weights_of

ARRANGED_AT_ONCE = 256


class Network:
    """An agent, computed as it is written.

    Call it as the agent, but with what `arrange` made of observations; the result is the agent's.
    """

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.device = agent.device
        self._held: Any = None

    def arrange(self, obs: Tensor) -> Tensor:
        """Observations [B, *obs_shape] as the network reads them; B stays in front."""
        return obs.to(self.device)

    def __call__(
        self, arranged: Tensor, memory: Tensor, dones: Tensor
    ) -> tuple[Distribution, Tensor, Tensor]:
        answer: tuple[Distribution, Tensor, Tensor] = self.agent(arranged, memory, dones)
        return answer

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.agent.parameters()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the weights still: inside, each is brought into its form once, not every step.

        For the calls of all threads.
        """
        with torch.no_grad():
            self._held = self._weights()
        try:
            yield
        finally:
            self._held = None

    def _weights(self) -> Any:
        """The weights in the form that calls want them in, if it is another than they have."""
        return None


class _Weights(NamedTuple):
    """Weights and biases of the trunk's layers, cast and in the order of the blocks."""

    conv1: tuple[Tensor, Tensor]
    conv2: tuple[Tensor, Tensor]
    conv3: tuple[Tensor, Tensor]
    dense: tuple[Tensor, Tensor]


class SpaceToDepth(Network):
    """An agent whose two strided convolutions are computed as dense ones, for a CPU."""

    def arrange(self, obs: Tensor) -> Tensor:
        """[B, C, H, W] -> blocks of 4 x 4 pixels [B, H / 4, W / 4, C * 16], uint8.

        Borders that the convolution never reaches are cut off. Channels are in the order of
        `F.pixel_unshuffle`, but four neighbours in a row are moved as one 32-bit item. Two
        transpositions, whose items lie together on one side, are faster than one permutation.
        A few samples at a time, so that what lies between takes no memory to speak of.
        """
        if len(obs) <= ARRANGED_AT_ONCE:
            return self._blocks(obs)
        rows, columns = (_reached(side, 8, 4) // 4 for side in obs.shape[2:])
        arranged = obs.new_empty(len(obs), rows, columns, 16 * obs.shape[1])
        parts = obs.split(ARRANGED_AT_ONCE)
        for place, part in zip(arranged.split(ARRANGED_AT_ONCE), parts, strict=True):
            place.copy_(self._blocks(part))
        return arranged

    def _blocks(self, obs: Tensor) -> Tensor:
        """What `arrange` makes of a few samples."""
        samples, planes, height, width = obs.shape
        rows, columns = (_reached(side, 8, 4) // 4 for side in (height, width))
        pixels = obs[:, :, : 4 * rows, : 4 * columns].contiguous().view(torch.int32)
        strips = pixels.view(samples, planes, rows, 4, columns).transpose(1, 2).contiguous()
        blocks = strips.view(samples, rows, 4 * planes, columns).transpose(2, 3).contiguous()
        return blocks.view(torch.uint8)

    def __call__(
        self, arranged: Tensor, memory: Tensor, dones: Tensor
    ) -> tuple[Distribution, Tensor, Tensor]:
        weights = self._held or self._weights()
        x = arranged.to(weights.conv1[0].dtype).permute(0, 3, 1, 2)
        x = torch.relu_(F.conv2d(x, *weights.conv1))
        x = torch.relu_(F.conv2d(_blocks_of_4(x), *weights.conv2))
        x = torch.relu_(F.conv2d(x, *weights.conv3))
        if x.requires_grad:  # else it comes in the order of `flatten`, slow for all before
            x.register_hook(lambda grad: grad.contiguous(memory_format=torch.channels_last))
        features = torch.relu_(F.linear(x.flatten(1), *weights.dense))
        return self.agent.answer(features, memory, dones)

    def _weights(self) -> _Weights:
        trunk, dtype = self.agent.trunk, torch.bfloat16 if self.agent.bf16 else torch.float32
        assert isinstance(trunk, NatureCNN)

        def cast(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
            assert bias is not None
            kind = torch.channels_last if weight.dim() == 4 else torch.contiguous_format
            return weight.to(dtype, memory_format=kind), bias.to(dtype)

        first = F.pixel_unshuffle(trunk.conv1.weight / 255.0, 4)  # D22
        second = F.pixel_unshuffle(trunk.conv2.weight, 2)  # channels in the order C, pixel
        second = second.unflatten(1, (-1, 4)).transpose(1, 2).flatten(1, 2)  # pixel, C
        return _Weights(
            cast(first, trunk.conv1.bias),
            cast(second, trunk.conv2.bias),
            cast(trunk.conv3.weight, trunk.conv3.bias),
            cast(trunk.dense.weight, trunk.dense.bias),
        )


class Native(Network):
    """An agent whose trunk is computed by kernels of our own, for a CPU.

    In the precision that the agent has now. threads: that share the work of one call; inside
    `held`, where several threads call, each works alone.  UsageError where there are none.
    """

    def __init__(self, agent: Agent, threads: int) -> None:
        super().__init__(agent)
        self._threads = threads
        if agent.device.type != "cpu" or not isinstance(agent.trunk, NatureCNN):
            raise UsageError("native kernels are for convolutions on a CPU")
        self._trunk = agent.trunk
        self._kernels = kernels_for(agent.trunk, agent.bf16)
        self._parameters = [part for layer in layers(agent.trunk) for part in layer.parameters()]

    def __call__(
        self, arranged: Tensor, memory: Tensor, dones: Tensor
    ) -> tuple[Distribution, Tensor, Tensor]:
        bf16 = self._kernels.dtype == torch.bfloat16
        assert self.agent.bf16 == bf16, "the kernels were made for another precision"
        threads = self._threads if self._held is None else 1
        weights = self._held or self._weights()
        if torch.is_grad_enabled():
            seen = Trunk.apply(self._kernels, weights, arranged, threads, *self._parameters)
        else:
            seen = features(self._kernels, weights, arranged, threads)
        return self.agent.answer(seen, memory, dones)

    def _weights(self) -> Weights:
        return weights_of(self._kernels, self._trunk, self._threads)


def place(agent: Agent, kernels: str = "torch", threads: int = 1) -> Network:
    """The fastest form of an agent on the device that it is on, by PyTorch or `native` kernels.

    threads: that native kernels use; PyTorch's own are set for the whole process.  UsageError if
    kernels are asked for that there are not.
    """
    if kernels == "native":
        return Native(agent, threads)
    convolves = isinstance(agent.trunk, NatureCNN)
    return SpaceToDepth(agent) if convolves and agent.device.type == "cpu" else Network(agent)


def _blocks_of_4(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, 4 * C, H / 2, W / 2], both channels-last; pixel by pixel, C innermost."""
    samples, channels, height, width = x.shape
    rows, columns = (_reached(side, 4, 2) // 2 for side in (height, width))
    pixels = x.permute(0, 2, 3, 1)[:, : 2 * rows, : 2 * columns]
    blocks = pixels.unflatten(2, (columns, 2)).unflatten(1, (rows, 2)).transpose(2, 3)
    return blocks.reshape(samples, rows, columns, 4 * channels).permute(0, 3, 1, 2)


def _reached(side: int, kernel: int, stride: int) -> int:
    """Pixels of `side` that a convolution reads."""
    return (side - kernel) // stride * stride + kernel
