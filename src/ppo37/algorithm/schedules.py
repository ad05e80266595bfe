"""Schedules: hyperparameters as pure functions of the update index."""


def linear(initial: float, update: int, num_updates: int) -> float:
    """Anneal `initial` linearly towards zero, for updates k = 0 .. K-1.

    E9: x_k = x_0 * (1 - k / K)

    The first update uses `initial` itself and the last `initial / K`; zero is never reached.
    A pure function of the index, so that a resumed run cannot continue with a stale value.
    Source: openai/baselines ppo2.py, `frac = 1 - (update - 1) / nupdates`.
    """
    return initial * (1.0 - update / num_updates)  # D04


def annealed(initial: float, anneal: bool, update: int, num_updates: int) -> float:
    """Return `initial`, annealed by E9 if `anneal` says so."""
    return linear(initial, update, num_updates) if anneal else initial
