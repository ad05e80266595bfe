"""What a run logs: `metrics.jsonl`, the truth, and TensorBoard events beside it."""

import json
import math
from pathlib import Path
from typing import Any, Protocol

from ..envs.contract import Episode
from .directory import METRICS

FRAMES_PER_STEP = 4
EPISODIC_RETURN, EPISODIC_LENGTH = "charts/episodic_return", "charts/episodic_length"
LAST_100 = "charts/episodic_return_last_100"


class Log(Protocol):
    """Where updates and games go."""

    def write(self, record: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """One object per update, appended and flushed."""

    def __init__(self, run: Path, update: int) -> None:
        """Go on after `update` updates: lines of later ones, which a crash left, are cut off."""
        self._path = run / METRICS
        if self._path.exists():
            lines = self._path.read_bytes().splitlines(keepends=True)[:update]
            with self._path.open("r+b") as file:
                file.truncate(sum(map(len, lines)))
        self._file = self._path.open("a")

    def write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(_finite(record)) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Scalars under CleanRL's tags, against agent steps."""

    def __init__(self, run: Path, agent_steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run), purge_step=agent_steps or None, flush_secs=30)

    def write(self, record: dict[str, Any]) -> None:
        step = record["agent_steps"]
        per_game = {EPISODIC_RETURN: "return", EPISODIC_LENGTH: "length"}
        points = [(t, v) for t, v in record.items() if "/" in t and t not in per_game]
        for tag, key in per_game.items():  # every game on its own, not their mean
            points += [(tag, episode[key]) for episode in record["episodes"]]
        for tag, value in points:
            if value is not None:
                self._writer.add_scalar(tag, value, step)

    def close(self) -> None:
        self._writer.close()


def record_of(
    update: int,
    agent_steps: int,
    wall_s: float,
    tags: dict[str, float | None],
    episodes: list[Episode],
) -> dict[str, Any]:
    """One line of the log, `update` counting from 1; the means are over the games that ended."""
    ended = max(len(episodes), 1)
    tags = {
        EPISODIC_RETURN: sum(e.score for e in episodes) / ended if episodes else None,
        EPISODIC_LENGTH: sum(e.length for e in episodes) / ended if episodes else None,
        **tags,
    }
    return {
        "update": update,
        "agent_steps": agent_steps,
        "frames": FRAMES_PER_STEP * agent_steps,
        "wall_s": round(wall_s, 3),
        **tags,
        "episodes": [{"env": e.env, "return": e.score, "length": e.length} for e in episodes],
    }


def _finite(value: Any) -> Any:
    """JSON has no nan and no infinity: they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value
