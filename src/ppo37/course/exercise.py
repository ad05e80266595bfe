"""The parts of an exercise: a function of the trainer that students write themselves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import indent
from typing import Any, NamedTuple

import torch
from torch import Tensor

Function = Callable[..., Any]
LINE = 100
"""The longest line of a file."""
Wrong = frozenset[str]
"""The names of the mistakes that `Exercise.solve` makes."""


class Case(NamedTuple):
    """Inputs of an exercise. `about` says what is special about them, as in "with one step"."""

    about: str
    inputs: tuple[Any, ...]


class Mistake(NamedTuple):
    """A known way to write a function wrong.

    text: what such a function does, a sentence.  section: the section of the lesson to read.
    """

    text: str
    section: str


class Place(NamedTuple):
    """The place of a function in the trainer.

    owner: the module or class of the package's function, `name` there.  adapt: makes a function
    that can stand there from the student's, if their arguments differ.
    """

    owner: Any
    name: str
    adapt: Callable[[Function], Function] = lambda function: function


@dataclass(frozen=True)
class Exercise:
    """A function to write, with all that is needed to examine it.

    name: of the function.  lesson: that explains it.  signature, text: the first line and the
    docstring of the file that students complete.  cases: the inputs it is called with, from simple
    to general.  oracle: the right results, in plain numbers.  solve: the same by PyTorch, with the
    mistakes that its first argument names.  mistakes: these, by name.  place, task: where the
    function is put and what is trained with it; None if it has no place in the trainer.  other: a
    mistake that changes every run, to prove that the function is used.  learned: indices of the
    inputs that gradients flow to.  may_share: whether the result may share memory with an input.
    """

    name: str
    lesson: str
    signature: str
    text: str
    cases: Callable[[], Sequence[Case]]
    oracle: Function
    solve: Function
    mistakes: Mapping[str, Mistake]
    place: Place | None
    other: str
    task: str = "catch"
    settings: Mapping[str, Any] = field(default_factory=dict)
    learned: tuple[int, ...] = ()
    may_share: bool = False

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the function's parameters."""
        inside = self.signature.partition("(")[2].rpartition(")")[0]
        return tuple(part.partition(":")[0].strip() for part in _split(inside))

    @property
    def file(self) -> str:
        """The name of the file that students complete."""
        return f"my_{self.name}.py"

    @property
    def template(self) -> str:
        """The content of that file at the beginning."""
        head = f"def {self.signature}:"
        if len(head) > LINE:
            before, _, inside = self.signature.partition("(")
            inside, _, after = inside.rpartition(")")
            head = f"def {before}(\n    {inside}\n){after}:"
        learned = [self.parameters[i] for i in self.learned]
        gradients = f"Gradients must flow to {' and '.join(learned)}.\n" if learned else ""
        result = ", and the result is a new tensor" if self.signature.endswith("-> Tensor") else ""
        return (
            f'"""Exercise `{self.name}`; `ppo37 learn check {self.file}` examines it.\n\n'
            f'The inputs must not be changed{result}.\n{gradients}"""\n\n'
            "import torch\nfrom torch import Tensor\n\n\n"
            f'{head}\n    """{indent(self.text.strip(), "    ").lstrip()}\n    """\n'
        )


def numbers(seed: int) -> torch.Generator:
    """Return the random numbers of a case."""
    return torch.Generator().manual_seed(seed)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw normal numbers with two decimals, so that they are easy to read."""
    return (torch.randn(shape, generator=generator) * 100).round() / 100


def chance(generator: torch.Generator, probability: float, *shape: int) -> Tensor:
    """Draw ones with a probability, else zeros."""
    return (torch.rand(shape, generator=generator) < probability).float()


def _split(parameters: str) -> list[str]:
    """Split parameters at the commas that are not in brackets."""
    parts, depth = [""], 0
    for letter in parameters:
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in parts if part.strip()]
