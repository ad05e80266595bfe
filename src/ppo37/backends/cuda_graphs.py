"""Executables that are recorded once as CUDA graphs and replayed.

A GPU finishes the kernels of one step sooner than Python can launch them one by one. A graph
launches all of them at once, at the memory addresses that were recorded. So inputs are copied to
the recorded place, and outputs are overwritten by the next replay. Recording runs the work a few
times; nothing is compiled.

The functions recorded are those of `executables.eager`, which promise what recording needs.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..algorithm.losses import LossTerms
from ..algorithm.rollout import Act, Rollout
from ..algorithm.update import Batch
from ..config import Config
from ..networks.agent import Agent
from .executables import Executables, eager, unchanged
from .ranks import Ranks

Work = Callable[[], tuple[Tensor, ...]]
Record = Callable[[Work], Work]
"""Record some work, and return a function that repeats it: it returns the same tensors with new
values in them. Recording may run the work a few times."""

WARM_UPS = 3
"""Runs before recording, in which libraries choose their kernels and allocate their workspaces."""


def make_executables(
    agent: Agent,
    optimizer: torch.optim.Optimizer,
    config: Config,
    buffers: Rollout,
    sizes: Sequence[int],
    ranks: Ranks | None = None,
) -> Executables:
    """Make the fastest executables for the agent's device.

    sizes: the number of environments of each rollout thread.  ranks: as for `eager`.
    """
    plain = eager(agent, optimizer, config, len(sizes), ranks)
    if agent.device.type == "cpu":
        return plain
    alone = ranks is None or ranks.size == 1
    return recorded(plain, buffers, sizes, config.minibatch_sequences, optimizer, cuda_graph, alone)


def recorded(
    plain: Executables,
    buffers: Rollout,
    sizes: Sequence[int],
    minibatch: int,
    optimizer: torch.optim.Optimizer,
    record: Record,
    alone: bool = True,
) -> Executables:
    """Record `plain` executables. Weights and the optimizer's state are unchanged afterwards.

    buffers: those of every rollout.  sizes: the number of environments of each rollout thread; the
    threads act at the same time, so each has its own recording.  minibatch: the samples in one.
    alone: whether this is the only process; what several ranks compute together has another shape
    in every step and is not recorded.
    """
    acts = [_act(act, size, buffers, record) for act, size in zip(plain.acts, sizes, strict=True)]
    if not alone:
        return plain._replace(acts=acts)
    device = buffers.obs.device
    static = Rollout(*(part.to(device, copy=part.device != device) for part in buffers))
    repeat_advantages = record(lambda: tuple(plain.advantages(static)))
    batch = Batch(*repeat_advantages())

    def advantages(rollout: Rollout) -> Batch:
        assert rollout is buffers, "the rollout that was recorded"
        for recorded_part, part in zip(static, rollout, strict=True):
            if recorded_part is not part:
                recorded_part.copy_(part, non_blocking=True)
        repeat_advantages()
        return batch

    recorded_indices = torch.arange(minibatch, device=device)
    with unchanged(optimizer):
        # A recorded step reads the learning rate from where it was during the recording.
        for group in optimizer.param_groups:
            group.update(lr=group["lr"].to(device), capturable=device.type == "cuda")
        repeat_step = record(
            lambda: (torch.stack(tuple(plain.train_step(batch, recorded_indices))),)
        )

    def train_step(samples: Batch, indices: Tensor) -> LossTerms:
        assert samples is batch, "the batch that was recorded"
        recorded_indices.copy_(indices)
        return LossTerms(*repeat_step()[0].clone().unbind())

    return plain._replace(acts=acts, advantages=advantages, train_step=train_step)


def cuda_graph(work: Work) -> Work:
    """Record `work` as a CUDA graph; it is replayed on the stream that is current then."""
    # Every graph is recorded on a stream of its own: workspaces belong to streams, and graphs that
    # run at the same time must not share one.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        results = work()

    def replay() -> tuple[Tensor, ...]:
        graph.replay()
        return results

    return replay


def _act(act: Act, size: int, buffers: Rollout, record: Record) -> Act:
    """Record `act` for `size` of the environments that the buffers are for."""
    obs = torch.zeros_like(buffers.obs[0, :size])
    lstm_state = torch.zeros_like(buffers.lstm_state[:size])
    uniforms = torch.zeros(buffers.actions[0, :size].shape, device=obs.device)
    repeat = record(lambda: act(obs, lstm_state, uniforms))

    def replayed(
        new_obs: Tensor, new_state: Tensor, new_uniforms: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        obs.copy_(new_obs)
        lstm_state.copy_(new_state)
        uniforms.copy_(new_uniforms)
        actions, log_probs, values, next_state = repeat()
        # The caller copies the other three at once, and keeps this one.
        return actions, log_probs, values, next_state.clone()

    return replayed
