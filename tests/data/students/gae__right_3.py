# STYLE: plain Python numbers, element by element, environments in the outer loop
import torch


def gae(rewards, values, dones, gamma, gae_lambda):
    T, N = rewards.shape
    out = torch.zeros(T, N)
    R, V, D = rewards.tolist(), values.tolist(), dones.tolist()
    for n in range(N):
        a = 0.0
        t = T - 1
        while t >= 0:
            cont = 0.0 if D[t][n] else 1.0
            a = R[t][n] + gamma * cont * V[t + 1][n] - V[t][n] + gamma * gae_lambda * cont * a
            out[t, n] = a
            t -= 1
    return out
