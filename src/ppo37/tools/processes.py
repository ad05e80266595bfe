"""Commands of ppo37 in processes of their own, started as a person would start them."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, NamedTuple, NoReturn

from ..errors import RunError
from ..session.signals import Signals

POLL_S = 0.01


LIFELINE = "PPO37_LIFELINE"
"""The variable that names the pipe of `stop_with_parent`."""


class Child(NamedTuple):
    """A command at work, the file that its stderr goes to, and this end of its lifeline."""

    process: "subprocess.Popen[bytes]"
    words: IO[bytes]
    lifeline: int

    def close(self) -> None:
        """Wait for its end, and forget what it said."""
        self.process.wait()
        self.words.close()
        os.close(self.lifeline)

    def stderr_tail(self) -> str:
        """The last line that it said, or how it ended if it said nothing or could not."""
        self.words.seek(0)
        lines = self.words.read().decode(errors="replace").strip().splitlines()
        code = self.process.returncode
        if code is not None and code < 0:
            return f"a run was ended by {signal.Signals(-code).name}"
        return lines[-1] if lines else f"a run ended with {code}"

    def fail(self) -> NoReturn:
        """RunError with the last words of a run that failed."""
        raise RunError(self.stderr_tail())


def python(*words: str) -> list[str]:
    """Begin a command with Python, for `launch`, which gives it this process's paths to modules.

    Without -P the working directory would be one of them, and whatever lies there be imported.
    """
    return [sys.executable, "-P", *words]


def launch(command: list[str], **streams: Any) -> tuple["subprocess.Popen[bytes]", int]:
    """Start a command that is asked to stop if this process is killed; and its lifeline.

    That is a pipe, of which this process has one end, to be closed when the command has ended, and
    `stop_with_parent` reads the other.
    """
    line, end = os.pipe()
    paths = os.pathsep.join(path for path in sys.path if path)
    # By its number and identity: a child of the command has the variable, but not the pipe.
    pipe = f"{line}:{os.fstat(line).st_ino}"
    variables = {**os.environ, "PYTHONPATH": paths, LIFELINE: pipe}
    try:
        process = subprocess.Popen(command, env=variables, pass_fds=(line,), **streams)
    except BaseException:
        os.close(end)
        raise
    finally:
        os.close(line)
    return process, end


def start(*words: str, cores: Collection[int] = ()) -> Child:
    """Start a command, on some cores only if they are named; the caller sees to its end."""
    said = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
    with _pinned(cores):
        process, lifeline = launch(
            python("-m", "ppo37", *words), stdout=subprocess.DEVNULL, stderr=said
        )
    return Child(process, said, lifeline)


def stop_with_parent() -> None:
    """Send SIGTERM to this process when the one that started it by `launch` has ended.

    The system closes the other end of a pipe then, however that process ended.
    """
    number, _, identity = os.environ.pop(LIFELINE, "").partition(":")
    with suppress(ValueError, OSError):
        found = os.fstat(int(number))
        if stat.S_ISFIFO(found.st_mode) and str(found.st_ino) == identity:
            threading.Thread(
                target=_stop_after, args=(int(number),), name="parent", daemon=True
            ).start()


def _stop_after(line: int) -> None:
    """Send SIGTERM to this process when the other end of a pipe is closed."""
    with suppress(OSError):
        if os.read(line, 1) == b"":
            os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def running(*words: str) -> Iterator[Child]:
    """A command in a process that does not outlive the block."""
    child = start(*words)
    try:
        yield child
    finally:
        child.process.kill()
        child.close()


def finish(child: Child, signals: Signals) -> None:
    """Wait for the end; RunError if it is not a good one."""
    wait(child, signals, lambda: False)
    if child.process.returncode != 0:
        child.fail()


def wait(child: Child, signals: Signals, until: Callable[[], bool]) -> None:
    """Until something is so, or the command has ended."""
    while not until() and child.process.poll() is None:
        signals.check()
        time.sleep(POLL_S)


@contextmanager
def _pinned(cores: Collection[int]) -> Iterator[None]:
    """This thread on some cores only, as what it starts will be; all of them if none is named."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
