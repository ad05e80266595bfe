"""Training with another function in the place of one of the package's."""

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ..loop import train
from ..session.checkpoint import fingerprint
from ..session.directory import find_checkpoint
from ..session.metrics import LAST_100, read_metrics
from .exercise import Exercise, Function
from .tasks import TASKS

OURS = __package__


class Trained(NamedTuple):
    """The result of a training.

    calls: how often the function was called.  steps, scores: the curve, agent steps and the mean
    score of the last 100 games after each update.  fingerprint: a hash of the final state.
    metrics: the logged values by tag, one for each update.
    """

    calls: int
    steps: list[int]
    scores: list[float]
    fingerprint: str
    metrics: dict[str, list[float | None]]


def train_with(
    exercise: Exercise, function: Function | None, out: Path, updates: int | None = None
) -> Trained:
    """Train the task of an exercise with a function in its place; None for the package's own.

    updates: fewer than the task has.
    """
    task = TASKS[exercise.task]
    config = task.make_config(dict(exercise.settings))
    if updates is not None:
        changes = {**exercise.settings, "total_timesteps": updates * config.batch_size}
        config = task.make_config(changes)
    calls = [0]
    with _in_place(exercise, function, calls):
        run = train(config, out, view=None, make_envs=task.make_envs).run
    log = read_metrics(run)
    records = [record for record in log if record[LAST_100] is not None]
    tags = [tag for tag in log[0] if "/" in tag]
    return Trained(
        calls[0],
        [record["agent_steps"] for record in records],
        [record[LAST_100] for record in records],
        fingerprint(find_checkpoint(run)[0]),
        {tag: [record[tag] for record in log] for tag in tags},
    )


@contextmanager
def _in_place(exercise: Exercise, function: Function | None, calls: list[int]) -> Iterator[None]:
    """Replace the package's function inside the block, wherever it was imported.

    calls: its first item counts the calls.
    """
    assert exercise.place is not None
    owner, name, adapt = exercise.place
    ours = getattr(owner, name)
    inside = ours if function is None else adapt(function)

    @functools.wraps(ours)
    def counted(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        return inside(*arguments, **named)

    places = [owner, *(_importers(ours, name) if isinstance(owner, ModuleType) else ())]
    for place in places:
        setattr(place, name, counted)
    try:
        yield
    finally:
        for place in places:
            setattr(place, name, ours)


def _importers(ours: Function, name: str) -> list[ModuleType]:
    """Return the modules of the package that have a function by this name, without the course."""
    package = __name__.partition(".")[0]
    return [
        module
        for path, module in list(sys.modules.items())
        if path.startswith(f"{package}.")
        and not path.startswith(f"{OURS}.")
        and getattr(module, name, None) is ours
    ]
