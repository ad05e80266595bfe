# MISTAKE: Counts the cumulative probabilities greater than u, so the actions are in reverse order.
import torch


def sample(logits, uniforms):
    cum = logits.softmax(dim=1).cumsum(dim=1)
    return (cum > uniforms.unsqueeze(1)).sum(dim=1) - 1
