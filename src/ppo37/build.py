"""Build what a configuration describes: its environments, wrappers and network.

Legend: N environments.
"""

from torch import nn

from . import randomness
from .config import Config
from .envs import EnvFactory, VecEnv, env_factory
from .envs.atari.controls import action_dims, action_mask
from .envs.checked import checked
from .envs.games import CATCH, game_info, require_known
from .envs.normalize import NormalizedObservations, ScaledRewards
from .errors import UsageError
from .networks.agent import Agent
from .networks.policies import make_policy


def make_factory(
    config: Config,
    num_threads: int,
    protocol: str | None = None,
    reseed_interval: int | None = None,
    make_envs: EnvFactory | None = None,
) -> EnvFactory:
    """Return the factory of a run's environments, without the wrappers that need its agent.

    protocol: None for the configured one.  make_envs: the factory of custom environments, which are
    then checked in every step; None for the built-in ones.  UsageError if the game is unknown.
    """
    if make_envs is not None:
        return checked(make_envs, config.norm_obs)
    return env_factory(
        config.game,
        protocol or config.protocol,
        num_threads,
        reseed_interval,
        config.num_frames,
        action_space=config.action_space,
        observation=config.observation,
        clip_rewards=not config.norm_reward,
    )


def make_agent(
    config: Config,
    obs_shape: tuple[int, ...],
    action_names: tuple[str, ...],
    network: type[nn.Module] | None = None,
) -> Agent:
    """Make the agent of a run on the CPU, initialized from the seed.

    network: the class of your own network; None for the built-in one that `config` names.
    UsageError if the network cannot read the observations.
    """
    mask = None
    if config.mask_actions:
        if config.game == CATCH:
            raise UsageError("catch has no actions to mask; leave mask_actions off")
        require_known(config.game)
        known = game_info(config.game).known_actions
        mask = action_mask(config.action_space, action_names, known)
    policy = make_policy(config.action_space, action_dims(config.action_space, action_names), mask)
    seed = int(randomness.generator(config.seed, randomness.MODEL).integers(2**31))
    agent = Agent(
        obs_shape,
        policy,
        network or config.network,
        seed,
        config.zero_mean_init,
        config.norm_obs,
        config.norm_reward,
        config.hidden,
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
