# MISTAKE: The entropy is detached, so the bonus has no effect on the gradient.
import torch


def total_loss(policy_loss, entropy, value_loss, ent_coef, vf_coef):
    bonus = ent_coef * entropy.detach()
    return policy_loss - bonus + vf_coef * value_loss
