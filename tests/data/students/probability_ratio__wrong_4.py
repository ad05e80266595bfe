# MISTAKE: exp(new) / exp(old) by itself: 0 / 0 = NaN for very negative log-probabilities.
import torch


def probability_ratio(new_log_probs, old_log_probs):
    pi_new = torch.exp(new_log_probs)
    pi_old = torch.exp(old_log_probs)
    return pi_new / pi_old
