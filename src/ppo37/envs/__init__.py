"""Environments: one contract, and what implements it."""

from functools import partial

from ..errors import UsageError
from .contract import EnvFactory, Episode, Step, VecEnv
from .games import CATCH, atari_games


def env_factory(game: str, protocol: str = "classic", num_threads: int = 0) -> EnvFactory:
    """What makes the environments of a resolved game name; UsageError if it is not one of ours."""
    if game == CATCH:
        from .catch import Catch

        return Catch
    require_known(game)
    from .atari import Atari

    return partial(Atari, game, protocol=protocol, num_threads=num_threads)


def require_known(game: str) -> None:
    """UsageError unless `game` is a resolved name."""
    if game != CATCH and game not in atari_games():
        raise UsageError(
            f"{game!r} is no game of ppo37's: give its environments as make_envs in Python, or "
            "choose one that `ppo37 games` lists"
        )


__all__ = ["EnvFactory", "Episode", "Step", "VecEnv", "env_factory", "require_known"]
