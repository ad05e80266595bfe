# STYLE: Tensor methods, old values detached
import torch


def probability_ratio(new, old):
    return new.sub(old.detach()).exp()
