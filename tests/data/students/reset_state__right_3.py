# STYLE: loop over environments, a list and torch.stack
import torch


def reset_state(lstm_state, dones):
    rows = []
    for row, d in zip(lstm_state, dones.tolist()):
        rows.append(torch.zeros_like(row) if d else row)
    return torch.stack(rows)
