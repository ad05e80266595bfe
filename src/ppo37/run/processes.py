"""Commands of ppo37 in processes of their own, started as a person would start them."""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple, NoReturn

from ..config import Config
from ..errors import RunError
from .signals import Signals

POLL_S = 0.01


class Child(NamedTuple):
    """A command at work, and the file that its stderr goes to."""

    process: "subprocess.Popen[bytes]"
    words: IO[bytes]

    def last_words(self) -> str:
        """The last line that it said, or how it ended if it said nothing."""
        self.words.seek(0)
        lines = self.words.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"a run ended with {self.process.returncode}"

    def complain(self) -> NoReturn:
        """RunError with the last words of a run that failed."""
        raise RunError(self.last_words())


def start(*words: str, cores: Collection[int] = ()) -> Child:
    """Start a command, on some cores only if they are named; the caller sees to its end."""
    command = [sys.executable, "-m", "ppo37", *words]
    said = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
    with _pinned(cores):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
    return Child(process, said)


@contextmanager
def running(*words: str) -> Iterator[Child]:
    """A command in a process that does not outlive the block."""
    child = start(*words)
    try:
        yield child
    finally:
        child.process.kill()
        child.process.wait()
        child.words.close()


def finish(child: Child, signals: Signals) -> None:
    """Wait for the end; RunError if it is not a good one."""
    wait(child, signals, lambda: False)
    if child.process.returncode != 0:
        child.complain()


def wait(child: Child, signals: Signals, until: Callable[[], bool]) -> None:
    """Until something is so, or the command has ended."""
    while not until() and child.process.poll() is None:
        signals.check()
        time.sleep(POLL_S)


def settings(config: Config) -> list[str]:
    """The options of `ppo37 train` that give this configuration."""
    words = []
    for name, value in dataclasses.asdict(config).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif name != "game":
            words.append(f"--{flag}={value}")
    return words


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
