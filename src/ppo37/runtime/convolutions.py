"""The convolutions by `convolutions.c`, for processors with AVX2 or AVX-512."""

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
LANES = {"AVX512": 16, "AVX2": 8}
"""Floats in a vector, by what PyTorch calls the processor."""

SUMS = {16: 28, 8: 12}
"""Vectors of sums that fit into registers, with room for what is multiplied, by LANES."""

MOST_ACROSS = 4
"""Vectors side by side; of a table in the source."""


class Kernels(NamedTuple):
    """What was compiled for one shape of observations and channels and one precision."""

    forward: Callable[..., None]
    backward: Callable[..., None]
    pack_weights: Callable[..., None]
    workspace_bytes: int
    dtype: torch.dtype
    """Of weights and of what lies between the layers."""
    shapes: tuple[tuple[int, int, int], ...]
    """What the three convolutions give: [height, width, channels]."""


def kernels_for(trunk: NatureCNN, bf16: bool) -> Kernels:
    """Kernels for a trunk; UsageError, in a few words, if this machine cannot have them."""
    channels = tuple(layer.out_channels for layer in trunk.convolutions)
    return _kernels(trunk.obs_shape, channels, bf16)


@functools.cache
def _kernels(obs_shape: tuple[int, ...], channels: tuple[int, ...], bf16: bool) -> Kernels:
    lanes = LANES.get(torch.backends.cpu.get_cpu_capability(), 0)
    if not lanes:
        raise UsageError("native kernels need a processor with AVX2 or AVX-512")
    if any(count % lanes for count in channels):
        raise UsageError(f"native kernels compute {lanes} channels at once, not {channels}")
    planes, height, width = obs_shape
    shapes, rows, columns = [], height, width
    defined = {
        "PLANES": planes,
        "HEIGHT": height,
        "WIDTH": width,
        "LANES": lanes,
        "BF16": int(bf16),
    }
    lengths = (32 * planes, 4 * channels[0], 3 * channels[1])  # of a kernel's row, in blocks
    inputs = (0, 2 * channels[0], channels[1])  # of a stride: what a way back goes to at once
    for i, (side, stride) in enumerate(((8, 4), (4, 2), (3, 1))):
        rows, columns = ((size - side) // stride + 1 for size in (rows, columns))
        shapes.append((rows, columns, channels[i]))
        across, most = _tile(channels[i], lanes)
        tile = {"ACROSS": across, "ROWS": _even_parts(rows * columns, most),
                "TAPS": max(n for n in range(1, most + 1) if lengths[i] % n == 0)}  # fmt: skip
        if i:
            across, most = _tile(inputs[i], lanes)
            tile |= {"BACK_ACROSS": across, "BACK_ROWS": _even_parts(rows * columns, most)}
        defined |= {f"{name}{i + 1}": n for name, n in {"C": channels[i], **tile}.items()}
    made = library(SOURCE, **defined)
    made.workspace_bytes.restype = ctypes.c_long
    return Kernels(
        made.forward, made.backward, made.pack_weights, made.workspace_bytes(),
        torch.bfloat16 if bf16 else torch.float32, tuple(shapes),
    )  # fmt: skip


def _tile(channels: int, lanes: int) -> tuple[int, int]:
    """Vectors of channels that are computed at once, and for how many pixels at most.

    Of a tile of r by a vectors r + a are read for r * a products: squares read least.
    """
    vectors = channels // lanes
    most = min(MOST_ACROSS, SUMS[lanes] // 4)
    across = max(a for a in range(1, most + 1) if vectors % a == 0)
    return across, SUMS[lanes] // across


def _even_parts(pixels: int, most: int) -> int:
    """The size of parts, at most `most` and at least half of it, that wastes least of the last."""
    sizes = range(most, most // 2, -1)
    return min(sizes, key=lambda size: -pixels % size)


def packed_weights(kernels: Kernels, trunk: NatureCNN) -> Tensor:
    """The convolutions' weights in the order and precision that the kernels read them in."""
    weights = [layer.weight.detach() for layer in trunk.convolutions]
    first, second, third = (weight.numel() for weight in weights)
    packed = torch.empty(first + 2 * (second + third), dtype=kernels.dtype)
    kernels.pack_weights(*map(_pointer, weights), torch.get_num_threads(), _pointer(packed))
    return packed


class Convolutions(torch.autograd.Function):
    """relu(conv3(relu(conv2(relu(conv1(obs / 255)))))): obs uint8 [B, C, H, W] -> [B, F].

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
        outputs = [torch.empty(len(obs), *shape, dtype=kernels.dtype) for shape in kernels.shapes]
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
