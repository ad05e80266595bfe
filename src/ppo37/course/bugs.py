"""Runs with a hidden mistake, for students to find by their curves and metrics."""

from typing import NamedTuple

from ..errors import RunError, UsageError
from .exercise import Exercise
from .exercises import EXERCISES
from .tasks import TASKS
from .trial import Trial, beside_the_package

METRICS = {
    "score of the last 100 games": "charts/episodic_return_last_100",
    "entropy": "losses/entropy",
    "approx_kl": "losses/approx_kl",
    "clipfrac": "losses/clipfrac",
    "explained_variance": "losses/explained_variance",
    "value_loss": "losses/value_loss",
    "learning_rate": "charts/learning_rate",
}
"""The metrics of a run that students see, by their tags."""
MOMENTS = (0.0, 0.25, 0.5, 1.0)
"""The parts of the training after which they see it."""


class Bug(NamedTuple):
    """A hidden mistake of a function. hints: questions that lead to it.  key: the explanation."""

    function: str
    mistake: str
    hints: tuple[str, ...]
    key: str

    @property
    def exercise(self) -> Exercise:
        """The exercise of the function."""
        return EXERCISES[self.function]


BUGS = (
    Bug(
        "value_targets",
        "only_values",
        (
            "Which number of the run with the bug does not change at all?",
            "explained_variance is 1 from the first update on. Who could predict returns perfectly "
            "before anything was learned?",
            "explained_variance compares values and targets. What must the targets be, if it is 1?",
        ),
        "The targets are the values themselves, without the advantages. So the value predicts its "
        "own prediction: explained_variance is 1, the value loss nearly 0, and nothing is learned "
        "about returns. The policy learns all the same, because in this game the rewards are near; "
        "elsewhere the missing value would cost much more. A number that is too good is a finding.",
    ),
    Bug(
        "linear",
        "upwards",
        (
            "Compare the first update of both runs.",
            "approx_kl and clipfrac are 0 in the first update: the policy did not move. Why?",
            "Look at the row learning_rate.",
        ),
        "The learning rate is annealed in the wrong direction: it begins at 0 and rises. The first "
        "update learns nothing, and at the end, where steps should be small, they are largest: "
        "approx_kl is 0.01 there, twenty times that of the healthy run.",
    ),
    Bug(
        "policy_loss",
        "sign",
        (
            "Does the score ever rise above that of random play?",
            "Look at the entropy after a quarter of the training: the policy is certain. Of what?",
            "Everything is learned well except that good actions become rarer. Where is the "
            "direction decided?",
        ),
        "The minus sign of the clipped objective is missing, so the objective is made small: "
        "actions that were better than expected become rarer. The policy becomes certain of bad "
        "actions (entropy near 0), and the score stays at that of random play or below.",
    ),
    Bug(
        "probability_ratio",
        "swapped",
        (
            "Is the score at the end better or worse than random play, which has 1.2?",
            "The entropy falls as in a healthy run, but the wrong actions become likelier, and "
            "steps are small. What gives a gradient its direction?",
            "At the first gradient step the ratio is 1 in any case. What is its gradient, if the "
            "quotient is turned around?",
        ),
        "The ratio is old by new instead of new by old. It is 1 at first, which looks right, but "
        "its gradient has the other sign: what should become likelier becomes rarer. Unlike with a "
        "missing minus sign, the clip works against it, so it is slower.",
    ),
    Bug(
        "sample",
        "greedy",
        (
            "Which number differs most at the end, although the scores are similar?",
            "The entropy stays near 0.93, where the healthy run has 0.5. The score is good, though "
            "the policy seems undecided.",
            "How can an agent play well with an undecided policy? Who decides?",
        ),
        "The most likely action is always taken, instead of a sampled one. The policy need not "
        "become certain to play well, so its entropy stays high; other actions are never tried. "
        "In this small game it gets through; in larger ones it finds nothing new.",
    ),
)


class Clue(NamedTuple):
    """The evidence of a bug: numbers of each metric for both runs, and the curves."""

    rows: dict[str, tuple[list[float | None], list[float | None]]]
    trial: Trial


def find_bug(text: str) -> tuple[int, Bug]:
    """Return the number and the bug that a text names; UsageError if it names none."""
    if not text.isdecimal() or not 1 <= int(text) <= len(BUGS):
        raise UsageError(f"there are bugs 1 to {len(BUGS)}, not {text[:20]!r}")
    return int(text), BUGS[int(text) - 1]


def investigate(bug: Bug) -> Clue:
    """Train with the hidden mistake, and beside it without."""
    broken, healthy = beside_the_package(bug.exercise, None, bug.mistake)
    if "error" in broken:
        raise RunError(f"the training failed: {broken['error']}")
    rows = {
        name: (_moments(broken["metrics"][tag]), _moments(healthy["metrics"][tag]))
        for name, tag in METRICS.items()
    }
    trial = Trial(
        TASKS[bug.exercise.task],
        steps=healthy["steps"],
        theirs=broken["scores"],
        ours=healthy["scores"],
    )
    return Clue(rows, trial)


def _moments(values: list[float | None]) -> list[float | None]:
    """Return the values at the moments that are shown."""
    return [values[round(part * (len(values) - 1))] for part in MOMENTS]
