"""`ppo37 explain`: the numbers are those of the update that the run really made."""

import json
import math
import shutil
from pathlib import Path

import pytest
from conftest import read_files, run_command, tiny

from ppo37 import train
from ppo37.build import Brought
from ppo37.config import Config
from ppo37.course.tasks import TASKS
from ppo37.tools.explain import CASES, explain


def log_of(run: Path, update: int) -> dict[str, float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    record = json.loads(lines[update - 1])
    return {n.removeprefix("losses/"): v for n, v in record.items() if n.startswith("losses/")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a checkpoint after each update; tests must not change it."""
    out = tmp_path_factory.mktemp("explained") / "run"
    return train(tiny(total_timesteps=320), out, checkpoint_every=1, view=None).run


def test_it_is_the_update_that_the_run_made(run: Path) -> None:
    """Computed again in a copy, to the last bit, and the run stays as it is."""
    before = read_files(run)
    found = explain(run)
    assert found.losses == log_of(run, found.update)
    assert read_files(run) == before
    assert found.notes == ["the run is finished; this is an update before its end"]
    earlier = sorted((run / "checkpoints").iterdir())[0]
    assert explain(earlier).losses == log_of(run, int(earlier.name) + 1)


def test_its_numbers_fit_together(run: Path) -> None:
    found = explain(run)
    eps = found.settings["clip_coef"]
    assert math.isclose(sum(found.parts.values()), 1.0, abs_tol=1e-6)
    assert math.isclose(sum(found.before.values()), 1.0, abs_tol=1e-5)
    assert math.isclose(sum(found.after.values()), 1.0, abs_tol=1e-5)
    assert len(found.samples) == 8
    for sample in found.samples:
        assert sample.ratio == pytest.approx(sample.new / sample.old, rel=1e-4)
        assert sample.target == pytest.approx(sample.advantage + sample.value, abs=1e-5)
        above, below = sample.ratio > 1 + eps, sample.ratio < 1 - eps
        case = 2 if sample.normalized > 0 else 3
        if (sample.normalized > 0 and above) or (sample.normalized < 0 and below):
            case -= 2
        assert sample.case == CASES[case]
    config = tiny(total_timesteps=320)
    assert len(found.norms) == config.update_epochs * config.num_minibatches


@pytest.mark.parametrize("task", ["remember", "aim"])
def test_an_lstm_and_real_numbers_as_actions(task: str, tmp_path: Path) -> None:
    """The ratios of an LSTM need its states; before anything is learned they are 1."""
    made, envs = TASKS[task].make_config({"num_envs": 4, "num_steps": 16}), TASKS[task].make_envs
    config = Config(**{**vars(made), "total_timesteps": 192, "learning_rate": 1e-9})
    out = train(config, tmp_path / "run", checkpoint_every=1, view=None, make_envs=envs).run
    found = explain(out, Brought(envs))
    assert found.ratios == pytest.approx([1.0] * 64, abs=1e-4)
    assert found.notes[1:] == ["its games could not be restored, so this update is of new games"]
    names = {"remember": {"NO", "YES"}, "aim": {"X mean", "Y mean", "X std", "Y std"}}
    assert set(found.before) == names[task]


def test_the_command_prints_it_and_draws_a_picture(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "one.png"
    code, out, err = run_command(capsys, "explain", str(run), "--out", str(picture))
    assert code == 0, err
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert "| env, step | action | reward |" in out
    code, out, _ = run_command(capsys, "explain", str(run), "--out", str(picture), "--json")
    assert (code, json.loads(out)["losses"]) == (0, explain(run).losses)


def test_what_cannot_be_explained_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = train(tiny(total_timesteps=64), tmp_path / "one", view=None).run
    broken = shutil.copytree(run, tmp_path / "broken")
    (broken / "metrics.jsonl").write_text("nonsense\n")
    for path, message in (
        ("", "RUN is empty"),
        (str(broken), f"{broken}/metrics.jsonl"),
        (str(one), "is finished, and has no earlier checkpoint"),
        (str(tmp_path), "is not a run directory"),
        ("pong", "is a published agent"),
        (str(run), "the name must end in .png"),
    ):
        name = "picture.pdf" if "png" in message else "picture.png"
        code, _, err = run_command(capsys, "explain", path, "--out", name)
        assert (code, message in err, err.count("\n")) == (2, True, 1), err
