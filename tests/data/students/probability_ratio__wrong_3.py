# MISTAKE: Old and new are swapped: exp(old - new).
import torch


def probability_ratio(new_log_probs, old_log_probs):
    return (old_log_probs - new_log_probs).exp()
