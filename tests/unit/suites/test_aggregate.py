"""Statistics agree with rliable 1.2.0, printed tables and simulations.

`tests/data/rliable.json` is made by `benchmarks/rliable_numbers.py`, which explains its bounds.
"""

import json
from typing import Any

import numpy as np
import pytest
from conftest import TESTS
from scipy import stats

from ppo37.suites import aggregate

RLIABLE = json.loads((TESTS / "data" / "rliable.json").read_text())
ROUNDING = 1e-12
each_study = pytest.mark.parametrize("name", RLIABLE["studies"])


def scores_of(name: str, entry: str) -> list[Any]:
    return [np.array(scores) for scores in RLIABLE["studies"][name]["scores"][entry]]


def assert_between(interval: Any, bounds: dict[str, Any], index: int) -> None:
    """An interval of as many repetitions is between the inner and the outer one of rliable."""
    low, high = interval
    outer, inner = bounds["outer"], bounds["inner"]
    assert outer[0][index] - ROUNDING <= low <= inner[0][index] + ROUNDING
    assert inner[1][index] - ROUNDING <= high <= outer[1][index] + ROUNDING


@each_study
@pytest.mark.parametrize("entry", ["a", "b"])
def test_aggregates_and_intervals_are_those_of_rliable(name: str, entry: str) -> None:
    known = RLIABLE["studies"][name]["aggregates"][entry]
    found = aggregate.aggregates(scores_of(name, entry), RLIABLE["repetitions"])
    assert list(found) == list(known["values"])
    for index, (statistic, estimate) in enumerate(found.items()):
        assert estimate.value == pytest.approx(known["values"][statistic], abs=ROUNDING)
        assert_between(estimate.interval, known["bounds"], index)


@each_study
def test_the_probability_of_improvement_is_that_of_rliable(name: str) -> None:
    known = RLIABLE["studies"][name]["improvement"]
    new, base = scores_of(name, "b"), scores_of(name, "a")
    found = aggregate.probability_of_improvement(new, base, RLIABLE["repetitions"])
    assert found.value == pytest.approx(known["value"], abs=ROUNDING)
    assert_between(found.interval, known["bounds"], 0)
    other = aggregate.probability_of_improvement(base, new)
    assert found.value + other.value == pytest.approx(1, abs=ROUNDING)
    by_game = [
        stats.mannwhitneyu(ours, theirs).statistic / (len(ours) * len(theirs))
        for ours, theirs in zip(new, base, strict=True)
    ]
    assert found.value == pytest.approx(np.mean(by_game), abs=ROUNDING)


@each_study
@pytest.mark.parametrize("entry", ["a", "b"])
def test_performance_profiles_are_those_of_rliable(name: str, entry: str) -> None:
    known = RLIABLE["studies"][name]["profiles"][entry]
    thresholds = np.array(RLIABLE["thresholds"])
    scores = scores_of(name, entry)
    found = aggregate.performance_profile(scores, thresholds, RLIABLE["repetitions"])
    np.testing.assert_allclose(found.values, known["values"], atol=ROUNDING)
    assert found.low is not None
    assert found.high is not None
    for index, interval in enumerate(zip(found.low, found.high, strict=True)):
        assert_between(interval, known["bounds"], index)


def test_aggregates_computed_by_hand() -> None:
    scores = [np.array([0.0, 0.2, 0.4, 0.6]), np.array([0.8, 1.0, 1.5, 3.5])]
    assert aggregate.mean(scores) == pytest.approx((0.3 + 1.7) / 2)
    assert aggregate.median(scores) == pytest.approx((0.3 + 1.7) / 2)
    assert aggregate.iqm(scores) == pytest.approx((0.4 + 0.6 + 0.8 + 1.0) / 4)
    assert aggregate.optimality_gap(scores) == pytest.approx((1 + 0.8 + 0.6 + 0.4 + 0.2) / 8)


def test_games_count_the_same_however_many_runs_they_have() -> None:
    """Six runs and two: the same as six in both, where each of the two stands three times."""
    rng = np.random.default_rng(3)
    six, two = rng.normal(size=6), rng.normal(size=2)
    uneven, even = [six, two], [six, np.repeat(two, 3)]
    for function in aggregate.AGGREGATES.values():
        assert function(uneven) == pytest.approx(function(even), abs=ROUNDING)
    stacked = [np.stack([six, six + 1]), np.stack([two, two + 1])]
    expected = [aggregate.iqm(uneven), aggregate.iqm(uneven) + 1]
    np.testing.assert_allclose(aggregate.iqm(stacked), expected)


def test_differences_of_one_game_are_those_of_t_tests() -> None:
    rng = np.random.default_rng(5)
    new, base = rng.normal(1, 2, 6), rng.normal(0, 1, 6)
    for paired, test in (
        (True, stats.ttest_rel(new, base)),
        (False, stats.ttest_ind(new, base, equal_var=False)),
    ):
        found = aggregate.differences([new], [base], [paired])["mean"]
        bounds = test.confidence_interval(0.95)
        assert found.value == pytest.approx(new.mean() - base.mean())
        assert found.interval == pytest.approx((bounds.low, bounds.high))
    equal = aggregate.differences([np.full(3, 5.0)], [np.full(4, 3.0)], [False])["mean"]
    assert equal == (2.0, (2.0, 2.0), 0.0)


def test_pairs_are_resampled_together() -> None:
    """With a constant difference in every pair, chance in the runs is not in the difference."""
    base = [np.arange(8.0), 3 * np.arange(8.0)]
    new = [each + 0.5 for each in base]
    together = aggregate.differences(new, base, [True, True])
    assert together["iqm"].interval == pytest.approx((0.5, 0.5))
    assert together["mean"].spread == pytest.approx(0, abs=1e-9)
    low, high = aggregate.differences(new, base, [False, False])["mean"].interval or (0, 0)
    assert low < -2
    assert high > 3


def test_the_spread_is_that_of_single_seeds() -> None:
    """Of the mean over two games: half the root of the sum of both variances."""
    rng = np.random.default_rng(8)
    new, base = [rng.normal(0, s, 9) for s in (1, 3)], [rng.normal(0, s, 9) for s in (2, 1)]
    by_game = [np.var(n - b, ddof=1) for n, b in zip(new, base, strict=True)]
    found = aggregate.differences(new, base, [True, True], 50_000)["mean"].spread
    assert found == pytest.approx(np.sqrt(sum(by_game)) / 2, rel=0.02)
    by_game = [np.var(each, ddof=1) for each in (*new, *base)]
    found = aggregate.differences(new, base, [False, False], 50_000)["mean"].spread
    assert found == pytest.approx(np.sqrt(sum(by_game)) / 2, rel=0.02)


def coverage(seeds: int, games: int = 2, studies: int = 200) -> float:
    """Return how often the interval of the difference of means contains the true one, 0.1."""
    rng = np.random.default_rng(seeds)
    hits = 0
    for _ in range(studies):
        base = [rng.normal(1, 0.3, seeds) for _ in range(games)]
        new = [rng.normal(1.1, 0.3, seeds) for _ in range(games)]
        low, high = aggregate.differences(new, base, [False] * games, 300)["mean"].interval
        hits += low <= 0.1 <= high
    return hits / studies


def test_95_percent_of_the_intervals_of_twenty_seeds_contain_the_difference() -> None:
    # Of 200 studies the part has the standard deviation 0.015.
    assert coverage(20) == pytest.approx(0.95, abs=0.045)


def test_the_intervals_of_three_seeds_are_too_narrow() -> None:
    """Therefore `are_few` warns: the variance of resampled means is 2/3 of what it should be."""
    assert coverage(3) < 0.92
    assert aggregate.are_few([np.zeros(3)] * 10)
    assert aggregate.are_few([np.zeros(6)] * 3)
    assert not aggregate.are_few([np.zeros(5)] * 4)


@pytest.mark.parametrize(
    ("effect", "paired", "printed"),
    [(0.2, False, 394), (0.5, False, 64), (0.8, False, 26), (0.5, True, 34), (0.8, True, 15)],
)
def test_the_seeds_needed_are_those_of_printed_tables(
    effect: float, paired: bool, printed: int
) -> None:
    """Cohen 1988, tables 2.4.1 and of one sample (as G*Power): 5% two-sided, power 80%.

    Cohen's d of two samples is in units of the standard deviation of one of them.
    """
    of_a_seed = effect if paired else effect / np.sqrt(2)
    assert aggregate.seeds_needed(of_a_seed, 1, paired) == printed
    assert aggregate.seeds_needed(-of_a_seed, 1, paired) == printed


def test_the_seeds_needed_for_several_games_give_that_power() -> None:
    """In simulated studies of three games, the mean of all differences is tested."""
    games, effect = 3, 0.9
    seeds = aggregate.seeds_needed(effect, games)
    assert seeds is not None
    rng = np.random.default_rng(1)
    # The mean over games of a single seed has the standard deviation 1.
    draws = rng.normal(effect, np.sqrt(games), size=(4000, games, seeds))
    error = np.sqrt(draws.var(axis=2, ddof=1).sum(axis=1) / games**2 / seeds)
    bound = stats.t.ppf(0.975, games * (seeds - 1))
    power = np.mean(np.abs(draws.mean(axis=(1, 2))) > bound * error)
    assert 0.78 <= power <= 0.9


def test_extreme_effects_need_two_seeds_or_too_many() -> None:
    assert aggregate.seeds_needed(float("inf")) == 2
    assert aggregate.seeds_needed(1e-3) is None


def test_one_run_of_a_game_gives_no_interval() -> None:
    one, two = [np.array([1.0]), np.array([2.0, 3.0])], [np.array([1.0, 2.0]), np.array([2.0, 3.0])]
    assert all(each.interval is None for each in aggregate.aggregates(one).values())
    assert all(d.interval is None for d in aggregate.differences(two, one, [False] * 2).values())
    assert aggregate.probability_of_improvement(one, two).interval is None
    assert aggregate.performance_profile(one, np.array([0.5])).low is None
    assert aggregate.learning_curve([each[:, None] for each in one]).low is None


def test_learning_curves_are_aggregates_at_each_point() -> None:
    rng = np.random.default_rng(2)
    scores = [rng.normal(size=(5, 3)), rng.normal(size=(5, 3))]
    found = aggregate.learning_curve(scores, 20_000)
    assert found.low is not None
    assert found.high is not None
    for point in range(3):
        at_point = [each[:, point] for each in scores]
        known = aggregate.aggregates(at_point, 20_000)["iqm"]
        assert found.values[point] == pytest.approx(known.value)
        assert known.interval == pytest.approx((found.low[point], found.high[point]), abs=0.05)
    of_one = aggregate.learning_curve(scores[:1])
    known = aggregate.aggregates([scores[0][:, 1]])["mean"]
    assert of_one.low is not None
    assert of_one.high is not None
    assert known.value == pytest.approx(of_one.values[1])
    assert known.interval == pytest.approx((of_one.low[1], of_one.high[1]))
