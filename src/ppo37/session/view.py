"""The progress of a run on stderr: a live panel in a terminal, or plain lines."""

import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..config import Config, describe_layers
from ..envs.games import title
from ..presets import describe
from .metrics import LAST_100
from .observer import Observer, Progress, RunStart, ViewOption

PLAIN_EVERY_S = 10.0
FEWEST_UPDATES, RECENT_UPDATES = 3, 20
"""Fewest and most updates from which the speed and the time left are computed."""
PARTS = {"env": "environments", "act": "policy", "copy": "copying", "update": "learning"}
"""Parts of the time as they are shown: stepping the environments, choosing actions, moving data,
and the optimizer."""


class View(Observer):
    """A display of a run; a subclass overrides these methods, or those of `Observer`."""

    def start(self, run: RunStart) -> None:
        """Announce a run that is not finished."""
        if run.config.updates_left(run.agent_steps):
            self.announce(run.config, run.path, run.reason, run.expected_s)

    def update(self, progress: Progress) -> str | None:
        """Show an update. Returns None: a view does not stop the run."""
        self.show(progress.record, progress.games, progress.seconds)
        return None

    def announce(self, config: Config, path: Path, reason: str, expected_s: float | None) -> None:
        """Show the settings before training; `reason` explains the precision or the resuming.

        expected_s: seconds that the run will take; None if they are not known.
        """

    def show(self, record: dict[str, Any], games: int, seconds: dict[str, float]) -> None:
        """Show an update.  games: number so far.  seconds: time per part so far, see `Clock`."""


class NoView(View):
    """A view that shows nothing."""


def view_of(view: ViewOption) -> Observer:
    """Return a view itself; for "auto" a `ConsoleView` in a terminal or notebook, else `NoView`."""
    if isinstance(view, Observer):
        return view
    watched = (sys.stderr is not None and sys.stderr.isatty()) or "ipykernel" in sys.modules
    return ConsoleView() if view == "auto" and watched else NoView()


class _Stderr(Console):
    """A console that prints nothing after its pipe is closed; rich would end the process."""

    def __init__(self) -> None:
        super().__init__(stderr=True)

    def on_broken_pipe(self) -> None:
        self.quiet = True


class ConsoleView(View):
    """A live panel if stderr is a terminal, else a line every ten seconds."""

    def __init__(self) -> None:
        self._console = _Stderr()
        self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._shown_at_s = 0.0
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT_UPDATES + 1)
        self._config: Config | None = None

    def note(self, text: str) -> None:
        with suppress(OSError):  # the terminal may be gone
            self._console.print(f"ppo37: {text}", markup=False, highlight=False, soft_wrap=True)

    def announce(self, config: Config, path: Path, reason: str, expected_s: float | None) -> None:
        self._config = config
        steps, frames = config.agent_steps, ""
        if steps != config.total_timesteps:
            frames = f" ({config.total_timesteps:,} in whole rollouts)"
        if config.frames_per_step > 1:
            frames = f" = {config.frames_per_step * steps:,} frames{frames}"
        layers = describe_layers(config.precision, config.kernels)
        epochs = "epoch" if config.update_epochs == 1 else "epochs"
        expected = "known after the first updates"
        if expected_s is not None:
            expected = f"about {duration(expected_s)} on an idle machine"
        protocol = f"protocol {config.protocol}, " if config.is_atari else ""
        for line in (
            f"{title(config.game)}, {describe(config)}, {protocol}seed {config.seed} -> {path}",
            f"{steps:,} agent steps{frames}: {config.num_updates:,} updates of "
            f"{config.num_envs} environments x {config.num_steps} steps, "
            f"{config.update_epochs} {epochs} x {config.num_minibatches} minibatches of "
            f"{config.minibatch_size}",
            f"network {config.network} on {config.device}, {layers} ({reason})",
            f"expected time: {expected}",
            *config.warnings,
        ):
            self.note(line)

    def show(self, record: dict[str, Any], games: int, seconds: dict[str, float]) -> None:
        config = self._config
        assert config is not None, "announce comes first"
        now = time.monotonic()
        training_s = now - seconds.get("callbacks", 0.0)
        self._recent.append((training_s, record["agent_steps"]))
        finished = not config.updates_left(record["agent_steps"])
        wait_s = 0.25 if self._console.is_terminal else PLAIN_EVERY_S
        if now - self._shown_at_s < wait_s and not finished:
            return
        self._shown_at_s = now
        facts = _facts(record, config, games, self._sps(), seconds)
        if self._console.is_terminal:
            with suppress(OSError):
                if not self._live.is_started:
                    self._live.start()
                self._live.update(_panel(record, config, facts), refresh=True)
        else:
            self.note(", ".join(f"{name} {value}" for name, value in facts.items()))

    def evaluation(self, record: dict[str, Any]) -> None:
        values = [f"{tag.split('/')[1]} {record[tag]:.4g}" for tag in record if "/" in tag]
        self.note(f"evaluation after {record['agent_steps']:,} agent steps: {', '.join(values)}")

    def _sps(self) -> float | None:
        """Compute the agent steps per second of the last updates.

        None before `FEWEST_UPDATES` updates.
        """
        (start_s, before), (end_s, after) = self._recent[0], self._recent[-1]
        enough = len(self._recent) > FEWEST_UPDATES and end_s > start_s
        return (after - before) / (end_s - start_s) if enough else None

    def close(self) -> None:
        if self._live.is_started:
            with suppress(OSError):
                self._live.stop()


def _facts(
    record: dict[str, Any],
    config: Config,
    games: int,
    sps: float | None,
    seconds: dict[str, float],
) -> dict[str, str]:
    """Return the texts to show, by label."""
    steps = record["agent_steps"]
    left = config.updates_left(steps) * config.batch_size
    total = steps + left
    mean, parts = record[LAST_100], shares(seconds)
    last = "1 game" if games == 1 else f"the last {min(games, 100)} games"
    frames = {"frames": f"{record['frames']:,}"} if config.frames_per_step > 1 else {}
    callbacks_s = seconds.get("callbacks", 0.0)
    apart = {"callbacks": f"{duration(callbacks_s)} beside training"} if callbacks_s >= 1 else {}
    return {
        "steps": f"{steps:,} of {total:,} ({steps / total:.0%})",
        **frames,
        "return": "no game has ended yet" if mean is None else f"{mean:.1f} (mean of {last})",
        "games": f"{games:,}",
        "speed": f"{sps or record['charts/SPS']:,.0f} agent steps/s (SPS)",
        "time left": "0 s" if not left else "measuring" if sps is None else duration(left / sps),
        "time spent": ", ".join(f"{part:.0%} {PARTS[name]}" for name, part in parts.items()),
        **apart,
    }


def _panel(record: dict[str, Any], config: Config, facts: dict[str, str]) -> Group:
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(Text(name, style="dim"), value)
    bar = ProgressBar(total=config.agent_steps, completed=record["agent_steps"], width=60)
    return Group(bar, Text(), table)  # a bar does not end its line


def shares(seconds: dict[str, float]) -> dict[str, float]:
    """Return the fractions of the time in env, act, copy (the rest of the rollout) and update."""
    total = max(seconds["rollout"] + seconds["update"], 1e-9)
    spent = {**seconds, "copy": seconds["rollout"] - seconds["env"] - seconds["act"]}
    return {name: spent[name] / total for name in PARTS}


def duration(seconds: float) -> str:
    """Return a readable duration: `42 s`, `7 min`, `3 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
