# STYLE: loops over observations and actions, a list and torch.stack; skips actions of probability 0
import torch


def entropy(logits):
    out = []
    for row in logits:
        log_p = row - torch.logsumexp(row, dim=0)
        h = logits.new_zeros(())
        for lp in log_p:
            p = torch.exp(lp)
            if p.item() > 0:
                h = h - p * lp
        out.append(h)
    return torch.stack(out)
