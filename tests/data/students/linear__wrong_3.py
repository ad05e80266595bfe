# MISTAKE: Ignores `end` and anneals towards 0, as CleanRL's learning rate does.


def linear(start, end, done, total):
    frac = 1.0 - done / total
    return frac * start
