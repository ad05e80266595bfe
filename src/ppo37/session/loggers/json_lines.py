"""The logger of `metrics.jsonl`, the complete log that all other programs read."""

import json
import math
import os
from pathlib import Path
from typing import Any

from ..directory import EVALUATIONS, METRICS
from ..files import own_file, sync_directory, write_atomically
from ..metrics import evaluations_length_to, length_to
from ..observer import Observer, Progress, RunStart


class JsonLines(Observer):
    """One JSON object per update, appended and flushed; the same for evaluations, if there are any.

    What is logged of later updates, which a crash may leave, is cut off at the start. UsageError,
    and nothing is cut off, if a line before is damaged.
    """

    _files: tuple["_File", ...] = ()

    def start(self, run: RunStart) -> None:
        lengths = length_to(run.path, run.update), evaluations_length_to(run.path, run.update)
        self._files = (
            _File(run.path, METRICS, lengths[0], make=True),
            _File(run.path, EVALUATIONS, lengths[1]),
        )
        self._metrics, self._evaluations = self._files
        sync_directory(run.path)

    def update(self, progress: Progress) -> None:
        self._metrics.write(progress.record)

    def evaluation(self, record: dict[str, Any]) -> None:
        self._evaluations.write(record)

    def sync(self) -> None:
        for file in self._files:
            file.sync()

    def close(self) -> None:
        for file in self._files:
            file.close()


class _File:
    """A file of JSON lines, open to append."""

    def __init__(self, run: Path, name: str, length: int, make: bool = False) -> None:
        """Cut the file off after `length` bytes. make: also if nothing will be written."""
        self._path = own_file(run, name)
        self._file = None
        if self._path.exists():
            os.truncate(self._path, length)
            make = True
        if make:
            self._file = self._path.open("a+")

    def write(self, record: dict[str, Any]) -> None:
        self._file = self._file or self._path.open("a+")
        self._file.write(json.dumps(_finite(record)) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Wait until all lines are on the disk; write the file again if someone has removed it."""
        if self._file is None:
            return
        if not self._path.exists():
            self._file.seek(0)
            write_atomically(self._path, self._file.read().encode())
            self._file.close()
            self._file = self._path.open("a+")
        os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _finite(value: Any) -> Any:
    """Replace nan and infinity, which JSON does not have, by None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value
