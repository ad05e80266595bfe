"""benchmarks/published.py: its table of our scores beside published ones."""

import json
from pathlib import Path

import published
import pytest

SCORES = {"CartPole-v1": {1: 400.0, 2: 500.0}, "Ant-v5": {3: 1234.5}}
STOPPED = ("CartPole-v1", 4)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[published.Run]:
    """Runs of two environments, some finished, one stopped, without stored logs."""
    (tmp_path / "stored").mkdir()
    monkeypatch.setattr(published, "STORED", tmp_path / "stored")
    for env, scores in SCORES.items():
        for seed, score in scores.items():
            write_log(tmp_path, env, seed, published.STEPS[env], score)
    write_log(tmp_path, *STOPPED, steps=1024, score=10.0)
    return list(published.runs_in(tmp_path, list(SCORES)))


def write_log(folder: Path, env: str, seed: int, steps: int, score: float) -> None:
    run = folder / f"{env}__s{seed}"
    run.mkdir(exist_ok=True)
    (run / "config.json").write_text("{}")
    records = [
        {"agent_steps": 512, "charts/episodic_return_last_100": None},
        {"agent_steps": steps, "charts/episodic_return_last_100": score},
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (run / "metrics.jsonl").write_text(lines + '{"agent')  # the line that a kill left


def test_the_table_is_made_from_the_stored_logs(runs: list[published.Run]) -> None:
    assert "not finished" in "".join(published.table(runs))
    published.pack(runs)
    lines = list(published.table(runs))
    row = next(line for line in lines if line.startswith("| CartPole-v1"))
    assert "| 499,712 | 450.00 ± 50.00 (only 2 seeds) | 400.00, 500.00 | 490.04 ± 6.12 (" in row
    assert "| 1234 (only 1 seed) | 1234 |" in next(line for line in lines if "Ant-v5" in line)
    missing = next(line for line in lines if line.startswith("Not finished"))
    assert "CartPole-v1 seed 4 (1,024 steps) and seeds 3, 5, 6, 7, 8 (not begun)" in missing


def test_a_shorter_log_does_not_replace_a_stored_one(runs: list[published.Run]) -> None:
    published.pack(runs)
    stored = runs[0].stored.read_bytes()
    write_log(runs[0].path.parent, "CartPole-v1", 1, 2048, 0.0)
    published.pack(runs)
    assert runs[0].stored.read_bytes() == stored
    assert runs[0].is_finished


def test_each_published_score_has_a_source_and_runs_of_ours() -> None:
    rows = list(published.published_scores())
    assert {row["env"] for row in rows} <= published.SEEDS.keys()
    for row in rows:
        assert row["source"].startswith("https://github.com/")
        assert int(row["agent_steps"]) > 0 < int(row["seeds"])
        assert float(row["score"])


def test_a_run_is_begun_or_resumed(runs: list[published.Run], tmp_path: Path) -> None:
    stopped = next(run for run in runs if (run.env, run.seed) == STOPPED)
    assert not stopped.is_finished
    assert stopped.command() == ["resume", str(stopped.path)]
    new = published.Run(published.MINATAR, 2, tmp_path / "new")
    assert new.command()[:4] == ["train", published.MINATAR, "--seed", "2"]
    assert "minatar.gym:register_envs" in new.command()
