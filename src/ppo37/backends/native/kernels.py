"""The trunk of `NatureCNN` by C of our own.

Its convolutions are computed by `convolutions.c` in bf16 and by `winograd.c` in fp32, its dense
layer by `dense.c`. Threads of a pool (`workers.c`) share the work; how many there are changes no
bit of a result.
"""

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...compiled import library
from ...errors import UsageError
from ...networks.nature import NatureCNN

BF16, FP32, DENSE, WORKERS = (
    Path(__file__).with_name(name)
    for name in ("convolutions.c", "winograd.c", "dense.c", "workers.c")
)
LANES = {"AVX512": 16, "AVX2": 8}
"""Floats in a vector, by what PyTorch calls the processor."""

SUMS = {16: 28, 8: 12}
"""Vectors of sums that fit into registers, with room for what is multiplied, by LANES."""

MOST_ACROSS = 4
BLOCKS, LONG_BLOCKS = (14, 36, 32), (98, 36, 64)
"""Of `winograd.c`: so many tiles that what is made of them stays in the cache."""

FEWEST_FEATURES = 6
"""Outputs that `dense.c` computes at once."""


class Kernels(NamedTuple):
    """What was compiled for one shape of observations and channels and one precision."""

    forward: Callable[..., None]
    backward: Callable[..., None]
    pack_weights: Callable[..., None]
    dense: Callable[..., None]
    dense_gradients: Callable[..., None]
    workspace_bytes: int
    """Of each thread."""
    dense_workspace_bytes: Callable[[int, int, int], int]
    sums_size: Callable[[int], int]
    packed_size: int
    dtype: torch.dtype
    """Of weights and of what lies between the layers."""
    shapes: tuple[tuple[int, int, int], ...]
    """What the three convolutions give: [height, width, channels]."""


def kernels_for(trunk: NatureCNN, bf16: bool) -> Kernels:
    """Kernels for a trunk; UsageError, in a few words, if this machine cannot have them."""
    channels = tuple(layer.out_channels for layer in trunk.convolutions)
    count = trunk.dense.out_features
    if count < FEWEST_FEATURES or count % 2:
        raise UsageError(
            f"native kernels are for an even number of at least {FEWEST_FEATURES} features, not "
            f"{count}"
        )
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
    needs = "avx512_bf16" if bf16 else ""
    made = library(BF16 if bf16 else FP32, DENSE, WORKERS, needs=needs, BF16=int(bf16), **defined)
    sizes = (made.workspace_bytes, made.packed_size, made.sums_size, made.dense_workspace_bytes)
    for size in sizes:
        size.restype = ctypes.c_long
    made.sums_size.argtypes = (ctypes.c_long,)
    made.dense_workspace_bytes.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_int)
    return Kernels(
        made.forward,
        made.backward,
        made.pack_weights,
        made.dense,
        made.dense_gradients,
        made.workspace_bytes(),
        made.dense_workspace_bytes,
        made.sums_size,
        made.packed_size(),
        torch.bfloat16 if bf16 else torch.float32,
        tuple(shapes),
    )


def _direct(planes: int, shapes: list[tuple[int, int, int]]) -> dict[str, int]:
    """What `convolutions.c` wants defined; UsageError for channels that it does not compute."""
    (*_, first), (*_, second), (*_, third) = shapes
    if max(2 * first, second, third) > 64 or not {first, second, third} <= {16, 32, 64}:
        raise UsageError(f"there are no native kernels in bf16 for {first, second, third} channels")
    defined = {"LANES": 16}
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
        (
            (r, a)
            for a in range(1, MOST_ACROSS + 1)
            if vectors % a == 0
            for r in range(1, min(rows, most // a) + 1)
            if not (whole and rows % r)
        ),
        key=cost,
    )


class Weights(NamedTuple):
    """The weights of a trunk in the order and precision that kernels read them in."""

    packed: Tensor  # those of the convolutions
    dense: Tensor  # [features, k]
    biases: tuple[Tensor, ...]  # fp32, of all four layers


def weights_of(kernels: Kernels, trunk: NatureCNN, threads: int) -> Weights:
    """What kernels read, without gradients."""
    weights = [layer.weight.detach() for layer in trunk.convolutions]
    packed = torch.empty(kernels.packed_size, dtype=kernels.dtype)
    kernels.pack_weights(*map(_pointer, weights), threads, _pointer(packed))
    dense = trunk.dense.weight.detach().to(kernels.dtype)
    biases = [layer.bias for layer in layers(trunk)]
    return Weights(packed, dense, tuple(bias.detach() for bias in biases if bias is not None))


def layers(trunk: NatureCNN) -> tuple[torch.nn.Conv2d | torch.nn.Linear, ...]:
    """Those that kernels compute."""
    return *trunk.convolutions, trunk.dense


def features(kernels: Kernels, weights: Weights, obs: Tensor, threads: int) -> Tensor:
    """relu(dense(relu(conv3(relu(conv2(relu(conv1(obs / 255)))))))): uint8 [B, C, H, W] -> [B, F].

    A sample's features do not depend on those beside it: the policy of a rollout, which sees few at
    a time, is the one that learns.
    """
    return _outputs(kernels, weights, obs, threads)[-1]


def _outputs(kernels: Kernels, weights: Weights, obs: Tensor, threads: int) -> list[Tensor]:
    """What each layer gives; the third one [B, k], channel by channel."""
    assert obs.is_contiguous(), "planes, rows and columns in this order"
    samples = ctypes.c_long(len(obs))
    *biases, bias = weights.biases
    outputs = [torch.empty(len(obs), *shape, dtype=kernels.dtype) for shape in kernels.shapes]
    workspaces = _workspaces(kernels, threads)
    kernels.forward(
        _pointer(obs),
        samples,
        threads,
        _pointer(weights.packed),
        *map(_pointer, (*biases, workspaces, *outputs)),
    )
    count, k = weights.dense.shape
    outputs[-1] = outputs[-1].view(len(obs), k)
    outputs.append(torch.empty(len(obs), count, dtype=kernels.dtype))
    kernels.dense(
        _pointer(outputs[-2]),
        samples,
        ctypes.c_long(k),
        ctypes.c_long(count),
        _pointer(weights.dense),
        _pointer(bias),
        threads,
        _pointer(outputs[-1]),
    )
    return outputs


class Trunk(torch.autograd.Function):
    """`features`, with gradients.

    apply(kernels, weights, obs, threads, *parameters); parameters: weights and biases of the four
    layers, of which `weights` was made. Their gradients come in fp32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        weights: Weights,
        obs: Tensor,
        threads: int,
        *parameters: Tensor,
    ) -> Tensor:
        outputs = _outputs(kernels, weights, obs, threads)
        ctx.kernels, ctx.threads = kernels, threads
        ctx.save_for_backward(weights.packed, weights.dense, obs, *outputs, *parameters)
        return outputs[-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        kernels: Kernels = ctx.kernels
        threads: int = ctx.threads
        packed, dense, obs, *saved = ctx.saved_tensors
        outputs, x, y, parameters = saved[:3], saved[2], saved[3], saved[4:]
        found = [torch.empty_like(parameter) for parameter in parameters[:-1]]
        samples, (count, k) = len(obs), dense.shape

        passed = torch.where(y == 0, 0, gradients[0]).contiguous()  # by ReLU
        padded = samples + samples % 2
        transposed = torch.zeros(count, padded, dtype=passed.dtype)
        transposed[:, :samples] = passed.t()
        size = kernels.dense_workspace_bytes(padded, count, threads)
        workspace, gradient = torch.empty(size, dtype=torch.uint8), torch.empty_like(x)
        kernels.dense_gradients(
            _pointer(x),
            *map(ctypes.c_long, (samples, padded, k, count)),
            *map(_pointer, (dense, passed, transposed)),
            threads,
            *map(_pointer, (workspace, gradient, found[-1])),
        )
        sums = torch.empty(kernels.sums_size(samples))
        workspaces = _workspaces(kernels, threads)
        kernels.backward(
            _pointer(obs),
            ctypes.c_long(samples),
            threads,
            _pointer(packed),
            *map(_pointer, (*outputs, gradient, workspaces, sums, *found[:-1])),
        )
        return None, None, None, None, *found, passed.sum(0, dtype=torch.float32)


def _workspaces(kernels: Kernels, threads: int) -> Tensor:
    return torch.empty(threads * kernels.workspace_bytes, dtype=torch.uint8)


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    """Where a tensor lies; whoever asks keeps the tensor until it is no longer read."""
    return ctypes.c_void_p(tensor.data_ptr())
