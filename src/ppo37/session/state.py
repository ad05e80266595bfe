"""The state of a run: how it is saved, restored, and checked for numbers that are not finite."""

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
from ..envs import EnvState, Episode, VecEnv
from ..errors import RunError, UsageError
from ..networks.agent import Agent
from . import checkpoint, directory

LSTM_STATE = "lstm_state"
"""The name of the LSTM state among the actions of the games."""


@dataclasses.dataclass
class RunState:
    """Everything that changes during a run, except for the games themselves."""

    agent: Agent
    optimizer: torch.optim.Optimizer
    update: int = 0
    games: int = 0
    wall_s: float = 0.0
    seedings: int = 0
    made_by: str | None = None
    """The class or function that makes the environments, if they are not ours."""
    recent: deque[Episode] = dataclasses.field(default_factory=lambda: deque(maxlen=100))


def save(
    path: Path,
    state: RunState,
    config: Config,
    envs: VecEnv,
    origin: dict[str, Any],
    env_states: Sequence[EnvState] = (),
    lstm_state: torch.Tensor | None = None,
) -> Path:
    """Write a checkpoint of the run in directory `path`, and delete old ones.

    envs: some of its environments.  origin: machine and versions, see `describe_origin`.
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
        "environments": [moment.state for moment in env_states],
        "config": dataclasses.asdict(config),
        **({} if state.made_by is None else {checkpoint.MADE_BY: state.made_by}),
        **origin,
    }
    games = {str(env): torch.from_numpy(moment.actions) for env, moment in enumerate(env_states)}
    if lstm_state is not None and lstm_state.numel() and games:
        games[LSTM_STATE] = lstm_state.cpu()
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


def restore(state: RunState, saved: checkpoint.Checkpoint, config: Config, envs: VecEnv) -> None:
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


def saved_env_states(saved: checkpoint.Checkpoint, config: Config) -> list[EnvState]:
    """The saved moments of all environments; none if there are none."""
    states, games = saved.state["environments"], saved.actions or {}
    if not states:
        return []
    names = [str(env) for env in range(config.num_envs)]
    logs = [games.get(name, torch.empty(0)) for name in names]
    known = all(log.dtype in (torch.uint8, torch.float32) for log in logs)
    if not known or len(states) != len(names) or set(games) - {LSTM_STATE} != set(names):
        raise UsageError(f"{saved.path} does not hold the games of {config.num_envs} environments")
    return [EnvState(state, log.numpy()) for state, log in zip(states, logs, strict=True)]


def saved_lstm_state(saved: checkpoint.Checkpoint, config: Config, agent: Agent) -> torch.Tensor:
    """What the network remembered of all environments; UsageError if that does not fit."""
    empty = agent.initial_state(config.num_envs)
    lstm_state = (saved.actions or {}).get(LSTM_STATE, empty)
    if lstm_state.shape != empty.shape or lstm_state.dtype != empty.dtype:
        raise UsageError(f"{saved.path} does not hold the lstm_state of network {config.network}")
    return lstm_state.to(empty.device)


def checkpoints_bytes(agent: Agent) -> int:
    """Room for the checkpoints that are kept and one being written: weights and two env_states."""
    weights = sum(p.numel() * p.element_size() for p in agent.parameters())
    if 2 * weights > checkpoint.LARGEST_BYTES[".safetensors"]:
        raise UsageError(
            f"a network of {weights / 1e6:,.0f} MB is too large to be saved; make the observations "
            "smaller"
        )
    return 3 * weights * (checkpoint.KEPT + 1)


def recent_mean(state: RunState) -> float | None:
    """Mean score of the last 100 games; None before the first has ended."""
    scores = [episode.score for episode in state.recent]
    return sum(scores) / len(scores) if scores else None


def require_finite(
    state: RunState, loss: float, rollout: Rollout, batch: Batch, path: Path | None
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
