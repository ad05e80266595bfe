"""Make the numbers of `rliable` that the tests compare `suites/aggregate.py` with.

    python benchmarks/rliable_numbers.py tests/data/rliable.json           write them
    python benchmarks/rliable_numbers.py tests/data/rliable.json --check   make and compare them

rliable 1.2.0 needs an environment of its own, with pandas<3: `make test-rliable` makes it and
checks the file. Writing it takes half an hour.

Intervals are random. So the file has three of each, from the same draws: that of 95%, a smaller and
a larger one. If another program draws as many samples from the same distribution, its percentiles
lie between the bounds of the smaller and the larger interval, except by chance: the part of samples
below a percentile p has the standard deviation sqrt(p (1 - p) / repetitions) in each program, and
the two intervals are `DEVIATIONS` standard deviations of the difference away.
"""

import json
import math
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.random import RandomState
from rliable import library, metrics

REPETITIONS, CHECKED_REPETITIONS = 50_000, 2_000
DEVIATIONS, SEED, TAIL = 4.0, 37, 0.025
AGGREGATES = {
    "iqm": metrics.aggregate_iqm,
    "median": metrics.aggregate_median,
    "mean": metrics.aggregate_mean,
    "optimality_gap": metrics.aggregate_optimality_gap,
}
LIMITS = ("outer", "inner")
THRESHOLDS = np.linspace(-0.5, 3.0, 15)


def make_scores() -> dict[str, dict[str, np.ndarray]]:
    """Return studies of two entries, each with scores [runs, games]."""
    rng = np.random.default_rng(SEED)
    level = rng.gamma(2.0, 0.5, size=4)
    ten = {name: rng.normal(level * gain, 0.3, (10, 4)) for name, gain in (("a", 1), ("b", 1.2))}
    three = {name: rng.lognormal(shift, 0.6, (3, 3)) for name, shift in (("a", -0.4), ("b", 0))}
    # Scores with ties, within an entry and between both; the last game is the same in both.
    tied = {name: rng.integers(0, 5, (7, 3)) / 4 for name in ("a", "b")}
    tied["b"][:, -1] = tied["a"][:, -1]
    uneven = {"a": ten["a"][:6, :3], "b": ten["b"][:9, :3]}  # more runs of one entry
    return {"ten_runs": ten, "three_runs": three, "ties": tied, "uneven": uneven}


def levels(repetitions: int) -> dict[str, float]:
    """Return the levels of the three intervals."""
    margin = DEVIATIONS * math.sqrt(TAIL * (1 - TAIL) * (1 / repetitions + 1 / REPETITIONS))
    return {
        "interval": 1 - 2 * TAIL,
        "inner": 1 - 2 * (TAIL + margin),
        "outer": 1 - 2 * (TAIL - margin),
    }


def intervals(bootstrap, function, repetitions: int) -> dict[str, list[list[float]]]:
    """Return the three intervals of a function of scores, [low or high][value].

    It is what `library.get_interval_estimates` does, with the same draws for all levels.
    """
    return {
        name: bootstrap.conf_int(
            function, reps=repetitions, size=level, method="percentile", reuse=name != "interval"
        ).tolist()
        for name, level in levels(repetitions).items()
    }


def numbers_of(study: dict[str, np.ndarray], repetitions: int) -> dict:
    """Return all that rliable computes for a study."""

    def aggregates(scores: np.ndarray) -> np.ndarray:
        return np.array([function(scores) for function in AGGREGATES.values()])

    def improvement(new: np.ndarray, base: np.ndarray) -> np.ndarray:
        return np.array([metrics.probability_of_improvement(new, base)])

    def profile(scores: np.ndarray) -> np.ndarray:
        return library.score_distributions(scores, THRESHOLDS)

    def bootstrap(scores: np.ndarray) -> library.StratifiedBootstrap:
        return library.StratifiedBootstrap(scores, random_state=RandomState(SEED))

    return {
        "scores": {name: scores.T.tolist() for name, scores in study.items()},
        "aggregates": {
            name: {
                "values": dict(zip(AGGREGATES, aggregates(scores).tolist(), strict=True)),
                "bounds": intervals(bootstrap(scores), aggregates, repetitions),
            }
            for name, scores in study.items()
        },
        "improvement": {
            "value": metrics.probability_of_improvement(study["b"], study["a"]),
            "bounds": intervals(
                library.StratifiedIndependentBootstrap(
                    study["b"], study["a"], random_state=RandomState(SEED)
                ),
                improvement,
                repetitions,
            ),
        },
        "profiles": {
            name: {
                "values": profile(scores).tolist(),
                "bounds": intervals(bootstrap(scores), profile, repetitions),
            }
            for name, scores in study.items()
        },
    }


def make(repetitions: int) -> dict:
    """Return all numbers, with the versions of the packages that made them."""
    packages = ("rliable", "arch", "numpy", "scipy", "pandas")
    return {
        "made_by": "benchmarks/rliable_numbers.py",
        "versions": {name: version(name) for name in packages},
        "repetitions": repetitions,
        "levels": levels(repetitions),
        "thresholds": THRESHOLDS.tolist(),
        "studies": {name: numbers_of(study, repetitions) for name, study in make_scores().items()},
    }


def leaves(value, path: str = ""):
    """Yield the path and the value of each number in a document."""
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in items:
            yield from leaves(part, f"{path}/{key}")
    elif isinstance(value, (int, float)):
        yield path, value


def check(path: Path) -> None:
    """Make the numbers again and compare them with those in a file; exit with 1 if they differ.

    Values must be equal. The intervals, of fewer repetitions, are compared as the tests do.
    """
    made = dict(leaves(make(CHECKED_REPETITIONS)["studies"]))
    known = dict(leaves(json.loads(path.read_text())["studies"]))
    if made.keys() != known.keys():
        sys.exit(f"{path} has other numbers than are made now")
    values = max(abs(made[name] - known[name]) for name in made if "/bounds/" not in name)
    bounds = [name for name in made if "/interval/" in name]
    outside = []
    for name in bounds:
        outer, inner = (made[name.replace("/interval/", f"/{kind}/")] for kind in LIMITS)
        if not min(outer, inner) - 1e-12 <= known[name] <= max(outer, inner) + 1e-12:
            outside.append(name)
    print(f"{len(made)} numbers: values differ by at most {values:.1e}, {len(bounds)} bounds agree")
    if values > 1e-12 or outside:
        sys.exit(f"{path} differs from what rliable computes now: {', '.join(outside)}")


if __name__ == "__main__":
    warnings.simplefilter("ignore", FutureWarning)  # of a package that rliable uses
    file = Path(sys.argv[1])
    if "--check" in sys.argv:
        check(file)
    else:
        file.write_text(json.dumps(make(REPETITIONS)) + "\n")
