"""A session surrounds the training loop: it opens or resumes a run, and closes it.

It owns the environments, ranks, precision, logs, checkpoints and signals of one call of `train` or
`resume`, and gives the loop one method for each thing that the loop asks for.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import randomness
from ..algorithm.rollout import Rollout
from ..algorithm.update import Batch
from ..backends.clock import Clock
from ..backends.device import gc_frozen
from ..backends.executables import Executables
from ..backends.ranks import CHECK_EVERY, Ranks
from ..backends.threads import RolloutThreads
from ..build import normalized
from ..config import Config
from ..envs import EnvState, Episode, VecEnv
from . import directory
from .files import shown
from .loggers import Logs
from .loggers.logger import Logger
from .metrics import FRAMES_PER_STEP, LAST_100, record_of
from .signals import Signals
from .state import RunState, recent_mean, require_finite, save
from .view import View, duration

SAVE_EVERY_S = 120.0


class Summary(NamedTuple):
    """The end of a call of `train` or `resume`.

    signal_number: the signal that asked it to stop, also if it had finished by then; None if there
    was no signal.
    """

    run: Path
    finished: bool
    agent_steps: int
    wall_s: float
    games: int
    last_100_mean: float | None
    signal_number: int | None


class Session:
    """Everything that the loop needs of a run; made by `new_session` or `resumed_session`."""

    def __init__(
        self,
        config: Config,
        path: Path,
        state: RunState,
        parts: Sequence[VecEnv],
        buffers: Rollout,
        run: Executables,
        ranks: Ranks,
        checkpoint_every: int | None,
        view: View,
        signals: Signals,
    ) -> None:
        """Bind a run to a device. parts: the environments of each rollout thread of this rank."""
        self.config, self.path, self.state = config, path, state
        self.optimizer = state.optimizer
        self.advantages, self.train_step = run.advantages, run.train_step
        self.clip_coef = run.clip_coef
        self._parts, self._buffers, self._run = parts, buffers, run
        self._ranks, self._view, self._signals = ranks, view, signals
        self._env_slice = ranks.env_slice(config.num_envs)
        self._checkpoint_every = checkpoint_every
        self._clock = Clock()
        self.timed = self._clock.part
        self._stop: int | None = None

    @contextmanager
    def running(
        self, env_states: Sequence[EnvState] = (), lstm_state: torch.Tensor | None = None
    ) -> Iterator["Session"]:
        """Start acting and logging; write the summary at the end.

        env_states, lstm_state: of the environments of this rank; without them new games start.
        """
        state, ranks = self.state, self._ranks
        parts = [normalized(part, state.agent, self.config) for part in self._parts]
        self._before_s, self._started = state.wall_s, time.monotonic()
        self._saved_at_s = self._started
        with ExitStack() as stack:
            # First the games, because they may fail to be restored: until then no file is changed.
            self._threads = RolloutThreads(
                parts, self._run.acts, self._buffers, self._clock, env_states, lstm_state
            )
            stack.enter_context(closing(self._threads))
            ranks.wait_for_all()
            self._logs = self._open_logs() if ranks.is_main else Logger()
            self._signals.kept = self._describe_checkpoint()
            stack.enter_context(closing(self._logs))
            stack.enter_context(gc_frozen())
            yield self
        if ranks.is_main:
            directory.write_summary(self.path, _summary_document(self.summary))
        ranks.wait_for_all()  # a rank that left earlier would look like a lost one

    def updates(self) -> Iterator[int]:
        """Count the updates that are left, until the last one or a signal."""
        for k in range(self.state.update, self.config.num_updates):
            self._update_started = time.monotonic()
            yield k
            if self._stop is not None:
                return

    def collect(self, k: int) -> tuple[Rollout, list[Episode]]:
        """Collect a rollout. Returns it and the games that ended, on all ranks."""
        with self.timed("rollout"), self._run.frozen_weights():
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
        learning_rate: float,
        batch: Batch,
        losses: dict[str, float],
        episodes: list[Episode],
    ) -> None:
        """Log update `k`, save a checkpoint if one is due, and check for signals.

        RunError if the loss or a weight is not finite.
        """
        config, state = self.config, self.state
        now = time.monotonic()
        self._signals.takes = f", which takes about {duration(now - self._update_started)}"
        state.update = k + 1
        state.wall_s = self._before_s + now - self._started
        state.games += len(episodes)
        state.recent.extend(episodes)
        path = self.path if self._ranks.is_main else None
        require_finite(state, losses["loss"], self._buffers, batch, path)
        tags = {
            LAST_100: recent_mean(state),
            "charts/SPS": config.batch_size / (now - self._update_started),
            "charts/learning_rate": learning_rate,
            **{f"losses/{name}": value for name, value in losses.items()},
        }
        steps = state.update * config.batch_size
        record = record_of(state.update, steps, state.wall_s, tags, episodes)
        self._logs.write(record)
        if self._checkpoint_due(now):
            self._logs.sync()
            self._save()
            self._saved_at_s = now
        self._view.show(record, state.games, self._clock.seconds)

    @property
    def summary(self) -> Summary:
        """The progress of the run so far."""
        state, config = self.state, self.config
        return Summary(
            run=self.path,
            finished=state.update == config.num_updates,
            agent_steps=state.update * config.batch_size,
            wall_s=state.wall_s,
            games=state.games,
            last_100_mean=recent_mean(state),
            signal_number=self._stop,
        )

    def _checkpoint_due(self, now: float) -> bool:
        """Decide with all ranks whether to save after this update, and whether to stop."""
        state, ranks, every = self.state, self._ranks, self._checkpoint_every
        due = state.update % every == 0 if every else now - self._saved_at_s > SAVE_EVERY_S
        # Read once, because a signal may come at any moment. Only the clock of rank 0 counts.
        self._stop, saving = ranks.any_rank(
            self._signals.stop, self._signals.take_save() or (due and ranks.is_main)
        )
        finished = state.update == self.config.num_updates
        saving = saving or finished or self._stop is not None
        if saving or (state.update - 1) % CHECK_EVERY == 0:
            ranks.require_alike(state.agent.parameters(), state.update)
        return saving

    def _save(self) -> None:
        """Write a checkpoint with the games of all ranks."""
        games, lstm_state = self._ranks.games(self._threads.save(), self._threads.lstm_state)
        if not self._ranks.is_main:
            return
        with self._signals.saving():
            save(self.path, self.state, self.config, games, lstm_state)
            self._signals.kept = self._describe_checkpoint()

    def _open_logs(self) -> Logs:
        """Move aside what the run has of later updates, and open its logs."""
        path, update = self.path, self.state.update
        replaced = directory.put_aside(path, update)
        if replaced is not None:
            self._view.note(
                f"the checkpoints and the log after update {update} are now in {shown(replaced)}"
            )
        logs = Logs(path, update, update * self.config.batch_size)
        (path / directory.SUMMARY).unlink(missing_ok=True)  # that of the previous session
        return logs

    def _describe_checkpoint(self) -> str:
        """Describe the checkpoint that this run can be resumed from."""
        if not self.state.update:
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


def _summary_document(summary: Summary) -> dict[str, Any]:
    values = summary._asdict()
    for name in ("run", "signal_number"):
        values.pop(name)
    return {**values, "frames": FRAMES_PER_STEP * summary.agent_steps}
