"""What a configuration asks for: its environments and its network, and what lies between them.

Legend: N environments.
"""

from . import randomness
from .config import Config
from .envs import EnvFactory, VecEnv, env_factory
from .envs.atari.controls import possible, sizes
from .envs.checked import checked
from .envs.games import CATCH, cartridge, require_known
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
    """Return what makes the environments of a run, without the wrappers that need its agent.

    protocol: None for the configured one.  make_envs: makes environments of one's own, which are
    then looked at in every step; None plays the game.  UsageError if there can be none such.
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


def make_agent(config: Config, obs_shape: tuple[int, ...], action_names: tuple[str, ...]) -> Agent:
    """The network of a run, freshly initialised from its seed, on the CPU."""
    known = None
    if config.mask_actions:
        if config.game == CATCH:
            raise UsageError("catch has no actions to mask; leave mask_actions off")
        require_known(config.game)
        known = possible(config.action_space, action_names, cartridge(config.game).known_actions)
    policy = make_policy(config.action_space, sizes(config.action_space, action_names), known)
    seed = int(randomness.generator(config.seed, randomness.MODEL).integers(2**31))
    agent = Agent(
        obs_shape,
        policy,
        config.network,
        seed,
        config.zero_mean_init,
        config.norm_obs,
        config.norm_reward,
    )
    agent.bf16 = config.precision == "bf16"
    return agent


def normalized(envs: VecEnv, agent: Agent, config: Config, learn: bool = True) -> VecEnv:
    """The environments as the agent is to see them; `learn`: its moments grow with every step."""
    if agent.obs_statistics is not None:
        envs = NormalizedObservations(envs, agent.obs_statistics.values, config.clip_obs, learn)
    if agent.return_statistics is not None and learn:
        env_states = agent.return_statistics.values
        envs = ScaledRewards(envs, env_states, config.gamma, config.clip_reward)
    return envs
