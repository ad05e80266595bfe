# MISTAKE: Sums the log-ratios over the minibatch first: one joint ratio for all samples.
import torch


def probability_ratio(new_log_probs, old_log_probs):
    d = (new_log_probs - old_log_probs).sum()
    return torch.exp(d).expand_as(new_log_probs)
