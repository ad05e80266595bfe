"""Runs that are resumed with other settings, or that begin with the weights of another run."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import fingerprint_and_log, run_command, tiny, train_arguments

from ppo37 import Config, resume, train
from ppo37.cli.options import parse
from ppo37.errors import UsageError
from ppo37.session import checkpoint
from ppo37.session.changes import annealed
from ppo37.session.metrics import read_metrics
from ppo37.session.view import NoView


class Notes(NoView):
    """A view that keeps its notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def newest(run: Path) -> checkpoint.Checkpoint:
    return checkpoint.load_newest(run / "checkpoints")[0]


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


# ---- schedules ----


def test_schedules_count_agent_steps() -> None:
    """To the bit as by the number of the update, as long as the batch has one size."""
    config = tiny(ent_coef="0.04:0.01", total_timesteps=97 * 64, learning_rate=2.5e-4)
    for k in range(97):
        values = annealed(config, k * 64)
        assert values["learning_rate"] == 2.5e-4 * (1.0 - k / 97)
        assert values["ent_coef"] == pytest.approx(0.04 - 0.03 * k / 97, rel=1e-12)
        assert (values["clip_coef"], values["vf_coef"]) == (0.1, 0.5)


def test_an_annealed_coefficient_reaches_the_loss(tmp_path: Path) -> None:
    """The log has the parts of the loss, so the coefficients follow from it."""
    train(tiny(ent_coef="0.04:0.01", vf_coef="1:0.25", norm_adv=False), tmp_path / "run")
    for k, record in enumerate(read_metrics(tmp_path / "run")):
        ent_coef, vf_coef = 0.04 - 0.03 * k / 6, 1 - 0.75 * k / 6
        loss = (
            record["losses/policy_loss"]
            - ent_coef * record["losses/entropy"]
            + vf_coef * record["losses/value_loss"]
        )
        assert record["losses/loss"] == pytest.approx(loss, abs=1e-6)
        assert record["charts/ent_coef"] == pytest.approx(ent_coef)
        assert record["charts/vf_coef"] == pytest.approx(vf_coef)
        assert "charts/clip_coef" not in record


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"ent_coef": "0.01:"}, None),
        ({"ent_coef": "0.01:x"}, "ent_coef must be a number or START:END as in 0.01:0"),
        ({"ent_coef": "1:2:3"}, "ent_coef must be a number or START:END"),
        ({"ent_coef": "-1:0"}, "ent_coef must be at least 0"),
        ({"ent_coef": "0:nan"}, "ent_coef must be a finite number"),
        ({"learning_rate": "0:1", "anneal_lr": False}, "learning_rate must be more than 0"),
        ({"learning_rate": "1:0.5"}, "learning_rate 1:0.5 has an end, and anneal_lr would"),
        ({"clip_coef": "0.2:0.1", "anneal_clip": True}, "clip_coef 0.2:0.1 has an end"),
        ({"gamma": "1:0"}, "gamma must be of type float"),
        ({"num_envs": 4.5}, "num_envs must be a whole number, not 4.5"),
    ],
    ids=str,
)
def test_wrong_values_are_explained(values: dict[str, Any], expected: str | None) -> None:
    if expected is None:
        assert tiny(**values).schedule("ent_coef") == (0.01, 0.01)
        return
    with pytest.raises(UsageError, match=expected):
        tiny(**values)


def test_whole_numbers_may_be_floats() -> None:
    config = Config(total_timesteps=1e6)  # type: ignore[arg-type]
    assert (config.total_timesteps, type(config.total_timesteps)) == (1_000_000, int)
    options = parse(["train", "pong", "--eval-every", "1e5", "--keep", "2e0"])
    assert (options.eval_every, options.keep) == (100_000, 2)
    assert parse(["eval", "runs/pong", "--episodes", "1e2"]).episodes == 100


# ---- resume with changes ----


def test_a_longer_run_is_the_same_if_nothing_is_annealed(tmp_path: Path) -> None:
    """Resumed in two parts, to the bit; only the settings of the first part differ."""
    config = tiny(anneal_lr=False)
    train(dataclasses.replace(config, total_timesteps=12 * 64), tmp_path / "whole")
    train(config, tmp_path / "parts")
    summary = resume(tmp_path / "parts", changes={"total_timesteps": 12 * 64})
    assert (summary.finished, summary.agent_steps) == (True, 12 * 64)
    assert fingerprint_and_log(tmp_path / "whole") == fingerprint_and_log(tmp_path / "parts")


def test_sums_are_right_after_a_change_of_the_batch(tmp_path: Path) -> None:
    run, view = tmp_path / "run", Notes()
    train(tiny(), run, checkpoint_every=2)
    changes = {"num_envs": 8, "total_timesteps": 1e3, "learning_rate": 1e-3}
    summary = resume(run / "checkpoints" / "00000002", view=view, changes=changes)
    # 128 steps in two updates, and then 6 updates of 8 x 16 steps in the 872 that are left.
    assert (summary.finished, summary.agent_steps) == (True, 128 + 6 * 128)
    records = read_metrics(run)
    assert [record["update"] for record in records] == list(range(1, 9))
    assert [record["agent_steps"] for record in records] == [64, *range(128, 897, 128)]
    rates = [record["charts/learning_rate"] for record in records[2:]]
    assert rates == pytest.approx([1e-3 * (1 - (128 + 128 * k) / 896) for k in range(6)])
    assert any(
        line.startswith("learning_rate continues at 0.000857 (it was 0.000167)")
        for line in view.lines
    )
    assert any(line.startswith("starting new games") for line in view.lines)
    document = json.loads((run / "config.json").read_text())
    assert document["config"]["num_envs"] == newest(run).state["config"]["num_envs"] == 8
    assert document["changes"][0]["agent_steps"] == 128
    assert document["changes"][0]["changed"] == {
        "num_envs": [4, 8],
        "total_timesteps": [384, 1000],
        "learning_rate": [2.5e-4, 1e-3],
    }
    assert newest(run).state["agent_steps"] == 896
    assert resume(run).agent_steps == 896


def test_a_crash_after_the_change_leaves_a_run_with_the_new_settings(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny(), run)

    class Crash(NoView):
        def show(self, *_: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resume(run, view=Crash(), changes={"total_timesteps": 12 * 64, "update_epochs": 1})
    assert newest(run).state["agent_steps"] == 6 * 64
    assert resume(run).agent_steps == 12 * 64
    assert newest(run).state["config"]["update_epochs"] == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"network": "lstm"}, "network is nature_half and cannot change during a run"),
        ({"seed": 4}, "seed is 3 and cannot change"),
        ({"num_minibatches": 3}, "does not divide"),
        ({"total_timesteps": 320}, "has made 384 agent steps, and total_timesteps is 320"),
        ({"learning_rat": 1}, "unknown setting 'learning_rat'; did you mean learning_rate"),
    ],
    ids=str,
)
def test_impossible_changes_change_nothing(
    changes: dict[str, Any], expected: str, finished_run: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=expected):
        resume(run, changes=changes)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_finished_run_says_how_to_continue(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    code, _, err = run_command(capsys, "resume", str(run))
    assert code == 0
    assert "is finished: nothing is left to do" in err
    assert "--total-timesteps N`, at least 448" in err
    code, _, err = run_command(capsys, "resume", str(run), "--total-timesteps", "5e2")
    assert code == 0
    assert "learning_rate continues at 3.57e-05 (it was 0) and goes to 0 at 448 agent" in err


# ---- begin with the weights of another agent ----


def test_a_run_begins_with_weights_and_statistics_only(tmp_path: Path) -> None:
    """And it does not need that agent again, even if it stops in its first update."""
    config = tiny(norm_reward=True)
    train(config, tmp_path / "first")
    origin = newest(tmp_path / "first")

    class Crash(NoView):
        def show(self, *_: Any) -> None:
            raise KeyboardInterrupt

    run = tmp_path / "tuned"
    tuned = dataclasses.replace(config, seed=7, learning_rate=1e-4)
    with pytest.raises(KeyboardInterrupt):
        train(tuned, run, view=Crash(), init_from=tmp_path / "first")
    start = newest(run)
    assert same(start.model, origin.model)
    assert any("return_statistics" in name for name in start.model)
    assert (start.state["update"], start.state["agent_steps"], start.state["games"]) == (0, 0, 0)
    document = json.loads((run / "config.json").read_text())
    assert document["init_from"] == {
        "path": str(origin.path),
        "fingerprint": checkpoint.fingerprint(origin),
    }
    train(tuned, tmp_path / "uninterrupted", init_from=origin.path)
    killed = shutil.copytree(run, tmp_path / "killed")
    shutil.rmtree(killed / "checkpoints")
    (killed / "checkpoints").mkdir()
    (killed / "metrics.jsonl").unlink(missing_ok=True)
    early = shutil.copytree(killed, tmp_path / "early")
    resume(killed)  # before its first checkpoint: it does need that agent
    shutil.rmtree(tmp_path / "first")
    resume(run)
    whole = fingerprint_and_log(tmp_path / "uninterrupted")
    assert fingerprint_and_log(run) == fingerprint_and_log(killed) == whole
    with pytest.raises(UsageError, match="the agent whose weights it began with has changed or"):
        resume(early)
    assert newest(run).optimizer["value_head.weight/step"] == 6 * 2 * 2


def test_an_agent_that_does_not_fit_is_refused(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    for config, expected in (
        (tiny(network="nature"), "has another network than this run; use --network=nature_half"),
        (tiny(norm_reward=True), "use --no-norm-reward"),
        (tiny(game="pong", num_envs=2), "has actions ('LEFT', 'STAY', 'RIGHT'), and this run has"),
    ):
        arguments = train_arguments(config, run, "--init-from", str(finished_run))
        code, _, err = run_command(capsys, *arguments)
        assert (code, err.count("\n")) == (2, 1), err
        assert expected in err
        assert not run.exists()
