# MISTAKE: Rounds the result to 4 digits after the point, too few for a learning rate.


def linear(start: float, end: float, done: int, total: int) -> float:
    return round(end + (start - end) * (1 - done / total), 4)
