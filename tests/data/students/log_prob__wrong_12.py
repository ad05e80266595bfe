# MISTAKE: Indexing [:, actions] gives [B, B]; then averages over it, not picking the diagonal.
import torch


def log_prob(logits, actions):
    lp = logits - logits.logsumexp(dim=1, keepdim=True)
    return lp[:, actions].mean(dim=1)
