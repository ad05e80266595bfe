"""Statistics: intervals agree with printed tables of Student's t, and contain the mean in 95%."""

import numpy as np
import pytest

from ppo37.tools.stats import t_interval_of_mean


@pytest.mark.parametrize(
    ("degrees", "level", "printed"),
    [
        (1, 0.95, 12.7062),
        (2, 0.95, 4.3027),
        (3, 0.95, 3.1824),
        (4, 0.95, 2.7764),
        (9, 0.95, 2.2622),
        (30, 0.95, 2.0423),
        (120, 0.95, 1.9799),
        (9, 0.99, 3.2498),
        (4, 0.90, 2.1318),
    ],
)
def test_bounds_agree_with_printed_tables(degrees: int, level: float, printed: float) -> None:
    """For values whose mean has the standard error 1, the bound is Student's t."""
    values = np.linspace(-1, 1, degrees + 1)
    values /= values.std(ddof=1) / np.sqrt(len(values))
    assert t_interval_of_mean(values.tolist(), level) == pytest.approx(
        (-printed, printed), abs=6e-5
    )


def test_an_interval_computed_by_hand() -> None:
    # Mean 2, standard deviation 1 (ddof 1), 3 values: 2 +- 4.3027 / sqrt(3).
    low, high = t_interval_of_mean([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-4)
    assert t_interval_of_mean([4.0, 4.0]) == (4.0, 4.0)


def test_95_percent_of_the_intervals_of_three_values_contain_the_mean() -> None:
    draws = np.random.default_rng(0).normal(7, 2, size=(2000, 3))
    contain = [low <= 7 <= high for low, high in map(t_interval_of_mean, draws.tolist())]
    assert np.mean(contain) == pytest.approx(0.95, abs=0.015)
