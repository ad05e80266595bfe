"""Callbacks: evaluations during training, the best agent, and videos."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import fingerprint_and_log, run_command, tiny, train_arguments
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ppo37 import (
    EvaluateEvery,
    KeepBest,
    Observer,
    RecordEvery,
    Until,
    evaluate,
    load_agent,
    resume,
    train,
)
from ppo37.backends import executables
from ppo37.build import Brought
from ppo37.config import CATCH
from ppo37.envs.catch import MAX_BALLS, Catch
from ppo37.envs.games import LARGEST_SCORES, atari_games
from ppo37.errors import UsageError
from ppo37.presets import from_preset
from ppo37.session import checkpoint
from ppo37.session.metrics import read_evaluations, read_metrics
from ppo37.session.observer import Progress
from ppo37.tools.callbacks import first_reached, stopped_by

EVERY = 128
"""Agent steps between evaluations: two updates of `tiny`."""


class CountsThreads(Observer):
    """A callback that records PyTorch's threads before the others are called."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def update(self, progress: Progress) -> None:
        self.threads.append(torch.get_num_threads())


class Stops(Observer):
    """A callback that stops after the third update."""

    def update(self, progress: Progress) -> str | None:
        return "test" if progress.record["update"] == 3 else None


def evaluations(run: Path) -> list[dict[str, Any]]:
    """Return the evaluations of a run, without times."""
    clock = ("wall_s", "evaluation_s")
    return [{k: v for k, v in r.items() if k not in clock} for r in read_evaluations(run)]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with evaluations, which tests must not change."""
    run = tmp_path_factory.mktemp("kept") / "run"
    train(tiny(), run, checkpoint_every=2, callbacks=[KeepBest(EVERY)])
    return run


def test_callbacks_do_not_change_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setattr(executables, "SMALL_NETWORK", 0)  # so that training has two threads
    config, counts = tiny(threads=2), CountsThreads()
    train(config, tmp_path / "plain")
    callbacks = [counts, KeepBest(EVERY, 3), RecordEvery(EVERY, max_seconds=0.2)]
    train(config, tmp_path / "watched", 1, callbacks=callbacks, keep=1)
    assert fingerprint_and_log(tmp_path / "watched") == fingerprint_and_log(tmp_path / "plain")
    assert counts.threads == [2] * 6, "an evaluation has one thread, and training again two"
    names = sorted(path.name for path in (tmp_path / "watched" / "videos").iterdir())
    assert names == ["00000002.mp4", "00000004.mp4", "00000006.mp4"]
    assert not list((tmp_path / "watched").glob(".ppo37*"))


def test_videos_that_cannot_be_made_are_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setitem(sys.modules, "pygame", None)
    config = from_preset("classic_control", "CartPole-v1", "cpu", total_timesteps=4096)

    class Blind(Catch):
        render = None  # type: ignore[assignment]

    for name, settings, make_envs, message in (
        ("CartPole", config, None, r"needs pygame: pip install 'ppo37\[video\]'"),
        ("Blind", tiny(), Blind, "Blind has no screens"),
    ):
        run = tmp_path / name
        with pytest.raises(UsageError, match=message):
            train(settings, run, make_envs=make_envs, callbacks=[RecordEvery(64)])
        assert not run.exists()


def means_of_20(run: Path) -> list[float | None]:
    """Return the mean of the last 20 games after each update, None for fewer games."""
    scores, means = list[float](), list[float | None]()
    for line in (run / "metrics.jsonl").read_text().splitlines():
        scores += [game["return"] for game in json.loads(line)["episodes"]]
        means.append(sum(scores[-20:]) / 20 if len(scores) >= 20 else None)
    return means


def test_until_stops_after_the_first_update_at_the_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny(), tmp_path / "whole")
    means = means_of_20(tmp_path / "whole")
    best = max(range(1, 5), key=lambda k: means[k] or 0.0)
    score, run = means[best], tmp_path / "run"
    assert score is not None
    assert first_reached(read_metrics(tmp_path / "whole"), score) is not None
    code, out, err = run_command(
        capsys, *train_arguments(tiny(), run, "--until", str(score), "--json")
    )
    assert code == 0
    summary = json.loads(out)
    assert (summary["stopped_by"], summary["finished"]) == (f"until {score:g}", False)
    assert summary["until"] == {"score": score, "games": 20, "mean": score}
    assert f"the mean of the last 20 training games is {score:.2f}" in err
    assert len(means_of_20(run)) == best + 1
    before = fingerprint_and_log(run)

    code, _, err = run_command(capsys, "resume", str(run), "--until", str(score))
    assert (code, fingerprint_and_log(run)) == (0, before), "it stands at the score already"
    assert f"stopped by until {score:g}" in err

    assert resume(run, callbacks=[Until(10)]).finished, "never so high"
    resume(run, callbacks=[Until(0)])  # nothing is left to do, so this rule has stopped nothing
    assert "until" not in json.loads((run / "summary.json").read_text())
    assert fingerprint_and_log(run) == fingerprint_and_log(tmp_path / "whole")
    assert json.loads((run / "summary.json").read_text())["stopped_by"] is None


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ("high", "invalid float value: 'high'"),
        ("nan", "must be a finite number, not nan"),
        ("11", "--until 11: the highest score of catch is 10"),
    ],
)
def test_scores_that_cannot_be_reached_are_refused(
    score: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run_command(capsys, *train_arguments(tiny(), tmp_path / "run", "--until", score))
    assert code == 2
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_scores_keep_all_their_digits() -> None:
    assert [stopped_by(score) for score in (18, 18.0, -20.5, 1_000_001, 1_000_000.5)] == [
        "until 18",
        "until 18",
        "until -20.5",
        "until 1000001",
        "until 1000000.5",
    ]
    with pytest.raises(UsageError, match="finite number"):
        Until(10**400)


def test_an_environment_of_ones_own_has_no_highest_score() -> None:
    """It may have the name of a game."""
    own = tiny(game="tennis", env="own.py:tennis", observation="vector", network="mlp")
    Until(100).check(own, Brought())
    Until(100).check(tiny(), Brought(Catch))
    with pytest.raises(UsageError, match="highest score of catch is 10"):
        Until(100).check(tiny(), Brought())


def test_the_games_with_a_highest_score() -> None:
    assert LARGEST_SCORES[CATCH] == MAX_BALLS
    assert LARGEST_SCORES.keys() - {CATCH} <= set(atari_games())


def test_an_evaluation_is_that_of_the_checkpoint(kept: Path) -> None:
    found = evaluations(kept)
    assert [record["update"] for record in found] == [2, 4, 6]
    for record in found:
        path = kept / "checkpoints" / f"{record['update']:08d}"
        alone = evaluate(path, 10, seed=record["seed"])
        assert (alone.scores, alone.lengths) == (record["scores"], record["lengths"])
        assert record["eval/episodic_return"] == alone.mean
    events = EventAccumulator(str(kept)).Reload()
    points = [(e.step, e.value) for e in events.Scalars("eval/episodic_return")]
    expected = [(r["agent_steps"], r["eval/episodic_return"]) for r in found]
    assert points == [(step, pytest.approx(value)) for step, value in expected]


def test_the_best_agent_is_kept_and_evaluated_afresh(kept: Path) -> None:
    found = evaluations(kept)
    best = max(found, key=lambda record: record["eval/episodic_return"])  # the first of equals
    agent = load_agent(kept / "best")
    assert agent.state["update"] == best["update"]
    assert best["seed"] != 0
    saved = checkpoint.load(kept / "checkpoints" / f"{best['update']:08d}")
    weights = agent.agent.state_dict()
    assert all(torch.equal(saved.model[name], weights[name].cpu()) for name in weights)
    reported = json.loads((kept / "summary.json").read_text())["best"]
    fresh = evaluate(kept / "best", 30)
    assert (reported["score"], reported["seed"]) == (fresh.mean, 0)
    assert reported["agent_steps"] == best["agent_steps"]


def test_evaluations_and_the_best_agent_survive_a_resume(kept: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny(), run, callbacks=[KeepBest(EVERY), Stops()])
    assert [record["update"] for record in evaluations(run)] == [2]
    with (run / "evaluations.jsonl").open("a") as file:  # which a crash may leave
        file.write('{"update": 4}\n{"upd')
    shutil.copytree(run / "best", run / ".ppo37-0123.tmp")  # an agent that was being evaluated
    resume(run, callbacks=[KeepBest(EVERY)])
    assert not list(run.glob(".ppo37*"))
    assert evaluations(run) == evaluations(kept)
    summaries = [json.loads((path / "summary.json").read_text())["best"] for path in (run, kept)]
    assert summaries[0] == summaries[1]


def test_the_former_best_agent_is_the_one_to_beat(kept: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny(), run, callbacks=[KeepBest(EVERY), Stops()])
    saved = checkpoint.load(run / "best")
    checkpoint.save(run / "best", saved.model, None, {**saved.state, "chosen_by": 1e6})
    resume(run, callbacks=[KeepBest(EVERY)])
    assert checkpoint.load(run / "best").state["update"] == 2


def test_an_older_checkpoint_puts_later_evaluations_aside(kept: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(kept, run)
    best = checkpoint.load(run / "best").state["update"]
    resume(run / "checkpoints" / "00000002", callbacks=[EvaluateEvery(10**6)])
    assert [record["update"] for record in evaluations(run)] == [2, 6]
    assert evaluations(run / "replaced-1") == evaluations(kept)
    assert (run / "replaced-1" / "best").exists() == (best > 2)
    assert fingerprint_and_log(run) == fingerprint_and_log(kept)


def test_the_options_of_the_command_do_the_same(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = ("--eval-every", str(EVERY), "--keep-best", "--keep", "2", "--checkpoint-every", "1")
    code, _, err = run_command(capsys, *train_arguments(tiny(), run, *options))
    assert code == 0, err
    assert evaluations(run) == evaluations(kept)
    assert fingerprint_and_log(run) == fingerprint_and_log(kept)
    assert len(list((run / "checkpoints").iterdir())) == 2
    assert "evaluation after 128 agent steps: episodic_return" in err
    assert "other than those that it was chosen by" in err
    assert run_command(capsys, "eval", str(run / "best"), "--episodes", "2")[0] == 0
