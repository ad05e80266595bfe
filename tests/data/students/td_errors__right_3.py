# STYLE: addcmul and narrow
import torch


def td_errors(rewards, values, dones, gamma):
    T = rewards.shape[0]
    now = values.narrow(0, 0, T)
    later = values.narrow(0, 1, T)
    return torch.addcmul(rewards - now, 1 - dones, later, value=gamma)
