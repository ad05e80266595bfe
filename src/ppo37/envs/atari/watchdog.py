"""A guard against an emulator that never answers.

A thread blocked in C++ cannot be interrupted from Python, so the only honest end is the end of
the process: with a line that says where, every thread's stack, and exit code 1. The last
checkpoint on disk stays valid.
"""

import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

LOOKS = 20
"""How often the watchdog looks within its limit."""


class Watchdog:
    """Ends the process if a guarded block takes longer than `limit_s` seconds.

    One thread serves all guarded blocks, so that guarding costs two assignments. It counts its
    own looks, not the clock: a machine that slept or a process that was stopped is no hang.
    """

    def __init__(self, limit_s: float, what: Callable[[], str]) -> None:
        """what: says what is watched, at the time when it hangs."""
        self._limit_s = limit_s
        self._what = what
        self._doing: tuple[Any] | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    @contextmanager
    def guard(self, doing: Any) -> Iterator[None]:
        """Watch the block; `doing` is shown if it hangs."""
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
        seen, looks = None, 0
        while not self._closed.wait(self._limit_s / LOOKS):
            # A new block is a new tuple, so `is` tells whether this one is the last one still.
            looks = looks + 1 if self._doing is seen and seen is not None else 0
            seen = self._doing
            if looks >= LOOKS and seen is not None:
                self._give_up(seen[0])

    def _give_up(self, doing: Any) -> None:
        print(
            f"ppo37: the emulator has not answered for {self._limit_s:g} s ({self._what()}; "
            f"actions {doing}); giving up. The last checkpoint is valid: `ppo37 resume RUN`.",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(file=sys.stderr)
        os._exit(1)
