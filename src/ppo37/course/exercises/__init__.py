"""The exercises, by the name of their function, in the order of the lessons."""

from . import continuous, losses, memory, pixels, policies, returns, statistics, updates

EXERCISES = {
    exercise.name: exercise
    for exercise in (
        *policies.EXERCISES,
        *returns.EXERCISES,
        *losses.EXERCISES,
        *updates.EXERCISES,
        *pixels.EXERCISES,
        *memory.EXERCISES,
        *continuous.EXERCISES,
        *statistics.EXERCISES,
    )
}
__all__ = ["EXERCISES"]
