"""The lessons, in their order, and their texts."""

from importlib.resources import files
from typing import NamedTuple

from ..errors import UsageError
from .exercises import EXERCISES


class Lesson(NamedTuple):
    """A lesson. Its text is `lessons/{name}.md`; its exercises are those that name it."""

    name: str
    title: str

    @property
    def text(self) -> str:
        """The text, in Markdown."""
        return (files(__package__) / "lessons" / f"{self.name}.md").read_text()

    @property
    def exercises(self) -> list[str]:
        """The names of its exercises."""
        return [name for name, each in EXERCISES.items() if each.lesson == self.name]


LESSONS = {
    name: Lesson(name, title)
    for name, title in (
        ("policy", "What is a policy?"),
        ("return", "Rewards, returns and values"),
        ("advantages", "How much better was an action than expected?"),
        ("ratio", "Learn several times from the same steps"),
        ("clip", "The clipped objective"),
        ("loss", "One loss for policy and value"),
        ("update", "One update"),
        ("pixels", "From pixels to the network"),
        ("memory", "A network that remembers"),
        ("continuous", "Actions that are real numbers"),
        ("training", "Read a training run"),
        ("numbers", "How numbers mislead"),
        ("papers", "Read a PPO paper critically"),
    )
}


def find_lesson(name: str) -> Lesson:
    """Return the lesson of this name; UsageError if there is none."""
    if name not in LESSONS:
        raise UsageError(f"no lesson is called {name!r}; there are {', '.join(LESSONS)}")
    return LESSONS[name]
