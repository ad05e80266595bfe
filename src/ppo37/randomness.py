"""Stateless random numbers: every draw is a pure function of (seed, stream, index, env).

The first two are the key of a counter-based generator (Philox, Salmon et al. 2011), the last two
its initial counter. There is no generator state to save, and the numbers of an environment do not
depend on how many processes there are.
"""

import numpy as np
from numpy.typing import NDArray

ACTIONS, SHUFFLES, GAMES, EVALUATION, MODEL, EVALUATION_GAMES = range(6)
"""The streams, one for each purpose."""

MAX_SEED = 2**31 - 1


def generator(
    seed: int, stream: int, index: int = 0, env: int = 0, episode: int = 0
) -> np.random.Generator:
    """Make a new generator; all arguments are non-negative."""
    counter = [0, episode, index, env]
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=counter))


def noise(
    seed: int,
    update: int,
    num_draws: int,
    num_envs: int,
    *,
    first_env: int = 0,
    stream: int = ACTIONS,
    shape: tuple[int, ...] = (),
) -> NDArray[np.float32]:
    """Draw uniforms [num_draws, num_envs, *shape] fp32 in [0, 1) for the actions of one update."""
    size = (num_draws, *shape)
    columns = [
        generator(seed, stream, update, first_env + env).random(size, dtype=np.float32)
        for env in range(num_envs)
    ]
    return np.stack(columns, axis=1)


def permutations(seed: int, update: int, epochs: int, batch_size: int) -> NDArray[np.int64]:
    """Draw permutations [epochs, batch_size] of a batch for one update."""
    generators = (generator(seed, SHUFFLES, update, epoch) for epoch in range(epochs))
    return np.stack([g.permutation(batch_size) for g in generators])


def game_seeds(seed: int, index: int, num_envs: int, first_env: int = 0) -> NDArray[np.int64]:
    """Draw emulator seeds [num_envs] in [0, 2^31), for the `index`-th seeding of environments."""
    envs = range(first_env, first_env + num_envs)
    return np.array([generator(seed, GAMES, index, env).integers(2**31) for env in envs])
