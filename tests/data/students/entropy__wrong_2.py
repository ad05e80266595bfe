# MISTAKE: An action of probability 0 (logit -inf) gives NaN, because 0 * -inf is not treated.
import torch
import torch.nn.functional as F


def entropy(logits):
    log_p = F.log_softmax(logits, dim=1)
    return -(F.softmax(logits, dim=1) * log_p).sum(dim=1)
