"""C compiled on this machine for the shape in hand: what PyTorch and the emulator are slow at.

Whatever is computed so can also be computed without; who has no compiler, or a processor that
lacks an instruction, is told so. What was compiled is kept in the user's cache and made once.
"""

import atexit
import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from .errors import UsageError
from .machine import cpu_info

# Fused products and sums would round in another way than what is compared with.
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-pthread", "-shared", "-fPIC")
COMPILE_S = 120.0
PRIVATE = 0o700


@functools.cache
def library(*sources: Path, needs: str = "", **numbers: int) -> ctypes.CDLL:
    """C files of one folder, compiled into a library with these numbers defined; UsageError, in a
    few words, if they cannot be.

    needs: a flag that the processor must have, by the name that Linux gives it. The compiler says
    so too, but takes a third of a second for it, every time.
    """
    if needs not in ("", *cpu_info().get("flags", needs).split()):
        name = needs.replace("_", "").replace("avx512", "avx512-").upper()
        what = "for bf16 they need" if "BF16" in name else "they need"
        raise UsageError(f"native kernels could not be compiled: {what} a processor with {name}")
    shape = tuple(f"-D{name}={number}" for name, number in numbers.items())
    try:
        return ctypes.CDLL(str(_compiled(sources, shape)))
    except (OSError, RuntimeError) as error:
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
    folder = _folder()
    kept = folder / f"{sources[0].stem}-{name}.so"
    if _whole(kept):
        return kept
    if not os.access(folder, os.W_OK | os.X_OK):
        folder = _private_folder()
        kept = folder / kept.name
    with tempfile.TemporaryDirectory(dir=folder) as place:
        made = Path(place) / kept.name
        _compile([*command, *map(str, sources), "-o", str(made), "-lm"])
        # On the disk before it has its name, and at once for whoever else makes it too.
        digest = Path(place) / "digest"
        digest.write_text(_digest(made))
        for path, final in ((made, kept), (digest, _digest_of(kept))):
            path.chmod(PRIVATE)
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.replace(final)
    if not _whole(kept):
        raise UsageError(f"native kernels could not be compiled: {compiler} made no library")
    return kept


def _folder() -> Path:
    """Find the folder for libraries: the user's cache, or a private one for this process where
    others could change what lies there."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
        if not cache.is_absolute():  # as its specification asks
            cache = Path.home() / ".cache"
        folder = cache / "ppo37"
        folder.mkdir(PRIVATE, parents=True, exist_ok=True)
        if _only_ours(folder):
            return folder
    except (OSError, RuntimeError):  # no home, say
        pass
    return _private_folder()


@functools.cache
def _private_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="ppo37-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _only_ours(path: Path) -> bool:
    """Look whether something is no link, and only we and the administrator can change it."""
    found = path.lstat()
    others = stat.S_IWGRP | stat.S_IWOTH
    ours = found.st_uid in (0, os.geteuid()) and not found.st_mode & others
    return ours and not stat.S_ISLNK(found.st_mode)


def _whole(library: Path) -> bool:
    """See whether a library is ours and as it was made: to load one that was cut short is fatal."""
    digest = _digest_of(library)
    try:
        ours = _only_ours(library) and _only_ours(digest)
        return ours and digest.read_text() == _digest(library)
    except (OSError, ValueError):
        return False


def _digest_of(library: Path) -> Path:
    """Name the file that says what a library has to be."""
    return library.with_suffix(".sha256")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


_hung: list[str] = []
"""Compilers that did not answer; they are not asked again."""


def _compile(command: list[str]) -> None:
    """Run a compiler, which leaves no process behind; UsageError if it fails or does not answer."""
    compiler = command[0]
    if compiler in _hung:
        raise UsageError(f"native kernels could not be made: {compiler} did not answer")
    # In a session of its own, so that what it starts can be ended with it.
    with subprocess.Popen(
        command,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            _, said = process.communicate(timeout=COMPILE_S)
        except subprocess.TimeoutExpired as error:
            _hung.append(compiler)
            raise UsageError(
                f"native kernels could not be made: {compiler} did not answer for {COMPILE_S:g} s"
            ) from error
        finally:
            _end_session(process)
    if process.returncode:
        found = re.search("error: (?:#error )?(.*)", said)
        why = found[1].strip('"') if found else f"{compiler} failed"
        raise UsageError(f"native kernels could not be compiled: {why}")


def _end_session(process: "subprocess.Popen[str]") -> None:
    """Kill what is left of a process and of all that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
