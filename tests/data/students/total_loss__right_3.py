# STYLE: torch.add / torch.sub with alpha as Python numbers
import torch


def total_loss(policy_loss, entropy, value_loss, ent_coef, vf_coef):
    loss = torch.sub(policy_loss, entropy, alpha=ent_coef.item())
    return torch.add(loss, value_loss, alpha=vf_coef.item())
