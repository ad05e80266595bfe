# MISTAKE: exp(new) / (exp(old) + 1e-8): wrong for unlikely actions.
import torch


def probability_ratio(new_log_probs, old_log_probs):
    return new_log_probs.exp() / (old_log_probs.exp() + 1e-8)
