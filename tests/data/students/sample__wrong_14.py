# MISTAKE: Softmax by hand without subtracting the maximum: large logits give NaN and so always action 0.
import torch


def sample(logits, uniforms):
    e = torch.exp(logits)
    p = e / e.sum(-1, keepdim=True)
    return (torch.cumsum(p, -1) <= uniforms[:, None]).sum(-1)
