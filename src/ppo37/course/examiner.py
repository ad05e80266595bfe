"""The examiner: compares a student's function with the right results and with known mistakes."""

import ast
import itertools
import json
import math
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor

from ..errors import RunError, UsageError
from ..session.files import real_path
from ..tools.processes import POLL_S, launch, python
from .exercise import Case, Exercise, Mistake, Wrong
from .exercises import EXERCISES

RELATIVE, OF_LARGEST, ABSOLUTE = 1e-4, 1e-5, 2e-6
"""The largest difference to the right number, of this number, of the largest one, and at all."""
ANSWER_S, TRAIN_S = 30, 600
"""Processor seconds that a student's code may use."""
IDLE_S = 60
"""Seconds after which a process that uses no processor time is ended."""
LARGEST_FILE = 1 << 20


class Verdict(NamedTuple):
    """The judgement of a file.

    findings: sentences on what is wrong; none if the function is right.  mistakes: those that it
    looks like.  traceback: of the error in the student's code, empty if there was none.
    """

    exercise: Exercise
    file: Path
    cases: int
    findings: list[str]
    mistakes: list[Mistake]
    traceback: str = ""

    @property
    def right(self) -> bool:
        return not self.findings


class Result(NamedTuple):
    """A result of a function: tensors, or a sentence that says why it is none."""

    parts: list[Tensor]
    is_list: bool
    error: str = ""


def find_exercise(name: str) -> Exercise:
    """Return the exercise of this name; UsageError if there is none."""
    if name not in EXERCISES:
        raise UsageError(f"no exercise is called {name!r}; there are {', '.join(EXERCISES)}")
    return EXERCISES[name]


def exercise_of(path: Path) -> Exercise:
    """Return the exercise whose function a file defines.

    UsageError if it cannot be read or parsed, and if it defines none of them, or several.
    """
    advice = "give the Python file with your function"
    try:
        status = path.stat()
        if path.suffix != ".py" or not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path} is no file whose name ends in .py; {advice}")
        if status.st_size > LARGEST_FILE:
            raise UsageError(f"{path} has more than 1 MB; {advice}")
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    try:
        tree = ast.parse(content, str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        where = f", line {line}" if line else ""
        message = getattr(error, "msg", None) or str(error) or type(error).__name__
        raise UsageError(f"{path}{where} is not valid Python: {message}") from error
    named = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    found = [name for name in dict.fromkeys(named) if name in EXERCISES]
    if not found:
        raise UsageError(
            f"{path} defines no function of an exercise; `ppo37 learn` lists them, and "
            "`ppo37 learn NAME` writes the file to complete"
        )
    if len(found) > 1:
        wanted = [name for name in found if path.name == EXERCISES[name].file]
        if len(wanted) != 1:
            raise UsageError(f"{path} has the exercises {', '.join(found)}; keep one in each file")
        found = wanted
    return EXERCISES[found[0]]


def examine(file: str | Path) -> Verdict:
    """Examine the function in a file; UsageError if it is not the file of an exercise."""
    path = real_path(file)
    exercise = exercise_of(path)
    cases = list(exercise.cases())
    result = run_job(exercise, "answer", path, ANSWER_S)
    if "error" in result:
        trace = result.get("traceback", "")
        return Verdict(exercise, path, len(cases), [result["error"]], [], trace)
    findings, mistakes = judge(exercise, cases, result)
    return Verdict(exercise, path, len(cases), findings, mistakes)


def judge(
    exercise: Exercise, cases: Sequence[Case], result: dict[str, Any]
) -> tuple[list[str], list[Mistake]]:
    """Compare the answers to all cases with the right ones. Returns findings and mistakes."""
    answers = result["answers"]
    right = [_result_of(exercise.oracle(*case.inputs)) for case in cases]
    theirs = [_read(answer["output"]) for answer in answers]
    findings: list[str] = []
    mistakes: list[Mistake] = []
    wrong = [i for i in range(len(cases)) if not _same(theirs[i], right[i], True)]
    if wrong:
        names = named_mistakes(exercise, cases, theirs)
        mistakes = [exercise.mistakes[name] for name in names]
        findings.append(_difference(exercise, cases, wrong, theirs, right))
    else:
        ours = [_result_of(exercise.solve(frozenset(), *case.inputs)) for case in cases]
        findings += _wrong_types(theirs, ours)
        findings += _wrong_gradients(exercise, cases, answers)
    if result["random"]:
        findings.append("it gives other results for the same inputs; it must not be random")
    for key, text in (
        ("changed", "it changes its input {}, which is needed afterwards; make a new tensor"),
        (
            "shared",
            "its result shares memory with its input {}: if one of them changes, so does "
            "the other; make a new tensor",
        ),
    ):
        names_of = {name for answer in answers for name in answer[key]}
        if names_of and not (key == "shared" and (exercise.may_share or wrong)):
            findings.append(text.format(" and ".join(sorted(names_of))))
    if result["settings"]:
        findings.append(f"it changes a setting of PyTorch, {result['settings']}")
    if result["printed"]:
        findings.append("it prints; remove that, because training calls it thousands of times")
    return findings, mistakes


def named_mistakes(
    exercise: Exercise, cases: Sequence[Case], results: Sequence[Result]
) -> tuple[str, ...]:
    """Return the known mistakes, one or two, that give the same results; none if there are none."""
    tried = (
        chosen for number in (1, 2) for chosen in itertools.combinations(exercise.mistakes, number)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # wrong functions divide by zero
        explains = (c for c in tried if _explains(exercise, frozenset(c), cases, results))
        return next(explains, ())


def _explains(
    exercise: Exercise, chosen: Wrong, cases: Sequence[Case], results: Sequence[Result]
) -> bool:
    """Return whether a function with these mistakes gives the same results in all cases."""
    for case, result in zip(cases, results, strict=True):
        try:
            expected = _result_of(exercise.solve(chosen, *case.inputs))
        except (RuntimeError, IndexError, ValueError, ZeroDivisionError):
            return False  # such a function fails
        if not _same(result, expected, False):
            return False
    return True


def _result_of(value: Any) -> Result:
    """Return the result of one of our functions."""
    if isinstance(value, list):
        return Result(value, True)
    return Result([value if isinstance(value, Tensor) else torch.tensor(value)], False)


def _read(answer: dict[str, Any]) -> Result:
    """Return a result of the student's function."""
    match answer["type"]:
        case "tensor":
            dtype = getattr(torch, answer["dtype"])
            return Result([torch.tensor(answer["values"], dtype=dtype)], False)
        case "number":
            return Result([torch.tensor(answer["values"])], False)
        case "list":
            parts = [_read(part) for part in answer["parts"]]
            if all(part.parts for part in parts):
                return Result([part.parts[0] for part in parts], True)
            return Result([], True, "it returns a list of something else than tensors")
        case "nothing":
            return Result([], False, "it returns nothing yet: its last line has to be `return ...`")
    return Result([], False, f"it returns a {answer.get('name')}; return a tensor of numbers")


def _same(result: Result, expected: Result, is_right: bool) -> bool:
    """Return whether two results are equal up to rounding. is_right: nan is never equal."""
    parts = result.parts
    if expected.is_list and not result.is_list and len(parts) == 1 and parts[0].dim() == 2:
        parts = list(parts[0].unbind())  # a row for each part
    if result.error or len(parts) != len(expected.parts):
        return False
    for ours, theirs in zip(expected.parts, parts, strict=True):
        if ours.shape != theirs.shape:
            return False
        numbers = ours.double(), theirs.double()
        largest = numbers[0].nan_to_num().abs().max().item() if ours.numel() else 0.0
        rounding = ABSOLUTE + OF_LARGEST * largest
        if not torch.allclose(*numbers[::-1], RELATIVE, rounding, equal_nan=not is_right):
            return False
    return True


def _wrong_types(theirs: Sequence[Result], ours: Sequence[Result]) -> list[str]:
    """Return a finding if right numbers have another type than they should."""
    for result, expected in zip(theirs, ours, strict=True):
        wanted = expected.parts[0].dtype
        kinds = {part.dtype for part in result.parts}
        if wanted.is_floating_point and not all(kind.is_floating_point for kind in kinds):
            return [f"it returns whole numbers; the result has to be {_name(wanted)}"]
        if not wanted.is_floating_point and kinds - {wanted}:
            return [f"it returns {_name(*kinds)}; the result has to be {_name(wanted)}"]
        if wanted.is_floating_point and torch.float64 in kinds and wanted == torch.float32:
            return [
                "it returns float64 for inputs of float32; make new tensors by torch.zeros_like "
                "and its like, and do not call .double()"
            ]
    return []


def _name(*dtypes: torch.dtype) -> str:
    return " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))


def _wrong_gradients(
    exercise: Exercise, cases: Sequence[Case], answers: Sequence[dict[str, Any]]
) -> list[str]:
    """Return a finding if the results are right but their gradients are not."""
    flows = False
    for case, answer in zip(cases, answers, strict=True):
        if not exercise.learned:
            return []
        inputs = [
            value.clone().requires_grad_() if i in exercise.learned else value
            for i, value in enumerate(case.inputs)
        ]
        ours = exercise.solve(frozenset(), *inputs)
        learned = [inputs[i] for i in exercise.learned]
        right = torch.autograd.grad(ours.sum(), learned, allow_unused=True)
        theirs = answer["gradients"] or [None] * len(right)
        flows = flows or answer["gradients"] is not None
        for index, expected, found in zip(exercise.learned, right, theirs, strict=True):
            zero = torch.zeros_like(inputs[index])
            wanted = Result([zero if expected is None else expected], False)
            given = Result([zero], False) if found is None else _read(found)
            if _same(given, wanted, True):
                continue
            name = exercise.parameters[index]
            if found is None:
                through = f"from {name} " if flows else ""
                return [
                    f"its result is right, but no gradient flows {through}through it, so nothing "
                    "would be learned: do not use .detach(), .item(), .tolist(), NumPy or "
                    "torch.no_grad()"
                ]
            return [
                f"its result is right, but the gradient with respect to {name} is not, "
                f"{case.about}: {_shown(given.parts[0])} instead of {_shown(wanted.parts[0])}"
            ]
    return []


def _difference(
    exercise: Exercise,
    cases: Sequence[Case],
    wrong: Sequence[int],
    theirs: Sequence[Result],
    right: Sequence[Result],
) -> str:
    """Describe the first wrong result, and in which cases it is right and wrong."""
    first = wrong[0]
    if theirs[first].is_list and not right[first].is_list:
        return "it returns a list; return a tensor"
    if theirs[first].error:
        return theirs[first].error
    shapes = [[list(part.shape) for part in each[first].parts] for each in (theirs, right)]
    case = cases[first]
    if shapes[0] != shapes[1]:
        if right[first].is_list:
            return (
                f"{case.about}, it gives {len(shapes[0])} tensors of the shapes {shapes[0]}, "
                f"instead of {shapes[1]}"
            )
        shape, wanted_shape = shapes[0][0] if len(shapes[0]) == 1 else shapes[0], shapes[1][0]
        text = f"{case.about}, its result has the shape {shape}, instead of {wanted_shape}"
        return text + _shape_hint(shape, wanted_shape)
    inputs = ", ".join(
        f"{name} = {_shown(value)}"
        for name, value in zip(exercise.parameters, case.inputs, strict=True)
    )
    got, wanted = (" and ".join(map(_shown, each[first].parts)) for each in (theirs, right))
    text = f"{case.about}, its result is {got}; it should be {wanted} (with {inputs})"
    correct = [each.about for i, each in enumerate(cases) if i not in wrong]
    if correct:
        text += f". It is right {_listed(correct)}"
    return text


def _shape_hint(shape: list[Any], right: list[int]) -> str:
    """Say what a wrong shape looks like."""
    if shape == [*right, 1]:
        return ": the last axis is too many; .squeeze(-1) removes it"
    if not shape:
        return ": a mean or a sum over the samples is too early, it is taken later"
    if not right:
        return ": the mean over the samples is missing"
    if len(shape) == len(right) == 2 and shape == right[::-1]:
        return ": its axes are swapped"
    if len(shape) == len(right) and shape[1:] == right[1:]:
        more = shape[0] - right[0]
        return f": {abs(more)} row{'s' * (abs(more) > 1)} too {'many' if more > 0 else 'few'}"
    if len(shape) == 1 and shape[0] == math.prod(right):
        return ": it is flattened"
    return ""


def _listed(texts: Sequence[str], most: int = 3) -> str:
    shown = list(texts[:most])
    more = len(texts) - len(shown)
    return "; ".join(shown) + (f"; and in {more} more cases" if more else "")


def _shown(value: Any, most: int = 24) -> str:
    """Write a number or a tensor; of a large one, its shape."""
    if not isinstance(value, Tensor):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if value.numel() > most:
        return f"a tensor {list(value.shape)}"
    rounded = value.detach().tolist()
    return _rounded(rounded)


def _rounded(values: Any) -> str:
    if isinstance(values, list):
        return f"[{', '.join(map(_rounded, values))}]"
    return f"{values:.6g}" if isinstance(values, float) else str(values)


def run_job(exercise: Exercise, action: str, file: Path | None, seconds: int) -> dict[str, Any]:
    """Run a job in a process of its own; see `answers.py`. seconds: processor time."""
    with started_job(exercise, action, file, seconds) as job:
        return job.result()


class Job:
    """A running process of `answers.py`."""

    def __init__(self, process: "subprocess.Popen[bytes]", file: Path, seconds: int) -> None:
        self._process, self._file, self._seconds = process, file, seconds

    def result(self) -> dict[str, Any]:
        """Wait for the result, which has `error` if the student's code gave none."""
        used_s, since_s = -1.0, time.monotonic()
        while self._process.poll() is None:
            now_s = _processor_time(self._process.pid)
            if now_s != used_s:
                used_s, since_s = now_s, time.monotonic()
            elif time.monotonic() - since_s > IDLE_S:
                return {"error": f"it waits for something: it did nothing for {IDLE_S} s"}
            time.sleep(POLL_S)
        code = self._process.returncode
        if code == -signal.SIGXCPU:
            text = f"it did not end within {self._seconds} s of processor time; "
            return {"error": f"{text}is there a loop that never ends?"}
        result = self._file.with_suffix(".result")
        if code == 0 and result.exists():
            with suppress(OSError, ValueError):
                found = json.loads(result.read_text())
                if isinstance(found, dict):
                    return found
            return {"error": "its process left no result that can be read"}
        if code < 0:
            names = {each.value: each.name for each in signal.Signals}
            return {"error": f"its process was ended by signal {names.get(-code, -code)}"}
        log = self._file.with_suffix(".log").read_text(errors="replace").strip().splitlines()
        reason = log[-1] if log else f"exit code {code}"
        return {"error": f"its process ended without a result: {reason}"}


def _processor_time(pid: int) -> float:
    """Return the processor seconds that a process has used; 0 if it has ended."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


@contextmanager
def started_job(
    exercise: Exercise, action: str, file: Path | None, seconds: int, mistake: str = ""
) -> Iterator[Job]:
    """Start a job, and end its process after the block. mistake: see `answers.trainings`."""
    with tempfile.TemporaryDirectory(prefix="ppo37-course-") as name:
        job = Path(name) / "job.json"
        what = {
            "action": action,
            "exercise": exercise.name,
            "file": None if file is None else str(file),
            "mistake": mistake,
            "seconds": seconds,
        }
        job.write_text(json.dumps(what))
        try:
            with job.with_suffix(".log").open("wb") as log:
                process, line = launch(
                    python("-m", f"{__package__}.answers", str(job)),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
        except OSError as error:
            raise RunError(f"cannot start {sys.executable}: {error.strerror}") from error
        try:
            yield Job(process, job, seconds)
        finally:
            process.kill()
            process.wait()
            os.close(line)
