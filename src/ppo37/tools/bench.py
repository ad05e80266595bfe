"""The speed of PPO on this machine, where its time goes, and its distance to an upper limit.

Legend: N environments, B samples of one rollout. SPS are agent steps a second; an agent step
is four frames of the game. A FLOP is one multiplication or one addition.
"""

import dataclasses
import itertools
import math
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from .. import randomness
from ..algorithm.rollout import Rollout
from ..algorithm.update import make_optimizer
from ..backends.adam import Adam
from ..backends.cuda_graphs import make_executables
from ..backends.device import (
    CHECKOUT,
    commit,
    describe_machine,
    prepare_process,
    resolve_device,
    usable_cores,
    versions,
)
from ..backends.executables import Executables, make_buffers
from ..backends.precision import choose_precision
from ..backends.ranks import own_rank
from ..backends.self_test import noise, random_actions
from ..build import make_agent, make_factory, normalized
from ..config import Config, describe_layers, from_dict, to_dict
from ..envs import VecEnv, spaces_of
from ..envs.games import title
from ..errors import UsageError
from ..loop import train
from ..networks.agent import Agent
from ..presets import describe
from ..session.view import NoView, duration, shares

ENV_SHARE, ACT_SHARE, LEARN_SHARE, LOOP_SHARE, GEMM_SHARE = 0.15, 0.1, 0.15, 0.45, 0.1
"""Parts of the time for each measurement; the rest is for the self-test and the start."""
WARM_UP_SHARE = 0.2
"""Part of each measurement that is not counted."""
WARM_UP_UPDATES, FEWEST_UPDATES = 1, 3
GEMM_SIDES = {"cpu": (256, 1024, 2048), "cuda": (4096, 8192)}
"""Sides of the square matrices that are multiplied; the fastest product counts."""


class Flops(NamedTuple):
    """FLOP of the network for one sample: for acting, and for one gradient."""

    forward: int
    forward_backward: int


def bench(config: Config, seconds: float = 30.0) -> dict[str, Any]:
    """Measure this machine for about `seconds`. Returns plain values, ready for JSON.

    The whole loop is `train` itself, in a temporary run directory; `env` is the time that its
    threads wait for environments. The upper limit (`roof_sps`) is the speed with every product of
    the network as fast as the best matrix product, and the environments as fast as alone, one after
    the other, because they share the cores. It counts all products of a convolution; native kernels
    in fp32 need fewer. Other programs make every figure too low.

    config: the time of a whole run is estimated for its `total_timesteps`.  UsageError for an
    unknown game or a device that this machine does not have.
    """
    if not 0 < seconds < math.inf:
        raise UsageError(f"seconds must be more than 0 and finite, not {seconds}")
    started = time.perf_counter()
    config = dataclasses.replace(config, device=resolve_device(config.device))
    threads = config.threads or usable_cores()
    config = dataclasses.replace(config, threads=threads)
    prepare_process(config.device, threads)

    make_envs = make_factory(config, threads)
    with closing(make_envs(config.num_envs, config.seed)) as envs:
        agent = make_agent(config, spaces_of(envs)).to(config.device)
        choice = choose_precision(config, agent, envs.obs_shape, config.minibatch_size)
        config = choice.applied(config)
        agent.bf16 = choice.precision == "bf16"
        flops = flops_per_sample(agent, envs.obs_shape, config.sequence_length)
        env_sps = _environment(normalized(envs, agent, config), agent, seconds * ENV_SHARE)
        act_sps, samples_per_s = _network(agent, envs, config, seconds)

    step_s = 1 / env_sps + 1 / act_sps + config.update_epochs / samples_per_s
    update_s = config.batch_size * step_s
    loop = whole_loop(config, max(FEWEST_UPDATES, round(seconds * LOOP_SHARE / update_s)))
    peak_mib = peak_memory_mib()
    gemm = {
        name: _gemm_flops(kind, config.device, seconds * GEMM_SHARE / 2)
        for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    }
    flops_per_step = flops.forward + config.update_epochs * flops.forward_backward
    limit_sps = 1 / (flops_per_step / gemm[choice.precision] + 1 / env_sps)
    return {
        "game": config.game,
        "preset": config.preset,
        "device": config.device,
        "precision": choice.precision,
        "kernels": choice.kernels,
        "precision_reason": choice.reason,
        "gemm_gflops_per_s": {name: speed / 1e9 for name, speed in gemm.items()},
        "env_sps": env_sps,
        "act_sps": act_sps,
        "learn_samples_per_s": samples_per_s,
        **loop,
        "forward_mflop": flops.forward / 1e6,
        "forward_backward_mflop": flops.forward_backward / 1e6,
        "mflop_per_agent_step": flops_per_step / 1e6,
        "roof_sps": limit_sps,
        "share_of_roof": loop["loop_sps"] / limit_sps,
        "peak_memory_mib": peak_mib,
        "threads": threads,
        "machine": describe_machine(),
        "versions": versions(),
        "commit": commit(),
        "config": to_dict(config),
        "seconds": time.perf_counter() - started,
    }


def table(result: dict[str, Any]) -> str:
    """Format a result of `bench` as a table."""
    config, machine, gemm = result["config"], result["machine"], result["gemm_gflops_per_s"]
    parts = ", ".join(f"{share:.0%} {name}" for name, share in result["time_shares"].items())
    whole_s = config["total_timesteps"] / result["loop_sps"]
    per_step, frames = from_dict(config).frames_per_step, ""
    if per_step > 1:
        frames = f" = {per_step * result['loop_sps']:,.0f} frames/s"
    rows = {
        "matrix product": f"{gemm['fp32']:,.0f} GFLOP/s fp32, {gemm['bf16']:,.0f} bf16",
        "environment alone": f"{result['env_sps']:,.0f} SPS with random actions",
        "acting alone": f"{result['act_sps']:,.0f} SPS in batches of {config['num_envs']}",
        "learning alone": f"{result['learn_samples_per_s']:,.0f} samples/s, each sample "
        f"{config['update_epochs']} times",
        "whole loop": f"{result['loop_sps']:,.0f} SPS{frames}: median of "
        f"{result['loop_updates']} updates, {result['loop_sps_min']:,.0f} to "
        f"{result['loop_sps_max']:,.0f}",
        "its time": parts,
        "a whole run": f"{config['total_timesteps']:,} agent steps in {duration(whole_s)}",
        "network": f"{result['forward_mflop']:.2f} MFLOP forward, "
        f"{result['forward_backward_mflop']:.2f} with backward, "
        f"{result['mflop_per_agent_step']:.1f} per agent step",
        "upper limit": f"{result['roof_sps']:,.0f} SPS, {result['share_of_roof']:.0%} reached",
        "peak memory": f"{result['peak_memory_mib']:,.0f} MiB",
        "machine": f"{machine['cpu']}, {machine['cores']} cores, {machine['isa']}, "
        f"GPU {machine['gpu']}, {machine['system']}, {result['threads']} threads",
        "versions": ", ".join(f"{name} {text}" for name, text in result["versions"].items()),
        "commit": result["commit"] or "none",
    }
    layers = describe_layers(result["precision"], result["kernels"])
    precision = f"{layers} ({result['precision_reason']})"
    head = (
        f"{title(result['game'])}, {describe(from_dict(config))}, on "
        f"{result['device']} in {precision}"
    )
    return "\n".join([head, *(f"  {name:18} {text}" for name, text in rows.items())])


def flops_per_sample(agent: Agent, obs_shape: tuple[int, ...], sequence_length: int = 1) -> Flops:
    """Count the FLOP of the products that PyTorch computes for one sample, by its own counter.

    The samples of an LSTM are steps of one sequence. Leaves no gradients.
    """
    obs = noise(obs_shape, sequence_length, agent.obs_dtype).to(agent.device)
    lstm_state = agent.initial_state(1)
    dones = lstm_state.new_zeros(1, sequence_length)
    with FlopCounterMode(display=False) as forward:
        distribution, values, _ = agent(obs, lstm_state, dones)
    with FlopCounterMode(display=False) as backward:
        torch.stack([part.sum() for part in (values, *distribution.outputs)]).sum().backward()
    agent.zero_grad(set_to_none=True)
    both = forward.get_total_flops() + backward.get_total_flops()
    return Flops(forward.get_total_flops() // sequence_length, both // sequence_length)


def peak_memory_mib() -> float:
    """Return the largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def peers() -> tuple[Callable[..., dict[str, Any]], Callable[[dict[str, Any]], str]]:
    """Import `compare` and `markdown` of benchmarks/peers.py; UsageError outside a checkout."""
    folder = CHECKOUT / "benchmarks"
    if not (folder / "peers.py").is_file():
        raise UsageError("--peers needs a checkout of ppo37: its benchmarks/ are not installed")
    sys.path.insert(0, str(folder))
    found = import_module("peers")
    return found.compare, found.markdown


def _environment(envs: VecEnv, agent: Agent, budget_s: float) -> float:
    """Return agent steps a second with random actions, the starts of new games included."""
    shape = (1024, envs.num_envs, *agent.policy.action_shape)
    actions = random_actions(agent, 1024 * envs.num_envs).cpu().numpy()
    rows = itertools.cycle(actions.reshape(shape))
    envs.reset()

    def step() -> int:
        envs.step(next(rows))
        return envs.num_envs

    return _per_second(step, budget_s, "cpu")


def _network(agent: Agent, envs: VecEnv, config: Config, seconds: float) -> tuple[float, float]:
    """Return agent steps a second of acting alone, and samples a second of learning alone."""
    optimizer = make_optimizer(agent, config.schedule("learning_rate")[0], config.adam_eps, Adam)
    buffers = make_buffers(agent, config.num_steps, config.num_envs, envs.obs_shape)
    run = make_executables(agent, optimizer, config, buffers, [config.num_envs])
    draws = torch.Generator().manual_seed(0)
    steps = buffers.obs.shape[:2]
    buffers.obs.copy_(noise(envs.obs_shape, steps.numel(), agent.obs_dtype).unflatten(0, steps))
    buffers.actions.copy_(random_actions(agent, config.batch_size).view_as(buffers.actions))
    for part in (buffers.log_probs, buffers.values, buffers.rewards):
        part.copy_(torch.randn(part.shape, generator=draws))
    act_sps = _acting(run, buffers, seconds * ACT_SHARE, config.device)
    return act_sps, _learning(run, buffers, config, seconds * LEARN_SHARE)


def _acting(run: Executables, buffers: Rollout, budget_s: float, device: str) -> float:
    obs, actions = buffers.obs[0], buffers.actions[0]
    uniforms = torch.rand(actions.shape, device=device)

    def act() -> int:
        run.acts[0](obs, buffers.lstm_state, uniforms)
        return len(obs)

    with run.frozen_weights():
        return _per_second(act, budget_s, device)


def _learning(run: Executables, buffers: Rollout, config: Config, budget_s: float) -> float:
    batch = run.advantages(buffers)
    order = torch.from_numpy(randomness.permutations(config.seed, 0, 1, config.num_sequences)[0])
    minibatches = itertools.cycle(order.to(buffers.obs.device).split(config.minibatch_sequences))

    def learn() -> int:
        run.train_step(batch, next(minibatches))
        return config.minibatch_size

    return _per_second(learn, budget_s, config.device)


class _Stopwatch(NoView):
    """A view that records the end of each update and the time of its parts so far."""

    def __init__(self) -> None:
        self.ended_s: list[float] = []
        self.parts: list[dict[str, float]] = []

    def show(self, record: dict[str, Any], games: int, seconds: dict[str, float]) -> None:
        self.ended_s.append(time.perf_counter())
        self.parts.append(dict(seconds))


def whole_loop(config: Config, updates: int) -> dict[str, Any]:
    """Measure the speed of `train`, with its logs, in `updates` after the warm-up, and its parts.

    One more update is not counted, because a checkpoint is saved after it, which usually happens
    every two minutes. With several ranks only rank 0 returns figures.
    """
    steps = (WARM_UP_UPDATES + updates + 1) * config.batch_size
    config = dataclasses.replace(config, total_timesteps=steps)
    watch = _Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder) / "run", view=watch)
    if own_rank() > 0:
        return {}
    ended_s = watch.ended_s[WARM_UP_UPDATES - 1 : -1]
    update_s = [after - before for before, after in itertools.pairwise(ended_s)]
    before, after = watch.parts[WARM_UP_UPDATES - 1], watch.parts[-2]
    return {
        "loop_sps": config.batch_size / statistics.median(update_s),
        "loop_sps_min": config.batch_size / max(update_s),
        "loop_sps_max": config.batch_size / min(update_s),
        "loop_updates": len(update_s),
        "loop_update_s": update_s,
        "time_shares": shares({name: after[name] - before[name] for name in after}),
    }


def _gemm_flops(kind: torch.dtype, device: str, budget_s: float) -> float:
    """Return the highest FLOP/s of products of square matrices of one type."""
    best = 0.0
    sides = GEMM_SIDES[device]
    for side in sides:
        if best and 2 * side**3 / best > budget_s:  # too slow, as bf16 is on a processor without it
            break
        left, right, out = (torch.randn(side, side, device=device).to(kind) for _ in range(3))
        times: list[float] = []
        while sum(times) < budget_s / len(sides) or len(times) < 2:
            start = time.perf_counter()
            torch.mm(left, right, out=out)
            _wait(device)
            times.append(time.perf_counter() - start)
        best = max(best, 2 * side**3 / min(times))
    return best


def _per_second(work: Callable[[], int], budget_s: float, device: str) -> float:
    """Return the mean units of work a second; `work` does some and returns how many."""
    _spend(work, WARM_UP_SHARE * budget_s, device)
    done, spent_s = _spend(work, (1 - WARM_UP_SHARE) * budget_s, device)
    return done / spent_s


def _spend(work: Callable[[], int], budget_s: float, device: str) -> tuple[int, float]:
    """Work for a time, at least once. Returns the units of work and the seconds."""
    done, spent_s, start = 0, 0.0, time.perf_counter()
    while spent_s < budget_s or not done:
        done += work()
        _wait(device)
        spent_s = time.perf_counter() - start
    return done, spent_s


def _wait(device: str) -> None:
    """Wait for a GPU, which still works after a call has returned."""
    if device == "cuda":
        torch.cuda.synchronize()
