"""Tiny runs and helpers that the tests share."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ppo37.cli import let_waiting_threads_sleep, main

# Before PyTorch is loaded, like the command does. Test workers share the cores, so a test and the
# processes that it starts have one thread, unless it tests threads.
let_waiting_threads_sleep()
os.environ["OMP_NUM_THREADS"] = "1"

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import ppo37  # noqa: E402
from ppo37 import Config, train  # noqa: E402
from ppo37.algorithm.distributions import Categorical  # noqa: E402
from ppo37.config import arguments_of, flags  # noqa: E402
from ppo37.envs import Step  # noqa: E402
from ppo37.envs.catch import Catch  # noqa: E402
from ppo37.networks.lstm import LSTM, FeedForward  # noqa: E402
from ppo37.session import checkpoint  # noqa: E402
from ppo37.session.metrics import without_clock  # noqa: E402

TESTS = Path(__file__).parent
ROOT = TESTS.parent
TINY: dict[str, Any] = {
    "game": "catch",
    "seed": 3,
    "total_timesteps": 6 * 64,
    "num_envs": 4,
    "num_steps": 16,
    "num_minibatches": 2,
    "update_epochs": 2,
    "network": "nature_half",
    "device": "cpu",
    "threads": 1,
    "precision": "fp32",
    "kernels": "torch",
}
"""The settings of six updates of catch, which take about a second."""


FEATURES, HIDDEN, ACTIONS = 5, 6, 4
"""The sizes of `TinyNet`."""

SMALL_STATE: dict[str, Any] = {
    "update": 7,
    "agent_steps": 448,
    "games": 3,
    "seedings": 0,
    "wall_s": 1.5,
    "recent": [[0, 3.0, 11]],
    "action_names": ["LEFT"],
    "obs_shape": [1, 36, 36],
    "environments": [],
    "config": {},
    "machine": {},
    "versions": {},
}
"""The smallest valid state of a checkpoint."""


def tiny(**changes: Any) -> Config:
    return Config(**{**TINY, **changes})


def tiny_options(*names: str) -> list[str]:
    """Return some settings of `TINY` as options of a command."""
    return flags({name: TINY[name] for name in names})


def tiny_plan(seeds: str, **changes: Any) -> str:
    """Return a plan of catch with the settings of `TINY` and changes; None leaves one out."""
    values = {**TINY, "game": None, "seed": None, **changes}
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None]
    head = f'games = ["catch"]\nseeds = "{seeds}"\npreset = "classic"\n'
    return "\n".join([head, "[settings]", *lines, ""])


def suite_command(folder: Path, plan: str, *arguments: str) -> list[str]:
    """Return the command that trains a plan, which is written into a folder."""
    (folder / "plan.toml").write_text(plan)
    return [sys.executable, "-P", "-m", "ppo37", "suite", str(folder / "plan.toml"), *arguments]


LIMIT_S = 300.0
"""Ends a test that hangs; nothing is measured."""


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not happened():
        assert time.monotonic() < deadline, f"not true after {LIMIT_S:g} s"
        time.sleep(0.05)


def wait_for_first_update(run: Path) -> None:
    """Wait until a run has logged an update."""
    log = run / "metrics.jsonl"
    wait_until(lambda: log.exists() and b"\n" in log.read_bytes())


def run_start(run: Path, update: int) -> Any:
    """Return the part of a `RunStart` of `tiny` that a logger needs."""
    return SimpleNamespace(path=run, update=update, agent_steps=64 * update, agent=nn.Module())


def log_without_times(run: Path) -> list[dict[str, Any]]:
    """Return the records of the log of a run, without the values that depend on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [without_clock(line) for line in lines]


def fingerprint_and_log(run: Path) -> tuple[str, list[dict[str, Any]]]:
    """Return the fingerprint of the last checkpoint, and the log without times."""
    saved, warnings = checkpoint.load_newest(run / "checkpoints")
    assert not warnings
    return checkpoint.fingerprint(saved), log_without_times(run)


def train_arguments(config: Config, run: Path, *more: str) -> list[str]:
    """Return the arguments of the command that trains a configuration."""
    return ["train", *arguments_of(config), "--out", str(run), *more]


def catch_command(run: Path, steps: int, *more: str) -> list[str]:
    """Return a command that trains catch with the preset `classic` for so many steps."""
    command = [sys.executable, "-m", "ppo37", "train", "catch", "--preset", "classic"]
    return [*command, "--total-timesteps", str(steps), "--out", str(run), *more]


def long_train_command(run: Path) -> list[str]:
    """Return a command that trains catch for a long time."""
    more = ("--precision", "fp32", *tiny_options("num_envs", "num_steps"))
    return catch_command(run, 1_000_000, *more)


def run_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command. Returns its exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    out, err = capsys.readouterr()
    return int(exit_.value.code or 0), out, err


Change = Callable[[Step], Any]


class FaultyCatch(Catch):
    """Catch with steps that are changed, from step number `since` on."""

    def __init__(self, change: Change, since: int, num_envs: int, seed: int, **more: Any) -> None:
        super().__init__(num_envs, seed, **more)
        self._change, self._since, self._steps = change, since, 0

    def reset(self) -> Any:
        self._steps = 0
        return super().reset()

    def step(self, actions: Any) -> Any:
        step = super().step(actions)
        self._steps += 1
        return self._change(step) if self._steps >= self._since else step


def replace_parts(**parts: Any) -> Change:
    """Return a function that replaces parts of a step by functions of the step."""
    return lambda step: step._replace(**{name: make(step) for name, make in parts.items()})


class TinyNet(nn.Module):
    """The oracle's network: one hidden tanh layer, a policy head and a value head, in float64.

    recurrent: with an LSTM between them, which the oracle does not have.
    """

    def __init__(self, recurrent: bool = False) -> None:
        super().__init__()
        self.hidden = nn.Linear(FEATURES, HIDDEN, dtype=torch.float64)
        self.core = LSTM(HIDDEN, HIDDEN).double() if recurrent else FeedForward(HIDDEN)
        self.policy = nn.Linear(HIDDEN, ACTIONS, dtype=torch.float64)
        self.value = nn.Linear(HIDDEN, 1, dtype=torch.float64)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)

    def forward(
        self, obs: Tensor, lstm_state: Tensor, dones: Tensor
    ) -> tuple[Categorical, Tensor, Tensor]:
        features, lstm_state = self.core(torch.tanh(self.hidden(obs)), lstm_state, dones)
        return Categorical(self.policy(features)), self.value(features).squeeze(-1), lstm_state


def child_environment() -> dict[str, str]:
    """Return variables with which a Python process imports the tests and the source under test.

    That need not be the installed source.
    """
    source = Path(ppo37.__file__).resolve().parents[1]
    paths = [str(source), str(TESTS), str(TESTS / "system")]
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def same_tensors(some: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Return whether names and values are equal, to the last bit."""
    return some.keys() == other.keys() and all(
        torch.equal(some[name], other[name]) for name in some
    )


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected).norm() / expected.norm()).item()


def forward_step(network: Any, obs: Tensor) -> tuple[Categorical, Tensor]:
    """Return the distribution and values [B] of a network for single observations [B, ...]."""
    lstm_state = getattr(network, "agent", network).initial_state(len(obs))
    distribution, values, _ = network(obs, lstm_state, lstm_state.new_zeros(len(obs), 1))
    return distribution, values


def read_files(folder: Path) -> dict[Path, bytes]:
    """Return the content of each file in a folder, by path."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run of catch, which tests must not change."""
    path = tmp_path_factory.mktemp("finished") / "run"
    train(tiny(), path, checkpoint_every=2)
    return path


@pytest.fixture(scope="session")
def breakout_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few updates of Breakout, which tests must not change."""
    path = tmp_path_factory.mktemp("breakout") / "run"
    train(tiny(game="breakout", num_envs=2, num_steps=16, total_timesteps=96), path)
    return path
