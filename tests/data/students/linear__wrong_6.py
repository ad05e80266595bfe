# MISTAKE: Does not go from start: adds start * fraction to end (forgets "- end").


def linear(start: float, end: float, done: int, total: int) -> float:
    return end + start * (1 - done / total)
