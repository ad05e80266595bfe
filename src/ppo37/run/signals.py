"""What signals ask for: they set flags, and every loop that takes long looks at them."""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Self

from ..errors import Stopped


class Signals:
    """While entered, SIGINT and SIGTERM set `stop` and SIGUSR1 asks to save and go on.

    Nothing else happens in a handler, so that a signal harms nothing in whatever it arrives, nor
    does a second one. Outside the main thread, where Python allows no handlers, none is set.
    """

    def __init__(self, when_stopping: str = "") -> None:
        """when_stopping: what people are told at once."""
        self.stop: int | None = None
        self._save = False
        self._words = f"\nppo37: {when_stopping}\n".encode() if when_stopping else b""
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note_stop)
            self._previous[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._note_save)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def take_save(self) -> bool:
        """Whether SIGUSR1 has come since the last call."""
        asked, self._save = self._save, False
        return asked

    def check(self) -> None:
        """Raise Stopped if it was asked for."""
        if self.stop is not None:
            raise Stopped(self.stop)

    def _note_stop(self, number: int, _: FrameType | None) -> None:
        if self.stop is None:
            # Not through Python's buffers, which the signal may have interrupted. Who reads stderr
            # may have been stopped by the same Ctrl-C.
            with suppress(OSError):
                os.write(2, self._words)
            self.stop = number

    def _note_save(self, _: int, __: FrameType | None) -> None:
        self._save = True
