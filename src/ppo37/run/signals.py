"""Stopping on request: a signal sets a flag, and the loop looks at it."""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Self


class StopRequest:
    """While entered, SIGINT and SIGTERM only set `signal_number`; a second one changes nothing.

    Outside the main thread, where Python allows no handlers, it never becomes set.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal_number is None:
            # Not through Python's buffers, which the signal may have interrupted. Who reads stderr
            # may have been stopped by the same Ctrl-C.
            with suppress(OSError):
                os.write(2, b"\nppo37: stopping after this update; a checkpoint will be left\n")
        self.signal_number = number
