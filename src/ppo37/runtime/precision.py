"""Choosing the precision of the network's layers by a self-test on this machine."""

import time
from functools import partial
from typing import NamedTuple

import torch

from ..model import MLP, Agent
from .graphs import Work, cuda_graph
from .network import Network, place

FORWARD_TOLERANCE = 0.03
GRADIENT_TOLERANCE = 0.05
"""Largest relative errors (in the 2-norm) of bf16 against fp32 that count as agreement: bf16
keeps 8 bits, 0.4% a rounding, and a pass through four layers adds up a few of them."""


BUDGET_S = 0.6
FEWEST_PASSES = 5


class Choice(NamedTuple):
    """A precision and why it was chosen."""

    precision: str
    reason: str


def choose_precision(wanted: str, agent: Agent, obs_shape: tuple[int, ...], size: int) -> Choice:
    """Resolve 'auto': bf16 where it agrees with fp32 and is faster for minibatches of `size`.

    Leaves `agent.bf16` as it was and no gradients behind.
    """
    if wanted != "auto":
        return Choice(wanted, "as asked")
    if isinstance(agent.trunk, MLP):
        return Choice("fp32", "so small a network gains nothing by bf16")
    network = place(agent)
    generator = torch.Generator().manual_seed(0)
    obs = torch.randint(0, 256, (size, *obs_shape), generator=generator, dtype=torch.uint8)
    obs = network.arrange(obs)
    before = agent.bf16
    try:
        outputs = {bf16: _outputs(network, obs, bf16) for bf16 in (False, True)}
        forward = _relative_error(outputs[True][0], outputs[False][0])
        gradient = _relative_error(outputs[True][1], outputs[False][1])
        seconds = _fastest_s(network, obs)
    finally:
        agent.bf16 = before
        agent.zero_grad(set_to_none=True)
    errors = f"errors {forward:.1%} forward, {gradient:.1%} gradient"
    ratio = seconds[False] / seconds[True]
    if not (forward < FORWARD_TOLERANCE and gradient < GRADIENT_TOLERANCE):
        return Choice("fp32", f"bf16 disagrees with fp32: {errors}")
    if ratio <= 1.0:
        return Choice("fp32", f"bf16 runs at {ratio:.2f} times the speed of fp32 here")
    return Choice("bf16", f"self-test: {ratio:.2f} times the speed of fp32, {errors}")


def _outputs(network: Network, obs: torch.Tensor, bf16: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network computes and a gradient of it, both as flat vectors."""
    network.agent.bf16 = bf16
    network.agent.zero_grad(set_to_none=True)
    memory = network.agent.empty_memory(len(obs))
    distribution, values, _ = network(obs, memory, memory.new_zeros(len(obs), 1))
    parts = (values, *distribution.outputs)
    torch.stack([part.square().mean() for part in parts]).sum().backward()
    gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    return torch.cat([part.detach().flatten() for part in parts]), torch.cat(gradients)


def _relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _fastest_s(network: Network, obs: torch.Tensor) -> dict[bool, float]:
    """The least time of a forward and backward pass in fp32 and in bf16, taken in turn.

    The least, because other work on the machine can only add to it.
    """
    times: dict[bool, list[float]] = {False: [], True: []}
    passes: dict[bool, Work] = {bf16: partial(_outputs, network, obs, bf16) for bf16 in times}
    if obs.is_cuda:  # as they are made in training, which waits for no Python
        passes = {bf16: cuda_graph(work) for bf16, work in passes.items()}
    started = time.perf_counter()
    while time.perf_counter() - started < BUDGET_S or len(times[True]) < FEWEST_PASSES:
        for bf16, taken in times.items():
            start = time.perf_counter()
            passes[bf16]()
            if obs.is_cuda:
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
    return {bf16: min(taken) for bf16, taken in times.items()}
