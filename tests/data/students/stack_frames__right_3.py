# STYLE: loops over environments and places, lists and torch.stack
import torch


def stack_frames(s, p, first):
    envs = []
    for n in range(s.size(0)):
        frames = []
        for k in range(1, s.size(1)):
            frames.append(torch.zeros_like(p[n]) if first[n] == 1 else s[n, k])
        frames.append(p[n])
        envs.append(torch.stack(frames))
    return torch.stack(envs)
