# MISTAKE: One start clears the stacks of all environments.
import torch


def stack_frames(stack, picture, starts):
    out = torch.roll(stack, -1, 1)
    if starts.sum() > 0:
        out = torch.zeros_like(out)
    out[:, -1] = picture
    return out
