# MISTAKE: Integer division done // total: the setting stays at start all the time.


def linear(start: float, end: float, done: int, total: int) -> float:
    frac = 1 - done // total
    return end + (start - end) * frac
