# MISTAKE: Where an episode starts, fills the stack with copies of the newest picture (as Gym's FrameStack).
import torch


def stack_frames(stack, picture, starts):
    k = stack.shape[1]
    shifted = torch.cat([stack[:, 1:], picture[:, None]], 1)
    filled = picture[:, None].repeat(1, k, 1, 1)
    return torch.where(starts.bool()[:, None, None, None], filled, shifted)
