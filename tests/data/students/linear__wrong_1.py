# MISTAKE: Start and end are swapped.


def linear(start: float, end: float, done: int, total: int) -> float:
    return start + (end - start) * (1 - done / total)
