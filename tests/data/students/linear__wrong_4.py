# MISTAKE: Off by one: counts done - 1, as CleanRL counts updates from 1.


def linear(start: float, end: float, done: int, total: int) -> float:
    frac = 1.0 - (done - 1.0) / total
    return end + (start - end) * frac
