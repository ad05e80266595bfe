"""How long a run will take, measured in a moment before it starts."""

import copy
import time
from collections.abc import Callable
from typing import Any

import torch

from ..algorithm.losses import Coefficients
from ..algorithm.update import Batch, gradient_step, make_optimizer
from ..config import Config
from ..envs import VecEnv
from ..model import Agent
from .executables import acting, make_act
from .network import place

ENV_STEPS, ACT_CALLS, LEARN_CALLS = 16, 8, 2


def estimate_s(config: Config, agent: Agent, envs: VecEnv) -> float:
    """Seconds that the whole run will take, within a third or so on an idle machine.

    `envs` is one of the groups; it is stepped, and must be reset before it is used.
    """
    share = envs.num_envs / config.num_envs
    obs = envs.reset()
    seen = torch.from_numpy(obs).to(config.device)
    network = place(agent)
    act, uniforms = make_act(network), torch.full((envs.num_envs,), 0.5, device=config.device)
    actions = act(seen, uniforms)[0].cpu().numpy()
    with acting(network):
        act_s = _seconds(lambda: act(seen, uniforms)[0].cpu(), ACT_CALLS)
    env_s = _seconds(lambda: envs.step(actions), ENV_STEPS)

    learner = place(copy.deepcopy(agent))
    optimizer = make_optimizer(learner.agent, config.learning_rate, config.adam_eps)
    size = config.minibatch_size
    zeros = torch.zeros(size, device=config.device)
    pixels = learner.arrange(seen[:1].expand(size, *seen.shape[1:]))
    batch = Batch(pixels, zeros.long(), zeros, zeros, zeros, zeros)
    clip_coef = torch.tensor(config.clip_coef, device=config.device)
    weights = Coefficients(clip_coef, config.clip_vloss, False, config.ent_coef, config.vf_coef)
    learn_s = _seconds(
        lambda: gradient_step(learner, optimizer, batch, weights, config.max_grad_norm).loss.cpu(),
        LEARN_CALLS,
    )
    rollout_s = config.num_steps / share * (env_s + act_s)
    update_s = config.update_epochs * config.num_minibatches * learn_s
    return config.num_updates * (rollout_s + update_s)


def _seconds(work: Callable[[], Any], calls: int) -> float:
    """Mean time of one call, after one to warm up."""
    work()
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - start) / calls
