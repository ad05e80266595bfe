"""The engine that trains many runs: it trains each by a command in a process of its own.

A run directory has the whole state of its run. So the same command after a kill, or another
machine that has the directory, can continue.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..backends.device import cores_of_process, gpu_memory_bytes, usable_cores
from ..config import Config, arguments_of, brought_flags
from ..errors import RunError, Stopped, UsageError
from ..session import directory
from ..session.checkpoint_format import Damaged
from ..session.metrics import last_record
from ..session.signals import Signals
from ..session.view import duration
from ..tools.callbacks import score_text, stopped_by
from ..tools.processes import ENDED_BY, POLL_S, Child, start

REPORT_EVERY_S = 60.0
HELD_POLL_S = 1.0
"""Between two looks at runs that other processes train: each look locks a file for an instant."""
GPU_BYTES_OF_RUN = 8 * 2**30
"""GPU memory for each run: 1.2 GB were measured for `classic`, 7 GB for `impala` with 64 games."""
STOPPED = "it was stopped by a signal"
STOPPING = "stopping: the active runs save checkpoints"


class Run(NamedTuple):
    """The settings of a run, and its run directory, which need not exist yet.

    until: the score at which its training stops, see `Until`; None if it has none.
    """

    config: Config
    path: Path
    until: float | None = None

    @property
    def name(self) -> str:
        """The name of its run directory."""
        return self.path.name

    @property
    def is_finished(self) -> bool:
        """Whether it has finished or reached `until`; False if its summary is damaged."""
        try:
            summary = directory.read_summary(self.path)
            return bool(summary["finished"]) or self.stopped_at_score(summary)
        except (Damaged, KeyError, UsageError):
            return False

    def stopped_at_score(self, summary: dict[str, Any]) -> bool:
        """Return whether `summary.json` says that the run was stopped at `until`."""
        return self.until is not None and summary.get("stopped_by") == stopped_by(self.until)

    @property
    def updates(self) -> int:
        """The updates that it has logged."""
        record = last_record(self.path)
        return 0 if record is None else int(record["update"])


class Grid(NamedTuple):
    """Every arm with every seed, in the directory `path`; an arm is a configuration with a name.

    until: see `Run`.
    """

    path: Path
    arms: dict[str, Config]
    seeds: list[int]
    until: float | None = None

    @property
    def runs(self) -> list[Run]:
        """All runs, one seed after the other, so that arms can be compared before the last seed."""
        return [self.run(arm, seed) for seed in self.seeds for arm in self.arms]

    def run(self, arm: str, seed: int) -> Run:
        """Return the run of an arm and a seed."""
        config = dataclasses.replace(self.arms[arm], seed=seed)
        return Run(config, self.path / f"{arm}__s{seed}", self.until)


class Command(NamedTuple):
    """The arguments of `ppo37`; source: the folder of another version to run, None for this one."""

    arguments: list[str]
    source: Path | None = None


class Pool(Protocol):
    """The places where runs are trained, each with one run at a time."""

    places: int
    """The number of runs that can be trained at the same time."""
    text: str
    """The number of places and their cores, for the user."""
    active: list[Run]

    def start(self, run: Run) -> None:
        """Begin or resume a run, in a free place."""

    def ended(self) -> list[tuple[Run, str]]:
        """Return the runs that have ended since the last call, with an error or an empty text."""

    def close(self) -> None:
        """Stop the active runs; they leave checkpoints."""


class Processes:
    """A pool of processes on this machine, each on its share of the cores."""

    def __init__(self, shares: list[list[int]], command: Callable[[Run], Command]) -> None:
        """Make the places. shares: of the cores, see `shares_of_cores`."""
        self.places, cores = len(shares), usable_cores()
        own = cores // self.places
        each = "one core" if own == 1 else f"{own} cores"
        self.text = f"{self.places} at once on {each} each (--jobs changes that)"
        if self.places == 1:
            self.text = f"one after the other on {cores} core{'s' if cores > 1 else ''}"
        self.active = list[Run]()
        self._free, self._children = list(shares), list[tuple[Run, Child, list[int]]]()
        self._command = command

    def start(self, run: Run) -> None:
        cores = self._free.pop(0)
        command = self._command(run)
        child = start(*command.arguments, cores=cores, source=command.source)
        self.active.append(run)
        self._children.append((run, child, cores))

    def ended(self) -> list[tuple[Run, str]]:
        found = []
        for each in [each for each in self._children if each[1].process.poll() is not None]:
            run, child, cores = each
            found.append((run, _error_of(run, child)))
            child.close()
            self._children.remove(each)
            self.active.remove(run)
            self._free.append(cores)
        return found

    def close(self) -> None:
        for _, child, _ in self._children:
            child.process.terminate()
        while self._children:
            self._children.pop()[1].close()


def _error_of(run: Run, child: Child) -> str:
    """Return the reason why a run has not finished; an empty text if it has."""
    code = child.process.returncode
    if code == 0 and run.is_finished:
        return ""
    return STOPPED if code > 128 else child.stderr_tail()


def ended_by_signal(error: str | None) -> bool:
    """Return whether the error of a run says that a signal has ended it, not the run itself."""
    return error is not None and error.startswith((STOPPED, ENDED_BY))


def command_of(run: Run, more: Sequence[str] = (), first: Sequence[str] = ()) -> Command:
    """Return the command that begins a run or resumes it.

    more: options of `ppo37 train` and `resume`.  first: those of `train` only.
    """
    more = [*more, *([] if run.until is None else [f"--until={score_text(run.until)}"])]
    if directory.is_run(run.path):
        return Command(["resume", str(run.path), *brought_flags(run.config), *more])
    return Command(["train", *arguments_of(run.config), "--out", str(run.path), *first, *more])


def train_all(
    runs: Sequence[Run],
    pool: Pool,
    finished: Callable[[Run], str],
    signals: Signals,
    log: Callable[[str], None],
) -> dict[str, str]:
    """Train every run that has not finished.

    finished: called after each run that has finished; returns its result in words.
    Returns the error of each run that failed, by its name. A failure does not stop the others: a
    run may diverge because of its settings.  Stopped after a signal, with checkpoints of the active
    runs.
    """
    waiting = [run for run in runs if not run.is_finished]
    failures, held = dict[str, str](), False
    progress = Progress(runs, pool, log)
    while waiting or pool.active:
        signals.check()
        for done, error in pool.ended():
            if error and directory.is_locked(done.path):
                waiting.append(done)  # another process was a little earlier
            elif error and not done.is_finished:
                failures[done.name] = error
                log(f"{done.name} failed: {error}")
            else:
                log(f"{done.name} finished: {finished(done)}")
        while len(pool.active) < pool.places and (run := _first_free(waiting)):
            waiting.remove(run)
            if run.is_finished:  # by the process that had it locked
                continue
            log(f"{'resuming' if directory.is_run(run.path) else 'starting'} {run.name}")
            pool.start(run)
        if waiting and not pool.active and not held:
            held = True
            log(f"waiting for {waiting[0].name}, which another process trains")
        progress.report(waiting)
        time.sleep(HELD_POLL_S if waiting and not pool.active else POLL_S)
    return failures


def require_none(failures: dict[str, str], number: int, results: Path) -> None:
    """Raise RunError if some of `number` runs failed.  results: where those of the others are."""
    if failures:
        name, error = next(iter(failures.items()))
        raise RunError(
            f"{len(failures)} of {number} runs failed, the first is {name}: {error}; {results} has "
            "the results of the others"
        )


@contextmanager
def resumable(path: Path, log: Callable[[str], None]) -> Iterator[None]:
    """Say how to continue if a signal stops the block, which trains runs in `path`."""
    try:
        yield
    except Stopped:
        log(f"to resume, repeat the command with --out {path}")
        raise


def _first_free(waiting: Iterable[Run]) -> Run | None:
    """Return the first run that no other process trains: a killed command may leave processes."""
    return next((run for run in waiting if not directory.is_locked(run.path)), None)


def shares_of_cores(jobs: int) -> list[list[int]]:
    """Return the cores of each of `jobs` runs at once; an empty list stands for all cores."""
    if jobs < 1:
        raise UsageError(f"--jobs must be at least 1, not {jobs}")
    if jobs == 1:
        return [[]]
    if not can_pin():
        raise UsageError("this system cannot tie runs to cores: leave --jobs at 1")
    if jobs > usable_cores():
        raise UsageError(f"--jobs must be at most {usable_cores()}, the cores here, not {jobs}")
    return [share.tolist() for share in np.array_split(sorted(cores_of_process()), jobs)]


def fastest_jobs(runs: int, device: str, threads: int = 1) -> int:
    """Return the number of runs at once with which all of `runs` are finished first.

    This is one for each core; on a GPU also as many as fit into its memory (docs/performance.md,
    "Beside other work" and "On a GPU").  threads: of each run, which needs as many cores.
    """
    most = min(runs, usable_cores() // threads) if can_pin() else 1
    if device == "cuda":
        most = min(most, gpu_memory_bytes() // GPU_BYTES_OF_RUN)
    return max(1, most)


def can_pin() -> bool:
    """Return whether this system can tie processes to cores."""
    return hasattr(os, "sched_setaffinity")


class Progress:
    """A log of how much of all runs is trained, with a line every minute."""

    def __init__(self, runs: Sequence[Run], pool: Pool, log: Callable[[str], None]) -> None:
        self._runs, self._pool, self._log = runs, pool, log
        self._last_s = time.monotonic()

    def report(self, waiting: Sequence[Run]) -> None:
        """Log the progress if runs are active and the last line is old enough."""
        now, active = time.monotonic(), self._pool.active
        if not active or now - self._last_s < REPORT_EVERY_S:
            return
        self._last_s = now
        updates = {run.name: run.updates for run in self._runs}
        done, total = sum(updates.values()), sum(run.config.num_updates for run in self._runs)
        shares = [f"{run.name} {updates[run.name] / run.config.num_updates:.0%}" for run in active]
        left_s = time_left([*active, *waiting], self._runs, self._pool.places)
        bound = "about" if self._runs[0].until is None else "at most"
        left = "" if left_s is None else f", {bound} {duration(left_s)} left"
        self._log(f"{', '.join(shares)}; {done / total:.0%} of all updates{left}")


def time_left(unfinished: Sequence[Run], runs: Sequence[Run], places: int) -> float | None:
    """Estimate the seconds until all unfinished runs have finished; None without any update yet.

    unfinished: the active runs first, then the others in their order.  The time of an agent step is
    that in the run's own log, or else the mean of runs with the same settings, or else the mean of
    all runs. Each waiting run takes the first place that becomes free.
    """
    records = {run.name: last_record(run.path) for run in runs}
    step_s = {
        run.name: float(record["wall_s"]) / (record["update"] * run.config.batch_size)
        for run in runs
        if (record := records[run.name]) is not None
    }
    if not step_s:
        return None
    by_settings: dict[Config, list[float]] = {}
    for run in runs:
        if run.name in step_s:
            by_settings.setdefault(_any_seed(run), []).append(step_s[run.name])
    ends = [0.0] * places
    for run in unfinished:
        alike = by_settings.get(_any_seed(run), list(step_s.values()))
        pace = step_s.get(run.name, float(np.mean(alike)))
        record = records[run.name]
        done = 0 if record is None else record["update"]
        left = (run.config.num_updates - done) * run.config.batch_size * pace
        ends[int(np.argmin(ends))] += left
    return max(ends)


def _any_seed(run: Run) -> Config:
    return dataclasses.replace(run.config, seed=0)
