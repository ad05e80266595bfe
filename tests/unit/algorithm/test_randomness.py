"""Stateless random numbers: every draw has an address, and no two addresses share draws."""

import itertools

import numpy as np
import pytest

from ppo37 import randomness
from ppo37.randomness import game_seeds, generator, noise, permutations

STREAMS = (
    randomness.ACTIONS,
    randomness.SHUFFLES,
    randomness.GAMES,
    randomness.EVALUATION,
    randomness.MODEL,
)

# Draws of seed 1 in update 2.
GOLDEN_NOISE = [
    [0.02057933807373047, 0.7017101049423218],
    [0.2699745297431946, 0.24533087015151978],
]
GOLDEN_PERMUTATIONS = [[2, 1, 0, 3], [1, 3, 0, 2]]
GOLDEN_SEEDS = [1604781736, 546953191]


def test_no_two_addresses_share_a_draw() -> None:
    """64 numbers of 63 bits from each of 900 addresses: all distinct, so no two overlap.

    Two sequences overlap if one counter starts a few steps after another: then they differ at
    every position, but have equal numbers. By chance two of these 57,600 numbers are equal once in
    5 billion tries.
    """
    addresses = itertools.product((0, 1, 2**31 - 1), STREAMS, range(6), range(10))
    draws = [generator(*address).integers(2**63, size=64) for address in addresses]
    assert len(np.unique(np.concatenate(draws))) == 900 * 64


def test_the_same_address_gives_the_same_draw() -> None:
    """Independent of other draws and of the global generator."""
    first = generator(7, randomness.GAMES, 3, 2).random(5)
    generator(7, randomness.GAMES, 3, 2).random(1000)
    np.random.seed(1)  # noqa: NPY002
    assert np.array_equal(first, generator(7, randomness.GAMES, 3, 2).random(5))
    assert np.array_equal(noise(7, 3, 5, 4), noise(7, 3, 5, 4))
    assert np.array_equal(permutations(7, 3, 5, 64), permutations(7, 3, 5, 64))
    assert np.array_equal(game_seeds(7, 3, 64), game_seeds(7, 3, 64))


def test_draws_never_change_between_versions() -> None:
    """A resumed run continues with these numbers: changing them would break `resume`."""
    assert noise(1, 2, 2, 2).tolist() == GOLDEN_NOISE
    assert permutations(1, 2, 2, 4).tolist() == GOLDEN_PERMUTATIONS
    assert game_seeds(1, 2, 2).tolist() == GOLDEN_SEEDS


@pytest.mark.parametrize("split", [1, 4, 7])
def test_draws_do_not_depend_on_the_division_among_processes(split: int) -> None:
    """An environment has the same numbers in one process and in several."""
    whole = noise(3, 5, 16, 8)
    assert whole.shape == (16, 8)
    parts = [noise(3, 5, 16, split), noise(3, 5, 16, 8 - split, first_env=split)]
    assert np.array_equal(whole, np.concatenate(parts, axis=1))
    seeds = [game_seeds(3, 5, split), game_seeds(3, 5, 8 - split, first_env=split)]
    assert np.array_equal(game_seeds(3, 5, 8), np.concatenate(seeds))


def test_a_longer_rollout_starts_with_the_same_draws() -> None:
    assert np.array_equal(noise(3, 5, 16, 4), noise(3, 5, 40, 4)[:16])


def test_seeds_streams_updates_and_environments_differ() -> None:
    """Each argument of the public functions reaches the address."""
    base = noise(1, 2, 64, 4)
    others = [
        noise(2, 2, 64, 4),
        noise(1, 3, 64, 4),
        noise(1, 2, 64, 4, first_env=4),
        noise(1, 2, 64, 4, stream=randomness.EVALUATION),
    ]
    columns = np.concatenate([base, *others], axis=1).T
    assert all((a == b).mean() < 0.1 for a, b in itertools.combinations(columns, 2))
    orders = [*permutations(1, 2, 3, 64), *permutations(1, 3, 3, 64), *permutations(2, 2, 3, 64)]
    assert all(not np.array_equal(a, b) for a, b in itertools.combinations(orders, 2))


def test_uniforms() -> None:
    """fp32 in [0, 1), multiples of 2^-24, uniform and uncorrelated."""
    draws = noise(0, 0, 50_000, 4)
    assert draws.dtype == np.float32
    assert draws.min() >= 0.0
    assert draws.max() <= 1.0 - 2.0**-24
    assert np.array_equal(draws * 2**24 % 1, np.zeros_like(draws))
    counts = np.histogram(draws, bins=16, range=(0.0, 1.0))[0]
    assert chi_square(counts) < 63.0  # 15 degrees of freedom: p = 1e-7
    correlations = np.corrcoef(draws.astype(np.float64), rowvar=False) - np.eye(4)
    assert np.abs(correlations).max() < 5.0 / np.sqrt(50_000)


def test_permutations_are_permutations() -> None:
    orders = permutations(5, 0, 4, 1024)
    assert orders.shape == (4, 1024)
    assert orders.dtype == np.int64
    assert np.array_equal(np.sort(orders, axis=1), np.tile(np.arange(1024), (4, 1)))


def test_permutations_are_uniform() -> None:
    """Of 4,800 permutations of 4 items each of the 24 orders occurs about 200 times."""
    orders = np.concatenate([permutations(5, k, 4, 4) for k in range(1200)])
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert chi_square(counts) < 78.0  # 23 degrees of freedom: p = 7e-8


def test_game_seeds_are_in_range_and_rarely_equal() -> None:
    """Of n seeds of 31 bits, n^2 / 2^32 pairs are equal on average.

    That is 0.0002 for 8 environments seeded 128 times, and 1/16 for the 16,384 seeds here; 4 pairs
    or more would happen once in 1.7 million tries.
    """
    seeds = np.concatenate([game_seeds(0, index, 128) for index in range(128)])
    assert seeds.min() >= 0
    assert seeds.max() < 2**31
    assert seeds.min() < 2**22  # the whole range is used
    assert seeds.max() > 2**31 - 2**22
    assert len(seeds) - len(np.unique(seeds)) <= 3
    assert len(np.unique([game_seeds(1, index, 8) for index in range(128)])) == 8 * 128


def chi_square(counts: np.ndarray) -> float:
    """Compute the chi-square statistic against equal expected counts."""
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())
