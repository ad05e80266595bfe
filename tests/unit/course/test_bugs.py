"""Runs with a hidden mistake."""

import json
from pathlib import Path

import pytest
from conftest import run_command

from ppo37.course import bugs, progress
from ppo37.course.bugs import BUGS, Bug, Clue
from ppo37.course.tasks import TASKS
from ppo37.course.trial import Trial


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.function)
def test_a_bug_is_a_known_mistake_and_has_hints_that_do_not_name_it(bug: Bug) -> None:
    assert bug.mistake in bug.exercise.mistakes
    assert bug.exercise.place is not None
    assert len(bug.hints) == 3
    assert not any(bug.function in hint for hint in bug.hints)


def test_the_command_judges_answers(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_command(capsys, "learn", "bug", "1", "gae")
    assert (code, out.count("\n- ")) == (1, 3)
    assert progress.done() == set()
    code, out, _ = run_command(capsys, "learn", "bug", "1", "value_targets", "--json")
    assert (code, json.loads(out)["found"]) == (0, True)
    assert progress.done() == {"bug 1"}
    assert "[x] bug 1" in run_command(capsys, "learn")[1]


def test_what_is_shown_has_a_row_for_each_metric_and_does_not_name_the_function(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {name: ([0.1, 0.2, 0.3, None], [1.0, 2.0, 3.0, 4.0]) for name in bugs.METRICS}
    trial = Trial(TASKS["catch"], steps=[1024], theirs=[1.2], ours=[9.0])
    monkeypatch.setattr(bugs, "investigate", lambda bug: Clue(rows, trial))
    code, out, _ = run_command(capsys, "learn", "bug", "3")
    assert code == 0
    assert out.count("| healthy |") == len(bugs.METRICS)
    assert "policy_loss" not in out
    assert "ppo37 learn bug 3 FUNCTION" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bug"], "give a number"),
        (["bug", "0"], "there are bugs 1 to 5, not '0'"),
        (["bug", "six"], "there are bugs 1 to 5, not 'six'"),
        (["bug", "1", "gea"], "no function is called 'gea'"),
        (["bug", "1", "gae", "more"], "give a number"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run_command(capsys, "learn", *arguments)
    assert (code, message in err, err.count("\n")) == (2, True, 1)


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.function)
def test_what_the_keys_say_can_be_seen(bug: Bug) -> None:
    rows, trial = bugs.investigate(bug)
    broken = {name: values[0] for name, values in rows.items()}
    healthy = {name: values[1] for name, values in rows.items()}
    seen = {
        "value_targets": broken["explained_variance"] == [1.0] * 4,
        "linear": broken["learning_rate"][0] == 0.0 == broken["approx_kl"][0],
        "policy_loss": min(broken["entropy"]) < 0.1 and trial.theirs[-1] < 2.0,
        "probability_ratio": trial.theirs[-1] < 1.2,
        "sample": broken["entropy"][-1] > healthy["entropy"][-1] + 0.2,
    }
    assert seen[bug.function]
