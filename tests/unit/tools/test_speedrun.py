"""benchmarks/speedrun.py: how a seed is timed, the table, and the test between two rows."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import speedrun
from conftest import TINY, tiny_options
from scipy import stats

from ppo37.session.metrics import read_metrics

TIMES = [100.0, 120.0, 110.0, 300.0]


def attempt(seed: int, seconds: float, reached: bool = True, score: float = 19.0) -> dict[str, Any]:
    reached_s = seconds - 10.0 if reached else None
    return {
        "seed": seed,
        "seconds": seconds,
        "reached_s": reached_s,
        "steps": 1000 * seed,
        "cpu_s": 1.0,
        "score": score,
        "std": 1.0,
    }


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results of two rows: the second takes 0.8 times as long, and its third seed has failed."""
    monkeypatch.setattr(speedrun, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(speedrun, "ROWS", tmp_path / "rows.toml")
    rows = '[rows.{}]\ncommit = "."\nchange = "none"\noptions = []\nreference = {}\n'
    speedrun.ROWS.write_text(rows.format("old", "true") + rows.format("new", "false"))
    speedrun.RESULTS.mkdir()
    machine = {"cpu": "Some CPU", "isa": "AVX2", "gpu": "none"}
    for name, factor in (("old", 1.0), ("new", 0.8)):
        attempts = [attempt(seed, factor * time) for seed, time in enumerate(TIMES, start=1)]
        if name == "new":
            attempts[2] = attempt(3, 88.0, score=17.9)
        row = speedrun.read_rows()[name] | {"date": "2026-01-01", "machine": machine}
        document = {**row, "commit": "0123456789", "attempts": attempts}
        (speedrun.RESULTS / f"{name}.json").write_text(json.dumps(document))
    return tmp_path


def test_the_table_counts_a_low_evaluation_as_a_failure(results: Path) -> None:
    lines = speedrun.table().splitlines()
    old = next(line for line in lines if "old (reference)" in line)
    assert "| 0123456 |" in old
    assert "| 4 of 4" in old
    # The mean of 90, 110, 100 and 290 seconds, their median and the largest.
    assert [cell.strip() for cell in old.split("|")[6:9]] == ["2:28", "1:45", "4:50"]
    assert "3 of 4" in next(line for line in lines if line.startswith("| new"))


def test_a_seed_that_never_reached_the_score_counts_with_its_whole_time() -> None:
    assert speedrun.time_of(attempt(1, 100.0)) == 90.0
    assert speedrun.time_of(attempt(1, 100.0, reached=False)) == 100.0
    assert not speedrun.succeeded(attempt(1, 100.0, reached=False))


def test_a_row_replaces_another_only_without_failures(results: Path) -> None:
    text = speedrun.verdict("new", "old")
    pairs = [[time - 10 for time in (80.0, 96.0, 88.0, 240.0)], [time - 10 for time in TIMES]]
    test = stats.ttest_rel(*([math.log(time) for time in each] for each in pairs))
    assert f"p = {test.pvalue:.2g}" in text
    assert test.pvalue < speedrun.LEVEL, "it is faster"
    assert "1 of 4 failed: it does not replace old" in text


def test_a_seed_is_trained_until_the_score_and_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speedrun, "GAME", "catch")
    monkeypatch.setattr(speedrun, "SCORE", 0.0)
    source = Path(speedrun.__file__).parents[1] / "src"
    names = (name for name in TINY if name not in ("game", "seed"))
    row: dict[str, Any] = {"options": tiny_options(*names)}
    stopped = speedrun.attempt_of(row, source, 3, tmp_path / "stopped")
    whole = speedrun.attempt_of(row | {"reference": True}, source, 3, tmp_path / "whole")
    steps = [read_metrics(tmp_path / name)[-1]["agent_steps"] for name in ("stopped", "whole")]
    assert steps[0] < steps[1] == 384
    assert stopped["steps"] == whole["steps"] == steps[0], "the moment of the rule"
    assert stopped["reached_s"] == pytest.approx(stopped["seconds"], abs=0.2)
    assert whole["reached_s"] <= whole["seconds"]
    assert stopped["score"] >= 0
