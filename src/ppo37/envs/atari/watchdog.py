"""A watchdog for an emulator that hangs.

A thread that is blocked in C++ cannot be interrupted from Python. So the watchdog ends the process:
with a message, the stacks of all threads and exit code 1. The last checkpoint on disk stays valid.
"""

import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CHECKS = 20
"""Number of checks within the time limit."""


class Watchdog:
    """A thread that ends the process if a guarded block takes longer than `limit_s` seconds.

    It serves all guarded blocks, so that guarding costs two assignments. It counts its own checks
    instead of reading a clock: the time that a machine or process was suspended does not count.

    describe: returns what is watched, for the message; called only after a hang.
    """

    def __init__(self, limit_s: float, describe: Callable[[], str]) -> None:
        self._limit_s = limit_s
        self._describe = describe
        self._doing: tuple[Any] | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    @contextmanager
    def guard(self, doing: Any) -> Iterator[None]:
        """Watch the block; `doing` is printed if it hangs."""
        self._doing = (doing,)
        try:
            yield
        finally:
            self._doing = None

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        seen, checks = None, 0
        while not self._closed.wait(self._limit_s / CHECKS):
            # Every block makes a new tuple, so `is` shows whether the same block is still running.
            checks = checks + 1 if self._doing is seen and seen is not None else 0
            seen = self._doing
            if checks >= CHECKS and seen is not None:
                self._end_process(seen[0])

    def _end_process(self, doing: Any) -> None:
        print(
            f"ppo37: the emulator has not answered for {self._limit_s:g} s ({self._describe()}; "
            f"actions {doing}); the last checkpoint is valid, continue with `ppo37 resume RUN`",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(file=sys.stderr)
        os._exit(1)
