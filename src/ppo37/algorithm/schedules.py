"""Schedules: hyperparameters as functions of the update number."""


def linear(initial: float, update: int, num_updates: int) -> float:
    """Anneal `initial` linearly towards zero over the updates k = 0 .. K-1.

    E9: x_k = x_0 * (1 - k / K)

    The first update uses `initial` and the last one `initial / K`; zero is never reached. The
    value depends on the update number alone, so a resumed run cannot use an outdated one.
    Source: openai/baselines ppo2.py, `frac = 1 - (update - 1) / nupdates`.
    """
    return initial * (1.0 - update / num_updates)  # D04


def annealed(initial: float, anneal: bool, update: int, num_updates: int) -> float:
    """Return `initial`, annealed by E9 if `anneal` is set."""
    return linear(initial, update, num_updates) if anneal else initial
