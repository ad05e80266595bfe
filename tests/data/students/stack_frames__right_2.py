# STYLE: roll, boolean indexing on the copy
import torch


def stack_frames(stack, picture, starts):
    out = stack.roll(-1, dims=1)
    out[starts.bool()] = 0
    out[:, -1] = picture
    return out
