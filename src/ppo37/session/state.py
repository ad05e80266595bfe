"""What changes while a run goes on: how it is saved, comes back, and is seen to be broken."""

import dataclasses
import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..algorithm.rollout import Rollout
from ..algorithm.update import Batch
from ..config import Config
from ..envs import Episode, Moment, VecEnv
from ..errors import RunError, UsageError
from ..networks.agent import Agent
from . import checkpoint, directory

MEMORY = "memory"
"""The name of the network's memory beside the logs of the games."""


@dataclasses.dataclass
class State:
    """All that changes while a run goes on, apart from the games themselves."""

    agent: Agent
    optimizer: torch.optim.Optimizer
    update: int = 0
    games: int = 0
    wall_s: float = 0.0
    seedings: int = 0
    made_by: str | None = None
    """What makes the environments, if they are not ours."""
    recent: deque[Episode] = dataclasses.field(default_factory=lambda: deque(maxlen=100))


def save(
    path: Path, state: State, config: Config, envs: VecEnv, where: dict[str, Any],
    moments: Sequence[Moment] = (), memory: torch.Tensor | None = None,
) -> Path:  # fmt: skip
    """Write a checkpoint of the run in directory `path`, and delete old ones.

    envs: some of its environments.  where: machine and versions that it was made with.
    """
    names = (name for name, _ in state.agent.named_parameters())
    document = {
        "update": state.update,
        "agent_steps": state.update * config.batch_size,
        "games": state.games,
        "wall_s": state.wall_s,
        "seedings": state.seedings,
        "recent": [list(episode) for episode in state.recent],
        "action_names": list(envs.action_names),
        "obs_shape": list(envs.obs_shape),
        "environments": [moment.state for moment in moments],
        "config": dataclasses.asdict(config),
        **({} if state.made_by is None else {checkpoint.MADE_BY: state.made_by}),
        **where,
    }
    games = {str(env): torch.from_numpy(moment.actions) for env, moment in enumerate(moments)}
    if memory is not None and memory.numel() and games:
        games[MEMORY] = memory.cpu()
    checkpoints = path / directory.CHECKPOINTS
    written = checkpoint.save(
        checkpoints / f"{state.update:08d}",
        state.agent.state_dict(),
        checkpoint.tensors_of_optimizer(state.optimizer, names),
        document,
        games or None,
    )
    checkpoint.prune(checkpoints)
    return written


def restore(state: State, saved: checkpoint.Checkpoint, config: Config, envs: VecEnv) -> None:
    """Put a checkpoint into a fresh state; UsageError naming what does not fit."""
    checkpoint.require_same(saved, "game", saved.state["config"].get("game"), config.game)
    checkpoint.require_same(saved, "network", saved.state["config"].get("network"), config.network)
    checkpoint.require_same(saved, "actions", saved.state["action_names"], list(envs.action_names))
    if saved.optimizer is None:
        raise UsageError(f"{saved.path} is a published agent without optimizer; it cannot go on")
    checkpoint.load_model(state.agent, saved)
    names = (name for name, _ in state.agent.named_parameters())
    checkpoint.restore_optimizer(state.optimizer, names, saved)
    state.update = saved.state["update"]
    state.games = saved.state["games"]
    state.wall_s = saved.state["wall_s"]
    state.recent.extend(Episode(*episode) for episode in saved.state["recent"])


def saved_moments(saved: checkpoint.Checkpoint, config: Config) -> list[Moment]:
    """The saved moments of all environments; none if there are none."""
    states, games = saved.state["environments"], saved.actions or {}
    if not states:
        return []
    names = [str(env) for env in range(config.num_envs)]
    logs = [games.get(name, torch.empty(0)) for name in names]
    known = all(log.dtype in (torch.uint8, torch.float32) for log in logs)
    if not known or len(states) != len(names) or set(games) - {MEMORY} != set(names):
        raise UsageError(f"{saved.path} does not hold the games of {config.num_envs} environments")
    return [Moment(state, log.numpy()) for state, log in zip(states, logs, strict=True)]


def saved_memory(saved: checkpoint.Checkpoint, config: Config, agent: Agent) -> torch.Tensor:
    """What the network remembered of all environments; UsageError if that does not fit."""
    empty = agent.empty_memory(config.num_envs)
    memory = (saved.actions or {}).get(MEMORY, empty)
    if memory.shape != empty.shape or memory.dtype != empty.dtype:
        raise UsageError(f"{saved.path} does not hold the memory of network {config.network}")
    return memory.to(empty.device)


def checkpoints_bytes(agent: Agent) -> int:
    """Room for the checkpoints that are kept and one being written: weights and two moments."""
    weights = sum(p.numel() * p.element_size() for p in agent.parameters())
    if 2 * weights > checkpoint.LARGEST_BYTES[".safetensors"]:
        raise UsageError(
            f"a network of {weights / 1e6:,.0f} MB is too large to be saved; make the observations "
            "smaller"
        )
    return 3 * weights * (checkpoint.KEPT + 1)


def recent_mean(state: State) -> float | None:
    """Mean score of the last 100 games; None before the first has ended."""
    scores = [episode.score for episode in state.recent]
    return sum(scores) / len(scores) if scores else None


def require_finite(
    state: State, loss: float, rollout: Rollout, batch: Batch, path: Path | None
) -> None:
    """RunError if learning broke; what it was learning from is kept beside the checkpoints.

    path: of the run; None where another process says and keeps it.

    A gradient that is not finite needs no look of its own: it makes weights of that kind.
    """
    parameters = state.agent.named_parameters()
    broken = next((name for name, p in parameters if not p.sum().isfinite()), None)
    if math.isfinite(loss) and broken is None:
        return
    if path is None:
        raise RunError("")
    kept = path / directory.BROKEN_BATCH
    judged = {"advantages": batch.advantages, "targets": batch.targets}
    try:
        checkpoint.save_tensors(kept, rollout._asdict() | judged)
        whereabouts = f"what it learned from is in {kept}"
    except OSError as error:
        whereabouts = f"what it learned from cannot be kept in {kept}: {error.strerror}"
    where = "" if broken is None else f" and {broken} is not finite"
    raise RunError(
        f"the loss is {loss:.3g}{where} in update {state.update}; no checkpoint of it was "
        f"written. Lower the learning rate; {whereabouts}"
    )
