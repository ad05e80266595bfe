"""The command of the course: lists it, shows a lesson, writes and examines an exercise."""

import difflib
import os
import shlex
import subprocess
import sys
import tempfile
from argparse import Namespace
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RunError, UsageError
from ..tools.processes import python, search_path
from .common import log, print_result

if TYPE_CHECKING:
    from ..course.bugs import Bug
    from ..course.examiner import Verdict
    from ..course.exercise import Exercise
    from ..course.lessons import Lesson
    from ..course.trial import Trial

CHECK, BUG = "check", "bug"
WITH_BUGS = "training"
"""The lesson whose exercises are hidden mistakes."""


def learn(options: Namespace) -> int:
    """Learn PPO: read lessons, and put your own equations into the trainer."""
    what = options.what
    if options.notebook is not None:
        if what or options.train is not None or options.json:
            raise UsageError("--notebook opens one notebook, and takes only --out beside it")
        return _notebook(options.notebook, options.out)
    if what[:1] == [CHECK]:
        if len(what) != 2:
            raise UsageError("give one file: ppo37 learn check my_gae.py")
        return _check(options, what[1])
    if options.train is not None:
        raise UsageError("--train is for `ppo37 learn check FILE`")
    if options.out is not None and len(what) != 1:
        raise UsageError("--out is for the file of an exercise: ppo37 learn gae --out FILE.py")
    if what[:1] == [BUG]:
        if len(what) not in (2, 3):
            raise UsageError("give a number, as `ppo37 learn bug 1`, and then its function")
        return _bug(options, *what[1:])
    if len(what) > 1:
        raise UsageError("give one lesson or exercise, `check FILE`, or `bug N`")
    return _show(options, what[0]) if what else _list(options)


def _notebook(name: str, out: str | None) -> int:
    """Open a copy of a notebook in the working directory, or export it as FILE.ipynb."""
    from importlib.util import find_spec

    from ..course.charts import CHARTS

    if name not in CHARTS:
        raise UsageError(f"no notebook is called {name!r}; there are {', '.join(CHARTS)}")
    if find_spec("marimo") is None:
        raise UsageError("notebooks need marimo: pip install 'ppo37[learn]', or marimo and plotly")
    content = (files("ppo37.course") / "notebooks" / f"{name}.py").read_text("utf-8")
    if out is not None and Path(out).suffix != ".ipynb":
        raise UsageError(f"--out {out} has to end in .ipynb")
    if out is None:
        copy = Path(f"{name}_notebook.py")
        with suppress(FileExistsError):  # perhaps with changes of the user
            _write_new(copy, content.encode())
        return _marimo("edit", str(copy)).returncode
    with tempfile.TemporaryDirectory(prefix="ppo37-notebook-") as folder:
        source, made = Path(folder) / f"{name}.py", Path(folder) / f"{name}.ipynb"
        source.write_text(content, "utf-8")
        done = _marimo("export", "ipynb", "--sort", "top-down", str(source), "-o", str(made))
        if done.returncode or not made.exists():
            raise RunError(f"marimo could not export {name} (exit code {done.returncode})")
        try:
            _write_new(Path(out), made.read_bytes())
        except FileExistsError as error:
            raise UsageError(f"{out} exists already; choose another --out") from error
    print(out)
    return 0


def _marimo(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
    command = python("-m", "marimo", *arguments)
    return subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": search_path()})


def _write_new(path: Path, content: bytes) -> None:
    """Write a file; FileExistsError if there is one, and UsageError if it cannot be written."""
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        raise
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _list(options: Namespace) -> int:
    """Print the lessons with their exercises, and which of them are done."""
    from ..course import progress
    from ..course.bugs import BUGS
    from ..course.lessons import LESSONS

    done = progress.done()
    lines, documents = [], []
    for number, lesson in enumerate(LESSONS.values(), 1):
        lines.append(f"{number:2}. {lesson.name:12} {lesson.title}")
        names = list(lesson.exercises)
        if lesson.name == WITH_BUGS:
            names += [f"{BUG} {i}" for i in range(1, len(BUGS) + 1)]
        lines += [f"      [{'x' if name in done else ' '}] {name}" for name in names]
        exercises = [{"name": name, "done": name in done} for name in names]
        documents.append({"name": lesson.name, "title": lesson.title, "exercises": exercises})
    lines += [
        "",
        "ppo37 learn policy            read a lesson",
        "ppo37 learn sample            write the file of an exercise, my_sample.py",
        "ppo37 learn check my_sample.py",
        "                              examine it, and train with your function",
        "ppo37 learn bug 1             see a run with a hidden mistake, and find it",
        "ppo37 learn --notebook clip   move sliders in a notebook",
    ]
    print_result(options, {"lessons": documents}, "\n".join(lines))
    return 0


def _show(options: Namespace, name: str) -> int:
    """Print a lesson, or write the file of an exercise."""
    from ..course.exercises import EXERCISES
    from ..course.lessons import LESSONS

    if name in LESSONS:
        if options.out is not None:
            raise UsageError("--out is for exercises, which write a file")
        return _show_lesson(options, LESSONS[name])
    wanted = name.replace("-", "_")
    if wanted in EXERCISES:
        return _write_exercise(options, EXERCISES[wanted])
    near = difflib.get_close_matches(wanted, [*LESSONS, *EXERCISES], n=1)
    hint = f"did you mean {near[0]}?" if near else "`ppo37 learn` lists them"
    file = f"; `ppo37 learn check {name}` examines a file" if Path(name).is_file() else ""
    raise UsageError(f"no lesson or exercise is called {name!r}; {hint}{file}")


def _show_lesson(options: Namespace, lesson: "Lesson") -> int:
    """Print a lesson: formatted in a terminal, plain elsewhere."""
    from rich.console import Console
    from rich.markdown import Markdown

    from ..course.lessons import for_terminal

    text = for_terminal(lesson.text)
    if options.json or not sys.stdout.isatty():
        print_result(options, {"name": lesson.name, "text": lesson.text}, text.rstrip())
    else:
        Console(width=min(100, Console().width)).print(Markdown(text))
    return 0


def _write_exercise(options: Namespace, exercise: "Exercise") -> int:
    """Write the file of an exercise; a file that exists is never replaced."""
    path = Path(exercise.file if options.out is None else options.out)
    if path.suffix != ".py":
        raise UsageError(f"--out {path} has to be a Python file, such as {exercise.file}")
    try:
        _write_new(path, exercise.template.encode())
    except FileExistsError as error:
        raise UsageError(
            f"{path} exists already; `ppo37 learn check {path}` examines it"
        ) from error
    log(f"lesson {exercise.lesson}: `ppo37 learn {exercise.lesson}` explains it")
    log(f"write the body of {exercise.name}, then: ppo37 learn check {shlex.quote(str(path))}")
    print_result(options, {"name": exercise.name, "file": str(path)}, str(path))
    return 0


def _bug(options: Namespace, number: str, answer: str | None = None) -> int:
    """Show a run with a hidden mistake, or judge which function has it."""
    from ..course.bugs import find_bug
    from ..course.exercises import EXERCISES

    index, bug = find_bug(number)
    name = f"{BUG} {index}"
    if answer is None:
        return _show_bug(options, name, bug)
    if answer not in EXERCISES:
        raise UsageError(f"no function is called {answer!r}; there are {', '.join(EXERCISES)}")
    found = answer == bug.function
    if found:
        _mark(name)
        text = f"Yes, it is {answer}. {bug.key}"
    else:
        text = f"No, {answer} is right. Some questions that lead to it:"
        text = "\n".join([text, *(f"- {hint}" for hint in bug.hints)])
    print_result(options, {"bug": index, "answer": answer, "found": found}, text)
    return 0 if found else 1


def _show_bug(options: Namespace, name: str, bug: "Bug") -> int:
    """Train with and without a hidden mistake, and print what can be seen of it."""
    from ..course.bugs import MOMENTS, investigate
    from ..course.trial import chart
    from ..suites.compare_table import markdown_table

    log(f"training {bug.exercise.task} with a mistake in one function, and without")
    clue = investigate(bug)
    rows = []
    for metric, runs in clue.rows.items():
        for run, values in zip(("bug", "healthy"), runs, strict=True):
            numbers = ["" if value is None else f"{value:.3g}" for value in values]
            rows.append([metric if run == "bug" else "", run, *numbers])
    head = ["part of the training", "run", *(f"{part:.0%}" for part in MOMENTS)]
    text = "\n".join(
        [
            chart(clue.trial, "with the bug", "healthy"),
            "",
            markdown_table(head, rows),
            "",
            f"Which function has the mistake? ppo37 learn {name} FUNCTION, with the name of one of "
            "the exercises.",
        ]
    )
    print_result(options, {"bug": name, "rows": clue.rows}, text)
    return 0


def _check(options: Namespace, file: str) -> int:
    """Examine the function in a file, and train with it."""
    from ..course.examiner import examine
    from ..course.trial import try_out

    verdict = examine(file)
    exercise = verdict.exercise
    document: dict[str, Any] = {
        "exercise": exercise.name,
        "right": verdict.right,
        "findings": verdict.findings,
        "mistakes": [mistake.text for mistake in verdict.mistakes],
    }
    if not options.json:
        print("\n".join(_verdict_lines(verdict)))
    if verdict.traceback and options.debug:
        print(verdict.traceback, file=sys.stderr)
    right = verdict.right
    if exercise.place is None and options.train:
        raise UsageError(f"{exercise.name} has no place in the trainer; leave out --train")
    if exercise.place and (options.train or (options.train is None and verdict.right)):
        log(f"training {exercise.task} with it, and beside it with the package's own function")
        trial = try_out(verdict)
        document["training"] = {n: v for n, v in trial._asdict().items() if n != "task"}
        document["training"]["learned"] = trial.learned
        if not options.json:
            print("\n".join(_trial_lines(verdict, trial)))
        right = right and not trial.error
    if right:
        _mark(exercise.name)
    if options.json:
        print_result(options, document, "")
    elif right:
        print(_next_line(exercise.name))
    return 0 if right else 1


def _mark(name: str) -> None:
    """Note that an exercise is done."""
    from ..course import progress

    problem = progress.mark(name)
    if problem:
        log(problem)


def _verdict_lines(verdict: "Verdict") -> list[str]:
    """Return the lines that say whether a function is right, and if not, what is wrong."""
    from ..course.lessons import section_of

    name = verdict.exercise.name
    if verdict.right:
        return [f"{name} is right: its results are those of the oracle in {verdict.cases} cases"]
    lines = [f"{name} is not right yet"]
    lines += [f"- {finding}" for finding in verdict.findings]
    if verdict.mistakes:
        lines.append("It looks like this:")
        lines += [f"- {mistake.text}" for mistake in verdict.mistakes]
    lesson = verdict.exercise.lesson
    sections = dict.fromkeys(mistake.section for mistake in verdict.mistakes)
    found = [f'ppo37 learn {section_of(each, lesson)}, "{each}"' for each in sections]
    return [*lines, f"To read: {' and '.join(found) or f'ppo37 learn {lesson}'}"]


def _trial_lines(verdict: "Verdict", trial: "Trial") -> list[str]:
    """Return the lines on training with the function."""
    from ..course.trial import chart

    name, task = verdict.exercise.name, trial.task
    if trial.error:
        return [f"training with it failed: {trial.error}"]
    changes = "gives" if trial.other_changes else "does not give"
    lines = [
        f"{name} was called {trial.calls:,} times; a wrong function in its place {changes} other "
        "weights",
    ]
    if not trial.theirs:
        return [*lines, "no game has ended, so there is no score"]
    lines += [
        chart(trial),
        f"mean score of the last 100 games: {trial.theirs[-1]:.1f} with yours, "
        f"{trial.ours[-1]:.1f} with the package's (random play {task.random:g}, the best "
        f"{task.best:g})",
    ]
    if trial.learned and not verdict.right:
        lines.append(
            f"It learned all the same, because this task is easy; {name} is still not right."
        )
    if verdict.right and not trial.learned:
        lines.append("It did not learn this time, although it is right; runs differ.")
    return lines


def _next_line(name: str) -> str:
    from ..course import progress
    from ..course.exercises import EXERCISES

    left = [each for each in EXERCISES if each not in progress.done() | {name}]
    return f"{name} is done. Next: ppo37 learn {left[0]}" if left else "All exercises are done."
