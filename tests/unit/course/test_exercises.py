"""The exercises themselves: right results, known mistakes, files to complete."""

import inspect
import warnings
from typing import Any

import pytest
import torch

from ppo37.course.examiner import named_mistakes
from ppo37.course.exercise import Exercise, Place
from ppo37.course.exercises import EXERCISES
from ppo37.course.lessons import LESSONS

EACH = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
# What the package has in the place of an exercise, with the arguments of the exercise.
PACKAGE = {
    "sample": lambda f: lambda logits, uniforms: f(policy(logits), uniforms),
    "log_prob": lambda f: lambda logits, actions: f(policy(logits), actions),
    "entropy": lambda f: lambda logits: f(policy(logits)),
    "value_loss": lambda f: lambda *inputs: f(*inputs, True),
    "gaussian_log_prob": lambda f: lambda mean, std, actions: f(gaussian(mean, std), actions),
}


def policy(logits: torch.Tensor) -> Any:
    return EXERCISES["sample"].place.owner(logits)


def gaussian(mean: torch.Tensor, log_std: torch.Tensor) -> Any:
    return EXERCISES["gaussian_log_prob"].place.owner(mean, log_std)


def tensors(result: Any) -> list[torch.Tensor]:
    parts = result if isinstance(result, list | tuple) else [result]
    return [torch.as_tensor(part) for part in parts]


def assert_close(ours: Any, right: Any) -> None:
    for a, b in zip(tensors(ours), tensors(right), strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-5, atol=1e-6)


@EACH
def test_the_oracle_and_pytorch_agree(exercise: Exercise) -> None:
    for case in exercise.cases():
        assert_close(exercise.solve(frozenset(), *case.inputs), exercise.oracle(*case.inputs))


@EACH
def test_every_known_mistake_is_wrong_and_named(exercise: Exercise) -> None:
    """No two mistakes give the same results in all cases."""
    cases = exercise.cases()
    assert exercise.other in exercise.mistakes
    for name in exercise.mistakes:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = [exercise.solve(frozenset({name}), *case.inputs) for case in cases]
        found = named_mistakes(exercise, cases, [result_of(each) for each in results])
        assert found == (name,)


def result_of(value: Any) -> Any:
    from ppo37.course import examiner

    return examiner.Result(tensors(value), isinstance(value, list))


@EACH
def test_the_functions_of_the_package_are_right(exercise: Exercise) -> None:
    """Where the package's function has the same arguments, or nearly so."""
    if exercise.place is None:
        pytest.skip("it has no place in the trainer")
    owner, name, adapt = exercise.place
    ours = getattr(owner, name)
    if exercise.name in PACKAGE:
        ours = PACKAGE[exercise.name](ours)
    elif adapt is not Place._field_defaults["adapt"]:
        pytest.skip("the package has this as a part of another function")
    for case in exercise.cases():
        assert_close(ours(*case.inputs), exercise.oracle(*case.inputs))


@EACH
def test_the_file_to_complete_is_valid_and_empty(exercise: Exercise) -> None:
    scope: dict[str, Any] = {}
    exec(compile(exercise.template, exercise.file, "exec"), scope)
    function = scope[exercise.name]
    assert tuple(inspect.signature(function).parameters) == exercise.parameters
    assert function(*exercise.cases()[0].inputs) is None
    assert max(map(len, exercise.template.splitlines())) <= 100


def test_every_exercise_has_a_lesson() -> None:
    assert {exercise.lesson for exercise in EXERCISES.values()} <= set(LESSONS)
    in_lessons = [name for lesson in LESSONS.values() for name in lesson.exercises]
    assert in_lessons == list(EXERCISES), "in the order of the lessons"
