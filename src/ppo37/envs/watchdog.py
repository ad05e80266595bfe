"""A guard against an emulator that never answers.

A thread blocked in C++ cannot be interrupted from Python, so the only honest end is the end of
the process: with a line that says where, every thread's stack, and exit code 1. The last
checkpoint on disk stays valid.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Watchdog:
    """Ends the process if a guarded block takes longer than `limit_s` seconds.

    One thread serves all guarded blocks, so that guarding costs two assignments.
    """

    def __init__(self, limit_s: float, what: str) -> None:
        self._limit_s = limit_s
        self._what = what
        self._entered: tuple[float, Any] | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    @contextmanager
    def guard(self, doing: Any) -> Iterator[None]:
        """Watch the block; `doing` is shown if it hangs."""
        self._entered = (time.monotonic(), doing)
        try:
            yield
        finally:
            self._entered = None

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._limit_s / 4)):
            entered = self._entered
            if entered is not None and time.monotonic() - entered[0] > self._limit_s:
                self._give_up(entered[1])

    def _give_up(self, doing: Any) -> None:
        print(
            f"ppo37: the emulator has not answered for {self._limit_s:g} s ({self._what}; "
            f"actions {doing}); giving up. The last checkpoint is valid: `ppo37 resume RUN`.",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(file=sys.stderr)
        os._exit(1)
