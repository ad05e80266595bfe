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
from ..backends.device import prepare_process, usable_cores
from ..backends.executables import make_act
from ..backends.network import DeviceNetwork, make_network
from ..build import make_factory, normalized
from ..config import Device, choices
from ..envs import EnvFactory, Episode, Step, VecEnv
from ..errors import RunError, UsageError
from ..session.signals import Signals
from .agents import BLOCK_STEPS, TrainedAgent, checked_seed, load_agent
from .stats import interval_of_mean

MAX_ENVS, MOST_EPISODES = 32, 1_000_000
MOST_STEPS = 100_000
"""Three times the longest game of Atari: a game that has not ended by then will never end."""
Translation = Callable[[NDArray[Any]], NDArray[Any]]
"""A function from the agent's actions to those of the environment."""


class Evaluation(NamedTuple):
    """Raw scores of whole games, and how they were obtained.

    protocol: None for environments of one's own.  interval: the 95% interval of the mean; None for
    a single game.  greedy: whether the most likely actions were taken instead of sampled ones.
    """

    game: str
    protocol: str | None
    seed: int
    scores: list[float]
    lengths: list[int]
    mean: float
    std: float
    interval: tuple[float, float] | None
    agent_steps: int
    checkpoint: str
    greedy: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with the number of games."""
        return {
            **self._asdict(),
            "episodes": len(self.scores),
            "interval": self.interval and list(self.interval),
        }


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
    greedy: bool = False,
) -> Evaluation:
    """Play `episodes` whole games, sampling actions as in training, and report raw scores.

    Every environment plays a fixed share of the games, so that short games are not counted more
    often than long ones.  protocol: None for the one the agent was trained in.  The games depend
    only on `seed` and differ from those of any training run.  make_envs, network: as for `train`.
    greedy: take the most likely actions instead; published scores are those of sampled actions.
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
        device_network = make_network(trained.agent)
        games = _play_games(device_network, envs, translate, wanted, seed, progress, greedy)
    finally:
        envs.close()
    scores = [game.score for game in games]
    return Evaluation(
        config.game,
        protocol if config.env is None else None,
        seed,
        scores,
        [game.length for game in games],
        float(np.mean(scores)),
        float(np.std(scores)),
        interval_of_mean(scores),
        trained.state["agent_steps"],
        str(trained.path),
        greedy,
    )


def _play_games(
    network: DeviceNetwork,
    envs: VecEnv,
    translate: Translation,
    wanted: Any,
    seed: int,
    progress: Callable[[int, int], None] | None,
    greedy: bool = False,
) -> list[Episode]:
    """Return the first `wanted[env]` games of each environment, in the order of (game, env)."""
    games: list[list[Episode]] = [[] for _ in wanted]
    with Signals() as signals, network.frozen_weights():
        since = played = 0
        for steps, (step, _) in enumerate(play(network, envs, translate, seed, greedy), 1):
            signals.check()
            if steps - since == MOST_STEPS:
                missing = int(wanted.sum()) - played
                raise RunError(
                    f"{missing} of {wanted.sum()} games did not end: nothing in {MOST_STEPS:,} "
                    "steps. Limit the length of an episode (TimeLimit of Gymnasium), or list the "
                    "games that end in `episodes` of a Step"
                )
            for episode in step.episodes:
                games[episode.env].append(episode)
            before = played
            played = sum(min(len(g), n) for g, n in zip(games, wanted, strict=True))
            since = steps if played > before else since
            if progress is not None and step.episodes:
                progress(played, int(wanted.sum()))
            if played == wanted.sum():
                break
    firsts = [g[:n] for g, n in zip(games, wanted, strict=True)]
    return [g[k] for k in range(max(wanted)) for g in firsts if k < len(g)]


def play(
    network: DeviceNetwork,
    envs: VecEnv,
    translate: Translation,
    seed: int,
    greedy: bool = False,
) -> Iterator[tuple[Step, torch.Tensor]]:
    """Play without end; yield each step and the values [N] before.

    Actions are sampled as in training, or the most likely ones (greedy). Slow unless called inside
    `network.frozen_weights()`.
    """
    act = make_act(network, greedy)
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
    stream = randomness.EVALUATION_GAMES
    return int(randomness.generator(checked_seed(seed), stream).integers(2**31))


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
