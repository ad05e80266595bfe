"""What a person sees while a run goes on: a live panel, or plain lines in a log."""

import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..config import Config, describe, describe_layers
from ..envs.games import title
from .metrics import FRAMES_PER_STEP, LAST_100

PLAIN_EVERY_S = 10.0
FEWEST_UPDATES, RECENT_UPDATES = 3, 20
"""Updates whose speed says how much time is left."""


class View(Protocol):
    """Something that follows a run."""

    def announce(self, config: Config, path: Path, reason: str, expected_s: float | None) -> None:
        """The resolved settings and the expected time, before training; `reason` explains
        precision or resumption. None: nothing like it was measured before."""
        ...

    def show(self, record: dict[str, Any], games: int, seconds: dict[str, float]) -> None:
        """One more update; `seconds` holds the time spent per part so far."""
        ...

    def note(self, text: str) -> None:
        """A line that must not be missed."""
        ...

    def close(self) -> None: ...


class NoView:
    """Follows silently."""

    def announce(
        self, config: Config, path: Path, reason: str, expected_s: float | None
    ) -> None: ...

    def show(self, record: dict[str, Any], games: int, seconds: dict[str, float]) -> None: ...

    def note(self, text: str) -> None: ...

    def close(self) -> None: ...


class _Stderr(Console):
    """Falls silent when nobody reads it any more, where rich would end the process."""

    def __init__(self) -> None:
        super().__init__(stderr=True)

    def on_broken_pipe(self) -> None:
        self.quiet = True


class ConsoleView:
    """A live panel where stderr is a terminal, a line every ten seconds where it is not."""

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
        steps = config.agent_steps
        layers = describe_layers(config.precision, config.kernels)
        epochs = "epoch" if config.update_epochs == 1 else "epochs"
        for line in (
            f"{title(config.game)}, {describe(config)}, protocol "
            f"{config.protocol}, seed {config.seed} -> {path}",
            f"{steps:,} agent steps = {FRAMES_PER_STEP * steps:,} frames: "
            f"{config.num_updates:,} updates of {config.num_envs} environments x "
            f"{config.num_steps} steps, {config.update_epochs} {epochs} x "
            f"{config.num_minibatches} minibatches of {config.minibatch_size}",
            f"network {config.network} on {config.device}, {layers} ({reason})",
            "expected time: "
            + (
                "known after the first updates"
                if expected_s is None
                else f"about {duration(expected_s)} on an idle machine"
            ),
            *config.warnings,
        ):
            self.note(line)

    def show(self, record: dict[str, Any], games: int, seconds: dict[str, float]) -> None:
        config = self._config
        assert config is not None, "announce comes first"
        now = time.monotonic()
        self._recent.append((now, record["agent_steps"]))
        finished = record["update"] == config.num_updates
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

    def _sps(self) -> float | None:
        """Agent steps a second in the last updates, so that a change of the load is soon seen.

        None before the first `FEWEST_UPDATES`.
        """
        (begun, before), (ended, after) = self._recent[0], self._recent[-1]
        enough = len(self._recent) > FEWEST_UPDATES and ended > begun
        return (after - before) / (ended - begun) if enough else None

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
    """What is shown, by its label."""
    steps = record["agent_steps"]
    left = config.agent_steps - steps
    mean = record[LAST_100]
    return {
        "steps": f"{steps:,} of {config.agent_steps:,} ({steps / config.agent_steps:.0%})",
        "frames": f"{record['frames']:,}",
        "return": "no game over yet"
        if mean is None
        else f"{mean:.1f} (last {min(games, 100)} games)",
        "games": f"{games:,}",
        "SPS": f"{record['charts/SPS']:,.0f}" if sps is None else f"{sps:,.0f}",
        "left": "0 s" if not left else "measuring" if sps is None else duration(left / sps),
        "time": ", ".join(f"{share:.0%} {name}" for name, share in shares(seconds).items()),
    }


def _panel(record: dict[str, Any], config: Config, facts: dict[str, str]) -> Group:
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(Text(name, style="dim"), value)
    bar = ProgressBar(total=config.num_updates, completed=record["update"], width=60)
    return Group(bar, table)


def shares(seconds: dict[str, float]) -> dict[str, float]:
    """Fractions of the time in env, act, copy (the rest of the rollout) and update."""
    total = max(seconds["rollout"] + seconds["update"], 1e-9)
    copy = seconds["rollout"] - seconds["env"] - seconds["act"]
    parts = {
        "env": seconds["env"],
        "act": seconds["act"],
        "copy": copy,
        "update": seconds["update"],
    }
    return {name: spent / total for name, spent in parts.items()}


def duration(seconds: float) -> str:
    """For people: `42 s`, `7 min`, `3 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
