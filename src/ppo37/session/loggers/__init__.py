"""Loggers, one file for each. To add one, write a class like them and list it in `Logs`."""

from pathlib import Path
from typing import Any

from ...errors import RunError
from ..files import explained
from .json_lines import JsonLines
from .logger import Logger
from .tensorboard import TensorBoard


class Logs(Logger):
    """All loggers of a run; RunError if one of them cannot write."""

    def __init__(self, run: Path, update: int, agent_steps: int) -> None:
        """Continue after `update` updates with `agent_steps` agent steps in all."""
        advice = "; its last checkpoint is valid, resume from it"
        self._explained = lambda: explained(f"cannot write the logs of {run}", advice, RunError)
        with self._explained():
            # Add a logger here.
            self._loggers = [JsonLines(run, update), TensorBoard(run, agent_steps)]

    def write(self, record: dict[str, Any]) -> None:
        with self._explained():
            for logger in self._loggers:
                logger.write(record)

    def sync(self) -> None:
        with self._explained():
            for logger in self._loggers:
                logger.sync()

    def close(self) -> None:
        with self._explained():
            for logger in self._loggers:
                logger.close()
