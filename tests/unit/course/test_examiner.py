"""The examiner: right and wrong functions of students, and files that are none."""

import os
from pathlib import Path

import pytest
from conftest import ROOT, run_command

from ppo37.course import progress
from ppo37.course.answers import NoAnswer, answers
from ppo37.course.examiner import Verdict, examine, exercise_of, judge
from ppo37.course.exercises import EXERCISES

GAE = """
import torch

def gae(rewards, values, dones, gamma, gae_lambda):
    total, found = torch.zeros_like(rewards[0]), []
    for t in reversed(range(len(rewards))):
        going_on = 1 - dones[t]
        error = rewards[t] + gamma * going_on * values[t + 1] - values[t]
        total = error + gamma * gae_lambda * going_on * total
        found.append(total)
    return torch.stack(found[::-1])
"""
CLIP = """
import torch

def policy_loss(advantages, ratio, clip_coef):
    bounded = torch.clamp(ratio, 1 - clip_coef, 1 + clip_coef)
    return -torch.minimum(ratio * advantages, bounded * advantages).mean()
"""


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def verdict(tmp_path: Path, text: str, name: str = "answer.py") -> Verdict:
    path = tmp_path / name
    path.write_text(text)
    return examine(path)


def judged(tmp_path: Path, text: str) -> tuple[list[str], list[str]]:
    """Return the findings on a file and the texts of its mistakes, without a process of its own."""
    path = tmp_path / "answer.py"
    path.write_text(text)
    exercise = exercise_of(path)
    try:
        findings, mistakes = judge(exercise, exercise.cases(), answers(exercise, str(path)))
    except NoAnswer as error:
        return [str(error)], []
    return findings, [mistake.text for mistake in mistakes]


def test_a_right_function_is_right(tmp_path: Path) -> None:
    found = verdict(tmp_path, GAE)
    assert (found.right, found.findings, found.cases) == (True, [], 24)


@pytest.mark.parametrize(
    ("text", "change", "mistake"),
    [
        (GAE, ("gae_lambda * going_on * total", "gae_lambda * total"), "beyond the end of an"),
        (GAE, ("going_on * values[t + 1]", "values[t + 1]"), "also where the episode ended"),
        (GAE, ("1 - dones[t]", "1 - dones[t - 1] if t else 1"), "one step too late"),
        (GAE, ("found[::-1]", "found"), "in reversed order"),
        (CLIP, ("-torch.minimum", "-torch.maximum"), "the larger of the two products"),
        (CLIP, ("-torch", "torch"), "minus sign is missing"),
        (CLIP, ("torch.minimum(ratio * advantages, bounded", "(bounded"), "only the clipped"),
    ],
)
def test_a_mistake_is_named(
    text: str, change: tuple[str, str], mistake: str, tmp_path: Path
) -> None:
    findings, mistakes = judged(tmp_path, text.replace(*change))
    assert findings
    assert [mistake in each for each in mistakes] == [True], mistakes


def test_two_mistakes_are_named(tmp_path: Path) -> None:
    text = GAE.replace("going_on * total", "total").replace("gamma * gae_lambda", "gae_lambda")
    texts = judged(tmp_path, text)[1]
    assert len(texts) == 2
    assert "beyond the end" in "".join(texts)
    assert "gamma is missing" in "".join(texts)


def test_where_a_function_is_wrong_is_said_by_the_case(tmp_path: Path) -> None:
    """Also if no known mistake explains it."""
    (finding,), mistakes = judged(tmp_path, GAE.replace("- values[t]\n", "- values[t] ** 2\n"))
    assert not mistakes
    assert finding.startswith("in one step, its result is [[1.75]]; it should be [[1.5]] (with ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def gae(rewards, values, dones): ...", "needs the parameters (rewards, values, dones, "),
        (GAE.replace("    return", "    found ="), "it returns nothing yet"),
        (GAE.replace("found[::-1])", "found[::-1]).numpy()"), "it returns a ndarray; return a ten"),
        (GAE.replace("found[::-1])", "found[::-1]).T"), "its result has the shape"),
        (GAE.replace("found[::-1])", "found[::-1]) * float('nan')"), "its result is [[nan]]"),
        (GAE.replace("found[::-1])", "found[::-1]).double()"), "returns float64"),
        (GAE.replace("going_on * total", "going * total"), "line 9: NameError"),
        (GAE.replace("    total, found", "    print(1)\n    total, found"), "it prints; remove"),
        (GAE.replace("    return", "    rewards += 1\n    return"), "it changes its input rewards"),
        ("import nowhere\n" + GAE, "line 1: the module nowhere is not installed"),
        (GAE.replace("    return", "    1 / 0\n    return"), "line 11: ZeroDivisionError"),
        (GAE.replace("    return", "    raise SystemExit(0)\n    return"), "SystemExit"),
        (GAE.replace("torch.stack(found[::-1])", "[1.0]"), "it returns a list; return a tensor"),
        (
            GAE.replace(
                "total, found", "total, found = torch.rand(1), []\n    total, found"
            ).replace("    return", "    found[0] = torch.rand_like(total)\n    return"),
            "it must not be random",
        ),
        (GAE.replace("found[::-1])", "found[::-1]) + 0j"), "a tensor of complex numbers"),
        (GAE.replace("found[::-1])", "found[::-1]).to_sparse()"), "a sparse_coo tensor on cpu"),
        (GAE.replace("found[::-1])", "found[::-1]).to('meta')"), "tensor on meta"),
        (
            GAE.replace("    return", "    return type('list', (), {})()\n    return"),
            "it returns a list; return a tensor of numbers",
        ),
        (
            GAE.replace("    return", "    raise BaseException('a\\nb\\x1b')\n    return"),
            "line 11: BaseException: a b",
        ),
        ("def reset_state(lstm_state, dones): return lstm_state", "its result is"),
        (
            "def value_targets(a, v):\n    v[:-1].add_(a)\n    return v[:-1]",
            "it changes its input values",
        ),
        (
            "def probability_ratio(a, b):\n    return (a - b).detach().exp()",
            "no gradient flows through it",
        ),
    ],
)
def test_what_is_no_answer_gets_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    findings, _ = judged(tmp_path, text)
    assert any(message in finding for finding in findings), findings
    assert all("\n" not in finding for finding in findings)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import os; os._exit(3)", "exit code 3"),
        ("input()", "line 11: EOFError"),
        ("torch.set_default_dtype(torch.float64)", "the default type of numbers"),
    ],
)
def test_what_ends_a_process_or_waits_does_so_in_a_process_of_its_own(
    line: str, message: str, tmp_path: Path
) -> None:
    found = verdict(tmp_path, GAE.replace("    return", f"    {line}\n    return"))
    assert message in "".join(found.findings)


def test_a_function_that_never_ends_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ppo37.course.examiner.ANSWER_S", 1)
    found = verdict(tmp_path, GAE.replace("    return", "    while True: pass\n    return"))
    assert "it did not end within 1 s of processor time" in found.findings[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read "),
        (b"def gae(:", "line 1 is not valid Python: "),
        (b"\xff\xfe", "is not valid Python: "),
        (b"x = 1", "defines no function of an exercise"),
        (b"def gae(): ...\ndef entropy(): ...", "has the exercises gae, entropy; keep one"),
    ],
)
def test_other_files_are_refused_in_one_line(
    content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "answer.py"
    if content is not None:
        path.write_bytes(content)
    code, _, err = run_command(capsys, "learn", "check", str(path))
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_what_is_no_python_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "my_gae.txt").write_text(GAE)
    (tmp_path / "large.py").write_text("#" * (1 << 20) + "\n")
    for name, message in (
        ("pipe.py", "is no file whose name ends in .py"),
        ("my_gae.txt", "is no file whose name ends in .py"),
        (".", "is no file whose name ends in .py"),
        ("large.py", "has more than 1 MB"),
    ):
        code, _, err = run_command(capsys, "learn", "check", str(tmp_path / name))
        assert (code, message in err, err.count("\n")) == (2, True, 1), err


def test_a_damaged_note_of_what_is_done_stays_as_it_is(tmp_path: Path) -> None:
    progress.path().parent.mkdir(parents=True)
    progress.path().write_text('{"done": ["gae", ')
    assert "is damaged, so it was not changed" in progress.mark("entropy")
    assert progress.path().read_text() == '{"done": ["gae", '
    assert progress.done() == set()


def test_a_note_that_cannot_be_written_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    assert "it could not be noted as done" in progress.mark("gae")


def test_the_command_writes_a_file_and_remembers_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run_command(capsys, "learn", "gae")
    assert (code, out.strip()) == (0, "my_gae.py")
    assert "ppo37 learn check my_gae.py" in err
    code, _, err = run_command(capsys, "learn", "gae")
    assert (code, "my_gae.py exists already" in err) == (2, True), "it is never replaced"
    code, out, _ = run_command(capsys, "learn", "check", "my_gae.py")
    assert (code, "it returns nothing yet" in out) == (1, True)
    assert progress.done() == set()
    Path("my_gae.py").write_text(GAE)
    code, out, _ = run_command(capsys, "learn", "check", "--no-train", "my_gae.py")
    assert (code, progress.done()) == (0, {"gae"})
    assert "[x] gae" in run_command(capsys, "learn")[1]
    assert "Next: ppo37 learn sample" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gea"], "did you mean gae?"),
        (["check"], "give one file"),
        (["gae", "entropy"], "give one lesson or exercise"),
        (["gae", "--train"], "--train is for `ppo37 learn check FILE`"),
        (["gae", "--out", "gae.txt"], "has to be a Python file"),
        (["gae", "--out", "nowhere/gae.py"], "cannot write nowhere/gae.py: No such file"),
        (["--out", "gae.py"], "--out is for the file of an exercise"),
        (["bug", "1", "--no-train"], "--train is for `ppo37 learn check FILE`"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run_command(capsys, "learn", *arguments)
    assert (code, message in err, err.count("\n")) == (2, True, 1)
    assert list(tmp_path.iterdir()) == []


def test_what_is_done_is_remembered(tmp_path: Path) -> None:
    assert progress.done() == set()
    assert progress.mark("gae") == ""
    assert progress.mark("entropy") == ""
    assert progress.done() == {"gae", "entropy"}


STUDENTS = sorted((ROOT / "tests" / "data" / "students").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDENTS, ids=lambda path: path.stem)
def test_the_answers_of_students_are_judged_as_they_should(path: Path) -> None:
    """217 wrong functions and 66 right ones, written without knowing the examiner."""
    exercise = exercise_of(path)
    findings, _ = judge(exercise, exercise.cases(), answers(exercise, str(path)))
    # One was written for logits that are not finite, which the exercise excludes by now.
    right = "__right_" in path.name or path.stem == "entropy__wrong_2"
    assert (not findings) == right, findings


def test_every_template_is_recognized() -> None:
    for exercise in EXERCISES.values():
        assert f"def {exercise.name}(" in exercise.template
