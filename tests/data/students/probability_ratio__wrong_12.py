# MISTAKE: Base 2: 2 ** (new - old).
import torch


def probability_ratio(new_log_probs, old_log_probs):
    return torch.exp2(new_log_probs - old_log_probs)
