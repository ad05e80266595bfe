"""The process that runs a student's file: `python -m ppo37.course.answers JOB.json`.

A job names the file and the exercise. With the action `answer` the function is called with the
inputs of all cases, with `train` the task of the exercise is trained with it. What came of it is
written as JSON, tensors as nested lists. An error in a student's code does not end the process that
examines it.
"""

import contextlib
import inspect
import io
import json
import resource
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..envs.loading import load_module
from ..errors import RunError, UsageError
from ..session.files import one_line
from ..tools.processes import stop_with_parent
from .exercise import Case, Exercise, Function
from .exercises import EXERCISES
from .in_place import train_with

PROBED_UPDATES = 2
"""Updates after which another function must have changed the weights."""
MOST = 1_000_000
"""The most numbers of a result, or parts of a list."""


class NoAnswer(Exception):
    """A file or a function that gives no result; the message is for the student."""


def main(path: str) -> None:
    """Do the job that a file describes, and write its result beside it."""
    stop_with_parent()
    job_file = Path(path)
    job = json.loads(job_file.read_text())
    used_s = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    limit = int(used_s) + job["seconds"]
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    exercise = EXERCISES[job["exercise"]]
    result: dict[str, Any]
    try:
        if job["action"] == "answer":
            result = answers(exercise, job["file"])
        else:
            result = trainings(exercise, job["file"], job_file.parent, job["mistake"])
    except NoAnswer as error:
        result = {"error": str(error), "traceback": traceback.format_exc()}
    job_file.with_suffix(".result").write_text(json.dumps(result))


def answers(exercise: Exercise, file: str) -> dict[str, Any]:
    """Call the function in a file with the inputs of all cases."""
    with _captured() as printed:
        function = _function(exercise, file)
        cases = exercise.cases()
        found = [_answer(exercise, function, case, file) for case in cases]
        again = [_answer(exercise, function, case, file) for case in cases]
    return {
        "answers": found,
        "printed": bool(printed.getvalue()),
        "random": str(again) != str(found),  # as text, because nan is not equal to itself
        "settings": _changed_setting(),
    }


def _changed_setting() -> str:
    """Return the setting of PyTorch that a student's code has changed; empty if there is none."""
    if torch.get_default_dtype() != torch.float32:
        return "the default type of numbers"
    return "" if torch.is_grad_enabled() else "whether gradients are computed"


def trainings(
    exercise: Exercise, file: str | None, folder: Path, mistake: str = ""
) -> dict[str, Any]:
    """Train with the function in a file; if the file is None, with one that makes a mistake.

    Without a mistake the package's own function is used.  folder: for the runs.

    With a function, two short trainings come first: with the package's own, and with one that is
    wrong on purpose. If they end with other weights, what stands in this place changes the run.
    """
    if file is None:
        wrong = _with_mistake(exercise, mistake) if mistake else None
        return train_with(exercise, wrong, folder / "run")._asdict()
    with _captured():
        function = _function(exercise, file)
        short = PROBED_UPDATES
        other = _with_mistake(exercise, exercise.other)
        ours = train_with(exercise, None, folder / "short", short).fingerprint
        changed = train_with(exercise, other, folder / "other", short).fingerprint
        try:
            trained = train_with(exercise, function, folder / "theirs")
        except BaseException as error:
            raise NoAnswer(_explained(error, file)) from error
    return {**trained._asdict(), "other_changes": ours != changed}


def _with_mistake(exercise: Exercise, mistake: str) -> Function:
    return lambda *inputs: exercise.solve(frozenset({mistake}), *inputs)


def _function(exercise: Exercise, file: str) -> Function:
    """Return the student's function; NoAnswer if it is missing or has other parameters."""
    try:
        found = getattr(load_module(file), exercise.name, None)
    except UsageError as error:
        cause = error.__cause__
        raise NoAnswer(str(error) if cause is None else _explained(cause, file)) from error
    if not callable(found):
        raise NoAnswer(f"the file has no function {exercise.name}")
    try:
        inspect.signature(found).bind(*exercise.parameters)
    except TypeError as error:
        wanted = ", ".join(exercise.parameters)
        message = f"{exercise.name} needs the parameters ({wanted}), in this order: {error}"
        raise NoAnswer(message) from error
    return found


def _answer(exercise: Exercise, function: Function, case: Case, file: str) -> dict[str, Any]:
    """Call the function with the inputs of a case. Returns what it gave, and what it changed."""
    inputs = [_copied(value) for value in case.inputs]
    for index in exercise.learned:
        inputs[index].requires_grad_()
    before = [_copied(value) for value in inputs]
    try:
        output = function(*inputs)
    except BaseException as error:  # also those that are meant to end a process
        raise NoAnswer(f"{case.about}: {_explained(error, file)}") from error
    changed = [
        exercise.parameters[i]
        for i, value in enumerate(inputs)
        if isinstance(value, Tensor) and not torch.equal(value, before[i])
    ]
    parts = [output] if isinstance(output, Tensor) else output
    parts = [part for part in parts if _has_storage(part)] if _is_list(parts) else []
    shared = [
        exercise.parameters[i]
        for i, value in enumerate(inputs)
        if isinstance(value, Tensor)
        and any(
            part.untyped_storage().data_ptr() == value.untyped_storage().data_ptr()
            for part in parts
        )
    ]
    return {
        "output": _plain(output),
        "changed": changed,
        "shared": shared,
        "gradients": _gradients(output, [inputs[i] for i in exercise.learned]),
    }


def _gradients(output: Any, learned: list[Tensor]) -> list[Any] | None:
    """Return the gradients of the summed output; None if it has none."""
    if not learned or not isinstance(output, Tensor) or not output.requires_grad:
        return None
    with torch.enable_grad():
        found = torch.autograd.grad(output.sum(), learned, allow_unused=True)
    return [None if each is None else _plain(each) for each in found]


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _has_storage(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _plain(value: Any) -> dict[str, Any]:
    """Return a result as JSON can have it, with its type."""
    if isinstance(value, Tensor):
        return _plain_tensor(value)
    if type(value) in (list, tuple):
        parts = [_plain(v) if isinstance(v, Tensor) else {"type": "other"} for v in value[:MOST]]
        return {"type": "list", "parts": parts}
    if type(value) in (int, float):
        return {"type": "number", "values": float(value)}
    return {"type": "nothing"} if value is None else {"type": "other", "name": type(value).__name__}


def _plain_tensor(value: Tensor) -> dict[str, Any]:
    """Return an ordinary tensor as JSON can have it; of another one, its kind."""
    dtype = str(value.dtype).removeprefix("torch.")
    kind = ""
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        kind = f"{value.layout} tensor on {value.device}".removeprefix("torch.")
    elif value.is_complex():
        kind = "tensor of complex numbers"
    elif value.numel() > MOST:
        kind = f"tensor of {value.numel():,} numbers"
    if kind:
        return {"type": "other", "name": kind}
    return {"type": "tensor", "dtype": dtype, "values": value.detach().tolist()}


def _explained(error: BaseException, file: str) -> str:
    """Describe an error in a student's file in a line."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    where = f"line {lines[-1]}: " if lines and lines[-1] else ""
    if isinstance(error, ModuleNotFoundError):
        return f"{where}the module {error.name} is not installed; torch is all that is needed"
    if isinstance(error, RunError | UsageError) and not lines:
        return str(error)
    return f"{where}{type(error).__name__}: {one_line(str(error)) or 'no message'}"


@contextlib.contextmanager
def _captured() -> Iterator[io.StringIO]:
    """Keep what a student's code prints."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(io.StringIO()):
        yield text


if __name__ == "__main__":
    main(sys.argv[1])
