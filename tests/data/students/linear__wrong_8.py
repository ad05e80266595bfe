# MISTAKE: Takes max(value, end), so a setting that should rise jumps to end at once.


def linear(start: float, end: float, done: int, total: int) -> float:
    slope = (end - start) / total
    return max(slope * done + start, end)
