# MISTAKE: Off by one: divides by total - 1, so that the end is reached.


def linear(start, end, done, total):
    t = done / max(total - 1, 1)
    return (1 - t) * start + t * end
