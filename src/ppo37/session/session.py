"""A session: the parts of one call of `train` or `resume` around the training loop.

These are environments, ranks, precision, logs, checkpoints and signals. The loop calls one method
of the session for each of its steps.
"""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import randomness
from ..algorithm.rollout import Rollout
from ..algorithm.update import Batch, set_learning_rate
from ..backends.clock import Clock
from ..backends.device import gc_frozen
from ..backends.executables import Executables
from ..backends.ranks import CHECK_EVERY, Ranks
from ..backends.threads import RolloutThreads
from ..build import Brought, normalized
from ..config import Config
from ..envs import EnvState, Episode, VecEnv
from ..errors import RunError, Stopped, UsageError
from . import directory
from .changes import annealed
from .files import shown
from .loggers import Logs
from .metrics import LAST_100, record_of
from .observer import Observer, Progress, RunStart, SessionOptions
from .signals import Signals
from .state import RunState, recent_mean, require_finite, save, save_agent
from .view import duration

SAVE_EVERY_S = 120.0
ENDED, FAILED = 1, 2
"""The two reasons to end a run: an observer has asked for it, or has failed."""


class Summary(NamedTuple):
    """The result of a call of `train` or `resume`.

    signal_number: the signal that asked the run to stop, also if the run had finished by then; None
    if there was no signal.  stopped_by: the name of that signal, or the reason of the callback that
    stopped the run; None if the run has finished.
    """

    run: Path
    finished: bool
    agent_steps: int
    wall_s: float
    games: int
    last_100_mean: float | None
    signal_number: int | None
    stopped_by: str | None = None


class TrainingStopped(Stopped):
    """The stop of a training run by a signal, after its checkpoint was saved."""

    def __init__(self, summary: Summary) -> None:
        super().__init__(summary.signal_number or 0)
        self.summary = summary
        name = signal.Signals(self.signal_number).name
        self.args = (f"{name} has stopped the run; resume({str(summary.run)!r}) continues it",)


class Session:
    """A run for the training loop; made by `new_session` or `resumed_session`."""

    def __init__(
        self,
        config: Config,
        path: Path,
        state: RunState,
        parts: Sequence[VecEnv],
        buffers: Rollout,
        run: Executables,
        ranks: Ranks,
        options: SessionOptions,
        observers: Observer,
        signals: Signals,
    ) -> None:
        """Bind a run to a device. parts: the environments of each rollout thread of this rank."""
        self.config, self.path, self.state = config, path, state
        self.advantages, self.train_step = run.advantages, run.train_step
        self._parts, self._buffers, self._run = parts, buffers, run
        self._ranks, self._options, self._signals = ranks, options, signals
        self._observers, self._logs = observers, Observer()
        self._env_slice = ranks.env_slice(config.num_envs)
        self._clock = Clock()
        self._clock.add("callbacks", 0.0)
        self.timed = self._clock.part
        self._stop: int | None = None
        self._ended = 0
        self._reason: str | None = None
        self._failure: RunError | None = None

    @contextmanager
    def running(
        self,
        reason: str,
        expected_s: float | None,
        brought: Brought,
        env_states: Sequence[EnvState] = (),
        lstm_state: torch.Tensor | None = None,
    ) -> Iterator["Session"]:
        """Start acting and logging; write the summary at the end.

        reason, expected_s, brought: see `RunStart`.  env_states, lstm_state: saved states of the
        environments of this rank; without them new games start.
        """
        state, ranks = self.state, self._ranks
        parts = [normalized(part, state.agent, self.config) for part in self._parts]
        self._before_s, self._started = state.wall_s, time.monotonic()
        self._uncounted_cpu_s = time.process_time() - (state.cpu_s or 0.0)
        self._saved_at_s, self._saved_update = self._started, state.update
        with ExitStack() as stack:
            # The games come first: if they cannot be restored, no file has been changed.
            self._threads = RolloutThreads(
                parts, self._run.acts, self._buffers, self._clock, env_states, lstm_state
            )
            stack.enter_context(closing(self._threads))
            ranks.wait_for_all()
            if ranks.is_main:
                self._logs = stack.enter_context(closing(Logs(self.path)))
            run = self._describe_start(reason, expected_s, brought)
            self._ended = ranks.broadcast_from_main(lambda: self._start_observers(run))
            self._signals.kept = self._describe_checkpoint()
            stack.enter_context(gc_frozen())
            if state.init_from is not None:  # a resumed run does not read that agent again
                self._save()
            yield self
        results = self._finish_observers()
        if ranks.is_main:
            directory.write_summary(self.path, self._summary_document(results))
        ranks.wait_for_all()  # a rank that ended earlier would look like a lost one
        if self._failure is not None:
            raise self._failure

    def updates(self) -> Iterator[int]:
        """Yield the numbers of the remaining updates, until a signal or an observer ends it."""
        left = self.config.updates_left(self.state.agent_steps)
        for k in range(self.state.update, self.state.update + left):
            if self._stop is not None or self._ended:
                return
            self._update_started = time.monotonic()
            yield k

    def anneal(self) -> None:
        """Set the learning rate and the coefficients of the loss for the next update, by E9."""
        values = annealed(self.config, self.state.agent_steps)
        set_learning_rate(self.state.optimizer, values["learning_rate"])
        for name, coefficient in self._run.annealed.items():
            coefficient.fill_(values[name])  # A1
        constant = [name for name in values if len({*self.config.schedule(name)}) == 1]
        self._tags = {
            f"charts/{name}": value
            for name, value in values.items()
            if name == "learning_rate" or name not in constant
        }

    def collect(self, k: int) -> tuple[Rollout, list[Episode]]:
        """Collect a rollout. Returns it and the games that ended, on all ranks."""
        with self.timed("rollout"):
            with self._rescued(), self._run.frozen_weights():
                episodes = self._threads.collect(self._uniforms(k))
            return self._buffers, self._ranks.episodes(episodes)

    def permutations(self, k: int) -> torch.Tensor:
        """Shuffle the batch for each epoch: [epochs, S]."""
        config = self.config
        shuffles = randomness.permutations(
            config.seed, k, config.update_epochs, config.num_sequences
        )  # D06
        return torch.from_numpy(shuffles).to(self.state.agent.device)

    def end_update(
        self,
        k: int,
        batch: Batch,
        losses: dict[str, float],
        episodes: list[Episode],
    ) -> None:
        """Log update `k`, save a checkpoint if one is due, and check for signals.

        RunError if the loss or a weight is not finite. RunError also if an observer has failed, but
        after the checkpoint is saved.
        """
        config, state = self.config, self.state
        now = time.monotonic()
        self._signals.takes = f", which takes about {duration(now - self._update_started)}"
        state.update = k + 1
        state.agent_steps += config.batch_size
        state.wall_s = self._before_s + now - self._started - self._clock.seconds["callbacks"]
        if state.cpu_s is not None:
            state.cpu_s = time.process_time() - self._uncounted_cpu_s
        state.games += len(episodes)
        state.recent.extend(episodes)
        path = self.path if self._ranks.is_main else None
        require_finite(state, losses["loss"], self._buffers, batch, path)
        tags = {
            LAST_100: recent_mean(state),
            "charts/SPS": config.batch_size / (now - self._update_started),
            **self._tags,
            **{f"losses/{name}": value for name, value in losses.items()},
        }
        steps = state.agent_steps
        frames = config.frames_per_step * steps
        record = record_of(state.update, steps, frames, state.wall_s, state.cpu_s, tags, episodes)
        if self._ranks.is_main:
            self._observe(record)
        if self._options.callbacks:
            self._ranks.wait_for_all()  # an evaluation may take longer than an update
        if self._checkpoint_due(now):
            self._logs.sync()
            try:
                self._observers.sync()
            except RunError as error:
                self._failure, self._ended = error, FAILED
            self._save()
            self._saved_at_s = now
        if self._ended == FAILED:
            raise self._failure or RunError("")  # rank 0 prints the message

    @property
    def summary(self) -> Summary:
        """The progress of the run so far."""
        state, config = self.state, self.config
        finished = not config.updates_left(state.agent_steps)
        stopped_by = self._reason
        if self._stop is not None:
            stopped_by = signal.Signals(self._stop).name
        return Summary(
            run=self.path,
            finished=finished,
            agent_steps=state.agent_steps,
            wall_s=state.wall_s,
            games=state.games,
            last_100_mean=recent_mean(state),
            signal_number=self._stop,
            stopped_by=None if finished else stopped_by,
        )

    def end(self) -> Summary:
        """Return the summary; TrainingStopped, a KeyboardInterrupt, if a signal stopped the run."""
        if self._stop is not None and not self.summary.finished:
            raise TrainingStopped(self.summary)
        return self.summary

    def _describe_start(self, reason: str, expected_s: float | None, brought: Brought) -> RunStart:
        state, config = self.state, self.config
        return RunStart(
            self.path,
            config,
            state.agent,
            state.update,
            state.agent_steps,
            reason,
            expected_s,
            brought,
            self._observers.note,
            self._log_evaluation,
            lambda folder, **more: save_agent(folder, state, config, **more),
        )

    def _start_observers(self, run: RunStart) -> int:
        """Move aside the files of later updates, and start logs and observers.

        Returns ENDED if an observer wants no update at all, else 0.
        """
        self._put_aside()
        directory.write_config(self.path, self.config, self.state.agent_steps)
        self._logs.start(run)
        self._reason = self._observers.start(run)
        return ENDED if self._reason else 0

    def _log_evaluation(self, record: dict[str, Any]) -> None:
        self._logs.evaluation(record)
        self._observers.evaluation(record)

    def _observe(self, record: dict[str, Any]) -> None:
        """Log an update, and call the observers, whose time is not counted as training."""
        state, config = self.state, self.config
        finished = not config.updates_left(state.agent_steps)
        seconds = self._clock.seconds
        progress = Progress(record, config, state.agent, state.games, seconds, finished)
        self._logs.update(progress)
        before_s = time.process_time()
        with self.timed("callbacks"):
            try:
                self._reason = self._observers.update(progress)
                self._ended = ENDED if self._reason else 0
            except Stopped as stop:  # by a signal during an evaluation or a recording
                self._signals.stop = self._signals.stop or stop.signal_number
            except RunError as error:
                self._failure, self._ended = error, FAILED
        self._uncounted_cpu_s += time.process_time() - before_s

    def _finish_observers(self) -> dict[str, Any]:
        """Let the observers finish, unless a signal has come. Returns their results."""
        if self._stop is not None or not self._ranks.is_main:
            return {}
        try:
            with self.timed("callbacks"):
                return self._observers.finish() or {}
        except Stopped as stop:
            self._stop = stop.signal_number
        except RunError as error:
            self._failure = error
        return {}

    def _checkpoint_due(self, now: float) -> bool:
        """Decide with all ranks whether to save after this update, and whether to stop."""
        state, ranks, every = self.state, self._ranks, self._options.checkpoint_every
        due = state.update % every == 0 if every else now - self._saved_at_s > SAVE_EVERY_S
        # Read once, because a signal may come at any moment. Only the clock of rank 0 counts.
        stop, asked, self._ended = ranks.largest(
            self._signals.stop or 0,
            self._signals.take_save() or (due and ranks.is_main),
            self._ended,
        )
        self._stop = stop or None
        finished = not self.config.updates_left(state.agent_steps)
        saving = any((asked, finished, stop, self._ended))
        if saving or (state.update - 1) % CHECK_EVERY == 0:
            ranks.require_alike(state.agent.parameters(), state.update)
        return saving

    def _save(self) -> None:
        """Write a checkpoint with the games of all ranks."""
        with self._rescued():
            own_games = self._threads.save()
        games, lstm_state = self._ranks.games(own_games, self._threads.lstm_state)
        if self._ranks.is_main:
            self._write(games, lstm_state, self._options.keep)

    def _write(self, games: Sequence[EnvState], lstm_state: torch.Tensor | None, keep: int) -> None:
        with self._signals.saving():
            save(self.path, self.state, self.config, games, lstm_state, keep)
            self._saved_update = self.state.update
            self._signals.kept = self._describe_checkpoint()

    @contextmanager
    def _rescued(self) -> Iterator[None]:
        """Save a checkpoint if the environments fail, and name it in the error.

        The block is between two updates. The checkpoint is without games, because the environments
        cannot save them any more; the checkpoint before it, which has them, is kept.
        """
        buffers = list(self.state.agent.buffers())
        before = [buffer.clone() for buffer in buffers]
        try:
            yield
        except BaseException as error:
            # The running statistics already include a part of the rollout.
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
            self._save_without_games()
            if not self._saved_update or not isinstance(error, RunError | UsageError):
                raise
            raise type(error)(f"{error}; {self._signals.kept}") from error

    def _save_without_games(self) -> None:
        """Save the state after the last update, if it is not saved; not for several ranks."""
        if self._ranks.size > 1 or self.state.update == self._saved_update:
            return
        # The earlier failure is the one to report.
        with suppress(RunError):
            self._observers.sync()
        with suppress(RunError):
            self._logs.sync()
            self._write((), None, self._options.keep + 1)

    def _put_aside(self) -> None:
        """Move aside the files of later updates, and log what stopped the run before."""
        path, note = self.path, self._observers.note
        replaced = directory.put_aside(path, self.state.update)
        if replaced is not None:
            note(
                f"the checkpoints and the log after update {self.state.update} are now in "
                f"{shown(replaced)}"
            )
        reason = directory.stopped_by(path)
        if reason is not None and reason not in signal.Signals.__members__:
            note(
                f"the run was stopped by {reason}; now it continues to its end, unless an option "
                "such as --until or --max-time stops it"
            )
        (path / directory.SUMMARY).unlink(missing_ok=True)  # the summary of the previous session

    def _describe_checkpoint(self) -> str:
        """Describe the checkpoint that this run can be resumed from."""
        if not self.state.update and self.state.init_from is None:
            return "no checkpoint was saved yet"
        return f"checkpoint {self.state.update} is in {shown(self.path)}"

    def _uniforms(self, k: int) -> torch.Tensor:
        """Draw the random numbers of update `k` for the actions of this rank."""
        agent = self.state.agent
        draws = randomness.noise(
            self.config.seed,
            k,
            self.config.num_steps + 1,
            self._env_slice.size,
            first_env=self._env_slice.first,
            shape=agent.policy.action_shape,
        )
        return torch.from_numpy(draws).to(agent.device)

    def _summary_document(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the content of `summary.json`. results: those of the observers."""
        values = self.summary._asdict()
        for name in ("run", "signal_number"):
            values.pop(name)
        frames = self.config.frames_per_step * self.summary.agent_steps
        callbacks_s = round(self._clock.seconds["callbacks"], 3)
        exact = self.state.exact
        return {**values, "frames": frames, "callbacks_s": callbacks_s, "exact": exact, **results}
