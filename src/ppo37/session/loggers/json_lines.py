"""The logger of `metrics.jsonl`, the complete log that all other programs read."""

import json
import math
import os
from pathlib import Path
from typing import Any

from ..directory import METRICS
from ..files import own_file, sync_directory, write_atomically
from ..metrics import length_to
from .logger import Logger


class JsonLines(Logger):
    """One JSON object per update, appended and flushed."""

    def __init__(self, run: Path, update: int) -> None:
        """Continue after `update` updates: later lines, which a crash may leave, are cut off.

        UsageError, and nothing is cut off, if a line before them is damaged.
        """
        self._path = own_file(run, METRICS)
        if self._path.exists():
            os.truncate(self._path, length_to(run, update))
        self._file = self._path.open("a+")
        sync_directory(run)

    def write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(_finite(record)) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Wait until all lines are on the disk; write the file again if someone has removed it."""
        if not self._path.exists():
            self._file.seek(0)
            write_atomically(self._path, self._file.read().encode())
            self._file.close()
            self._file = self._path.open("a+")
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _finite(value: Any) -> Any:
    """Replace nan and infinity, which JSON does not have, by None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value
