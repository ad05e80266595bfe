"""The trunk of NatureCNN, computed by C code that is compiled for one shape and this processor.

`winograd.c` computes the convolutions in fp32 and `convolutions.c` in bf16, `dense.c` computes the
dense layer. A pool of threads (`workers.c`) shares the work; a result does not depend on how many
there are. The C code reads plain memory: what is passed to it has the right type and is contiguous.
"""

import functools
from ctypes import CDLL, POINTER, Structure, c_int, c_long, c_void_p
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...compiled import library
from ...errors import UsageError
from ...networks.nature import NatureCNN
from .tiling import Shape, convolution_sizes, winograd_sizes

SIMD_WIDTHS = {"AVX512": 16, "AVX2": 8}
"""Floats in a vector, by PyTorch's name of the processor's instructions."""

FEWEST_FEATURES = 6
"""Outputs that `dense.c` computes at once."""


class Arguments(Structure):
    """The arguments of a C function: addresses of tensors, and numbers. Keeps the tensors."""

    def __init__(self, *values: Tensor | int) -> None:
        super().__init__(*[v if isinstance(v, int) else _address(v) for v in values])
        self.values = values


def _address(tensor: Tensor) -> int:
    assert tensor.is_contiguous(), "C reads contiguous memory"
    return tensor.data_ptr()


def _fields(pointers: str, numbers: str = "") -> list[tuple[str, Any]]:
    pairs = [(name, c_void_p) for name in pointers.split()]
    return [*pairs, *((name, c_long) for name in numbers.split())]


class PackArguments(Arguments):  # these three are in trunk.h
    _fields_ = _fields("w1 w2 w3 packed")


class ForwardArguments(Arguments):
    _fields_ = _fields("obs packed b1 b2 b3 workspaces x1 x2 x3", "samples")


class BackwardArguments(Arguments):
    _fields_ = _fields("obs packed x1 x2 x3 g workspaces sums dw1 db1 dw2 db2 dw3 db3", "samples")


class DenseArguments(Arguments):  # these two are in dense.c
    _fields_ = _fields("x w bias y", "rows k outputs")


class DenseGradientArguments(Arguments):
    _fields_ = _fields("x w g g_transposed workspaces dx dw", "rows padded k outputs")


SIZES = {
    "ppo37_workspace_bytes": (),
    "ppo37_packed_size": (),
    "ppo37_sums_size": (c_long,),
    "ppo37_dense_workspace_bytes": (c_long, c_long, c_int),
}
"""The C functions that return a size, and their arguments."""

STEPS = {
    "ppo37_pack_weights": PackArguments,
    "ppo37_forward": ForwardArguments,
    "ppo37_backward": BackwardArguments,
    "ppo37_dense": DenseArguments,
    "ppo37_dense_gradients": DenseGradientArguments,
}
"""The C functions that compute; each takes a pointer to its arguments, and a number of threads."""


class Kernels(NamedTuple):
    """The compiled code for one shape of observations and channels and one precision."""

    c: CDLL
    obs_shape: tuple[int, ...]
    shapes: tuple[Shape, ...]
    """Outputs of the three convolutions."""
    dtype: torch.dtype
    """Of the weights and of the numbers between the layers."""
    workspace_bytes: int
    """Memory of each thread."""


def kernels_for(trunk: NatureCNN, bf16: bool) -> Kernels:
    """Return the kernels for a trunk; UsageError with the reason if this machine has none."""
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
    shapes, height, width = list[Shape](), *obs_shape[1:]
    for side, stride, outputs in zip((8, 4, 3), (4, 2, 1), channels, strict=True):
        height, width = ((size - side) // stride + 1 for size in (height, width))
        shapes.append((height, width, outputs))
    names = ("PLANES", "HEIGHT", "WIDTH", "C1", "C2", "C3")
    defined = dict(zip(names, (*obs_shape, *channels), strict=True))
    if bf16:
        needs, convolutions, simd_width = "avx512_bf16", "convolutions.c", 16
        defined |= convolution_sizes(obs_shape[0], shapes)
    else:
        needs, convolutions = "", "winograd.c"
        simd_width = SIMD_WIDTHS.get(torch.backends.cpu.get_cpu_capability(), 0)
        if not simd_width:
            raise UsageError("native kernels need a processor with AVX2 or AVX-512")
        defined |= winograd_sizes(obs_shape[0], shapes, simd_width)
    files = (Path(__file__).with_name(name) for name in (convolutions, "dense.c", "workers.c"))
    c = library(*files, needs=needs, BF16=int(bf16), SIMD_WIDTH=simd_width, **defined)
    _declare(c)
    dtype = torch.bfloat16 if bf16 else torch.float32
    return Kernels(c, obs_shape, tuple(shapes), dtype, c.ppo37_workspace_bytes())


def _declare(c: CDLL) -> None:
    """Declare the arguments and results of the C functions."""
    for name, numbers in SIZES.items():
        function = getattr(c, name)
        function.argtypes, function.restype = numbers, c_long
    for name, structure in STEPS.items():
        function = getattr(c, name)
        function.argtypes, function.restype = (POINTER(structure), c_int), None


class Weights(NamedTuple):
    """The weights of a trunk in the order and precision that the kernels read."""

    packed: Tensor  # of the convolutions
    dense: Tensor  # [features, k]
    biases: tuple[Tensor, ...]  # fp32, of all four layers


def weights_of(kernels: Kernels, trunk: NatureCNN, threads: int) -> Weights:
    """Return the weights as the kernels read them, without gradients."""
    weights = [_plain(layer.weight) for layer in trunk.convolutions]
    packed = torch.empty(kernels.c.ppo37_packed_size(), dtype=kernels.dtype)
    kernels.c.ppo37_pack_weights(PackArguments(*weights, packed), threads)
    dense = _plain(trunk.dense.weight).to(kernels.dtype)
    return Weights(packed, dense, tuple(_plain(layer.bias) for layer in layers(trunk)))


def _plain(parameter: Tensor | None) -> Tensor:
    """Return the values in fp32, contiguous, whatever the memory format (channels-last, say)."""
    assert parameter is not None
    return parameter.detach().float().contiguous()


def layers(trunk: NatureCNN) -> tuple[torch.nn.Conv2d | torch.nn.Linear, ...]:
    """Return the layers that the kernels compute."""
    return *trunk.convolutions, trunk.dense


def features(kernels: Kernels, weights: Weights, obs: Tensor, threads: int) -> Tensor:
    """Return relu(dense(relu(conv3(relu(conv2(relu(conv1(obs / 255)))))))), [B, F].

    obs: uint8 [B, *obs_shape].  A sample's features do not depend on the other samples, so the
    policy of a rollout, which gets few at a time, is the policy that learns.
    """
    return _outputs(kernels, weights, _checked(kernels, obs), threads)[-1]


def _checked(kernels: Kernels, obs: Tensor) -> Tensor:
    """Return observations in contiguous memory; ValueError if they are not what was compiled."""
    if obs.dtype != torch.uint8 or obs.shape[1:] != kernels.obs_shape:
        raise ValueError(
            f"native kernels were compiled for uint8 observations of shape {kernels.obs_shape}, "
            f"not {obs.dtype} of {tuple(obs.shape[1:])}"
        )
    return obs.contiguous()


def _outputs(kernels: Kernels, weights: Weights, obs: Tensor, threads: int) -> list[Tensor]:
    """Return the outputs of each layer; the third's are [B, k], in the order of `flatten`."""
    samples, (count, k) = len(obs), weights.dense.shape
    *biases, bias = weights.biases
    outputs = [torch.empty(samples, *shape, dtype=kernels.dtype) for shape in kernels.shapes]
    workspaces = _workspaces(kernels, threads)
    arguments = ForwardArguments(obs, weights.packed, *biases, workspaces, *outputs, samples)
    kernels.c.ppo37_forward(arguments, threads)
    outputs[-1] = outputs[-1].view(samples, k)
    outputs.append(torch.empty(samples, count, dtype=kernels.dtype))
    dense = DenseArguments(outputs[-2], weights.dense, bias, outputs[-1], samples, k, count)
    kernels.c.ppo37_dense(dense, threads)
    return outputs


class Trunk(torch.autograd.Function):
    """`features` with gradients, which are fp32.

    apply(kernels, weights, obs, threads, *parameters); parameters: weights and biases of the four
    layers, from which `weights` was made.
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
        obs = _checked(kernels, obs)
        outputs = _outputs(kernels, weights, obs, threads)
        ctx.kernels, ctx.threads = kernels, threads
        ctx.save_for_backward(weights.packed, weights.dense, obs, *outputs, *parameters)
        return outputs[-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        kernels: Kernels = ctx.kernels
        threads: int = ctx.threads
        packed, dense, obs, *saved = ctx.saved_tensors
        outputs, y, parameters = saved[:3], saved[3], saved[4:]
        found = [torch.empty(parameter.shape) for parameter in parameters[:-1]]
        samples, (count, k) = len(obs), dense.shape
        x, passed = outputs[2], torch.where(y == 0, 0, gradients[0]).contiguous()  # by ReLU
        padded = samples + samples % 2
        transposed = torch.zeros(count, padded, dtype=passed.dtype)
        transposed[:, :samples] = passed.t()
        size = kernels.c.ppo37_dense_workspace_bytes(padded, count, threads)
        workspace, gradient = torch.empty(size, dtype=torch.uint8), torch.empty_like(x)
        tensors = (x, dense, passed, transposed, workspace, gradient, found[-1])
        arguments = DenseGradientArguments(*tensors, samples, padded, k, count)
        kernels.c.ppo37_dense_gradients(arguments, threads)
        sums = torch.empty(kernels.c.ppo37_sums_size(samples))
        workspaces = _workspaces(kernels, threads)
        tensors = (obs, packed, *outputs, gradient, workspaces, sums, *found[:-1])
        kernels.c.ppo37_backward(BackwardArguments(*tensors, samples), threads)
        return None, None, None, None, *found, passed.sum(0, dtype=torch.float32)


def _workspaces(kernels: Kernels, threads: int) -> Tensor:
    return torch.empty(threads * kernels.workspace_bytes, dtype=torch.uint8)
