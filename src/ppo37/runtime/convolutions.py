"""The convolutions by `convolutions.c`, for processors that multiply bf16 (AVX512-BF16)."""

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..compiled import library
from ..errors import UsageError
from ..model import NatureCNN

SOURCE = Path(__file__).with_name("convolutions.c")
VECTOR, MOST_VECTORS, REGISTERS = 16, 4, 28
"""Floats in a register, registers side by side, and those that may hold sums."""


class Kernels(NamedTuple):
    """What was compiled for one shape of observations and channels."""

    forward: Callable[..., None]
    backward: Callable[..., None]
    pack_weights: Callable[..., None]
    workspace_bytes: int
    shapes: tuple[tuple[int, int, int], ...]
    """What the three convolutions give: [height, width, channels]."""


def kernels_for(trunk: NatureCNN) -> Kernels:
    """Kernels for a trunk; UsageError, in a few words, if this machine cannot have them."""
    return _kernels(trunk.obs_shape, tuple(layer.out_channels for layer in trunk.convolutions))


@functools.cache
def _kernels(obs_shape: tuple[int, ...], channels: tuple[int, ...]) -> Kernels:
    planes, height, width = obs_shape
    shapes, rows, columns = [], height, width
    for side, stride, outputs in zip((8, 4, 3), (4, 2, 1), channels, strict=True):
        rows, columns = ((size - side) // stride + 1 for size in (rows, columns))
        shapes.append((rows, columns, outputs))
    defined = {"PLANES": planes, "HEIGHT": height, "WIDTH": width}
    lengths = (32 * planes, 4 * channels[0], 3 * channels[1])  # of a kernel's row, in blocks
    widest = max(2 * channels[0], *channels)
    if widest > VECTOR * MOST_VECTORS or any(
        count not in (VECTOR, 2 * VECTOR, 4 * VECTOR) for count in channels
    ):
        raise UsageError(f"there are no native kernels for {channels} channels")
    for i, (shape, length) in enumerate(zip(shapes, lengths, strict=True), 1):
        registers = REGISTERS // (shape[2] // VECTOR)
        defined |= {f"C{i}": shape[2], f"ROWS{i}": _even_parts(shape[0] * shape[1], registers)}
        defined[f"TAPS{i}"] = max(n for n in range(1, registers + 1) if length % n == 0)
    made = library(SOURCE, **defined)
    made.workspace_bytes.restype = ctypes.c_long
    return Kernels(
        made.forward, made.backward, made.pack_weights, made.workspace_bytes(), tuple(shapes)
    )


def _even_parts(pixels: int, most: int) -> int:
    """The size of parts, at most `most` and at least half of it, that wastes least of the last."""
    sizes = range(most, most // 2, -1)
    return min(sizes, key=lambda size: -pixels % size)


def packed_weights(kernels: Kernels, trunk: NatureCNN) -> Tensor:
    """The convolutions' weights in bf16, in the order that the kernels read them."""
    weights = [layer.weight.detach() for layer in trunk.convolutions]
    first, second, third = (weight.numel() for weight in weights)
    packed = torch.empty(first + 2 * (second + third), dtype=torch.bfloat16)
    kernels.pack_weights(*map(_pointer, weights), torch.get_num_threads(), _pointer(packed))
    return packed


class Convolutions(torch.autograd.Function):
    """relu(conv3(relu(conv2(relu(conv1(obs / 255)))))): obs uint8 [B, C, H, W] -> bf16 [B, F].

    apply(kernels, packed, obs, *parameters); parameters: weights and biases of the three layers,
    of which `packed` holds the weights. Gradients come in fp32.
    """

    @staticmethod
    def forward(
        ctx: Any, kernels: Kernels, packed: Tensor, obs: Tensor, *parameters: Tensor
    ) -> Tensor:
        assert obs.is_contiguous(), "planes, rows and columns in this order"
        threads = torch.get_num_threads()
        biases = parameters[1::2]
        outputs = [torch.empty(len(obs), *shape, dtype=torch.bfloat16) for shape in kernels.shapes]
        workspaces = _workspaces(kernels, threads)
        kernels.forward(
            _pointer(obs), ctypes.c_long(len(obs)), threads, _pointer(packed),
            *map(_pointer, (*biases, workspaces, *outputs)),
        )  # fmt: skip
        ctx.kernels = kernels
        ctx.save_for_backward(packed, obs, *outputs, *parameters)
        return outputs[-1].flatten(1)  # channel by channel

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        kernels, threads = ctx.kernels, torch.get_num_threads()
        packed, obs, *saved = ctx.saved_tensors
        outputs, parameters = saved[:3], saved[3:]
        found = [torch.empty_like(parameter) for parameter in parameters]
        gradient, workspaces = gradients[0].contiguous(), _workspaces(kernels, threads)
        kernels.backward(
            _pointer(obs), ctypes.c_long(len(obs)), threads, _pointer(packed),
            *map(_pointer, (*outputs, gradient, workspaces, *found)),
        )  # fmt: skip
        return None, None, None, *found


def _workspaces(kernels: Kernels, threads: int) -> Tensor:
    return torch.empty(threads * kernels.workspace_bytes, dtype=torch.uint8)


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    """Where a tensor lies; whoever asks keeps the tensor until it is no longer read."""
    return ctypes.c_void_p(tensor.data_ptr())
