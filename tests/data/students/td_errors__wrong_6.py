# MISTAKE: V(s_t) and V(s_{t+1}) are swapped.
import torch


def td_errors(rewards, values, dones, gamma):
    v_next, v = values[:-1], values[1:]
    return rewards + gamma * (1 - dones) * v_next - v
