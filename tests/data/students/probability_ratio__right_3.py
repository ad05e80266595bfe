# STYLE: a power of e
import math

import torch


def probability_ratio(new_log_probs, old_log_probs):
    difference = new_log_probs - old_log_probs
    return torch.pow(math.e, difference)
