"""What signals ask for: they set flags, and every loop that takes long looks at them.

Where a loop does not come to look, because what it waits for hangs, a signal that is sent again
ends the process.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Self

from ..errors import Stopped

AGAIN_S = 5.0
"""People press Ctrl-C twice: a signal that comes again so soon means no more than the first."""
SAVING_S = 30.0
"""A checkpoint that is being written may take so long before the process is ended."""
LOOK_S = 0.05
SHOW_CURSOR = "\x1b[?25h"


class Signals:
    """While entered, SIGINT, SIGTERM and SIGHUP set `stop` and SIGUSR1 asks to save and go on.

    SIGHUP only unless it was ignored (`nohup`). One of the first three that comes again, AGAIN_S
    seconds after the first or later, ends the process at once, whatever it is doing. Outside the
    main thread, where Python allows no handlers, none is set.
    """

    def __init__(self, when_stopping: str = "") -> None:
        """when_stopping: what people are told at once; if it is empty, nothing. In it, `{takes}`
        stands for how long it takes until a loop looks again."""
        self.stop: int | None = None
        self.takes = self.kept = ""
        """In words: how long that is, and what would be left if the process were ended now."""
        self.at_end: list[Callable[[], object]] = []
        """What else is to be ended or removed then."""
        self._when_stopping = when_stopping
        self._save = self._saving = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        stopping = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            stopping.append(signal.SIGHUP)
        for number in stopping:
            self._previous[number] = signal.signal(number, self._note_stop)
        self._previous[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._note_save)
        # A handler is called when the main thread comes back to Python, which what hangs in C does
        # not. What is written to this pipe at once is read by a thread.
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        numbers = frozenset(int(number) for number in stopping)
        self._thread = threading.Thread(
            target=self._watch, args=(numbers,), name="signals", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._previous:
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()
        signal.set_wakeup_fd(self._before)
        os.close(self._write)
        self._thread.join()
        os.close(self._read)

    def take_save(self) -> bool:
        """Whether SIGUSR1 has come since the last call."""
        asked, self._save = self._save, False
        return asked

    def check(self) -> None:
        """Raise Stopped if it was asked for."""
        if self.stop is not None:
            raise Stopped(self.stop)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """A block that is to be finished before the process is ended."""
        self._saving = True
        try:
            yield
        finally:
            self._saving = False

    def _note_stop(self, number: int, _: FrameType | None) -> None:
        if self.stop is None:
            if self._when_stopping:
                words = self._when_stopping.replace("{takes}", self.takes)
                _write(f"{words}; to end at once, send the signal again after {AGAIN_S:g} s")
            self.stop = number

    def _note_save(self, _: int, __: FrameType | None) -> None:
        self._save = True

    def _watch(self, stopping: frozenset[int]) -> None:
        """Read the signals as they come, and end the process if one has to."""
        first_s: float | None = None
        while numbers := os.read(self._read, 64):
            for number in stopping & set(numbers):
                now = time.monotonic()
                if first_s is None:
                    first_s = now
                elif now - first_s > AGAIN_S:
                    self._end(number)

    def _end(self, number: int) -> None:
        """End the process, when the checkpoint that is being written is whole."""
        deadline = time.monotonic() + SAVING_S
        while self._saving and time.monotonic() < deadline:
            time.sleep(LOOK_S)
        if self._when_stopping:
            kept = f"; {self.kept}" if self.kept else ""
            _write(f"ended at once by {signal.Signals(number).name}{kept}")
        for work in self.at_end:
            with suppress(OSError):
                work()
        os._exit(128 + number)


def _write(text: str) -> None:
    """A line on stderr, if there is one.

    Not through Python's buffers, which a signal may have interrupted. Who reads stderr may have
    been stopped by the same Ctrl-C.
    """
    if sys.__stderr__ is not None:
        with suppress(OSError):
            shown_cursor = SHOW_CURSOR if os.isatty(2) else ""  # a live panel hides it
            os.write(2, f"\n{shown_cursor}ppo37: {text}\n".encode())
