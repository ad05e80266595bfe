# MISTAKE: The mask multiplies the whole target, so the reward of the last step of an episode is lost.
import torch


def td_errors(rewards, values, dones, gamma):
    return (1 - dones) * (rewards + gamma * values[1:]) - values[:-1]
