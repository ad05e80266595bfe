"""The logger of TensorBoard events."""

from typing import Any

from ..metrics import EPISODIC_LENGTH, EPISODIC_RETURN
from ..observer import Observer, Progress, RunStart


class TensorBoard(Observer):
    """Scalars under the tags of CleanRL, and those of evaluations, against agent steps."""

    _writer: Any = None

    def start(self, run: RunStart) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Earlier events from `purge_step` on, which a crash may leave, are not shown.
        step = run.agent_steps + 1
        self._writer = SummaryWriter(str(run.path), purge_step=step, flush_secs=30)

    def update(self, progress: Progress) -> None:
        record = progress.record
        per_game = {EPISODIC_RETURN: "return", EPISODIC_LENGTH: "length"}
        points = [(t, v) for t, v in record.items() if "/" in t and t not in per_game]
        for tag, key in per_game.items():  # a point for every game instead of their mean
            points += [(tag, episode[key]) for episode in record["episodes"]]
        self._write(points, record["agent_steps"])

    def evaluation(self, record: dict[str, Any]) -> None:
        self._write([(t, v) for t, v in record.items() if "/" in t], record["agent_steps"])

    def _write(self, points: list[tuple[str, float | None]], agent_steps: int) -> None:
        for tag, value in points:
            if value is not None:
                self._writer.add_scalar(tag, value, agent_steps)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
