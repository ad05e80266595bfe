"""Statistics of scores over games and seeds, as in Agarwal et al. (2021) and their `rliable`.

Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", 2021.

Legend: G games; n_g runs in game g; R repetitions of the bootstrap; T thresholds or points of a
curve. Scores are a list of G arrays [..., n_g], where leading axes are repetitions. Scores of
several games are normalized, so that they can be averaged. Each game has the same weight, however
many runs it has.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ..tools.stats import FEWEST_TO_RESAMPLE, RESAMPLES, t_interval_of_mean

Array = NDArray[np.float64]
Scores = Sequence[Array]

LEVEL, POWER = 0.95, 0.8
"""The level of all intervals; the power for which the number of seeds is computed."""
TRIMMED = 0.25
FEW_RUNS, FEW_SEEDS = FEWEST_TO_RESAMPLE, 5
"""With fewer runs in all, or fewer seeds in a game, bootstrap intervals are too narrow."""
MOST_SEEDS = 1000
"""A larger number of seeds is not computed."""
BAND_RESAMPLES = 2_000
"""Repetitions for bands of profiles and curves."""


class Estimate(NamedTuple):
    """A value and its 95% interval, None where there are too few runs for one."""

    value: float
    interval: tuple[float, float] | None


class Difference(NamedTuple):
    """The difference of an aggregate between two entries, its interval and its spread.

    `spread` is the standard deviation that the difference has with one seed in each game; with n
    seeds it is about `spread` / sqrt(n). None where there is no interval.
    """

    value: float
    interval: tuple[float, float] | None
    spread: float | None


class Band(NamedTuple):
    """A curve [T] and its pointwise 95% interval; no interval where there are too few runs."""

    values: Array
    low: Array | None
    high: Array | None


def mean(scores: Scores) -> Array:
    """Return the mean over games of the means over runs, 1/G sum_g 1/n_g sum_i x_gi; shape [...].

    Source: Agarwal et al. 2021, section 4.3; `rliable.metrics.aggregate_mean`.
    """
    return np.mean(_means(scores), axis=0)


def median(scores: Scores) -> Array:
    """Return the median over games of the means over runs, shape [...].

    Source: Agarwal et al. 2021, section 4.3; `rliable.metrics.aggregate_median`.
    """
    return np.median(_means(scores), axis=0)


def iqm(scores: Scores) -> Array:
    """Return the interquartile mean: the mean of the middle half of all runs, shape [...].

    Of N runs in all, floor(N/4) of the lowest and as many of the highest are left out. Where games
    have different numbers of runs, each run of game g has the weight 1/(G n_g). Then the part
    floor(N/4)/N of the weight is left out at both ends.
    Source: Agarwal et al. 2021, section 4.3; `rliable.metrics.aggregate_iqm`.
    """
    runs = np.concatenate(scores, axis=-1)
    if len({each.shape[-1] for each in scores}) == 1:
        return np.asarray(stats.trim_mean(runs, TRIMMED, axis=-1))
    counts = [each.shape[-1] for each in scores]
    weights = np.concatenate([np.full(count, 1 / (len(scores) * count)) for count in counts])
    order = np.argsort(runs, axis=-1)
    ends = np.cumsum(weights[order], axis=-1)
    cut = math.floor(TRIMMED * runs.shape[-1]) / runs.shape[-1]
    starts = ends - weights[order]
    kept = np.clip(ends, cut, 1 - cut) - np.clip(starts, cut, 1 - cut)
    return (kept * np.take_along_axis(runs, order, axis=-1)).sum(axis=-1) / kept.sum(axis=-1)


def optimality_gap(scores: Scores) -> Array:
    """Return by how much scores are below 1, the score of the human: 1 - mean of min(x, 1).

    Lower is better. Source: Agarwal et al. 2021, section 4.3;
    `rliable.metrics.aggregate_optimality_gap`.
    """
    return 1 - mean([np.minimum(each, 1) for each in scores])


AGGREGATES: dict[str, Callable[[Scores], Array]] = {
    "iqm": iqm,
    "median": median,
    "mean": mean,
    "optimality_gap": optimality_gap,
}
OF_ONE_GAME = "mean"
"""The aggregate of a single game: the others describe how games differ."""


def names_of(games: int) -> tuple[str, ...]:
    """Return the names of the aggregates of this number of games, the most important first."""
    return tuple(AGGREGATES) if games > 1 else (OF_ONE_GAME,)


def aggregates(scores: Scores, repetitions: int = RESAMPLES) -> dict[str, Estimate]:
    """Return the aggregates of an entry's scores, a list of arrays [n_g].

    The intervals are percentiles of the stratified bootstrap: the runs of each game are resampled
    separately (Agarwal et al. 2021, section 4.1). For one game the interval is Student's t-interval
    of the mean, because that of the bootstrap is too narrow for few values.
    """
    names = names_of(len(scores))
    values = {name: float(AGGREGATES[name](scores)) for name in names}
    if not have_intervals(scores):
        return {name: Estimate(value, None) for name, value in values.items()}
    if len(scores) == 1:
        bounds = t_interval_of_mean(scores[0].tolist(), LEVEL)
        return {OF_ONE_GAME: Estimate(values[OF_ONE_GAME], bounds)}
    draws = resampled(scores, repetitions)
    return {name: Estimate(values[name], _percentiles(AGGREGATES[name](draws))) for name in names}


def differences(
    new: Scores, base: Scores, paired: Sequence[bool], repetitions: int = RESAMPLES
) -> dict[str, Difference]:
    """Return the aggregates of `new` minus those of `base`, lists of arrays [n_g].

    paired: for each game, whether run i of both has the same seed. If so, the bootstrap draws the
    same runs of both, otherwise independent ones.  For one game the interval is Student's t of the
    paired differences, or else Welch's.
    """
    values = {n: float(AGGREGATES[n](new) - AGGREGATES[n](base)) for n in names_of(len(new))}
    if not have_intervals(new) or not have_intervals(base):
        return {name: Difference(value, None, None) for name, value in values.items()}
    if len(new) == 1:
        interval, spread = _t_difference(new[0], base[0], paired[0])
        return {OF_ONE_GAME: Difference(values[OF_ONE_GAME], interval, spread)}
    rng = np.random.default_rng(0)
    new_draws, base_draws = [], []
    for ours, theirs, same in zip(new, base, paired, strict=True):
        picks = _picks(len(ours), repetitions, rng)
        new_draws.append(ours[picks])
        base_draws.append(theirs[picks if same else _picks(len(theirs), repetitions, rng)])
    # The harmonic mean of the numbers of runs; of n equal numbers it is that number.
    runs = 1 / np.mean([1 / len(each) for each in (*new, *base)])
    found = {}
    for name, value in values.items():
        gaps = AGGREGATES[name](new_draws) - AGGREGATES[name](base_draws)
        # The variance of resampled means of n values is (n - 1)/n of what it should be.
        spread = float(np.std(gaps) * runs / math.sqrt(runs - 1))
        found[name] = Difference(value, _percentiles(gaps), spread)
    return found


def probability_of_improvement(new: Scores, base: Scores, repetitions: int = RESAMPLES) -> Estimate:
    """Return the probability that a run of `new` beats one of `base`, with ties as 1/2.

    P = 1/G sum_g 1/(n_g m_g) sum_ij [x_gi > y_gj] + [x_gi = y_gj]/2, the statistic of Mann and
    Whitney. Runs of both are resampled independently of each other.
    Source: Agarwal et al. 2021, section 4.3; `rliable.metrics.probability_of_improvement`.
    """
    rng = np.random.default_rng(0)
    value, draws = 0.0, np.zeros(repetitions)
    for ours, theirs in zip(new, base, strict=True):
        wins = (np.sign(ours[:, None] - theirs) + 1) / 2
        value += wins.mean() / len(new)
        drawn = [_shares(len(each), repetitions, rng) for each in (ours, theirs)]
        draws += ((drawn[0] @ wins) * drawn[1]).sum(axis=1) / len(new)
    known = have_intervals(new) and have_intervals(base)
    return Estimate(float(value), _percentiles(draws) if known else None)


def performance_profile(
    scores: Scores, thresholds: Array, repetitions: int = BAND_RESAMPLES
) -> Band:
    """Return the part of runs with a score above each threshold [T], the mean over games.

    F(tau) = 1/G sum_g 1/n_g sum_i [x_gi > tau], the run-score distribution.
    Source: Agarwal et al. 2021, section 4.2; `rliable.library.create_performance_profile`.
    """
    rng = np.random.default_rng(0)
    above = [(each[:, None] > thresholds).astype(float) for each in scores]
    values = np.mean([each.mean(axis=0) for each in above], axis=0)
    if not have_intervals(scores):
        return Band(values, None, None)
    draws = np.zeros((repetitions, len(thresholds)))
    for each in above:
        draws += _shares(len(each), repetitions, rng) @ each / len(scores)
    return _band(values, draws)


def learning_curve(scores: Scores, repetitions: int = BAND_RESAMPLES) -> Band:
    """Return the IQM, or the mean where there is one game, at each of T points.

    scores: arrays [n_g, T], the scores of runs at common agent steps. Each repetition draws whole
    runs, the same ones at all points.  The band of one game is Student's t-interval.
    Source: Agarwal et al. 2021, section 4.1 (sample-efficiency curves).
    """
    at_points = [each.T for each in scores]  # [T, n_g]
    if len(scores) == 1:
        return _curve_of_one_game(at_points[0])
    values = iqm(at_points)
    if not have_intervals([each[0] for each in at_points]):
        return Band(values, None, None)
    rng = np.random.default_rng(0)
    picks = [_picks(len(each), repetitions, rng) for each in scores]
    draws = [
        iqm([each[point][pick] for each, pick in zip(at_points, picks, strict=True)])
        for point in range(len(values))
    ]
    return _band(values, np.stack(draws, axis=1))


def seeds_needed(effect: float, games: int = 1, paired: bool = True) -> int | None:
    """Return the seeds in each game that show a difference of this size in 80% of studies.

    effect: the difference divided by its standard deviation with one seed (`Difference.spread`).
    With n seeds the statistic of the t-test (two-sided, 5%) has the noncentral t-distribution. Its
    noncentrality is effect * sqrt(n); its degrees of freedom are G (n - 1) if paired, otherwise
    twice as many.  None if more than MOST_SEEDS are needed.
    Source: Cohen, Statistical Power Analysis, 1988, chapter 2.
    """
    seeds = np.arange(2, MOST_SEEDS + 1)
    freedom = games * (seeds - 1) * (1 if paired else 2)
    # Beyond 40 the power is 1, and the distribution is not accurate any more.
    shift = np.minimum(abs(effect) * np.sqrt(seeds), 40.0)
    bound = stats.t.ppf((1 + LEVEL) / 2, freedom)
    power = stats.nct.sf(bound, freedom, shift) + stats.nct.cdf(-bound, freedom, shift)
    enough = np.flatnonzero(~(power < POWER))
    return int(seeds[enough[0]]) if len(enough) else None


def plain(found: Estimate | Band) -> dict[str, Any]:
    """Return the fields as plain values for JSON; None for nan."""
    return {name: _plain(value) for name, value in found._asdict().items()}


def have_intervals(scores: Scores) -> bool:
    """Return whether every game has at least two runs, which an interval needs."""
    return min(each.shape[-1] for each in scores) > 1


def are_few(scores: Scores) -> bool:
    """Return whether the bootstrap's intervals of these scores are too narrow."""
    counts = [each.shape[-1] for each in scores]
    return sum(counts) < FEW_RUNS or min(counts) < FEW_SEEDS


def resampled(scores: Scores, repetitions: int = RESAMPLES) -> list[Array]:
    """Return runs drawn with replacement within each game, [R, n_g], always the same."""
    rng = np.random.default_rng(0)
    return [each[_picks(len(each), repetitions, rng)] for each in scores]


def _means(scores: Scores) -> list[Array]:
    return [each.mean(axis=-1) for each in scores]


def _picks(count: int, repetitions: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return indices of runs drawn with replacement, [R, n]."""
    return rng.integers(count, size=(repetitions, count))


def _shares(count: int, repetitions: int, rng: np.random.Generator) -> Array:
    """Return how often each of n runs is drawn, as a fraction of all draws, [R, n]."""
    picks = _picks(count, repetitions, rng) + count * np.arange(repetitions)[:, None]
    counts = np.bincount(picks.ravel(), minlength=repetitions * count)
    return counts.reshape(repetitions, count) / count


def _percentiles(draws: Array) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _band(values: Array, draws: Array) -> Band:
    """Return values [T] with the percentiles of draws [R, T]."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Band(values, low, high)


def _curve_of_one_game(scores: Array) -> Band:
    """Return the mean over runs, and Student's t-interval, of scores [T, n]."""
    values, runs = scores.mean(axis=1), scores.shape[1]
    if runs < 2:
        return Band(values, None, None)
    bound = stats.t.ppf((1 + LEVEL) / 2, runs - 1)
    half = bound * scores.std(axis=1, ddof=1) / math.sqrt(runs)
    return Band(values, values - half, values + half)


def _t_difference(new: Array, base: Array, paired: bool) -> tuple[tuple[float, float], float]:
    """Return the interval of the difference of two means, and its spread (see `Difference`)."""
    if paired:
        gaps = new - base
        return t_interval_of_mean(gaps.tolist(), LEVEL), float(np.std(gaps, ddof=1))
    spread = math.sqrt(np.var(new, ddof=1) + np.var(base, ddof=1))
    gap = float(np.mean(new) - np.mean(base))
    if spread == 0:
        return (gap, gap), 0.0
    bounds = stats.ttest_ind(new, base, equal_var=False).confidence_interval(LEVEL)
    return (float(bounds.low), float(bounds.high)), spread


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [None if math.isnan(each) else float(each) for each in value]
    return list(value) if isinstance(value, tuple) else value
