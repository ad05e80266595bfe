"""The cost of the checks of environments, and of the adapter of Gymnasium.

    python benchmarks/checks.py [--rounds N] [--steps N]

The checks are timed by themselves: steps that were recorded are given again, with the checks and
without, in turn, and the difference of the medians is the cost of a vector step. Its share is that
of the time of a vector step in training, which a short run measures. Pong has no checks in
training, because its engine is ours; here its steps are checked as those of an environment of one's
own are.

The adapter is timed beside Gymnasium's own `SyncVectorEnv` (SAME_STEP) with the same actions, in
turn. Prints Markdown. Run nothing else at the same time.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from ppo37 import train
from ppo37.backends.device import commit
from ppo37.build import make_factory
from ppo37.config import Config
from ppo37.envs import Step, VecEnv, spaces_of
from ppo37.envs.checked import checked
from ppo37.envs.contract import Wrapper
from ppo37.envs.single import Observed, Scores
from ppo37.envs.source import EnvSource
from ppo37.machine import cpu_info
from ppo37.presets import from_preset
from ppo37.session.metrics import read_metrics

TRAINED = {"pong": ("fast", 8), "CartPole-v1": ("classic_control", 20)}
"""The preset of each game, and the updates of its run."""
LIMITS = {"pong": 0.01, "CartPole-v1": 0.05}
ADAPTED = ("CartPole-v1", "Acrobot-v1", "Pendulum-v1")
NUM_ENVS = 4


class Replayed(Wrapper):
    """Environments that give their recorded steps again."""

    def __init__(self, envs: VecEnv, first: Any, steps: list[Step]) -> None:
        super().__init__(envs)
        self._first, self._recorded = first, steps

    def reset(self) -> Any:
        self._next = iter(self._recorded)
        return self._first

    def step(self, actions: Any) -> Step:
        return next(self._next)


class ReplayedSingle(gymnasium.Env[Any, Any]):
    """An environment of Gymnasium that gives one result in every step."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.first = env.reset(seed=0)
        self.result = env.step(env.action_space.sample())

    def reset(self, **_: Any) -> Any:
        return self.first

    def step(self, action: Any) -> Any:
        return self.result


def random_actions(envs: VecEnv, steps: int) -> Any:
    """Draw actions [steps, N] or [steps, N, parts]."""
    rng, spaces = np.random.default_rng(0), spaces_of(envs)
    if spaces.action_space == "continuous":
        shape = (steps, envs.num_envs, len(spaces.action_names))
        return rng.standard_normal(shape).astype(np.float32)
    return rng.integers(spaces.action_dims[0], size=(steps, envs.num_envs))


def in_turn(arms: dict[str, Callable[[], None]], rounds: int, steps: int) -> dict[str, float]:
    """Return the median microseconds of a step of each arm; arms run in turn, A B A B."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, run in arms.items():
            started = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - started) / steps * 1e6)
    return {name: statistics.median(taken) for name, taken in times.items()}


def stepping(envs: Any, actions: Any) -> Callable[[], None]:
    def run() -> None:
        envs.reset()
        step = envs.step
        for row in actions:
            step(row)

    return run


def cost_of_checks(config: Config, rounds: int, steps: int) -> float:
    """Return the microseconds that the checks of a vector step take."""
    factory = EnvSource(config.env) if config.env else make_factory(config, 1)
    with closing(factory(config.num_envs, 0)) as envs:
        actions, first = random_actions(envs, steps), envs.reset()
        replayed = Replayed(envs, first, [envs.step(row) for row in actions])
        with_checks = checked(lambda *_, **__: replayed)(config.num_envs, 0)
        arms = {"without": stepping(replayed, actions), "with": stepping(with_checks, actions)}
        found = in_turn(arms, rounds, steps)
    cost = found["with"] - found["without"]
    if config.env is None:
        return cost
    # The adapter checks each environment by itself, too.
    single = ReplayedSingle(gymnasium.make(config.env))
    plain = stepping(single, actions[:, 0])
    found = in_turn(
        {"without": plain, "with": stepping(Observed(Scores(single)), actions[:, 0])}, rounds, steps
    )
    return cost + config.num_envs * (found["with"] - found["without"])


def step_of_training(config: Config) -> float:
    """Train, and return the median microseconds of a vector step, without the first update."""
    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder) / "run", view=None)
        records = [r for r in read_metrics(Path(folder) / "run")[1:] if "charts/SPS" in r]
    return 1e6 * config.num_envs / statistics.median(r["charts/SPS"] for r in records)


def beside_gymnasium(env_id: str, rounds: int, steps: int) -> dict[str, float]:
    """Return the microseconds of a vector step of the adapter and of Gymnasium's."""
    theirs = SyncVectorEnv(
        [lambda: gymnasium.make(env_id, disable_env_checker=True)] * NUM_ENVS,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    with closing(theirs), closing(checked(EnvSource(env_id))(NUM_ENVS, 0)) as ours:
        actions = random_actions(ours, steps)
        arms = {"Gymnasium": stepping(theirs, actions), "ppo37": stepping(ours, actions)}
        return in_turn(arms, rounds, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the checks and the adapter.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    print(
        f"{cpu_info().get('model name', 'unknown processor')}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f} at the start; commit {commit()[:7]}; medians of "
        f"{options.rounds} rounds of {options.steps} steps, in turn\n"
    )
    print("| training | environments | vector step | checks of it | share | limit |")
    print("|---|---|---|---|---|---|")
    for game, (preset, updates) in TRAINED.items():
        config = from_preset(preset, game, "cpu", seed=1)
        cost = cost_of_checks(config, options.rounds, options.steps)
        short = from_preset(
            preset, game, "cpu", seed=1, total_timesteps=updates * config.batch_size
        )
        step = step_of_training(short)
        print(
            f"| `{preset}` on {game} | {config.num_envs} | {step:.0f} us | {cost:.1f} us | "
            f"{cost / step:.2%} | {LIMITS[game]:.0%} |"
        )
    print(f"\n| environment | {NUM_ENVS} by Gymnasium | by ppo37 | ratio |\n|---|---|---|---|")
    for env_id in ADAPTED:
        found = beside_gymnasium(env_id, options.rounds, options.steps)
        theirs, ours = found["Gymnasium"], found["ppo37"]
        print(f"| {env_id} | {theirs:.0f} us | {ours:.0f} us | {ours / theirs:.2f} |")


if __name__ == "__main__":
    main()
