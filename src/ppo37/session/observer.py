"""Observers: objects that log a run, show it, evaluate its agent or stop it.

Log writers (`loggers/`), views (`view.py`) and callbacks (`tools/callbacks.py`) are observers.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from ..build import Brought
from ..config import Config
from ..errors import RunError, Stopped, UsageError
from ..networks.agent import Agent
from .checkpoint import KEPT
from .directory import SUMMARY
from .files import one_line, to_json

OF_SUMMARY = {"finished", "agent_steps", "wall_s", "games", "last_100_mean", "stopped_by"}
OF_SUMMARY |= {"frames", "callbacks_s", "exact"}
"""The keys of `summary.json` that results of observers must not have."""


class RunStart(NamedTuple):
    """A run before the first update of this session, and functions for observers.

    update, agent_steps: those made so far, 0 in a new run.  reason: why the precision was chosen,
    or where the run resumes.  expected_s: seconds that the run will take; None if not known.
    brought: the user's own environments, network and extras.
    """

    path: Path
    config: Config
    agent: Agent
    update: int
    agent_steps: int
    reason: str
    expected_s: float | None
    brought: Brought
    note: Callable[[str], None]
    """Show a line to the user."""
    log_evaluation: Callable[[dict[str, Any]], None]
    """Give a record to `evaluation` of every observer. It has `update`, `agent_steps`, and numbers
    under names with a slash, such as `eval/episodic_return`."""
    save_agent: Callable[..., Path]
    """save_agent(folder, **more): write the agent as it is now, in the format of checkpoints, as a
    folder that `evaluate` and `record` read. more: values to add to its `state.json`."""


class Progress(NamedTuple):
    """A run after an update.

    record: the line of `metrics.jsonl`.  games: the number of games that have ended so far.
    seconds: time spent in each part of this session, see `Clock`.  finished: whether this was the
    last update.
    """

    record: dict[str, Any]
    config: Config
    agent: Agent
    games: int
    seconds: dict[str, float]
    finished: bool


class Observer:
    """An observer that does nothing; a class of your own overrides some of the methods.

    Observers are called on rank 0 only. They read the agent and the settings, and may stop the run,
    but never change it: with and without them, a run has the same fingerprint.
    """

    def check(self, config: Config, brought: Brought) -> None:
        """Raise UsageError for a run that cannot be observed; called before a file is written."""

    def start(self, run: RunStart) -> str | None:
        """Begin. Called once for each call of `train` or `resume`, before its first update.

        Return a short reason to make no update at all, else None.
        """

    def update(self, progress: Progress) -> str | None:
        """Observe an update. Return a short reason to stop training after it, else None."""

    def evaluation(self, record: dict[str, Any]) -> None:
        """Observe an evaluation, see `RunStart.log_evaluation`."""

    def note(self, text: str) -> None:
        """Show a line that must not be missed."""

    def sync(self) -> None:
        """Wait until what was logged is on the disk; called before each checkpoint is saved."""

    def finish(self) -> dict[str, Any] | None:
        """Finish. Called after the last update, unless a signal or an error has ended the run.

        Returns values for `summary.json` by names of your own, as JSON has them; or None.
        """

    def close(self) -> None:
        """Release files and other resources; called once, also after an error."""


ViewOption = Observer | Literal["auto"] | None
Callbacks = Sequence[Observer]


class SessionOptions(NamedTuple):
    """Arguments of `train` and `resume` that never change the result."""

    checkpoint_every: int | None = None
    keep: int = KEPT
    view: ViewOption = "auto"
    callbacks: Callbacks = ()

    def check(self) -> None:
        """Raise UsageError for values that are not valid."""
        for name in ("checkpoint_every", "keep"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise UsageError(f"{name} must be a whole number of at least 1, not {value!r}")
        if not isinstance(self.callbacks, list | tuple):
            raise UsageError(f"callbacks must be a list of observers, not {self.callbacks!r}")
        views = [] if self.view in (None, "auto") else [self.view]
        for observer in (*views, *self.callbacks):
            if not isinstance(observer, Observer):
                name = getattr(observer, "__name__", repr(observer))
                hint = f"; make an object of it: {name}()" if isinstance(observer, type) else ""
                raise UsageError(f"{name} is not an object of a class of ppo37.Observer{hint}")


class Observers(Observer):
    """Several observers as one.

    RunError that names the observer if it raises an exception or changes the agent. Changes of
    PyTorch's number of threads, gradient mode and default type are undone.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers
        self._agent: Agent | None = None

    def check(self, config: Config, brought: Brought) -> None:
        self._call_all("check", config, brought)

    def start(self, run: RunStart) -> str | None:
        """Call all observers. Returns the first reason to stop, here and in `update`."""
        self._agent = run.agent
        return _first(self._call_all("start", run))

    def update(self, progress: Progress) -> str | None:
        return _first(self._call_all("update", progress))

    def evaluation(self, record: dict[str, Any]) -> None:
        self._call_all("evaluation", record)

    def note(self, text: str) -> None:
        self._call_all("note", text)

    def sync(self) -> None:
        self._call_all("sync")

    def finish(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for observer in self._observers:
            results = self._call(observer, "finish")
            fault = None if results is None else _fault_of(results)
            if fault is not None:
                raise _Failed(f"the callback {type(observer).__name__}.finish returned {fault}")
            found |= results or {}
        return found

    def close(self) -> None:
        self._call_all("close")

    def _call_all(self, name: str, *arguments: Any) -> list[Any]:
        """Call a method of each observer. Returns the results."""
        return [self._call(observer, name, *arguments) for observer in self._observers]

    def _call(self, observer: Observer, name: str, *arguments: Any) -> Any:
        """Call a method of an observer; RunError for an exception other than a stop.

        In `check` and `start` a UsageError stays one.
        """
        before, threads = self._marks(), torch.get_num_threads()
        grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
        try:
            result = self._call_once(observer, name, *arguments)
        finally:
            torch.set_grad_enabled(grad)
            torch.set_default_dtype(dtype)
            if torch.get_num_threads() != threads:  # an evaluation sets it to 1
                torch.set_num_threads(threads)
        if self._marks() != before:
            raise _Failed(
                f"the callback {type(observer).__name__}.{name} has changed the agent, which is "
                "not allowed"
            )
        return result

    def _call_once(self, observer: Observer, name: str, *arguments: Any) -> Any:
        method = getattr(observer, name)
        if not callable(method):  # an older view, which has another attribute `start`
            method = getattr(type(observer), name).__get__(observer)
        try:
            return method(*arguments)
        except (Stopped, _Failed):
            raise
        except (Exception, SystemExit) as error:
            if isinstance(error, UsageError) and name in ("check", "start"):
                raise
            ours = isinstance(error, RunError | UsageError)
            what = str(error) if ours else f"{type(error).__name__}: {error}"
            raise _Failed(
                f"the callback {type(observer).__name__}.{name} failed: {what}"
            ) from error

    def _marks(self) -> list[tuple[int, int, bool]]:
        """Return marks that differ after a weight or a running statistic was written or frozen."""
        if self._agent is None:
            return []
        tensors = (*self._agent.parameters(), *self._agent.buffers())
        return [(id(tensor), tensor._version, tensor.requires_grad) for tensor in tensors]


def _first(reasons: list[Any]) -> str | None:
    """Return the first reason to stop, as one line; None if there is none."""
    found = next((reason for reason in reasons if reason), None)
    return None if found is None else one_line(str(found))


def _fault_of(results: Any) -> str | None:
    """Return what is wrong with the results of `finish`; None if nothing is."""
    if not isinstance(results, dict):
        return f"{type(results).__name__}, not a dict or None"
    for key in results:
        if not isinstance(key, str):
            return f"the key {key!r}, which is not a text"
        if key in OF_SUMMARY:
            return f"{key}, which {SUMMARY} has already; choose another name"
    try:
        to_json(results)
    except (TypeError, ValueError, RecursionError) as error:
        return f"what JSON cannot have: {error}"
    return None


class _Failed(RunError):
    """A fault of an observer, with its name."""
