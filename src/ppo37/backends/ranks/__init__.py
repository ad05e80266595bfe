"""Ranks: N processes, started by torchrun, that compute together what one process would.

Each rank owns a contiguous slice of the environments. Random numbers are addressed by the number
of the environment in the whole run, and minibatches are drawn from the whole batch, so both are
those of a single process. Each rank computes the part that its own samples have in the gradient;
the sum over the ranks is the gradient of the whole minibatch, and all ranks take the same step.
Rank 0, the main process, writes the files and prints.

Ranks exchange tensors and JSON; nothing that is exchanged is executed.
"""

from .env_slice import EnvSlice
from .gradients import shared_train_step, with_global_advantages
from .process_group import CHECK_EVERY, Ranks, join
from .torchrun import job, may_restart, own_rank, restarted

__all__ = [
    "CHECK_EVERY",
    "EnvSlice",
    "Ranks",
    "job",
    "join",
    "may_restart",
    "own_rank",
    "restarted",
    "shared_train_step",
    "with_global_advantages",
]
