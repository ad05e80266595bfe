# MISTAKE: Uses the absolute difference of start and end: wrong where the setting should rise.


def linear(start, end, done, total):
    return end + abs(start - end) * (1 - done / total)
