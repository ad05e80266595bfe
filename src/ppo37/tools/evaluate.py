"""Evaluation: whole games played by a trained agent, and their scores."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .. import randomness
from ..algorithm.rollout import reset_state
from ..backends.device import prepare_process, resolve_device, usable_cores
from ..backends.executables import make_act
from ..backends.network import DeviceNetwork, make_network
from ..build import make_agent, make_factory, normalized
from ..config import Config, Device, choices
from ..envs import EnvFactory, Episode, Step, VecEnv
from ..errors import RunError, UsageError
from ..networks.agent import Agent
from ..session.directory import config_of, find_checkpoint, spaces_in
from ..session.signals import Signals
from ..session.state import load_model
from .stats import interval_of_mean

MAX_ENVS, MOST_EPISODES = 32, 1_000_000
MOST_STEPS = 100_000
"""Three times the longest game of Atari: the environment is wrong if no game ends by then."""
BLOCK_STEPS = 256
"""Uniforms are drawn for this many steps at a time."""
Translation = Callable[[NDArray[Any]], NDArray[Any]]
"""A function from the agent's actions to those of the environment."""


class TrainedAgent(NamedTuple):
    """An agent, the settings that it was trained with, and its checkpoint."""

    agent: Agent
    config: Config
    state: dict[str, Any]
    path: Path


class Evaluation(NamedTuple):
    """Raw scores of whole games, and how they were obtained.

    interval: the 95% interval of the mean; None for a single game.
    """

    game: str
    protocol: str
    seed: int
    scores: list[float]
    lengths: list[int]
    mean: float
    std: float
    interval: tuple[float, float] | None
    agent_steps: int
    checkpoint: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with the number of games."""
        return {
            **self._asdict(),
            "episodes": len(self.scores),
            "interval": self.interval and list(self.interval),
        }


def load_agent(
    run: str | Path,
    device: Device = "auto",
    warn: Callable[[str], None] | None = None,
    network: type[nn.Module] | None = None,
) -> TrainedAgent:
    """Load the agent of a run directory, a checkpoint in it, or a published agent.

    warn: called with a message for each damaged checkpoint that is skipped.  network: your own
    network.  UsageError if there is no agent, or if its weights do not fit its settings.
    """
    saved, warnings = find_checkpoint(Path(run))
    for warning in warnings:
        (warn or (lambda _: None))(warning)
    config = config_of(saved.state)
    with torch.device("meta"):  # no memory until the sizes are checked against the file
        agent = make_agent(config, spaces_in(saved.state, config), network)
    load_model(agent, saved)
    return TrainedAgent(agent.to(resolve_device(device)).eval(), config, saved.state, saved.path)


def evaluate(
    run: str | Path,
    episodes: int = 30,
    protocol: str | None = None,
    seed: int = 0,
    device: Device = "auto",
    progress: Callable[[int, int], None] | None = None,
    warn: Callable[[str], None] | None = None,
    make_envs: EnvFactory | None = None,
    network: type[nn.Module] | None = None,
) -> Evaluation:
    """Play `episodes` whole games, sampling actions as in training, and report raw scores.

    Every environment plays a fixed share of the games, so that short games are not counted more
    often than long ones.  protocol: None for the one the agent was trained in.  The games depend
    only on `seed` and differ from those of any training run.  make_envs, network: as for `train`.
    Stopped, a KeyboardInterrupt, after a signal, without a result: the games that end first are
    the short ones, so their mean would be biased.
    """
    if type(episodes) is not int or not 1 <= episodes <= MOST_EPISODES:
        raise UsageError(f"episodes must be a number from 1 to {MOST_EPISODES:,}, not {episodes!r}")
    if protocol not in (None, *choices("protocol")):
        raise UsageError(f"protocol must be {' or '.join(choices('protocol'))}, not {protocol!r}")
    trained = load_agent(run, device, warn, network)
    config = trained.config
    protocol = protocol or config.protocol
    prepare_process(trained.agent.device.type, threads=1)
    num_envs = min(episodes, MAX_ENVS)
    wanted = np.array([len(range(env, episodes, num_envs)) for env in range(num_envs)])
    factory = make_factory(config, usable_cores(), protocol, make_envs=make_envs)
    envs = normalized(factory(num_envs, games_seed(seed)), trained.agent, config, learn=False)
    try:
        translate = translation(trained, envs.action_names, protocol)
        if list(envs.obs_shape) != trained.state["obs_shape"]:
            raise UsageError(
                f"the agent needs observations of shape {trained.state['obs_shape']}, these "
                f"environments return {list(envs.obs_shape)}"
            )
        games = _play_games(make_network(trained.agent), envs, translate, wanted, seed, progress)
    finally:
        envs.close()
    scores = [game.score for game in games]
    return Evaluation(
        config.game,
        protocol,
        seed,
        scores,
        [game.length for game in games],
        float(np.mean(scores)),
        float(np.std(scores)),
        interval_of_mean(scores),
        trained.state["agent_steps"],
        str(trained.path),
    )


def _play_games(
    network: DeviceNetwork,
    envs: VecEnv,
    translate: Translation,
    wanted: Any,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> list[Episode]:
    """Return the first `wanted[env]` games of each environment, in the order of (game, env)."""
    games: list[list[Episode]] = [[] for _ in wanted]
    with Signals() as signals, network.frozen_weights():
        for steps, (step, _) in enumerate(play(network, envs, translate, seed), 1):
            signals.check()
            if steps == MOST_STEPS and not any(games):
                raise RunError(
                    f"no game has ended in {steps:,} steps; does `step` list the games that ended "
                    "in `episodes`?"
                )
            for episode in step.episodes:
                games[episode.env].append(episode)
            played = sum(min(len(g), n) for g, n in zip(games, wanted, strict=True))
            if progress is not None and step.episodes:
                progress(played, int(wanted.sum()))
            if played == wanted.sum():
                break
    firsts = [g[:n] for g, n in zip(games, wanted, strict=True)]
    return [g[k] for k in range(max(wanted)) for g in firsts if k < len(g)]


def play(
    network: DeviceNetwork, envs: VecEnv, translate: Translation, seed: int
) -> Iterator[tuple[Step, torch.Tensor]]:
    """Play without end, actions sampled as in training; yield each step and the values [N] before.

    Slow unless called inside `network.frozen_weights()`.
    """
    act = make_act(network)
    obs, lstm_state = envs.reset(), network.agent.initial_state(envs.num_envs)
    for uniforms in evaluation_noise(seed, envs.num_envs, network.agent.policy.action_shape):
        drawn = torch.from_numpy(uniforms).to(network.device)
        chosen, _, values, lstm_state = act(torch.from_numpy(obs), lstm_state, drawn)
        step = envs.step(translate(chosen.cpu().numpy()))
        yield step, values
        lstm_state = reset_state(lstm_state, torch.from_numpy(step.dones).to(lstm_state))
        obs = step.obs


def evaluation_noise(
    seed: int, num_envs: int, shape: tuple[int, ...] = ()
) -> Iterator[NDArray[np.float32]]:
    """Yield uniforms [num_envs, *shape] for the actions of step 0, 1, 2, ... without end."""
    for block in itertools.count():
        yield from randomness.noise(
            seed, block, BLOCK_STEPS, num_envs, stream=randomness.EVALUATION, shape=shape
        )


def games_seed(seed: int) -> int:
    """Return the seed of the games, from a random stream of its own; UsageError if out of range."""
    if not 0 <= seed <= randomness.MAX_SEED:
        raise UsageError(f"seed must be from 0 to {randomness.MAX_SEED}, not {seed}")
    return int(randomness.generator(seed, randomness.EVALUATION_GAMES).integers(2**31))


def translation(trained: TrainedAgent, action_names: tuple[str, ...], protocol: str) -> Translation:
    """Return the function from the agent's actions to the environment's; most often they are equal.

    An agent trained with the few actions that its game uses can play where all are offered.
    UsageError if the environment lacks an action of the agent.
    """
    known = trained.state["action_names"]
    missing = [name for name in known if name not in action_names]
    if missing:
        raise UsageError(
            f"the agent was trained with the action {missing[0]}, which protocol {protocol} does "
            f"not offer; use --protocol {trained.config.protocol}"
        )
    if trained.config.action_space != "discrete":
        if tuple(known) != action_names:
            raise UsageError(
                f"the agent's actions are {known}, the environment's {list(action_names)}"
            )
        return lambda actions: actions
    return np.array([action_names.index(name) for name in known]).__getitem__
