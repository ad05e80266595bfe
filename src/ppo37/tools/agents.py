"""A trained agent: loaded from a run, and used in a loop of one's own.

Legend: N observations, R numbers of LSTM state.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from .. import randomness
from ..algorithm.rollout import reset_state
from ..backends.device import resolve_device
from ..backends.executables import make_act
from ..backends.network import make_network
from ..build import make_agent
from ..config import Config, Device
from ..envs.checked import LARGEST_FP32
from ..envs.normalize import normalize_view
from ..errors import UsageError
from ..networks.agent import Agent
from ..session.checkpoint_format import MANIFEST, fits, parse_json, read
from ..session.directory import AGENTS, WHERE_AGENTS, config_of, find_checkpoint, spaces_in
from ..session.state import load_model

EVALUATION = "evaluation.json"
"""The file of a trained agent with the output of `ppo37 eval --json`."""
BLOCK_STEPS = 256
"""Uniforms are drawn for this many steps at a time."""


class TrainedAgent:
    """A trained agent that chooses actions: `action = trained.act(obs)`.

    agent: the network, a PyTorch module.  config: the settings that it was trained with.  state,
    path: its checkpoint.  It keeps the state of its LSTM between calls of `act`; call `reset` when
    an episode ends.
    """

    def __init__(
        self, agent: Agent, config: Config, state: dict[str, Any], path: Path, seed: int = 0
    ) -> None:
        """Make one from its parts; `load_agent` reads them. seed: as for `load_agent`."""
        self.agent, self.config, self.state, self.path = agent, config, state, path
        self.obs_shape: tuple[int, ...] = tuple(state["obs_shape"])
        self._seed = checked_seed(seed)
        self._block = 0
        self._uniforms = torch.zeros(0, 0)  # [steps, N, *action_shape], not used yet
        self._count: int | None = None
        self._lstm_state = agent.initial_state(0)
        network = make_network(agent)
        self._acts = [make_act(network), make_act(network, greedy=True)]

    def act(self, obs: ArrayLike, greedy: bool = False) -> NDArray[Any]:
        """Choose an action for one observation [*obs_shape], or actions for a batch of N.

        obs: as the environment returns them; an agent with `norm_obs` normalizes them itself.
        greedy: take the most likely action (of real numbers: the mean) instead of sampling.
        Returns an int64, or an array [parts] where an action has several parts; of a batch
        [N, ...]. With the same seed and observations these are the actions of `evaluate`.
        UsageError for observations of another shape or type.
        """
        observations = self._checked(obs)
        single = observations.ndim == len(self.obs_shape)
        batch = observations[np.newaxis] if single else observations
        self._resize(len(batch))
        statistics = self.agent.obs_statistics
        if statistics is not None:
            size = math.prod(self.agent.obs_shape) if self.agent.masked else None
            batch = normalize_view(batch, statistics.values, self.config.clip_obs, size)
        uniforms = self._next_uniforms(len(batch)).to(self.agent.device)
        seen = torch.from_numpy(np.ascontiguousarray(batch))
        chosen, _, _, self._lstm_state = self._acts[greedy](seen, self._lstm_state, uniforms)
        actions: NDArray[Any] = chosen.cpu().numpy()
        return actions[0] if single else actions

    def reset(self, dones: ArrayLike | None = None) -> None:
        """Forget the past, where there is an LSTM; call it when an episode ends.

        dones: [N] bool, the observations of a batch whose episodes have ended; None for all.
        UsageError if there are not as many as observations in the last batch.
        """
        if dones is None:
            self._count = None
            return
        ended = torch.from_numpy(np.atleast_1d(np.asarray(dones, np.bool_)))
        if self._count is not None and ended.shape != (self._count,):
            raise UsageError(f"dones must have {self._count} values, not {list(ended.shape)}")
        if self._count is not None:
            self._lstm_state = reset_state(self._lstm_state, ended.to(self._lstm_state))

    def __iter__(self) -> Iterator[Any]:
        """Yield agent, config, state and path: `agent, config, state, path = load_agent(run)`."""
        return iter((self.agent, self.config, self.state, self.path))

    def _checked(self, obs: ArrayLike) -> NDArray[Any]:
        """Return observations as the network needs them; UsageError if they do not fit."""
        found = np.asarray(obs)
        shape = list(self.obs_shape)
        if found.shape[-len(shape) :] != self.obs_shape or found.ndim - len(shape) not in (0, 1):
            raise UsageError(
                f"act needs an observation {shape} or a batch [N, {str(shape)[1:]} of them, not "
                f"{list(found.shape)}"
            )
        if found.shape[0] == 0:
            raise UsageError("act needs at least one observation, not an empty batch")
        if self.agent.obs_dtype == torch.uint8:
            if found.dtype != np.uint8:
                raise UsageError(f"act needs uint8 observations, 0 to 255, not {found.dtype}")
            return found
        if found.dtype.kind not in "biuf":
            raise UsageError(f"act needs observations of real numbers, not {found.dtype}")
        if found.dtype.kind == "f" and not (abs(found) <= LARGEST_FP32).all():
            raise UsageError("act needs observations that are finite in fp32")
        return found.astype(np.float32, copy=False)

    def _resize(self, count: int) -> None:
        """Start with N observations; UsageError if an LSTM has the state of another number."""
        if self._count is None:
            self._lstm_state = self.agent.initial_state(count)
        elif self._count != count:
            if self._lstm_state.numel():
                raise UsageError(
                    f"act got {count} observations after {self._count}, and the agent has an LSTM "
                    "state for each; call reset() first"
                )
            self._lstm_state = self.agent.initial_state(count)
        self._count = count

    def _next_uniforms(self, count: int) -> Tensor:
        """Return the next uniforms [N, *action_shape]."""
        if not len(self._uniforms) or self._uniforms.shape[1] != count:
            block = randomness.noise(
                self._seed,
                self._block,
                BLOCK_STEPS,
                count,
                stream=randomness.EVALUATION,
                shape=self.agent.policy.action_shape,
            )
            self._uniforms = torch.from_numpy(block)
            self._block += 1
        uniforms, self._uniforms = self._uniforms[0], self._uniforms[1:]
        return uniforms


def load_agent(
    run: str | Path,
    device: Device = "auto",
    warn: Callable[[str], None] | None = None,
    network: type[nn.Module] | None = None,
    seed: int = 0,
) -> TrainedAgent:
    """Load the agent of a run directory, a checkpoint in it, or a published agent.

    warn: called with a message for each damaged checkpoint that is skipped.  network: your own
    network.  seed: of the actions that `act` samples.  UsageError if there is no agent, or if its
    weights do not fit its settings.
    """
    saved, warnings = find_checkpoint(run)
    for warning in warnings:
        (warn or (lambda _: None))(warning)
    config = config_of(saved.state)
    with torch.device("meta"):  # no memory until the sizes are checked against the file
        agent = make_agent(config, spaces_in(saved.state, config), network)
    load_model(agent, saved)
    agent = agent.to(resolve_device(device)).eval()
    return TrainedAgent(agent, config, saved.state, saved.path, seed)


class Listed(NamedTuple):
    """A trained agent of this checkout, and its score in whole games, from its own files.

    score, interval: None where it has no `evaluation.json`.
    """

    name: str
    game: str
    protocol: str
    network: str
    agent_steps: int
    score: float | None
    interval: tuple[float, float] | None


def list_agents(folder: Path = AGENTS) -> list[Listed]:
    """Return the trained agents in a folder, sorted by name.

    UsageError if the folder does not exist, as in an installation from a wheel.
    """
    if not folder.is_dir():
        raise UsageError(f"this installation has no trained agents: {WHERE_AGENTS}")
    return [_listed(path.parent) for path in sorted(folder.glob(f"*/{MANIFEST}"))]


def _listed(path: Path) -> Listed:
    state = find_checkpoint(path)[0].state
    config, file = config_of(state), path / EVALUATION
    result: Any = parse_json(read(file), file) if file.exists() else None
    if result is not None and not fits(result, {"mean": float}):
        raise UsageError(f"{file} is damaged")
    score = None if result is None else float(result["mean"])
    interval: Any = None if result is None else result.get("interval")
    return Listed(
        path.name,
        config.game,
        config.protocol,
        config.network,
        state["agent_steps"],
        score,
        (interval[0], interval[1]) if fits(interval, (float, float)) else None,
    )


def checked_seed(seed: int) -> int:
    """Return a seed; UsageError if it is out of range."""
    if not 0 <= seed <= randomness.MAX_SEED:
        raise UsageError(f"seed must be from 0 to {randomness.MAX_SEED}, not {seed}")
    return seed
