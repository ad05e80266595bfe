"""Environments: one contract, and what implements it."""

from .contract import Episode, Step, VecEnv
from .games import CATCH


def make_envs(
    game: str, num_envs: int, seed: int, protocol: str = "classic", *, first_env: int = 0,
    index: int = 0, num_threads: int = 0,
) -> VecEnv:  # fmt: skip
    """N environments of a resolved game name; `index` counts the seedings within one run."""
    if game == CATCH:
        from .catch import Catch

        return Catch(num_envs, seed, first_env=first_env, index=index)
    from .atari import Atari

    return Atari(
        game, num_envs, seed, protocol, first_env=first_env, index=index, num_threads=num_threads
    )


def observation_shape(game: str) -> tuple[int, ...]:
    """The shape of one observation of a game, without making an environment."""
    if game == CATCH:
        from .catch import Catch

        return Catch.obs_shape
    from .atari import Atari

    return Atari.obs_shape


__all__ = ["Episode", "Step", "VecEnv", "make_envs", "observation_shape"]
