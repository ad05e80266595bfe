# MISTAKE: CleanRL's negated terms, but with min where they need max.
import torch


def policy_loss(mb_advantages, ratio, clip_coef):
    pg_loss1 = -mb_advantages * ratio
    pg_loss2 = -mb_advantages * torch.clamp(ratio, 1 - clip_coef, 1 + clip_coef)
    return torch.min(pg_loss1, pg_loss2).mean()
