"""The network as a device computes it fastest; its results are those of `Agent`.

On a CPU the trunk is computed by native kernels (`native/`) or by PyTorch. For PyTorch the input is
rearranged: a convolution with stride s reads pixels that are apart in memory, which costs more than
its arithmetic. Grouping the image in blocks of s x s pixels, each block one pixel with s * s times
the channels (space to depth), makes it a dense convolution with stride 1 and the same weights in
another order. Images are in the channels-last format. Measurements are in docs/LOG.md.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..algorithm.distributions import Distribution
from ..errors import UsageError
from ..networks.agent import Agent
from ..networks.nature import NatureCNN

ARRANGED_AT_ONCE = 256
"""Samples that are rearranged together, so that intermediate copies stay small."""


class DeviceNetwork:
    """An agent, computed by PyTorch as it is written.

    Call it like the agent, but with the output of `arrange` instead of observations.
    """

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.device = agent.device
        self._frozen: Any = None

    def arrange(self, obs: Tensor) -> Tensor:
        """Rearrange observations [B, *obs_shape] for `__call__`; the first axis stays B."""
        return obs.to(self.device)

    def __call__(
        self, arranged: Tensor, lstm_state: Tensor, dones: Tensor
    ) -> tuple[Distribution, Tensor, Tensor]:
        result: tuple[Distribution, Tensor, Tensor] = self.agent(arranged, lstm_state, dones)
        return result

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.agent.parameters()

    @contextmanager
    def frozen_weights(self) -> Iterator[None]:
        """Cast and pack the weights once for all calls in this context, in all threads."""
        with torch.no_grad():
            self._frozen = self._packed_weights()
        try:
            yield
        finally:
            self._frozen = None

    def _packed_weights(self) -> Any:
        """Return the weights as calls need them; None if they are used unchanged."""
        return None


class _Weights(NamedTuple):
    """Weights and biases of the trunk's layers, cast, in the order of the blocks."""

    conv1: tuple[Tensor, Tensor]
    conv2: tuple[Tensor, Tensor]
    conv3: tuple[Tensor, Tensor]
    dense: tuple[Tensor, Tensor]


class SpaceToDepth(DeviceNetwork):
    """An agent whose two strided convolutions are computed as dense ones, for a CPU."""

    def arrange(self, obs: Tensor) -> Tensor:
        """Rearrange [B, C, H, W] to blocks of 4 x 4 pixels [B, H / 4, W / 4, C * 16], uint8.

        Borders that the convolution does not read are cut off. Channels are in the order of
        `F.pixel_unshuffle`, but four pixels in a row are moved as one 32-bit number. Two
        transpositions, each contiguous on one side, are faster than one permutation.
        """
        if len(obs) <= ARRANGED_AT_ONCE:
            return self._blocks(obs)
        rows, columns = (_used_side(side, 8, 4) // 4 for side in obs.shape[2:])
        arranged = obs.new_empty(len(obs), rows, columns, 16 * obs.shape[1])
        parts = obs.split(ARRANGED_AT_ONCE)
        for output, part in zip(arranged.split(ARRANGED_AT_ONCE), parts, strict=True):
            output.copy_(self._blocks(part))
        return arranged

    def _blocks(self, obs: Tensor) -> Tensor:
        samples, planes, height, width = obs.shape
        rows, columns = (_used_side(side, 8, 4) // 4 for side in (height, width))
        pixels = obs[:, :, : 4 * rows, : 4 * columns].contiguous().view(torch.int32)
        strips = pixels.view(samples, planes, rows, 4, columns).transpose(1, 2).contiguous()
        blocks = strips.view(samples, rows, 4 * planes, columns).transpose(2, 3).contiguous()
        return blocks.view(torch.uint8)

    def __call__(
        self, arranged: Tensor, lstm_state: Tensor, dones: Tensor
    ) -> tuple[Distribution, Tensor, Tensor]:
        weights = self._frozen or self._packed_weights()
        x = arranged.to(weights.conv1[0].dtype).permute(0, 3, 1, 2)
        x = torch.relu_(F.conv2d(x, *weights.conv1))
        x = torch.relu_(F.conv2d(_blocks_of_4(x), *weights.conv2))
        x = torch.relu_(F.conv2d(x, *weights.conv3))
        if x.requires_grad:
            # The gradient comes in the order of `flatten`, which is slow for the layers before.
            x.register_hook(lambda grad: grad.contiguous(memory_format=torch.channels_last))
        features = torch.relu_(F.linear(x.flatten(1), *weights.dense))
        return self.agent.heads(features, lstm_state, dones)

    def _packed_weights(self) -> _Weights:
        trunk, dtype = self.agent.trunk, torch.bfloat16 if self.agent.bf16 else torch.float32
        assert isinstance(trunk, NatureCNN)

        def cast(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
            assert bias is not None
            order = torch.channels_last if weight.dim() == 4 else torch.contiguous_format
            return weight.to(dtype, memory_format=order), bias.to(dtype)

        first = F.pixel_unshuffle(trunk.conv1.weight / 255.0, 4)  # D22
        second = F.pixel_unshuffle(trunk.conv2.weight, 2)  # channels in the order C, pixel
        second = second.unflatten(1, (-1, 4)).transpose(1, 2).flatten(1, 2)  # pixel, C
        return _Weights(
            cast(first, trunk.conv1.bias),
            cast(second, trunk.conv2.bias),
            cast(trunk.conv3.weight, trunk.conv3.bias),
            cast(trunk.dense.weight, trunk.dense.bias),
        )


def make_network(agent: Agent, kernels: str = "torch", threads: int = 1) -> DeviceNetwork:
    """Make the fastest network for an agent's device, with PyTorch's or `native` kernels.

    threads: used by native kernels; PyTorch's are set for the whole process.  UsageError if the
    native kernels are not available.
    """
    if kernels == "native":
        try:
            from .native.network import Native
        except ModuleNotFoundError as error:  # the folder may be deleted
            raise UsageError(
                "this copy of ppo37 has no native kernels (backends/native)"
            ) from error
        return Native(agent, threads)
    on_cpu = agent.device.type == "cpu"
    return SpaceToDepth(agent) if on_cpu and is_nature(agent) else DeviceNetwork(agent)


def is_nature(agent: Agent) -> bool:
    """Return whether an agent reads uint8 images by `NatureCNN`, which has more backends."""
    pixels = agent.obs_dtype == torch.uint8 and not agent.masked
    return isinstance(agent.trunk, NatureCNN) and pixels


def _blocks_of_4(x: Tensor) -> Tensor:
    """Rearrange [B, C, H, W] to [B, 4 * C, H / 2, W / 2], both channels-last; C is innermost."""
    samples, channels, height, width = x.shape
    rows, columns = (_used_side(side, 4, 2) // 2 for side in (height, width))
    pixels = x.permute(0, 2, 3, 1)[:, : 2 * rows, : 2 * columns]
    blocks = pixels.unflatten(2, (columns, 2)).unflatten(1, (rows, 2)).transpose(2, 3)
    return blocks.reshape(samples, rows, columns, 4 * channels).permute(0, 3, 1, 2)


def _used_side(side: int, kernel: int, stride: int) -> int:
    """Compute how many pixels of `side` a convolution reads."""
    return (side - kernel) // stride * stride + kernel
