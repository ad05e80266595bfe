"""Commands of ppo37 in separate processes."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

from ..errors import RunError
from ..session.signals import Signals

POLL_S = 0.01
ENDED_BY = "a run was ended by "
LIFELINE = "PPO37_LIFELINE"
"""The environment variable with the pipe of `stop_with_parent`."""


class Child(NamedTuple):
    """A running command, the file with its stderr, and this end of its lifeline (see `launch`)."""

    process: "subprocess.Popen[bytes]"
    stderr: IO[bytes]
    lifeline: int

    def close(self) -> None:
        """Wait for the end of the process and delete its stderr."""
        self.process.wait()
        self.stderr.close()
        os.close(self.lifeline)

    def stderr_tail(self) -> str:
        """Return the last line of stderr, or how the process ended: by a signal, or silently."""
        self.stderr.seek(0)
        lines = self.stderr.read().decode(errors="replace").strip().splitlines()
        code = self.process.returncode
        if code is not None and code < 0:
            return f"{ENDED_BY}{signal.Signals(-code).name}"
        return lines[-1] if lines else f"a run ended with exit code {code}"

    def fail(self) -> NoReturn:
        """Raise RunError with the last line of stderr."""
        raise RunError(self.stderr_tail())


def python(*args: str) -> list[str]:
    """Return a command that runs Python, for `launch`, which passes on the module search path.

    Without -P the working directory would be part of that path, with any file in it.
    """
    return [sys.executable, "-P", *args]


def search_path(first: Sequence[str] = ()) -> str:
    """Return a PYTHONPATH with which another process finds the modules of this one.

    first: folders before them.
    """
    return os.pathsep.join([*first, *(path for path in sys.path if path)])


def launch(
    command: list[str], first: Sequence[str] = (), **streams: Any
) -> tuple["subprocess.Popen[bytes]", int]:
    """Start a command that gets SIGTERM when this process is killed. Returns it and its lifeline.

    The lifeline is this process's end of a pipe, to be closed when the command has ended; the other
    end is read by `stop_with_parent`.  first: folders before this process's module search path.
    """
    line, end = os.pipe()
    # By number and inode: a child of the command inherits the variable, but not the pipe.
    pipe = f"{line}:{os.fstat(line).st_ino}"
    variables = {**os.environ, "PYTHONPATH": search_path(first), LIFELINE: pipe}
    try:
        process = subprocess.Popen(command, env=variables, pass_fds=(line,), **streams)
    except BaseException:
        os.close(end)
        raise
    finally:
        os.close(line)
    return process, end


def start(
    *args: str,
    cores: Collection[int] = (),
    source: Path | None = None,
    folder: Path | None = None,
) -> Child:
    """Start `ppo37` with these arguments. The caller closes it.

    cores: those that it may use; all if none is named.  source: a folder with another version of
    the package.  folder: its working directory; by default that of this process.
    """
    stderr = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process runs)
    command = python("-m", "ppo37", *args)
    with _pinned(cores):
        first = [] if source is None else [str(source)]
        streams: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": stderr}
        process, lifeline = launch(command, first, cwd=folder, **streams)
    return Child(process, stderr, lifeline)


def stop_with_parent() -> None:
    """Send SIGTERM to this process when the process that launched it has ended.

    However that one ends, the system closes its end of the pipe.
    """
    number, _, inode = os.environ.pop(LIFELINE, "").partition(":")
    with suppress(ValueError, OSError):
        found = os.fstat(int(number))
        if stat.S_ISFIFO(found.st_mode) and str(found.st_ino) == inode:
            args = (int(number),)
            threading.Thread(target=_stop_after, args=args, name="parent", daemon=True).start()


def _stop_after(line: int) -> None:
    """Send SIGTERM to this process when the other end of a pipe is closed."""
    with suppress(OSError):
        if os.read(line, 1) == b"":
            os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def running(*args: str) -> Iterator[Child]:
    """Start `ppo37` with these arguments, and kill it at the end of the block."""
    child = start(*args)
    try:
        yield child
    finally:
        child.process.kill()
        child.close()


def finish(child: Child, signals: Signals) -> None:
    """Wait for the end of a command; RunError if it fails."""
    wait(child, signals, lambda: False)
    if child.process.returncode != 0:
        child.fail()


def wait(child: Child, signals: Signals, until: Callable[[], bool]) -> None:
    """Wait until `until()` is true or the command has ended."""
    while not until() and child.process.poll() is None:
        signals.check()
        time.sleep(POLL_S)


@contextmanager
def _pinned(cores: Collection[int]) -> Iterator[None]:
    """Pin this thread, and the processes it starts, to some cores; to all if none is named."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
