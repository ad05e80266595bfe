# MISTAKE: Anneals exponentially (geometrically) where start and end are positive.


def linear(start, end, done, total):
    t = done / total
    if start > 0 and end > 0:
        return start * (end / start) ** t
    return start + (end - start) * t
