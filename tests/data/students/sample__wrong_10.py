# MISTAKE: The shape is [B, 1] and not [B].
import torch


def sample(logits, uniforms):
    c = torch.softmax(logits, -1).cumsum(-1)
    return torch.searchsorted(c, uniforms[:, None].contiguous(), right=True)
