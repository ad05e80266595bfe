# MISTAKE: Brackets: the mask also removes V(s_t) at the end of an episode.
import torch


def td_errors(rewards, values, dones, gamma):
    mask = 1.0 - dones
    return rewards + mask * (gamma * values[1:] - values[:-1])
