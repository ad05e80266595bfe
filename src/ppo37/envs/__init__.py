"""Environments: the interface `VecEnv`, Atari, catch, and wrappers."""

from functools import partial

from ..config import CATCH
from ..errors import UsageError
from .contract import EnvFactory, EnvState, Episode, Moment, Spaces, Step, VecEnv, spaces_of
from .games import require_known, require_mode


def env_factory(
    game: str,
    protocol: str = "classic",
    num_threads: int = 0,
    reseed_interval: int | None = None,
    num_frames: int = 4,
    *,
    action_space: str = "discrete",
    observation: str = "pixels",
    clip_rewards: bool = True,
    modes: tuple[int, ...] | None = None,
    difficulty: int | None = None,
) -> EnvFactory:
    """Return the factory of the environments of a game; UsageError if the game is unknown.

    game: a name that `resolve_game` returned.  reseed_interval: steps between seeded resets; None
    if the environments need not be saved.  All arguments except `game` apply to Atari only, see
    `Atari`.
    """
    if game == CATCH:
        from .catch import Catch

        if (action_space, observation) != ("discrete", "pixels"):
            raise UsageError("catch needs action_space discrete and observation pixels")
        return Catch
    require_known(game)
    if modes is not None or difficulty is not None:
        require_mode(game, modes, difficulty)
    from .atari import Atari

    return partial(
        Atari,
        game,
        protocol=protocol,
        num_threads=num_threads,
        reseed_interval=reseed_interval,
        num_frames=num_frames,
        action_space=action_space,
        observation=observation,
        clip_rewards=clip_rewards,
        modes=modes,
        difficulty=difficulty,
    )


__all__ = [
    "EnvFactory",
    "EnvState",
    "Episode",
    "Moment",
    "Spaces",
    "Step",
    "VecEnv",
    "env_factory",
    "spaces_of",
]
