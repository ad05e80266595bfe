"""Schedules: hyperparameters as functions of the agent steps that are done."""


def linear(start: float, end: float, done: int, total: int) -> float:
    """Anneal linearly from `start` towards `end`, which is never reached.

    E9: x_k = end + (start - end) * (1 - k / K)

    done, total: agent steps before this update, and in the whole run; their ratio is k / K, over
    the updates k = 0 .. K-1. The first update uses `start`, and if both ends are equal, so do all
    others. The value depends on the progress alone, so a resumed run cannot use an outdated one.
    Source: openai/baselines ppo2.py, `frac = 1 - (update - 1) / nupdates`, with end 0.
    """
    return end + (start - end) * (1.0 - done / total)  # D04
