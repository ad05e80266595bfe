# MISTAKE: Ignores the value after the rollout: the last step is treated as terminal (bootstraps with 0).
import torch


def gae(rewards, values, dones, gamma, gae_lambda):
    T, N = rewards.shape
    v_next = torch.cat((values[1:T], torch.zeros(1, N)))
    deltas = rewards + gamma * (1 - dones) * v_next - values[:T]
    A = torch.zeros(T + 1, N)
    for t in reversed(range(T)):
        A[t] = deltas[t] + gamma * gae_lambda * (1 - dones[t]) * A[t + 1]
    return A[:T]
