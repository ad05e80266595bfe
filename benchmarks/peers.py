"""ppo37 and Stable-Baselines3: agent steps a second of the same PPO on the same machine.

Every measurement is a new process, and the arms take turns, so that changes of the machine's speed
affect all of them. The start, the first updates and the last one are not counted; after the last
one ppo37 saves the run, which usually happens every two minutes. ppo37 is measured as it is used,
with its logs; SB3 writes none. ppo37 is compared with the faster of SB3's two ways to step
environments.

The table also has an upper limit: the speed with every product as fast as the best matrix product
of this machine and the emulator as fast as alone, one after the other.
"""

import dataclasses
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import watched

from ppo37.backends.device import commit, describe_machine, usable_cores, versions
from ppo37.config import Config, describe_layers, from_dict, schedules
from ppo37.errors import UsageError
from ppo37.loop import train
from ppo37.session.view import NoView
from ppo37.tools.processes import python, stop_with_parent

WARM_UP_UPDATES, UPDATES = 2, 4
NEEDED = {
    "protocol": "classic",
    "network": "nature",
    "action_space": "discrete",
    "observation": "pixels",
    "anneal_lr": True,
    "anneal_clip": False,
    "target_kl": None,
    "mask_actions": False,
    "norm_obs": False,
    "norm_reward": False,
}
"""The settings that both libraries support."""
PACKAGES = ("stable-baselines3", "opencv-python-headless")


class Arm(NamedTuple):
    """One of the configurations that are measured."""

    name: str
    library: str
    kind: str
    """The environments of SB3; precision and kernels of ppo37."""
    threads: int | None = None
    """None means PyTorch's default."""


def compare(
    config: Config, rounds: int, updates: int = UPDATES, log: Callable[[str], None] = print
) -> dict[str, Any]:
    """Measure ppo37 and SB3 `rounds` times each, in turn. Returns plain values, ready for JSON.

    config: of both, on the CPU.  UsageError for settings that SB3 lacks, or if it is missing.
    """
    if rounds < 1:
        raise UsageError(f"rounds must be at least 1, not {rounds}")
    for name, value in NEEDED.items():
        if getattr(config, name) != value:
            raise UsageError(
                f"Stable-Baselines3 is compared with {name} {value} only, not "
                f"{getattr(config, name)}; use --preset classic"
            )
    for package in PACKAGES:
        try:
            version(package)
        except PackageNotFoundError as error:
            raise UsageError(f"{package} is not installed: pip install 'ppo37[bench]'") from error
    steps = (WARM_UP_UPDATES + updates + 1) * config.batch_size
    config = dataclasses.replace(config, device="cpu", total_timesteps=steps)
    figures = [
        {"round": number, "arm": arm.name, **_in_new_process(arm, config, number, log)}
        for number, arm in itertools.product(range(1, rounds + 1), arms_of(config))
    ]
    limit = _upper_limit(config, log)
    return {
        "what": "training speed in agent steps a second, start-up and warm-up excluded",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "rounds": rounds,
        "updates": updates,
        "warm_up_updates": WARM_UP_UPDATES,
        "batch_size": config.batch_size,
        "config": dataclasses.asdict(config),
        "machine": describe_machine(),
        "versions": {**versions(), **{package: version(package) for package in PACKAGES}},
        "commit": commit(),
        "roof": limit,
        "summary": summarize(figures, limit["sps"]),
        "measurements": figures,
    }


def arms_of(config: Config) -> list[Arm]:
    """Return the arms; SB3 also with a thread per core where that is not the default."""
    arms = [
        Arm("ppo37", "ppo37", f"{config.precision} {config.kernels}"),
        Arm("SB3, DummyVecEnv", "sb3", "DummyVecEnv"),
        Arm("ppo37, kernels of PyTorch", "ppo37", f"{config.precision} torch"),
        Arm("ppo37, fp32, kernels of PyTorch", "ppo37", "fp32 torch"),
        Arm("SB3, SubprocVecEnv", "sb3", "SubprocVecEnv"),
    ]
    cores = usable_cores()
    if cores != torch.get_num_threads():
        arms += [
            Arm(f"SB3, {kind}, {cores} threads", "sb3", kind, cores)
            for kind in ("DummyVecEnv", "SubprocVecEnv")
        ]
    return arms


def measure(arm: Arm, config: Config) -> dict[str, Any]:
    """Run one arm in this process. Returns its speed and the seconds of each counted update."""
    if arm.threads is not None:
        torch.set_num_threads(arm.threads)
    run = measure_ppo37 if arm.library == "ppo37" else measure_sb3
    ended_s, details = run(arm.kind, config)
    counted = ended_s[WARM_UP_UPDATES:-1]
    update_s = [after - before for before, after in itertools.pairwise(counted)]
    return {
        "sps": config.batch_size * len(update_s) / sum(update_s),
        "update_s": update_s,
        "threads": torch.get_num_threads(),
        **details,
    }


def measure_ppo37(kind: str, config: Config) -> tuple[list[float], dict[str, Any]]:
    """Train with ppo37, with its logs. Returns the times of the start and of each update's end."""
    precision, kernels = kind.split()
    config = dataclasses.replace(config, precision=precision, kernels=kernels)

    class Stopwatch(NoView):
        def __init__(self) -> None:
            self.times_s: list[float] = []
            self.chosen: dict[str, Any] = {}

        def announce(
            self, config: Config, path: Path, reason: str, expected_s: float | None
        ) -> None:
            self.chosen = {"precision": config.precision, "kernels": config.kernels}
            self.times_s.append(time.perf_counter())

        def show(self, record: dict[str, Any], games: int, seconds: dict[str, float]) -> None:
            self.times_s.append(time.perf_counter())

    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder) / "run", view=watch)
    return watch.times_s, watch.chosen


def measure_sb3(kind: str, config: Config) -> tuple[list[float], dict[str, Any]]:
    """Train with SB3, without logs. Returns the times of the start and of each update's end."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack

    class Stopwatch(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.times_s: list[float] = []

        def _on_rollout_start(self) -> None:  # at the start and after every update
            self.times_s.append(time.perf_counter())

        def _on_step(self) -> bool:
            return True

        def _on_training_end(self) -> None:
            self.times_s.append(time.perf_counter())

    # With the prefix Gymnasium imports ale_py in every process, which registers the game.
    game = "".join(word.capitalize() for word in config.game.split("_"))
    env_id = f"ale_py:{game}NoFrameskip-v4"
    kinds = {"DummyVecEnv": DummyVecEnv, "SubprocVecEnv": SubprocVecEnv}
    envs = make_atari_env(env_id, n_envs=config.num_envs, seed=config.seed, vec_env_cls=kinds[kind])
    envs = VecFrameStack(envs, n_stack=config.num_frames)
    start = {name: config.schedule(name)[0] for name in schedules()}
    model = PPO(
        "CnnPolicy",
        envs,
        learning_rate=lambda left: start["learning_rate"] * left,
        n_steps=config.num_steps,
        batch_size=config.minibatch_size,
        n_epochs=config.update_epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=start["clip_coef"],
        clip_range_vf=start["clip_coef"] if config.clip_vloss else None,
        normalize_advantage=config.norm_adv,
        ent_coef=start["ent_coef"],
        vf_coef=start["vf_coef"] / 2,  # SB3's value loss has no factor 1/2
        max_grad_norm=config.max_grad_norm,
        policy_kwargs={"optimizer_kwargs": {"eps": config.adam_eps}},
        seed=config.seed,
        device="cpu",
        verbose=0,
    )
    watch = Stopwatch()
    try:
        model.learn(config.total_timesteps, callback=watch, log_interval=None)
    finally:
        envs.close()
    return watch.times_s, {"precision": "fp32", "kernels": "torch"}


def summarize(figures: list[dict[str, Any]], limit_sps: dict[str, float]) -> dict[str, Any]:
    """Return the median, lowest and highest speed of each arm, and its ratio to the faster SB3.

    The ratio is that within each round; of the ratios the median is taken, too.  limit_sps: the
    upper limit of each precision.
    """
    names = list(dict.fromkeys(figure["arm"] for figure in figures))
    of = {name: [figure for figure in figures if figure["arm"] == name] for name in names}
    sps = {name: [figure["sps"] for figure in of[name]] for name in names}
    rivals = [name for name in names if name.startswith("SB3")]
    better = max(rivals, key=lambda name: statistics.median(sps[name]))
    summary: dict[str, Any] = {"compared_with": better, "arms": {}}
    for name in names:
        ratios = [ours / theirs for ours, theirs in zip(sps[name], sps[better], strict=True)]
        peaks = [figure["peak_memory_mib"] for figure in of[name]]
        summary["arms"][name] = {
            "sps": _spread(sps[name]),
            "ratio": _spread(ratios),
            "peak_memory_mib": None if None in peaks else max(peaks),
            "layers": " / ".join(
                sorted({describe_layers(f["precision"], f["kernels"]) for f in of[name]})
            ),
            "share_of_roof": statistics.median(
                figure["sps"] / limit_sps[figure["precision"]] for figure in of[name]
            ),
            "threads": of[name][0]["threads"],
        }
    return summary


def markdown(result: dict[str, Any]) -> str:
    """Format a result as a table, with its conditions below."""
    summary, machine = result["summary"], result["machine"]
    lines = [
        "| | layers | threads | agent steps/s: median (lowest to highest) "
        "| times the faster SB3 | share of the upper limit | peak memory, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, arm in summary["arms"].items():
        sps, ratio, peak = arm["sps"], arm["ratio"], arm["peak_memory_mib"]
        lines.append(
            f"| {name} | {arm['layers']} | {arm['threads']} "
            f"| {sps['median']:,.0f} ({sps['lowest']:,.0f} to {sps['highest']:,.0f}) "
            f"| {ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f}) "
            f"| {arm['share_of_roof']:.0%} "
            f"| {'-' if peak is None else format(peak, ',.0f')} |"
        )
    gemm, limit = result["roof"]["gemm_gflops_per_s"], result["roof"]["sps"]
    packages = ", ".join(f"{name} {text}" for name, text in result["versions"].items())
    return "\n".join(
        [
            *lines,
            "",
            f"{result['rounds']} rounds, each with a new process per row, in turn; measured are "
            f"{result['updates']} updates of {result['batch_size']:,} agent steps, after "
            f"{result['warm_up_updates']} to warm up. Upper limit: {limit['bf16']:,.0f} steps/s in "
            f"bf16 ({gemm['bf16']:,.0f} GFLOP/s), {limit['fp32']:,.0f} in fp32 "
            f"({gemm['fp32']:,.0f}), with an emulator of {result['roof']['env_sps']:,.0f} steps/s; "
            "it counts all products of a convolution, and native kernels in fp32 need fewer. "
            f"{machine['cpu']}, "
            f"{machine['cores']} cores, {machine['isa']}; {packages}; commit {result['commit']}.",
        ]
    )


def _upper_limit(config: Config, log: Callable[[str], None]) -> dict[str, Any]:
    """Run `ppo37 bench` in a new process, and compute the upper limit of each precision."""
    args = ("--game", config.game, "--preset", config.preset, "--device", "cpu", "--json")
    found = json.loads(watched.run(python("-m", "ppo37", "bench", *args)).output)
    gemm, env_sps = found["gemm_gflops_per_s"], found["env_sps"]
    gflop = found["mflop_per_agent_step"] / 1e3
    log(f"limits: {gemm['bf16']:,.0f} GFLOP/s in bf16, {env_sps:,.0f} steps/s of the emulator")
    return {
        "gemm_gflops_per_s": gemm,
        "env_sps": env_sps,
        "sps": {name: 1.0 / (gflop / speed + 1.0 / env_sps) for name, speed in gemm.items()},
    }


def _in_new_process(
    arm: Arm, config: Config, seed: int, log: Callable[[str], None]
) -> dict[str, Any]:
    """Measure one arm and its memory in a separate process.

    The load average before it is recorded, because the machine should be idle; part of it comes
    from the last measurement.
    """
    document = dataclasses.asdict(dataclasses.replace(config, seed=seed))
    command = python(__file__, json.dumps(arm), json.dumps(document))
    load = os.getloadavg()[0]
    output, peak = watched.run(command)
    figure = json.loads(output.splitlines()[-1])
    log(f"round {seed}, {arm.name}: {figure['sps']:,.0f} agent steps/s")
    return {**figure, "peak_memory_mib": peak, "load_before": load}


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


if __name__ == "__main__":
    stop_with_parent()
    arm, document = map(json.loads, sys.argv[1:])
    print(json.dumps(measure(Arm(*arm), from_dict(document))))
