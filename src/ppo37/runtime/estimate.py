"""How long a run will take, measured in a moment before it starts."""

import copy
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import torch

from ..algorithm.losses import Coefficients
from ..algorithm.update import Batch, gradient_step, make_optimizer
from ..config import Config
from ..envs import VecEnv
from ..model import Agent
from .executables import make_act, make_buffers
from .lanes import Lanes
from .network import place

MOST_STEPS, LEARN_CALLS = 16, 2


def estimate_s(config: Config, agent: Agent, parts: list[VecEnv]) -> float:
    """Seconds that the whole run will take, within a third or so on an idle machine.

    `parts`: its environments, or those of one of several ranks that share the work; they are
    stepped, and must be reset before they are used.
    """
    num_envs = sum(part.num_envs for part in parts)
    device, obs_shape = agent.device, parts[0].obs_shape
    network = place(agent)
    steps = min(MOST_STEPS, config.num_steps)
    buffers = make_buffers(agent, steps, num_envs, obs_shape)
    shape = (steps + 1, num_envs, *agent.policy.action_shape)
    uniforms = torch.full(shape, 0.5, device=device)
    with closing(Lanes(parts, make_act(network), buffers)) as lanes, network.held():
        step_s = _seconds(lambda: lanes.collect(uniforms), 1) / steps

    learner = place(copy.deepcopy(agent))
    optimizer = make_optimizer(learner.agent, config.learning_rate, config.adam_eps)
    length = config.sequence_length
    size = max(1, config.minibatch_size * num_envs // (config.num_envs * length))
    zeros = torch.zeros(size, length, device=device)
    obs, actions = (
        part[0, :1].expand(size * length, *part.shape[2:])
        for part in (buffers.obs, buffers.actions)
    )
    batch = Batch(
        learner.arrange(obs).unflatten(0, zeros.shape), actions.unflatten(0, zeros.shape),
        zeros, zeros, zeros, zeros, zeros, agent.empty_memory(size),
    )  # fmt: skip
    clip_coef = torch.tensor(config.clip_coef, device=device)
    weights = Coefficients(clip_coef, config.clip_vloss, False, config.ent_coef, config.vf_coef)
    learn_s = _seconds(
        lambda: gradient_step(learner, optimizer, batch, weights, config.max_grad_norm).loss.cpu(),
        LEARN_CALLS,
    )
    rollout_s = config.num_steps * step_s
    update_s = config.update_epochs * config.num_minibatches * learn_s
    return config.num_updates * (rollout_s + update_s)


def _seconds(work: Callable[[], Any], calls: int) -> float:
    """Mean time of one call, after one to warm up."""
    work()
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - start) / calls
