"""The convolutions by C of our own: in bf16 by `convolutions.c`, in fp32 by `winograd.c`."""

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

BF16, FP32 = (Path(__file__).with_name(name) for name in ("convolutions.c", "winograd.c"))
LANES = {"AVX512": 16, "AVX2": 8}
"""Floats in a vector, by what PyTorch calls the processor."""

SUMS = {16: 28, 8: 12}
"""Vectors of sums that fit into registers, with room for what is multiplied, by LANES."""

MOST_ACROSS = 4
BLOCKS, LONG_BLOCKS = (14, 36, 32), (98, 36, 64)
"""Of `winograd.c`: so many tiles that what is made of them stays in the cache."""


class Kernels(NamedTuple):
    """What was compiled for one shape of observations and channels and one precision."""

    forward: Callable[..., None]
    backward: Callable[..., None]
    pack_weights: Callable[..., None]
    workspace_bytes: int
    packed_size: int
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
    shapes, rows, columns = [], *obs_shape[1:]
    for side, stride, outputs in zip((8, 4, 3), (4, 2, 1), channels, strict=True):
        rows, columns = ((size - side) // stride + 1 for size in (rows, columns))
        shapes.append((rows, columns, outputs))
    names = ("PLANES", "HEIGHT", "WIDTH", "C1", "C2", "C3")
    defined = dict(zip(names, (*obs_shape, *channels), strict=True))
    defined |= (_direct if bf16 else _winograd)(obs_shape[0], shapes)
    made = library(BF16 if bf16 else FP32, **defined)
    made.workspace_bytes.restype = made.packed_size.restype = ctypes.c_long
    return Kernels(
        made.forward, made.backward, made.pack_weights, made.workspace_bytes(), made.packed_size(),
        torch.bfloat16 if bf16 else torch.float32, tuple(shapes),
    )  # fmt: skip


def _direct(planes: int, shapes: list[tuple[int, int, int]]) -> dict[str, int]:
    """What `convolutions.c` wants defined; UsageError for channels that it does not compute."""
    (*_, first), (*_, second), (*_, third) = shapes
    if max(2 * first, second, third) > 64 or not {first, second, third} <= {16, 32, 64}:
        raise UsageError(f"there are no native kernels in bf16 for {first, second, third} channels")
    defined = {}
    lengths = (32 * planes, 4 * first, 3 * second)  # of a kernel's row, in blocks
    for i, ((rows, columns, outputs), length) in enumerate(zip(shapes, lengths, strict=True), 1):
        most = SUMS[16] * 16 // outputs
        defined[f"ROWS{i}"] = _even_parts(rows * columns, most)
        defined[f"TAPS{i}"] = max(n for n in range(1, most + 1) if length % n == 0)
    return defined


def _even_parts(pixels: int, most: int) -> int:
    """The size of parts, at most `most` and at least half of it, that wastes least of the last."""
    sizes = range(most, most // 2, -1)
    return min(sizes, key=lambda size: -pixels % size)


def _winograd(planes: int, shapes: list[tuple[int, int, int]]) -> dict[str, int]:
    """What `winograd.c` wants defined; UsageError for channels that it does not compute."""
    lanes = LANES.get(torch.backends.cpu.get_cpu_capability())
    if lanes is None:
        raise UsageError("native kernels need a processor with AVX2 or AVX-512")
    outputs = tuple(shape[2] for shape in shapes)
    if any(count % lanes for count in outputs):
        raise UsageError(f"native kernels compute {lanes} channels at once, not {outputs}")
    defined = {"LANES": lanes}
    inputs = (16 * planes, 4 * outputs[0], outputs[1])  # channels of the blocks
    for i, (read, made) in enumerate(zip(inputs, outputs, strict=True)):
        sizes = {"BLOCK": BLOCKS[i], "LONG_BLOCK": LONG_BLOCKS[i]}
        sizes["ROWS"], sizes["ACROSS"] = _sums(BLOCKS[i], made // lanes, SUMS[lanes])
        sizes["BACK_ROWS"], sizes["BACK_ACROSS"] = _sums(BLOCKS[i], read // lanes, SUMS[lanes])
        sizes["TAPS"], sizes["TAPS_ACROSS"] = _sums(read, made // lanes, SUMS[lanes], whole=True)
        defined |= {f"{name}{i + 1}": size for name, size in sizes.items()}
    return defined


def _sums(rows: int, vectors: int, most: int, whole: bool = False) -> tuple[int, int]:
    """How many of the rows and vectors of a product are summed up at once in registers.

    The cheapest: for r rows by a vectors, r + a are read and r * a multiplied at a time, and with
    fewer than ten the processor waits for each sum. whole: r divides the rows.
    """

    def cost(size: tuple[int, int]) -> float:
        r, a = size
        return -(-rows // r) * (vectors // a) * (max(r * a, 10) + 0.25 * (r + a))

    return min(
        ((r, a) for a in range(1, MOST_ACROSS + 1) if vectors % a == 0
         for r in range(1, min(rows, most // a) + 1) if not (whole and rows % r)),
        key=cost,
    )  # fmt: skip


def packed_weights(kernels: Kernels, trunk: NatureCNN) -> Tensor:
    """The convolutions' weights in the order and precision that the kernels read them in."""
    weights = [layer.weight.detach() for layer in trunk.convolutions]
    packed = torch.empty(kernels.packed_size, dtype=kernels.dtype)
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
