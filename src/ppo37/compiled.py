"""C compiled on this machine for the shape in hand: what PyTorch and the emulator are slow at.

Whatever is computed so can also be computed without; who has no compiler, or a processor that
lacks an instruction, is told so. What was compiled is kept in the user's cache and made once.
"""

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from .errors import UsageError

# Fused products and sums would round in another way than what is compared with.
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-pthread", "-shared", "-fPIC")
COMPILE_S = 120.0


@functools.cache
def library(*sources: Path, **numbers: int) -> ctypes.CDLL:
    """C files of one folder, compiled into a library with these numbers defined; UsageError, in a
    few words, if they cannot be."""
    shape = tuple(f"-D{name}={number}" for name, number in numbers.items())
    try:
        return ctypes.CDLL(str(_compiled(sources, shape)))
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"native kernels could not be made: {error}") from error


def _compiled(sources: tuple[Path, ...], shape: tuple[str, ...]) -> Path:
    """The library, from the cache or made now."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        raise UsageError("native kernels need a C compiler, and none was found")
    command = [compiler, *FLAGS, *shape]
    read = [*sources, *sorted(sources[0].parent.glob("*.h"))]
    info = cpu_info()
    processor = info.get("model name", platform.processor()), info.get("flags", "")
    known = [*(path.read_text() for path in read), *command, platform.platform(), *processor]
    name = hashlib.sha256("\n".join(known).encode()).hexdigest()[:24]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ppo37"
    kept = folder / f"{sources[0].stem}-{name}.so"
    if kept.exists():
        return kept
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            made = Path(place) / kept.name
            command += [*map(str, sources), "-o", str(made), "-lm"]
            subprocess.run(command, check=True, text=True, capture_output=True, timeout=COMPILE_S)
            made.replace(kept)  # at once, for whoever else makes it too
    except subprocess.CalledProcessError as error:
        said = re.search("error: (?:#error )?(.*)", error.stderr)
        why = said[1].strip('"') if said else f"{compiler} failed"
        raise UsageError(f"native kernels could not be compiled: {why}") from error
    return kept


def cpu_info() -> dict[str, str]:
    """What Linux says of the first CPU core, `model name`, `vendor_id` and `flags` among it; empty
    elsewhere."""
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
