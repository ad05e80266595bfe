"""The logger of TensorBoard events."""

from pathlib import Path
from typing import Any

from ..metrics import EPISODIC_LENGTH, EPISODIC_RETURN
from .logger import Logger


class TensorBoard(Logger):
    """Scalars under the tags of CleanRL, against agent steps."""

    def __init__(self, run: Path, agent_steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Earlier events from `purge_step` on, which a crash may leave, are not shown.
        self._writer = SummaryWriter(str(run), purge_step=agent_steps + 1, flush_secs=30)

    def write(self, record: dict[str, Any]) -> None:
        step = record["agent_steps"]
        per_game = {EPISODIC_RETURN: "return", EPISODIC_LENGTH: "length"}
        points = [(t, v) for t, v in record.items() if "/" in t and t not in per_game]
        for tag, key in per_game.items():  # a point for every game instead of their mean
            points += [(tag, episode[key]) for episode in record["episodes"]]
        for tag, value in points:
            if value is not None:
                self._writer.add_scalar(tag, value, step)

    def close(self) -> None:
        self._writer.close()
