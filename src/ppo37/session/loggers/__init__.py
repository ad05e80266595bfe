"""Log writers, one file for each. To add one for every run, list an observer in `LOGGERS`."""

from pathlib import Path
from typing import Any

from ...errors import RunError
from ..files import explained
from ..observer import Observer, Observers
from .json_lines import JsonLines
from .tensorboard import TensorBoard

LOGGERS: tuple[type[Observer], ...] = (JsonLines, TensorBoard)
"""The loggers of every run."""


class Logs(Observers):
    """The loggers of a run; RunError if one of them cannot write."""

    def __init__(self, run: Path) -> None:
        super().__init__([logger() for logger in LOGGERS])
        self._run = run

    def _call(self, observer: Observer, name: str, *arguments: Any) -> Any:
        advice = "; its last checkpoint is valid, resume from it"
        with explained(f"cannot write the logs of {self._run}", advice, RunError):
            return getattr(observer, name)(*arguments)
