"""Handlers of signals: they set flags, which every long loop checks.

If a loop cannot check them because it hangs, a second signal ends the process.
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
"""A second signal that comes sooner is ignored, because users often press Ctrl-C twice."""
SAVING_S = 30.0
"""Longest wait for a checkpoint that is being written before the process is ended."""
POLL_S = 0.05
SHOW_CURSOR = "\x1b[?25h"


class Signals:
    """A context in which SIGINT, SIGTERM and SIGHUP set `stop`, and SIGUSR1 asks for a checkpoint.

    SIGHUP stays ignored if it was (`nohup`). A second signal of the first three, at least AGAIN_S
    seconds after the first, ends the process at once. Outside the main thread, where Python allows
    no handlers, nothing is changed.
    """

    def __init__(self, when_stopping: str = "") -> None:
        """Set the text to print at the first signal; `takes` replaces `{takes}` in it."""
        self.stop: int | None = None
        self.takes = self.kept = ""
        """Texts: the time until `stop` is checked again, and the newest checkpoint."""
        self.at_end: list[Callable[[], object]] = []
        """Functions to call before the process is ended."""
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
        # Python calls a handler only when the main thread is not in C, where it may hang. But it
        # writes the signal's number to this pipe at once, and a thread reads it.
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
        """Return whether SIGUSR1 has come since the last call."""
        asked, self._save = self._save, False
        return asked

    def check(self) -> None:
        """Raise Stopped if a signal asked for it."""
        if self.stop is not None:
            raise Stopped(self.stop)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Delay the end of the process until after this block, for at most SAVING_S seconds."""
        self._saving = True
        try:
            yield
        finally:
            self._saving = False

    def _note_stop(self, number: int, _: FrameType | None) -> None:
        if self.stop is None:
            if self._when_stopping:
                text = self._when_stopping.replace("{takes}", self.takes)
                _write(f"{text}; to end at once, send the signal again after {AGAIN_S:g} s")
            self.stop = number

    def _note_save(self, number: int, frame: FrameType | None) -> None:
        self._save = True
        outer = getattr(self._previous.get(number), "__self__", None)
        if isinstance(outer, Signals):  # of the training run: it saves after this evaluation
            outer._note_save(number, frame)

    def _watch(self, stopping: frozenset[int]) -> None:
        """Read the signals when they come, and end the process at a second one."""
        first_s: float | None = None
        while numbers := os.read(self._read, 64):
            for number in stopping & set(numbers):
                now = time.monotonic()
                if first_s is None:
                    first_s = now
                elif now - first_s > AGAIN_S:
                    self._end(number)

    def _end(self, number: int) -> None:
        """End the process, after the checkpoint that is being written."""
        deadline = time.monotonic() + SAVING_S
        while self._saving and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if self._when_stopping:
            kept = f"; {self.kept}" if self.kept else ""
            _write(f"ended at once by {signal.Signals(number).name}{kept}")
        for function in self.at_end:
            with suppress(OSError):
                function()
        os._exit(128 + number)


def _write(text: str) -> None:
    """Write a line to stderr, if it exists and is still read.

    Python's buffers are not used, because the signal may have interrupted a write to them.
    """
    if sys.__stderr__ is not None:
        with suppress(OSError):
            shown_cursor = SHOW_CURSOR if os.isatty(2) else ""  # a live panel hides it
            os.write(2, f"\n{shown_cursor}ppo37: {text}\n".encode())
