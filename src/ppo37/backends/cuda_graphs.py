"""Executables that are recorded once and replayed: what a GPU runs as CUDA graphs.

A GPU finishes the kernels of one step sooner than Python can ask for them, one by one. A graph is
all of them in one request, at the addresses that they were recorded with. So what goes in is
copied to where it was then, and what comes out is overwritten by the next replay. Recording takes
a few runs of the work itself; nothing is compiled.

What `plain` executables promise (static shapes, no look at a value, randomness from outside) is
all that recording needs: the functions recorded are theirs.
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
from .ranks import Team

Work = Callable[[], tuple[Tensor, ...]]
Record = Callable[[Work], Work]
"""Records some work; what it returns does the same again and gives the same tensors, with new
values in them. The work may have been run a few times by then."""

WARM_UPS = 3
"""Runs before recording, in which libraries choose their kernels and allocate their workspaces."""


def make_executables(
    agent: Agent, optimizer: torch.optim.Optimizer, config: Config, buffers: Rollout,
    lanes: Sequence[int], team: Team | None = None,
) -> Executables:  # fmt: skip
    """The fastest executables of the agent's device, for lanes of so many environments."""
    plain = eager(agent, optimizer, config, len(lanes), team)
    if agent.device.type == "cpu":
        return plain
    alone = team is None or team.size == 1
    return recorded(plain, buffers, lanes, config.minibatch_sequences, optimizer, cuda_graph, alone)


def recorded(
    plain: Executables, buffers: Rollout, lanes: Sequence[int], minibatch: int,
    optimizer: torch.optim.Optimizer, record: Record, alone: bool = True,
) -> Executables:  # fmt: skip
    """`plain` executables, recorded.

    buffers: of all rollouts.  lanes: environments that each lane acts in; lanes act at the same
    time, so each has a recording.  minibatch: sequences in one.  alone: whether no other process
    has a part in the work; what ranks compute together differs in shape from step to step and is
    left as it is.  Weights and the optimizer's state are afterwards what they were.
    """
    acts = [_act(act, size, buffers, record) for act, size in zip(plain.acts, lanes, strict=True)]
    if not alone:
        return plain._replace(acts=acts)
    device = buffers.obs.device
    static = Rollout(*(part.to(device, copy=part.device != device) for part in buffers))
    repeat_advantages = record(lambda: tuple(plain.advantages(static)))
    batch = Batch(*repeat_advantages())

    def advantages(rollout: Rollout) -> Batch:
        assert rollout is buffers, "the rollout that was recorded"
        for here, there in zip(static, rollout, strict=True):
            if here is not there:
                here.copy_(there, non_blocking=True)
        repeat_advantages()
        return batch

    chosen = torch.arange(minibatch, device=device)
    with unchanged(optimizer):
        # A recorded step reads its rate where it lies.
        for group in optimizer.param_groups:
            group.update(lr=group["lr"].to(device), capturable=device.type == "cuda")
        repeat_step = record(lambda: (torch.stack(tuple(plain.train_step(batch, chosen))),))

    def train_step(samples: Batch, indices: Tensor) -> LossTerms:
        assert samples is batch, "the batch that was recorded"
        chosen.copy_(indices)
        return LossTerms(*repeat_step()[0].clone().unbind())

    return plain._replace(acts=acts, advantages=advantages, train_step=train_step)


def cuda_graph(work: Work) -> Work:
    """A recording of `work` as a CUDA graph, replayed on the stream of who asks for it."""
    # One of its own: kernels of graphs that run side by side must not share a workspace, and
    # those belong to streams.
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
    """`act` recorded for so many environments of those that the buffers are for."""
    obs = torch.zeros_like(buffers.obs[0, :size])
    memory = torch.zeros_like(buffers.memory[:size])
    uniforms = torch.zeros(buffers.actions[0, :size].shape, device=obs.device)
    repeat = record(lambda: act(obs, memory, uniforms))

    def replayed(
        new_obs: Tensor, new_memory: Tensor, new_uniforms: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        obs.copy_(new_obs)
        memory.copy_(new_memory)
        uniforms.copy_(new_uniforms)
        actions, log_probs, values, after = repeat()
        return actions, log_probs, values, after.clone()  # it is kept, the others are copied

    return replayed
