"""Environments: one contract, and what implements it."""

from functools import partial

from .contract import EnvFactory, Episode, Moment, Step, VecEnv
from .games import CATCH, require_known


def env_factory(
    game: str, protocol: str = "classic", num_threads: int = 0,
    reseed_interval: int | None = None, num_frames: int = 4,
) -> EnvFactory:  # fmt: skip
    """What makes the environments of a resolved game name; UsageError if it is not one of ours.

    reseed_interval: steps between seeded resets; None if the environments need not be saved.
    num_frames: in an observation of an Atari game.
    """
    if game == CATCH:
        from .catch import Catch

        return Catch
    require_known(game)
    from .atari import Atari

    return partial(
        Atari, game, protocol=protocol, num_threads=num_threads, reseed_interval=reseed_interval,
        num_frames=num_frames,
    )  # fmt: skip


__all__ = ["EnvFactory", "Episode", "Moment", "Step", "VecEnv", "env_factory"]
