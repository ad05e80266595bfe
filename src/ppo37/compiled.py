"""Compile C for this processor and load it: for what PyTorch and the emulator are slow at.

Everything computed by C can also be computed without it, so a UsageError here is a reason to use
the other way. Libraries are compiled once and kept in the user's cache.
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
from .machine import cpu_info, cpu_name, user_folder

# No fused products and sums: the results would round differently from those they are compared with.
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-pthread", "-shared", "-fPIC")
COMPILE_S = 120.0
PRIVATE = 0o700


@functools.cache
def library(*sources: Path, needs: str = "", **numbers: int) -> ctypes.CDLL:
    """Compile C files of one folder with these numbers defined, and load the library.

    needs: a flag that the processor must have, by Linux's name; the compiler would report it too,
    but in a third of a second each time.  UsageError with the reason if there is no library.
    """
    if needs not in ("", *cpu_info().get("flags", needs).split()):
        name = needs.replace("_", "").replace("avx512", "avx512-").upper()
        what = "for bf16 they need" if "BF16" in name else "they need"
        raise UsageError(f"native kernels could not be compiled: {what} a processor with {name}")
    defined = tuple(f"-D{name}={number}" for name, number in numbers.items())
    try:
        return ctypes.CDLL(str(_compiled(sources, defined)))
    except (OSError, RuntimeError) as error:
        raise UsageError(f"native kernels could not be made: {error}") from error


def _compiled(sources: tuple[Path, ...], defined: tuple[str, ...]) -> Path:
    """Return the path of the library, which is compiled if the cache does not have it."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        raise UsageError("native kernels need a C compiler, and none was found")
    command = [compiler, *FLAGS, *defined]
    read = [*sources, *sorted(sources[0].parent.glob("*.h"))]
    processor = cpu_name(), cpu_info().get("flags", "")
    inputs = [*(path.read_text() for path in read), *command, platform.platform(), *processor]
    name = hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:24]
    folder = _folder()
    kept = folder / f"{sources[0].stem}-{name}.so"
    if _whole(kept):
        return kept
    if not os.access(folder, os.W_OK | os.X_OK):
        folder = _private_folder()
        kept = folder / kept.name
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        made = Path(temporary) / kept.name
        _compile([*command, *map(str, sources), "-o", str(made), "-lm"])
        # Written to disk before it gets its name, and renamed in one step, because another process
        # may make the same library.
        digest = Path(temporary) / "digest"
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
    """Return the folder for libraries: in the user's cache, or a temporary one for this process
    if other users could write to the cache."""
    try:
        folder = user_folder("XDG_CACHE_HOME", ".cache") / "ppo37"
        folder.mkdir(PRIVATE, parents=True, exist_ok=True)
        if _only_ours(folder):
            return folder
    except (OSError, RuntimeError):  # for example, no home directory
        pass
    return _private_folder()


@functools.cache
def _private_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="ppo37-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _only_ours(path: Path) -> bool:
    """Return whether a path is not a link and only this user and root can write to it."""
    found = path.lstat()
    others = stat.S_IWGRP | stat.S_IWOTH
    ours = found.st_uid in (0, os.geteuid()) and not found.st_mode & others
    return ours and not stat.S_ISLNK(found.st_mode)


def _whole(library: Path) -> bool:
    """Return whether a library is ours and complete: loading an incomplete one ends the process."""
    digest = _digest_of(library)
    try:
        ours = _only_ours(library) and _only_ours(digest)
        return ours and digest.read_text() == _digest(library)
    except (OSError, ValueError):
        return False


def _digest_of(library: Path) -> Path:
    """Return the path of the file with a library's SHA-256."""
    return library.with_suffix(".sha256")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


_hung: list[str] = []
"""Compilers that timed out; they are not run again."""


def _compile(command: list[str]) -> None:
    """Run a compiler and end all its processes; UsageError if it fails or times out."""
    compiler = command[0]
    if compiler in _hung:
        raise UsageError(f"native kernels could not be made: {compiler} did not answer")
    # In a session of its own, so that its child processes can be ended too.
    with subprocess.Popen(
        command,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            _, stderr = process.communicate(timeout=COMPILE_S)
        except subprocess.TimeoutExpired as error:
            _hung.append(compiler)
            raise UsageError(
                f"native kernels could not be made: {compiler} did not answer for {COMPILE_S:g} s"
            ) from error
        finally:
            _end_session(process)
    if process.returncode:
        found = re.search("error: (?:#error )?(.*)", stderr)
        why = found[1].strip('"') if found else f"{compiler} failed"
        raise UsageError(f"native kernels could not be compiled: {why}")


def _end_session(process: "subprocess.Popen[str]") -> None:
    """Kill a process and those that it started, as far as they still run."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
