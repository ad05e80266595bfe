"""Measure a gradient of NatureCNN by PyTorch, by torch.compile and by our own networks.

    python benchmarks/kernels.py [--samples 256] [--rounds 30] [--threads 2] [--out FILE]

Each round measures every network in turn: forward and backward of the whole agent in fp32, on
random pixels. Prints the medians as a Markdown table. torch.compile (its defaults, so Inductor)
compiles the trunk, and needs a C++ compiler; the heads are a small part of the time. Run nothing
else beside it.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from ppo37.backends.device import commit, describe_machine, versions
from ppo37.backends.network import DeviceNetwork, make_network
from ppo37.networks.agent import Agent
from ppo37.networks.policies import CategoricalPolicy

OBS_SHAPE = (4, 84, 84)
WARM_UP_ROUNDS = 3


def make_networks(threads: int) -> dict[str, DeviceNetwork]:
    """Return the networks by name, each with an agent of its own."""
    agents = [Agent(OBS_SHAPE, CategoricalPolicy(6), "nature", seed=1) for _ in range(4)]
    agents[1].trunk.compile()
    return {
        "PyTorch": DeviceNetwork(agents[0]),
        "torch.compile": DeviceNetwork(agents[1]),
        "space to depth": make_network(agents[2], "torch"),
        "native kernels": make_network(agents[3], "native", threads),
    }


def gradient_s(network: DeviceNetwork, obs: torch.Tensor) -> float:
    """Return the seconds of a forward and a backward pass."""
    agent = network.agent
    agent.zero_grad(set_to_none=True)
    arranged, state = network.arrange(obs), agent.initial_state(len(obs))
    dones = state.new_zeros(len(obs), 1)
    start = time.perf_counter()
    distribution, values, _ = network(arranged, state, dones)
    (values.square().mean() + distribution.logits.square().mean()).backward()
    return time.perf_counter() - start


def measure(samples: int, rounds: int, threads: int) -> dict[str, list[float]]:
    """Return the seconds of each network in each round."""
    generator = torch.Generator().manual_seed(0)
    obs = torch.randint(0, 256, (samples, *OBS_SHAPE), generator=generator, dtype=torch.uint8)
    networks = make_networks(threads)
    taken: dict[str, list[float]] = {name: [] for name in networks}
    for number in range(WARM_UP_ROUNDS + rounds):
        for name, network in networks.items():
            # As in training: native kernels have their own threads.
            torch.set_num_threads(1 if name == "native kernels" else threads)
            seconds = gradient_s(network, obs)
            if number >= WARM_UP_ROUNDS:
                taken[name].append(seconds)
    return taken


def markdown(result: dict[str, Any]) -> str:
    """Return the medians in milliseconds, with quartiles, and the speed relative to PyTorch."""
    taken: dict[str, list[float]] = result["seconds"]
    lines = ["| network | ms | quartiles | speed |", "|---|---|---|---|"]
    first = statistics.median(next(iter(taken.values())))
    for name, seconds in taken.items():
        low, middle, high = (1000 * x for x in statistics.quantiles(seconds, n=4))
        speed = 1000 * first / middle
        lines.append(f"| {name} | {middle:.1f} | {low:.1f} to {high:.1f} | {speed:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=describe_machine()["cores"])
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    options = parser.parse_args()
    result = {
        "samples": options.samples,
        "rounds": options.rounds,
        "threads": options.threads,
        "machine": describe_machine(),
        "versions": versions(),
        "commit": commit(),
        "seconds": measure(options.samples, options.rounds, options.threads),
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(markdown(result))


if __name__ == "__main__":
    main()
