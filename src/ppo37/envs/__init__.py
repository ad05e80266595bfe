"""Environments: one contract, and what implements it."""

from functools import partial

from .contract import EnvFactory, Episode, Step, VecEnv
from .games import CATCH, require_known


def env_factory(game: str, protocol: str = "classic", num_threads: int = 0) -> EnvFactory:
    """What makes the environments of a resolved game name; UsageError if it is not one of ours."""
    if game == CATCH:
        from .catch import Catch

        return Catch
    require_known(game)
    from .atari import Atari

    return partial(Atari, game, protocol=protocol, num_threads=num_threads)


__all__ = ["EnvFactory", "Episode", "Step", "VecEnv", "env_factory"]
