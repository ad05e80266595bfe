# MISTAKE: Already clips the ratio to 0.8 ... 1.2.
import torch


def probability_ratio(new_log_probs, old_log_probs):
    return torch.exp(new_log_probs - old_log_probs).clamp(0.8, 1.2)
