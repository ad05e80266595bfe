"""Runs that fit in a time."""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny

from ppo37.cli import main
from ppo37.config import Config
from ppo37.errors import UsageError
from ppo37.presets import from_preset
from ppo37.tools import budget

UPDATE_S, START_UP_S = 0.5, 2.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("0.5h", 1800), ("1m30s", 90)],
)
def test_times_are_converted_to_seconds(text: str, seconds: float) -> None:
    assert budget.seconds(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "30", "m", "30 m", "-5m", "30min", "0s", "1d", "m30", "nan", "1e3s", "9" * 400 + "h"],
)
def test_other_texts_than_times_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--budget takes a time such as 90s, 30m or 1h30m, not"):
        budget.seconds(text)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Replace the clock and the measurement. Returns the measured configurations."""
    seen: list[Config] = []
    now = [1000.0]

    def whole_loop(config: Config, updates: int) -> dict[str, Any]:
        seen.append(config)
        now[0] += START_UP_S + (updates + 2) * UPDATE_S
        return {"loop_update_s": [UPDATE_S] * updates}

    monkeypatch.setattr(budget, "whole_loop", whole_loop)
    monkeypatch.setattr(budget.time, "monotonic", lambda: now[0])
    return seen


def test_the_planned_steps_end_in_time(measured: list[Config]) -> None:
    config = tiny()
    lines: list[str] = []
    plan = budget.plan(config, 600.0, 990.0, lines.append)
    assert len(lines) == 2
    spent_s = 10.0 + START_UP_S + 5 * UPDATE_S
    ends_s = spent_s + START_UP_S + plan.config.num_updates * UPDATE_S
    reserve_s = 600.0 - ends_s
    assert reserve_s == pytest.approx(0.12 * (600.0 - spent_s), abs=UPDATE_S)
    assert plan.sps == config.batch_size / UPDATE_S
    assert plan.config == dataclasses.replace(
        config, total_timesteps=plan.config.num_updates * config.batch_size
    )
    assert (measured[0].anneal_lr, measured[0].anneal_clip) == (False, False)


def test_a_time_that_is_too_short_is_refused_with_a_longer_one(measured: list[Config]) -> None:
    with pytest.raises(
        UsageError, match=r"a budget of 10 s is too short .* at least \d+s$"
    ) as error:
        budget.plan(tiny(), 10.0, 1000.0, print)
    enough_s = budget.seconds(str(error.value).split()[-1])
    plan = budget.plan(tiny(), enough_s, budget.time.monotonic(), print)
    assert plan.config.num_updates >= 10


@pytest.mark.parametrize(
    ("game", "steps", "changes", "expected"),
    [
        (
            "pong",
            700_000,
            {},
            "score to expect in Pong: 14.9 (mean of the last 100 training games after 699,392 of "
            "699,392 steps, 6 runs); published for 10,000,000 steps: 20.4",
        ),
        ("pong", 320_000, {}, "-6.4 (mean of the last 100 training games after 300,000 of"),
        (
            "breakout",
            3_000_000,
            {},
            "1 run); longer runs have not been measured; published for 10,000,000 steps: 414.7",
        ),
        (
            "breakout",
            200_704,
            {},
            "11.7 (mean of the last 100 training games after 200,704 of 200,704 steps, 5 runs)",
        ),
        ("boxing", 10**6, {"gamma": 0.9}, "no run of Boxing with these settings has been measured"),
        ("tetris", 10**6, {}, "no run of Tetris with these settings has been measured"),
        ("pong", 10**6, {"protocol": "machado"}, "no run of Pong with these settings"),
    ],
)
def test_the_expected_score_is_what_runs_have_reached(
    game: str, steps: int, changes: dict[str, Any], expected: str
) -> None:
    config = from_preset("fast", game, "cpu", **{"total_timesteps": steps, **changes})
    assert expected in budget.expected_score(config)


def test_a_run_within_a_budget_ends_with_its_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With updates of 100 s, so that the time of this machine does not matter."""
    monkeypatch.setattr(budget, "whole_loop", lambda *_: {"loop_update_s": [100.0, 100.0]})
    run = tmp_path / "run"
    with pytest.raises(SystemExit, match="0"):
        main(["train", "catch", "--preset", "debug", "--budget", "2h", "--out", str(run), "--json"])
    printed = capsys.readouterr()
    steps = json.loads(printed.out)["agent_steps"]
    assert 50 * 64 < steps <= 63 * 64, "0.88 * 7,200 s / 100 s"
    assert f"{steps:,} agent steps fit in 7,200 s, at " in printed.err
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["charts/learning_rate"] == pytest.approx(2.5e-4 / (steps // 64))


@pytest.mark.slow
def test_a_run_within_a_budget_ends_in_time(tmp_path: Path) -> None:
    """Needs an idle machine."""
    started = time.monotonic()
    args = ["catch", "--preset", "debug", "--budget", "60s", "--out", str(tmp_path / "run")]
    subprocess.run([sys.executable, "-m", "ppo37", "train", *args], check=True)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--budget", "soon"], "--budget takes a time such as 90s, 30m or 1h30m, not 'soon'"),
        (
            ["--budget", "30m", "--total-timesteps", "9999"],
            "--budget and --total-timesteps exclude each other",
        ),
        (["--budget", "0.001s"], "a budget of 0.001 s is too short"),
        (["--budget", "30m", "--gamma", "2"], "gamma must be at most 1"),
    ],
)
def test_impossible_budgets_are_one_line(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", "catch", "--preset", "debug", *args, "--out", str(tmp_path / "run")])
    assert end.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()
