"""Sizes of the blocks that the kernels keep in registers and in the cache, chosen for one shape."""

from collections.abc import Sequence

from ...errors import UsageError

SUMS = {16: 28, 8: 12}
"""Vectors of sums in registers, by the floats of a vector; the other registers are for factors."""

MOST_ACROSS = 4
BLOCKS, LONG_BLOCKS = (14, 36, 32), (98, 36, 64)
"""Tiles of each layer in `winograd.c`, so few that their transforms stay in the cache."""

Shape = tuple[int, int, int]
"""Outputs of a convolution: height, width, channels."""


def convolution_sizes(planes: int, shapes: Sequence[Shape]) -> dict[str, int]:
    """Return the sizes for `convolutions.c`; UsageError for channels that it does not compute."""
    first, second, third = channels = tuple(shape[2] for shape in shapes)
    if max(2 * first, second, third) > 64 or not {*channels} <= {16, 32, 64}:
        raise UsageError(f"there are no native kernels in bf16 for {channels} channels")
    sizes = dict[str, int]()
    lengths = (32 * planes, 4 * first, 3 * second)  # of a kernel's row, in blocks
    for i, ((height, width, outputs), length) in enumerate(zip(shapes, lengths, strict=True), 1):
        most = SUMS[16] * 16 // outputs
        sizes[f"ROWS{i}"] = _even_parts(height * width, most)
        sizes[f"TAPS{i}"] = max(n for n in range(1, most + 1) if length % n == 0)
    return sizes


def winograd_sizes(planes: int, shapes: Sequence[Shape], simd_width: int) -> dict[str, int]:
    """Return the sizes for `winograd.c`; UsageError for channels that it does not compute."""
    channels = tuple(shape[2] for shape in shapes)
    if any(count % simd_width for count in channels):
        raise UsageError(f"native kernels compute {simd_width} channels at once, not {channels}")
    sizes, most = dict[str, int](), SUMS[simd_width]
    inputs = (16 * planes, 4 * channels[0], channels[1])  # channels of the blocks
    for i, (block, long_block) in enumerate(zip(BLOCKS, LONG_BLOCKS, strict=True)):
        read, made = inputs[i] // simd_width, channels[i] // simd_width
        layer = {"BLOCK": block, "LONG_BLOCK": long_block}
        layer["ROWS"], layer["ACROSS"] = _register_block(block, made, most)
        layer["BACK_ROWS"], layer["BACK_ACROSS"] = _register_block(block, read, most)
        layer["TAPS"], layer["TAPS_ACROSS"] = _register_block(inputs[i], made, most, whole=True)
        sizes |= {f"{name}{i + 1}": size for name, size in layer.items()}
    return sizes


def _even_parts(pixels: int, most: int) -> int:
    """Return the size of parts, from `most` / 2 to `most`, that wastes least of the last part."""
    sizes = range(most, most // 2, -1)
    return min(sizes, key=lambda size: -pixels % size)


def _register_block(rows: int, vectors: int, most: int, whole: bool = False) -> tuple[int, int]:
    """Return how many rows and vectors of a matrix product are summed at once in registers.

    The cheapest: a block of r rows by a vectors reads r + a factors for r * a products, and with
    fewer than ten sums the processor waits for each. whole: r divides the rows.
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
