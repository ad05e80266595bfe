# MISTAKE: Uses the linear approximation 1 + (new - old).
import torch


def probability_ratio(new_log_probs, old_log_probs):
    return 1 + new_log_probs - old_log_probs
