"""Training with a function in place of the package's, in every task and place."""

import json
from pathlib import Path

import pytest
from conftest import run_command

from ppo37.course.exercise import Exercise
from ppo37.course.exercises import EXERCISES
from ppo37.course.in_place import train_with
from ppo37.course.tasks import TASKS
from ppo37.course.trial import Trial, chart

# One for each kind of place: a method, a module, a part of a function, an LSTM, an environment.
PLACED = [exercise for exercise in EXERCISES.values() if exercise.place is not None]
QUICK = "sample", "gae", "total_loss", "reset_state", "preprocess"


@pytest.mark.parametrize(
    "exercise",
    [
        pytest.param(each, id=each.name, marks=() if each.name in QUICK else pytest.mark.slow)
        for each in PLACED
    ],
)
def test_a_function_in_place_is_called_and_determines_the_run(
    exercise: Exercise, tmp_path: Path
) -> None:
    """The right function gives the package's numbers, up to rounding; a wrong one others."""
    calls = [0]

    def right(*inputs: object) -> object:
        calls[0] += 1
        return exercise.solve(frozenset(), *inputs)

    wrong = frozenset({exercise.other})
    ours = train_with(exercise, None, tmp_path / "ours", 2)
    found = train_with(exercise, right, tmp_path / "right", 2)
    other = train_with(exercise, lambda *x: exercise.solve(wrong, *x), tmp_path / "other", 2)
    assert calls[0] > 1
    assert found.calls == ours.calls
    assert found.scores == pytest.approx(ours.scores, rel=0.2, abs=0.2)
    assert other.fingerprint != ours.fingerprint
    again = train_with(exercise, None, tmp_path / "again", 2)
    assert again.fingerprint == ours.fingerprint, "the package's function is back"


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("entropy", "    p = logits.softmax(-1)\n    return -(p * logits.log_softmax(-1)).sum(-1)"),
        ("gaussian_sample", "    return mean + log_std.exp() * noise"),
    ],
)
def test_the_trainer_learns_with_the_function_of_a_student(
    name: str,
    answer: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    file = tmp_path / EXERCISES[name].file
    file.write_text(EXERCISES[name].template + answer)
    code, out, err = run_command(capsys, "learn", "check", str(file), "--json")
    assert code == 0, err
    training = json.loads(out)["training"]
    assert training["error"] == ""
    assert training["calls"] > 0
    assert training["other_changes"]
    assert training["learned"]
    assert training["theirs"][-1] == pytest.approx(training["ours"][-1], rel=0.3)


@pytest.mark.slow
def test_a_wrong_function_that_learns_is_named_as_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my_gaussian_sample.py"
    text = EXERCISES["gaussian_sample"].template
    file.write_text(text + "    return mean - log_std.exp() * noise")
    code, out, _ = run_command(capsys, "learn", "check", str(file), "--train")
    assert code == 1
    assert "The distribution is the same, but the exercise asks for the sum." in out
    assert "It learned all the same" in out
    assert "gaussian_sample is still not right" in out


@pytest.mark.slow
def test_a_function_that_fails_while_training_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my_gaussian_sample.py"
    text = EXERCISES["gaussian_sample"].template
    fails = "    assert len(mean) < 10, 'too many'\n    return mean + log_std.exp() * noise"
    file.write_text(text + fails)
    code, out, _ = run_command(capsys, "learn", "check", str(file), "--train")
    assert (code, "training with it failed" in out) == (1, True), "it is not done"
    assert "too many" in out
    assert "is done" not in out


@pytest.mark.slow
@pytest.mark.parametrize("exercise", PLACED, ids=lambda exercise: exercise.name)
def test_every_task_is_learned_with_the_function_in_place(
    exercise: Exercise, tmp_path: Path
) -> None:
    task = TASKS[exercise.task]
    found = train_with(exercise, lambda *x: exercise.solve(frozenset(), *x), tmp_path / "run")
    assert found.calls > 0
    assert found.scores[-1] > (task.random + task.best) / 2


def test_the_chart_shows_both_curves() -> None:
    trial = Trial(TASKS["catch"], steps=[1, 2], theirs=[1.2, 10.0], ours=[1.2, 1.2])
    lines = chart(trial).splitlines()
    assert lines[0].startswith(" 10 |")
    assert lines[0].endswith("o")
    assert lines[9].startswith("1.2 |@")
    assert lines[9].endswith(".")
    assert len(lines) == 13
