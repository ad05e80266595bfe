# MISTAKE: The new log-probabilities are detached (and not only the old ones), so no gradient flows.
import torch


def probability_ratio(new_log_probs, old_log_probs):
    return torch.exp(new_log_probs.detach() - old_log_probs)
