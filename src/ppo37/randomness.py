"""Stateless randomness: every draw is a pure function of what it is for.

A draw is addressed by (seed, stream, index, env): a counter-based generator (Philox, Salmon
et al. 2011) is keyed by the first two and starts at the last two. There is no generator state
to save, and what environment g gets does not depend on how many processes share the work.
"""

import numpy as np
from numpy.typing import NDArray

ACTIONS, SHUFFLES, GAMES, EVALUATION, MODEL, EVALUATION_GAMES = range(6)
"""The streams; no two purposes share one."""

MAX_SEED = 2**31 - 1


def generator(seed: int, stream: int, index: int = 0, env: int = 0) -> np.random.Generator:
    """A fresh generator for one purpose; all arguments are non-negative."""
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, index, env]))


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
    """Uniforms [num_draws, num_envs, *shape] in [0, 1) for the actions of one update."""
    size = (num_draws, *shape)
    columns = [
        generator(seed, stream, update, first_env + env).random(size, dtype=np.float32)
        for env in range(num_envs)
    ]
    return np.stack(columns, axis=1)


def permutations(seed: int, update: int, epochs: int, batch_size: int) -> NDArray[np.int64]:
    """Shuffles [epochs, batch_size] of a batch for one update."""
    return np.stack(
        [
            generator(seed, SHUFFLES, update, epoch).permutation(batch_size)
            for epoch in range(epochs)
        ]
    )


def game_seeds(seed: int, index: int, num_envs: int, first_env: int = 0) -> NDArray[np.int64]:
    """Emulator seeds [num_envs] in [0, 2**31) for the `index`-th seeding of each environment."""
    return np.array(
        [generator(seed, GAMES, index, first_env + env).integers(2**31) for env in range(num_envs)]
    )
