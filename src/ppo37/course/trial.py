"""Training with a student's function beside the package's own, and a chart of both."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from ..backends.device import usable_cores
from ..errors import RunError
from .examiner import TRAIN_S, Verdict, started_job
from .exercise import Exercise
from .tasks import TASKS, Task

COLUMNS, ROWS = 60, 10
BOTH, THEIRS, OURS = "@", "o", "."


class Trial(NamedTuple):
    """The results of training with a function and with the package's own.

    error: why the function could not be used; then the rest is empty.  calls: how often it was
    called.  other_changes: whether a wrong function in its place gives other weights.
    """

    task: Task
    error: str = ""
    calls: int = 0
    other_changes: bool = False
    steps: list[int] = []  # noqa: RUF012 (never changed)
    theirs: list[float] = []  # noqa: RUF012
    ours: list[float] = []  # noqa: RUF012

    @property
    def learned(self) -> bool:
        """Whether the score is nearer to the highest one than to that of random play."""
        return bool(self.theirs) and self.theirs[-1] > (self.task.random + self.task.best) / 2.0


def try_out(verdict: Verdict) -> Trial:
    """Train the task of an exercise with the function in a file, and with the package's own."""
    task = TASKS[verdict.exercise.task]
    theirs, ours = beside_the_package(verdict.exercise, verdict.file)
    if "error" in theirs:
        return Trial(task, theirs["error"])
    return Trial(
        task,
        "",
        theirs["calls"],
        theirs["other_changes"],
        ours["steps"],
        theirs["scores"],
        ours["scores"],
    )


def beside_the_package(
    exercise: Exercise, file: Path | None, mistake: str = ""
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train with the function in a file, or with a mistake, and beside it with the package's own.

    Returns both results; if the first one has `error`, the other training was ended, and its result
    is empty. Both run side by side where there are two cores. RunError if the second one fails.
    """
    with ExitStack() as stack:
        jobs = []
        for what in ((file, mistake), (None, "")):
            job = started_job(exercise, "train", what[0], TRAIN_S, what[1])
            jobs.append(stack.enter_context(job))
            if usable_cores() == 1:
                jobs[-1].result()  # one after the other
        first = jobs[0].result()
        if "error" in first:
            return first, {}
        second = jobs[1].result()
    if "error" in second:
        raise RunError(f"training with the package's own function failed: {second['error']}")
    return first, second


def chart(trial: Trial, theirs: str = "yours", ours: str = "the package's") -> str:
    """Draw both curves as text: `o` and `.`, and `@` where they are equal.

    theirs, ours: their names.
    """
    curves = {THEIRS: trial.theirs, OURS: trial.ours}
    scores = [score for curve in curves.values() for score in curve]
    low, high = min([trial.task.random, *scores]), max([trial.task.best, *scores])
    grid = [[" "] * COLUMNS for _ in range(ROWS)]
    for sign, curve in curves.items():
        for column in range(COLUMNS if curve else 0):
            score = curve[round(column * (len(curve) - 1) / (COLUMNS - 1))]
            row = round((high - score) / ((high - low) or 1.0) * (ROWS - 1))
            grid[row][column] = sign if grid[row][column] == " " else BOTH
    width = max(len(f"{bound:g}") for bound in (low, high))
    labels = [f"{high:g}", *[""] * (ROWS - 2), f"{low:g}"]
    lines = [
        f"{label:>{width}} |{''.join(cells)}".rstrip()
        for label, cells in zip(labels, grid, strict=True)
    ]
    end = f"{trial.steps[-1]:,} agent steps"
    lines += [f"{'':{width}} +{'-' * COLUMNS}", f"{'':{width}}  0{end:>{COLUMNS - 1}}"]
    return "\n".join([*lines, f"{THEIRS} {theirs}   {OURS} {ours}   {BOTH} both"])
