"""The cost of reliability: the figures of docs/reliability.md that no test measures.

    python benchmarks/reliability.py restore    time to restore 8 games, by their length
    python benchmarks/reliability.py reseeding  the share of training that seeded resets take
    python benchmarks/reliability.py soak       an hour of training: memory, files, threads

Each prints a Markdown table. Publish times of an idle machine only.
"""

import argparse
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from ppo37 import train
from ppo37.algorithm.rollout import allocate
from ppo37.backends.device import usable_cores
from ppo37.backends.threads import RolloutThreads, emulator_threads, split_envs
from ppo37.envs import env_factory
from ppo37.envs.atari import Atari
from ppo37.presets import from_preset
from ppo37.session.metrics import read_metrics
from ppo37.session.view import NoView

ENVS = 8
NEVER = 1 << 40
LENGTHS = (1_000, 2_000, 4_000, 8_000, 16_000, 27_000)
"""Agent steps since a seeded reset; the last is the length of the longest possible game."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measure", choices=MEASURES)
    parser.add_argument("--game", default="breakout")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--protocol", default="classic")
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the soak")
    options = parser.parse_args()
    for cells in MEASURES[options.measure](options):
        print(f"| {' | '.join(cells)} |", flush=True)


Rows = Iterator[tuple[str, ...]]


def restore(options: argparse.Namespace) -> Rows:
    """Measure the seconds to restore 8 environments, all with the same number of steps."""
    yield f"steps since the seeded reset, {options.game}", "seconds to restore 8 environments"
    yield "---", "---"
    for steps in LENGTHS:
        played = _parts(options)
        env_states = []
        for envs in played:
            envs.reset()
            rng = np.random.default_rng(0)
            for _ in range(steps):
                envs.step(rng.integers(len(envs.action_names), size=envs.num_envs))
            env_states += envs.save()
            envs.close()
        fresh = _parts(options)
        buffers = allocate(1, ENVS, fresh[0].obs_shape, torch.device("cpu"))
        policies: list[Any] = [None] * len(fresh)  # the games are restored, not continued
        started = time.perf_counter()
        with closing(RolloutThreads(fresh, policies, buffers, env_states=env_states)):
            seconds = time.perf_counter() - started
        for envs in fresh:
            envs.close()
        yield f"{steps:,}", f"{seconds:.1f}"


def _parts(options: argparse.Namespace) -> list:  # type: ignore[type-arg]
    threads = usable_cores()
    slices = split_envs(ENVS, True, threads)
    per_slice = emulator_threads(len(slices), threads)
    factory = env_factory(options.game, options.protocol, per_slice, NEVER)
    return [factory(part.stop - part.start, 1, first_env=part.start) for part in slices]


def reseeding(options: argparse.Namespace) -> Rows:
    """Measure the share of training time that seeded resets take.

    For each rollout it is the largest time of a rollout thread, because the others may do
    something else meanwhile. A comparison of whole runs cannot show a hundredth on a machine whose
    speed varies by a tenth.
    """
    config = from_preset(options.preset, options.game, "cpu", protocol=options.protocol)
    updates = 2 * config.reseed_interval // config.num_steps + 1
    config = replace(config, total_timesteps=updates * config.batch_size)
    spent: list[tuple[int, float]] = []
    genuine = Atari._begin

    def begin(envs: Atari, which: Any) -> Any:
        started = time.perf_counter()
        obs = genuine(envs, which)
        if not which.all():  # at the start of the run all are reset
            spent.append((envs._first_env, time.perf_counter() - started))
        return obs

    class Watch(NoView):
        total_s = 0.0
        resets_s: list[float] = []  # noqa: RUF012

        def show(self, record: dict[str, Any], games: int, seconds: dict[str, float]) -> None:
            threads = {first: sum(s for n, s in spent if n == first) for first, _ in spent}
            self.total_s += max(threads.values(), default=0.0)
            self.resets_s += [s for _, s in spent]
            spent.clear()

    watch = Watch()
    Atari._begin = begin  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        summary = train(config, Path(folder, "run"), view=watch)
    yield f"{options.game}, {options.protocol}, {options.preset}", f"{updates} updates"
    yield "---", "---"
    yield "agent steps a second", f"{summary.agent_steps / summary.wall_s:,.0f}"
    resets = f"{len(watch.resets_s)}, {statistics.median(watch.resets_s):.3f} s each"
    yield f"seeded resets, every {config.reseed_interval:,} steps", resets
    yield "share of the training time", f"{watch.total_s / summary.wall_s:.1%}"


def soak(options: argparse.Namespace) -> Rows:
    """Measure the resident memory, open files and threads of a training process."""
    yield "minute", "resident MiB", "open files", "threads"
    yield "---", "---", "---", "---"
    command = [sys.executable, "-m", "ppo37", "train", options.game, "--preset", options.preset]
    command += ["--protocol", options.protocol, "--total-timesteps", "1000000000"]
    with tempfile.TemporaryDirectory() as folder:
        command += ["--checkpoint-every", "20", "--out", str(Path(folder, "run"))]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            yield from _watched(process, options.minutes)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
        updates = len(read_metrics(Path(folder, "run")))
    yield f"{updates:,} updates", f"exit code {process.returncode}", "", ""


def _watched(process: "subprocess.Popen[bytes]", minutes: float) -> Rows:
    """Yield the medians of each tenth of the time, until the process ends."""
    window_s = 60 * minutes / 10
    for number in range(1, 11):
        samples = []
        ends = time.monotonic() + window_s
        while time.monotonic() < ends:
            time.sleep(2)
            if process.poll() is not None:
                return
            samples.append(_resources(process.pid))
        middle = [statistics.median(column) for column in zip(*samples, strict=True)]
        yield f"{number * window_s / 60:.0f}", *(f"{value:.0f}" for value in middle)


def _resources(pid: int) -> tuple[float, int, int]:
    """Return resident MiB, open files and threads of a process."""
    process = psutil.Process(pid)
    return process.memory_info().rss / 2**20, process.num_fds(), process.num_threads()


MEASURES = {"restore": restore, "reseeding": reseeding, "soak": soak}


if __name__ == "__main__":
    main()
