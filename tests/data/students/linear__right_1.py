# STYLE: the weighted mean of start and end


def linear(start, end, done, total):
    t = done / total
    return (1.0 - t) * start + t * end
