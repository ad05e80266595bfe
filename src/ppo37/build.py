"""Build what a configuration describes: its environments, wrappers and network.

Legend: N environments.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from . import randomness
from .config import Config
from .envs import EnvFactory, VecEnv, env_factory
from .envs.atari.controls import action_mask
from .envs.checked import checked
from .envs.contract import Spaces, name_of
from .envs.games import game_info, require_known
from .envs.loading import source_hash
from .envs.normalize import NormalizedObservations, ScaledRewards, SignRewards
from .envs.source import EnvSource, source_of
from .envs.workers import Workers
from .errors import UsageError
from .networks.agent import Agent
from .networks.policies import make_policy


class Stateful(Protocol):
    """An object whose state is tensors by name, such as a PyTorch module."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Brought(NamedTuple):
    """Objects that a user brings; None for those that the configuration describes.

    make_envs: makes environments, see `envs.source`.  network: a class, see `networks`.
    extras: other objects that a loop of one's own changes, by name, such as an exploration bonus.
    Checkpoints have their tensors, and resuming loads them. Several ranks cannot have extras.
    """

    make_envs: EnvFactory | None = None
    network: type[nn.Module] | None = None
    extras: Mapping[str, Stateful] = MappingProxyType({})

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `train`, `resume`, `evaluate` and `record`, which have no extras."""
        return {"make_envs": self.make_envs, "network": self.network}


def make_factory(
    config: Config,
    num_threads: int,
    protocol: str | None = None,
    reseed_interval: int | None = None,
    make_envs: EnvFactory | None = None,
) -> EnvFactory:
    """Return the factory of a run's environments, without the wrappers that need its agent.

    protocol: None for the configured one.  make_envs: what makes custom environments, which are
    then checked in every step; None for the configured ones.  UsageError if they are unknown.
    """
    if make_envs is not None or config.env is not None:
        source = source_of(config, make_envs)
        if config.env_workers:
            source = partial(Workers, source, config.env_workers)
        factory = checked(source, config.norm_obs)
        return partial(SignRewards.around, factory) if config.clips_rewards else factory
    return env_factory(
        config.game,
        protocol or config.protocol,
        num_threads,
        reseed_interval,
        config.num_frames,
        action_space=config.action_space,
        observation=config.observation,
        clip_rewards=config.clips_rewards,
        modes=config.modes,
        difficulty=config.difficulty,
    )


def is_divisible(config: Config, make_envs: EnvFactory | None) -> bool:
    """Return whether several threads may step the environments, each a part of them.

    Threads of Python would wait for each other where each environment is stepped by Python, and
    libraries behind environments of Gymnasium may allow only one.
    """
    if config.env is None or not config.divisible:
        return config.divisible
    source = source_of(config, make_envs)
    return not config.env_workers and not (isinstance(source, EnvSource) and source.makes_single)


def named(config: Config, brought: Brought) -> Config:
    """Return the configuration with the names of what is brought."""
    if brought.make_envs is not None and config.env is None:
        config = dataclasses.replace(config, env=name_of(brought.make_envs))
    if brought.network is not None and ":" not in config.network:
        # What a preset chose for a built-in network does not ask for it in one's own.
        zero_mean = config.zero_mean_init and hasattr(brought.network, "zero_mean_init")
        name = name_of(brought.network) or ""
        config = dataclasses.replace(config, network=name, zero_mean_init=zero_mean)
    return config


def sources_of(config: Config, brought: Brought) -> dict[str, str]:
    """Return the SHA-256 of the files that define what is brought, by its name."""
    things: dict[str, Any] = {}
    if config.env is not None:
        source = source_of(config, brought.make_envs)
        things |= source.parts() if isinstance(source, EnvSource) else {config.env: source}
    if brought.network is not None:
        things[config.network] = brought.network
    things |= {name: type(extra) for name, extra in brought.extras.items()}
    hashes = {name: source_hash(thing) for name, thing in things.items()}
    return {name: value for name, value in hashes.items() if value is not None}


def make_agent(config: Config, spaces: Spaces, network: type[nn.Module] | None = None) -> Agent:
    """Make the agent of a run on the CPU, initialized from the seed.

    network: the class of your own network; None for the built-in one that `config` names.
    UsageError if the network cannot read the observations.
    """
    mask = None
    if config.mask_actions:
        if not config.is_atari:
            raise UsageError(f"{config.game} has no actions to mask; leave mask_actions off")
        require_known(config.game)
        known = game_info(config.game).known_actions
        mask = action_mask(config.action_space, spaces.action_names, known)
    policy = make_policy(spaces.action_space, spaces.action_names, spaces.action_dims, mask)
    seed = int(randomness.generator(config.seed, randomness.MODEL).integers(2**31))
    agent = Agent(
        spaces.view_shape,
        policy,
        network or config.network,
        seed,
        config.zero_mean_init,
        config.norm_obs,
        config.norm_reward,
        config.hidden,
        getattr(torch, spaces.obs_dtype),
        spaces.masked,
    )
    agent.bf16 = config.precision == "bf16"
    return agent


def normalized(envs: VecEnv, agent: Agent, config: Config, learn: bool = True) -> VecEnv:
    """Wrap environments so that they normalize observations and rewards as configured.

    learn: for training. Otherwise the statistics stay as they are and rewards are not scaled.
    """
    if agent.obs_statistics is not None:
        envs = NormalizedObservations(envs, agent.obs_statistics.values, config.clip_obs, learn)
    if agent.return_statistics is not None and learn:
        statistics = agent.return_statistics.values
        envs = ScaledRewards(envs, statistics, config.gamma, config.clip_reward)
    return envs
