"""benchmarks/published.py: its table of our scores beside published ones."""

import json
from pathlib import Path

import published

FINISHED = {"CartPole-v1": {1: 400.0, 2: 500.0}, "Ant-v5": {3: 1234.5}}
STOPPED = ("CartPole-v1", 4)


def write_runs(folder: Path) -> None:
    for env, scores in FINISHED.items():
        for seed, score in scores.items():
            run = folder / f"{env}__s{seed}"
            run.mkdir()
            summary = {"finished": True, "agent_steps": 499_712, "last_100_mean": score}
            (run / "summary.json").write_text(json.dumps(summary))
            document = {"machine": {"cpu": "Some CPU"}, "versions": {"torch": "2.13.0"}}
            (run / "config.json").write_text(json.dumps(document))
    stopped = folder / "{}__s{}".format(*STOPPED)
    stopped.mkdir()
    (stopped / "config.json").write_text("{}")
    (stopped / "metrics.jsonl").write_text('{"agent_steps": 512}\n{"agent_steps": 1024}\n{"agent')


def test_the_table(tmp_path: Path) -> None:
    write_runs(tmp_path)
    envs = ["CartPole-v1", "Ant-v5"]
    lines = list(published.table(list(published.runs_in(tmp_path, envs))))
    row = next(line for line in lines if line.startswith("| CartPole-v1"))
    assert "| 499,712 | 450.00 ± 50.00 (only 2 seeds) | 400.00, 500.00 | 490.04 ± 6.12 (" in row
    assert "| 1234 (only 1 seed) | 1234 |" in next(line for line in lines if "Ant-v5" in line)
    missing = next(line for line in lines if line.startswith("Not finished"))
    assert "CartPole-v1 seed 4 (1,024 steps) and seeds 3, 5, 6, 7, 8 (not begun)" in missing
    assert "Machine: cpu Some CPU." in lines
    assert "Versions: torch 2.13.0." in lines


def test_each_published_score_has_a_source_and_runs_of_ours() -> None:
    rows = list(published.published_scores())
    assert {row["env"] for row in rows} <= published.SEEDS.keys()
    for row in rows:
        assert row["source"].startswith("https://github.com/")
        assert int(row["agent_steps"]) > 0 < int(row["seeds"])
        assert float(row["score"])


def test_a_run_is_begun_or_resumed(tmp_path: Path) -> None:
    write_runs(tmp_path)
    stopped = published.Run(*STOPPED, tmp_path / "{}__s{}".format(*STOPPED))
    assert stopped.command() == ["resume", str(stopped.path)]
    new = published.Run(published.MINATAR, 2, tmp_path / "new")
    assert new.command()[:4] == ["train", published.MINATAR, "--seed", "2"]
    assert "minatar.gym:register_envs" in new.command()
