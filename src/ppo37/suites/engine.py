"""Training of the runs of an ablation study, each by a command in a process of its own."""

import json
import os
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..backends.device import usable_cores
from ..config import arguments_of, brought_flags
from ..errors import UsageError
from ..session import directory
from ..session.signals import Signals
from ..session.view import duration
from ..tools.processes import POLL_S, Child, start
from .ablation_arms import Run, Study
from .ablation_results import Result, measure, write_results

REPORT_EVERY_S = 60.0


class Job(NamedTuple):
    """A run in training, its process, and the cores that it uses."""

    run: Run
    child: Child
    cores: list[int]


def shares_of_cores(jobs: int) -> list[list[int]]:
    """Return the cores of each of `jobs` runs at once; an empty list stands for all cores."""
    if jobs < 1:
        raise UsageError(f"--jobs must be at least 1, not {jobs}")
    if jobs == 1:
        return [[]]
    if not hasattr(os, "sched_setaffinity"):
        raise UsageError("this system cannot tie runs to cores: leave --jobs at 1")
    if jobs > usable_cores():
        raise UsageError(f"--jobs must be at most {usable_cores()}, the cores here, not {jobs}")
    return [share.tolist() for share in np.array_split(sorted(os.sched_getaffinity(0)), jobs)]


def is_finished(run: Run) -> bool:
    """Return whether a run has finished; False if it was stopped or its summary is damaged."""
    try:
        return bool(json.loads((run.path / directory.SUMMARY).read_text())["finished"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def train_all(
    study: Study,
    results: dict[str, Result],
    shares: list[list[int]],
    signals: Signals,
    log: Callable[[str], None],
) -> list[str]:
    """Train every run that has no result, one at a time on each share of the cores.

    Returns a message for each run that failed. A failure does not stop the others: a run may
    diverge because of the detail that it lacks.
    """
    waiting = [run for run in study.runs if run.name not in results]
    free, active, failures = list(shares), list[Job](), list[str]()
    reporter = ProgressReporter(study, log)
    try:
        while waiting or active:
            signals.check()
            while waiting and free:
                active.append(_start(waiting.pop(0), free.pop(0), log))
            for job in [job for job in active if job.child.process.poll() is not None]:
                active.remove(job)
                free.append(job.cores)
                failures += _finish(job, results, log)
                write_results(study, results)
            reporter.report([job.run for job in active])
            time.sleep(POLL_S)
    finally:
        for job in active:
            job.child.process.terminate()  # it leaves a checkpoint
        for job in active:
            job.child.close()
    return failures


def _start(run: Run, cores: list[int], log: Callable[[str], None]) -> Job:
    """Start or resume a run in a process."""
    if directory.is_run(run.path):
        log(f"resuming {run.name}")
        command = ("resume", str(run.path), *brought_flags(run.config))
        return Job(run, start(*command, cores=cores), cores)
    log(f"starting {run.name}")
    args = ("train", *arguments_of(run.config), "--out", str(run.path))
    return Job(run, start(*args, cores=cores), cores)


def _finish(job: Job, results: dict[str, Result], log: Callable[[str], None]) -> list[str]:
    """Add the result of a run whose process has ended, or return its error message in a list."""
    name = job.run.name
    error = job.child.stderr_tail()
    job.child.close()
    if job.child.process.returncode != 0 or not is_finished(job.run):
        log(f"{name} failed: {error}")
        return [f"{name}: {error}"]
    result = results[name] = measure(job.run)
    score = "no game ended late" if result.score is None else f"score {result.score:.2f}"
    log(f"{name} finished after {duration(result.wall_s)}: {score}")
    return []


class ProgressReporter:
    """A log of how much of a study is trained, with a line every minute."""

    def __init__(self, study: Study, log: Callable[[str], None]) -> None:
        self._study, self._log = study, log
        self._start_s = self._last_s = time.monotonic()
        self._updates_at_start = self._updates()

    def report(self, active: list[Run]) -> None:
        """Log the progress if runs are active and the last line is old enough."""
        now = time.monotonic()
        if not active or now - self._last_s < REPORT_EVERY_S:
            return
        self._last_s = now
        done, total = self._updates(), sum(run.config.num_updates for run in self._study.runs)
        shares = [f"{run.name} {_updates(run) / run.config.num_updates:.0%}" for run in active]
        pace = (done - self._updates_at_start) / (now - self._start_s)
        left = f", about {duration((total - done) / pace)} left" if pace else ""
        self._log(f"{', '.join(shares)}; {done / total:.0%} of all{left}")

    def _updates(self) -> int:
        return sum(_updates(run) for run in self._study.runs)


def _updates(run: Run) -> int:
    """Return the number of updates that a run has logged."""
    try:
        return (run.path / directory.METRICS).read_bytes().count(b"\n")
    except OSError:
        return 0
