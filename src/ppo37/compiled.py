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
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fopenmp", "-shared", "-fPIC")
COMPILE_S = 120.0


@functools.cache
def library(source: Path, **numbers: int) -> ctypes.CDLL:
    """A C file compiled with these numbers defined; UsageError, in a few words, if it cannot be."""
    shape = tuple(f"-D{name}={number}" for name, number in numbers.items())
    try:
        return ctypes.CDLL(str(_compiled(source, shape)))
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"native kernels could not be made: {error}") from error


def _compiled(source: Path, shape: tuple[str, ...]) -> Path:
    """The library, from the cache or made now."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        raise UsageError("native kernels need a C compiler, and none was found")
    command = [compiler, *FLAGS, *shape]
    sources = [source, *sorted(source.parent.glob("*.h"))]
    known = [*(path.read_text() for path in sources), *command, platform.platform(), _processor()]
    name = hashlib.sha256("\n".join(known).encode()).hexdigest()[:24]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ppo37"
    kept = folder / f"{source.stem}-{name}.so"
    if kept.exists():
        return kept
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            made = Path(place) / kept.name
            subprocess.run([*command, str(source), "-o", str(made), "-lm"], check=True, text=True,
                           capture_output=True, timeout=COMPILE_S)  # fmt: skip
            made.replace(kept)  # at once, for whoever else makes it too
    except subprocess.CalledProcessError as error:
        said = re.search("error: (?:#error )?(.*)", error.stderr)
        why = said[1].strip('"') if said else f"{compiler} failed"
        raise UsageError(f"native kernels could not be compiled: {why}") from error
    return kept


def _processor() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))
