"""Log writers, one file for each. To add one for every run, list an observer in `LOGGERS`."""

from pathlib import Path
from typing import Any

from ...errors import RunError
from ..files import explained
from ..observer import Observer, Progress, RunStart
from .json_lines import JsonLines
from .tensorboard import TensorBoard

LOGGERS: tuple[type[Observer], ...] = (JsonLines, TensorBoard)
"""The loggers of every run."""


class Logs(Observer):
    """The loggers that every run has; RunError if one of them cannot write."""

    def __init__(self, run: Path) -> None:
        advice = "; its last checkpoint is valid, resume from it"
        self._explained = lambda: explained(f"cannot write the logs of {run}", advice, RunError)
        self._loggers = [logger() for logger in LOGGERS]

    def start(self, run: RunStart) -> None:
        with self._explained():
            for logger in self._loggers:
                logger.start(run)

    def update(self, progress: Progress) -> None:
        with self._explained():
            for logger in self._loggers:
                logger.update(progress)

    def evaluation(self, record: dict[str, Any]) -> None:
        with self._explained():
            for logger in self._loggers:
                logger.evaluation(record)

    def sync(self) -> None:
        with self._explained():
            for logger in self._loggers:
                logger.sync()

    def close(self) -> None:
        with self._explained():
            for logger in self._loggers:
                logger.close()
