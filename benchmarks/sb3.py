"""ppo37 against Stable-Baselines3: agent steps a second of the same PPO on the same machine.

    pip install -e '.[bench]'
    python benchmarks/sb3.py

Both train Breakout with the hyperparameters of the `classic` preset on the CPU. Every
measurement is a fresh process; the two take turns, so that a change of the machine's speed
meets both. Start-up and the first updates do not count, nor does the last, after which ppo37 saves
the run (usually every two minutes). ppo37 is measured as its users run it, with logs and their
files; SB3 runs without any. SB3 is given each of its two ways to step
environments, and the faster one is what ppo37 is compared with.

Beside them stands the roof of the machine: the speed of this work if its arithmetic ran as fast
as the best matrix product here and the emulator as fast as alone, one after the other.

Prints a Markdown table and writes every figure to benchmarks/results/. An idle machine is the
condition for figures worth quoting: the load average before each measurement is recorded with it
(some of that load is the measurement before).
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import watched

GAME = "breakout"
ENV_ID = "ale_py:BreakoutNoFrameskip-v4"
"""The prefix makes Gymnasium import ale_py, which registers the game, in every process."""
RESULTS = Path(__file__).parent / "results"


class Arm(NamedTuple):
    """One thing that is measured; `threads` None means PyTorch's default."""

    name: str
    library: str
    kind: str
    """The environments of SB3; precision and kernels of ppo37."""
    threads: int | None = None


def main() -> None:
    options = _parse()
    if options.measure is not None:
        print(json.dumps(measure(Arm(*json.loads(options.measure)), options)))
        return
    for package in ("ppo37", "stable-baselines3", "opencv-python-headless"):
        _require(package)
    arms = list_arms()
    figures = [
        {"round": number, "arm": arm.name, **_in_fresh_process(arm, options, seed=number)}
        for number, arm in itertools.product(range(1, options.rounds + 1), arms)
    ]
    roof = measure_roof()
    summary = summarise(figures, roof["sps"])
    result = {**describe(options), "roof": roof, "summary": summary, "measurements": figures}
    print(markdown(result))
    path = options.out or RESULTS / f"sb3_{result['machine']['cores']}cores.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    _say(f"wrote {path}")


def list_arms() -> list[Arm]:
    """ppo37 and SB3 in turn; SB3 also with a thread per core where that is not the default."""
    import torch

    from ppo37.runtime.device import usable_cores

    arms = [
        Arm("ppo37", "ppo37", "auto auto"),
        Arm("SB3, DummyVecEnv", "sb3", "DummyVecEnv"),
        Arm("ppo37, kernels of PyTorch", "ppo37", "auto torch"),
        Arm("ppo37, fp32", "ppo37", "fp32 torch"),
        Arm("SB3, SubprocVecEnv", "sb3", "SubprocVecEnv"),
    ]
    cores = usable_cores()
    if cores != torch.get_num_threads():
        arms += [Arm(f"SB3, {kind}, {cores} threads", "sb3", kind, cores)
                 for kind in ("DummyVecEnv", "SubprocVecEnv")]  # fmt: skip
    return arms


def measure(arm: Arm, options: argparse.Namespace) -> dict[str, Any]:
    """Run one arm in this process: seconds of each update that counts, and what goes with it."""
    import torch

    if arm.threads is not None:
        torch.set_num_threads(arm.threads)
    run = measure_ppo37 if arm.library == "ppo37" else measure_sb3
    ended_s, details = run(arm.kind, options.warm_up + options.updates + 1, options.seed)
    counted = ended_s[options.warm_up : -1]
    update_s = [after - before for before, after in itertools.pairwise(counted)]
    steps = _config("fp32", "torch", 1).batch_size * len(update_s)
    return {
        "sps": steps / sum(update_s),
        "update_s": update_s,
        "threads": torch.get_num_threads(),
        **details,
    }


def measure_ppo37(kind: str, updates: int, seed: int) -> tuple[list[float], dict[str, Any]]:
    """Train with ppo37, logs and all: when it started, and when each update had ended."""
    from ppo37 import train
    from ppo37.run.view import NoView

    config = _config(*kind.split(), updates, seed)

    class Stopwatch(NoView):
        def __init__(self) -> None:
            self.times_s: list[float] = []
            self.precision = ""

        def announce(self, config: Any, path: Path, reason: str, expected_s: float) -> None:
            self.precision = config.precision
            self.times_s.append(time.perf_counter())

        def show(self, record: dict[str, Any], games: int, seconds: dict[str, float]) -> None:
            self.times_s.append(time.perf_counter())

    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as place:
        train(config, Path(place) / "run", view=watch)
    return watch.times_s, {"precision": watch.precision}


def measure_sb3(vec_env: str, updates: int, seed: int) -> tuple[list[float], dict[str, Any]]:
    """Train with SB3, no logs: when it started, and when each update had ended."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack

    class Stopwatch(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.times_s: list[float] = []

        def _on_rollout_start(self) -> None:  # the first one, and then after every update
            self.times_s.append(time.perf_counter())

        def _on_step(self) -> bool:
            return True

        def _on_training_end(self) -> None:
            self.times_s.append(time.perf_counter())

    config = _config("fp32", "torch", updates, seed)
    kinds = {"DummyVecEnv": DummyVecEnv, "SubprocVecEnv": SubprocVecEnv}
    envs = make_atari_env(ENV_ID, n_envs=config.num_envs, seed=seed, vec_env_cls=kinds[vec_env])
    envs = VecFrameStack(envs, n_stack=4)
    model = PPO(
        "CnnPolicy",
        envs,
        learning_rate=_linear(config.learning_rate),
        n_steps=config.num_steps,
        batch_size=config.minibatch_size,
        n_epochs=config.update_epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_coef,
        clip_range_vf=config.clip_coef if config.clip_vloss else None,
        normalize_advantage=config.norm_adv,
        ent_coef=config.ent_coef,
        vf_coef=config.vf_coef / 2,  # SB3's value loss has no factor 1/2
        max_grad_norm=config.max_grad_norm,
        policy_kwargs={"optimizer_kwargs": {"eps": config.adam_eps}},
        seed=seed,
        device="cpu",
        verbose=0,
    )
    watch = Stopwatch()
    try:
        model.learn(updates * config.batch_size, callback=watch, log_interval=None)
    finally:
        envs.close()
    return watch.times_s, {"precision": "fp32"}


def measure_roof() -> dict[str, Any]:
    """What `ppo37 bench` measures of this machine in a fresh process, and the roofs from it."""
    command = [sys.executable, "-m", "ppo37", "bench", "--game", GAME, "--preset", "classic",
               "--json"]  # fmt: skip
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    gemm, env_sps = found["gemm_gflops_per_s"], found["env_sps"]
    gflop = found["mflop_per_agent_step"] / 1e3
    _say(f"roof: {gemm['bf16']:,.0f} GFLOP/s in bf16, {env_sps:,.0f} steps/s of the emulator")
    return {
        "gemm_gflops_per_s": gemm,
        "env_sps": env_sps,
        "sps": {name: 1.0 / (gflop / speed + 1.0 / env_sps) for name, speed in gemm.items()},
    }


def summarise(figures: list[dict[str, Any]], roof_sps: dict[str, float]) -> dict[str, Any]:
    """Median, lowest and highest of each arm, and how many times the better SB3 it is.

    The ratio is taken within each round and then its median over the rounds. `roof_sps` is the
    roof of each precision, and an arm's share of it that of its median.
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
            # `auto` may decide otherwise while something else keeps the machine busy.
            "precision": "/".join(sorted({figure["precision"] for figure in of[name]})),
            "share_of_roof": statistics.median(
                figure["sps"] / roof_sps[figure["precision"]] for figure in of[name]
            ),
            "threads": of[name][0]["threads"],
        }
    return summary


def markdown(result: dict[str, Any]) -> str:
    """The result as a table, with what a reader must know under it."""
    summary, machine = result["summary"], result["machine"]
    lines = [
        "| | precision | threads | agent steps/s: median (lowest to highest) "
        "| times the better SB3 | share of the roof | peak memory, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, arm in summary["arms"].items():
        sps, ratio, peak = arm["sps"], arm["ratio"], arm["peak_memory_mib"]
        lines.append(
            f"| {name} | {arm['precision']} | {arm['threads']} "
            f"| {sps['median']:,.0f} ({sps['lowest']:,.0f} to {sps['highest']:,.0f}) "
            f"| {ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f}) "
            f"| {arm['share_of_roof']:.0%} "
            f"| {'-' if peak is None else format(peak, ',.0f')} |"
        )
    gemm, roof = result["roof"]["gemm_gflops_per_s"], result["roof"]["sps"]
    packages = ", ".join(f"{name} {text}" for name, text in result["versions"].items())
    return "\n".join([
        *lines, "",
        f"{result['rounds']} rounds, each of one fresh process per row, in turn; "
        f"{result['updates']} updates of {result['batch_size']:,} agent steps each count, after "
        f"{result['warm_up_updates']} that do not. Roof: {roof['bf16']:,.0f} steps/s in bf16 "
        f"({gemm['bf16']:,.0f} GFLOP/s), {roof['fp32']:,.0f} in fp32 ({gemm['fp32']:,.0f}), with "
        f"an emulator of {result['roof']['env_sps']:,.0f} steps/s. {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['isa']}; {packages}; commit {result['commit']}.",
    ])  # fmt: skip


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """What was measured, with what, and where."""
    import dataclasses

    from ppo37.bench import commit
    from ppo37.runtime.device import describe_machine, versions

    config = _config("fp32", "torch", 1)
    left_out = ("seed", "total_timesteps", "precision", "kernels", "device")
    hyperparameters = dataclasses.asdict(config)
    for name in left_out:
        hyperparameters.pop(name)
    return {
        "what": "training speed in agent steps a second, start-up and warm-up excluded",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "rounds": options.rounds,
        "updates": options.updates,
        "warm_up_updates": options.warm_up,
        "batch_size": config.batch_size,
        "hyperparameters": hyperparameters,
        "machine": describe_machine(),
        "versions": {**versions(), "stable-baselines3": version("stable-baselines3"),
                     "opencv-python-headless": version("opencv-python-headless")},
        "commit": commit(),
    }  # fmt: skip


def _in_fresh_process(arm: Arm, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Measure one arm in a process of its own and watch its memory meanwhile."""
    command = [sys.executable, __file__, "--measure", json.dumps(arm), "--seed", str(seed),
               "--updates", str(options.updates), "--warm-up", str(options.warm_up)]  # fmt: skip
    load = os.getloadavg()[0]
    output, peak = watched.run(command)
    figure = json.loads(output.splitlines()[-1])
    _say(f"round {seed}, {arm.name}: {figure['sps']:,.0f} agent steps/s")
    return {**figure, "peak_memory_mib": peak, "load_before": load}


def _config(precision: str, kernels: str, updates: int, seed: int = 1) -> Any:
    """The classic preset for as many updates."""
    import dataclasses

    from ppo37 import from_preset

    one = from_preset("classic", GAME, "cpu", precision=precision, kernels=kernels, seed=seed)
    return dataclasses.replace(one, total_timesteps=updates * one.batch_size)


def _linear(initial: float) -> Callable[[float], float]:
    """SB3's form of a schedule: it is given the part of the run that is left."""
    return lambda left: initial * left


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def _require(package: str) -> None:
    try:
        version(package)
    except PackageNotFoundError:
        sys.exit(f"{package} is not installed: pip install -e '.[bench]'")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare the speed of ppo37 and SB3.")
    parser.add_argument("--rounds", type=int, default=5, help="times that each is measured")
    parser.add_argument("--updates", type=int, default=10, help="of 1,024 steps, that count")
    parser.add_argument("--warm-up", type=int, default=2, help="updates before, not counted")
    parser.add_argument("--quick", action="store_true", help="1 round of 2 updates: a trial")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the JSON goes")
    parser.add_argument("--seed", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--measure", metavar="ARM", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.updates, options.warm_up = 1, 2, 1
    if min(options.rounds, options.updates, options.warm_up) < 1:
        parser.error("--rounds, --updates and --warm-up must be at least 1")
    return options


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
