"""Makes docs/performance.md from the figures in benchmarks/results/.

    python benchmarks/performance.py

Measures nothing. Below every table is a link to the file it is made from.
"""

import json
from pathlib import Path
from typing import Any

import kernels
import speed
from peers import markdown as peers_table

from ppo37.config import describe_layers

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
SUITES = {
    "envs": (
        "More environments",
        "`classic` with 8, 32 and 128 environments; the minibatch stays at 256 samples, so that "
        "the work per step is the same. Each step stores its four frames: an observation of 28 kB, "
        "3.6 MB per environment in a rollout.",
    ),
    "network": (
        "Larger and smaller networks",
        "`nature_half` has half of each layer, and about a third of the work; `lstm` is `nature` "
        "on single frames, followed by an LSTM of 128 cells.",
    ),
    "ranks": (
        "Several ranks",
        "The same run by one process on two cores, by two processes (with gloo) on these cores, "
        "and by one on a single core. The ideal for two ranks is twice the speed of one rank on "
        "one core.",
    ),
    "variants": (
        "Other actions and observations",
        "Other policies, actions and observations than those of the plain agent.",
    ),
}
SHARED = """## Beside other work

`fast` on Breakout, alone and with busy processes; for several runs at once the sum of all. Ratios
are to the speed alone, in the same round, of the rows named "before" (commit eef3be5, whose kernels
used OpenMP), or else of this code. `python benchmarks/speed.py shared`. Where a run made no update
in the time, its figure is an upper bound. OpenMP of macOS and of Intel has not been measured.
"""

GPU = """## On a GPU

`python benchmarks/gpu.py` measures in several stages and writes a file for each. On the machine
below the emulator takes most of the time: the GPU waits for the 16 cores. A gradient of `classic`
takes half the time in PyTorch's bf16 than in its fp32 (331,000 and 157,000 samples/s), and so does
one of `fast` (543,000 and 254,000; `ppo37 doctor --measure`). [Two seeds of
Pong](../benchmarks/results/runs/gpu_pong/README.md) show that the values of `fast` for a GPU are
not good yet; [eight seeds with those for a
CPU](../benchmarks/results/runs/gpu_pong_cpu_values/README.md) learn more in fewer steps.
"""

GPU_SHARED = """### Several runs at once

One run leaves most cores and most of the GPU idle. Several at once, each with its own cores, make
more together, so `ppo37 suite` trains as many as there are cores and as the GPU's memory allows. A
run of `classic` takes 1.2 GB of it.
"""


def main() -> None:
    PAGE.write_text(page())


def page() -> str:
    """Return the whole page."""
    parts = [
        "# Performance\n",
        "Made by `python benchmarks/performance.py` from the files in "
        "[benchmarks/results](../benchmarks/results); change those, not this page. Speed is in "
        "agent steps a second (SPS); a step is four frames. The machines are shared and their "
        "speed changes by a tenth within minutes, so figures to be compared were measured in turn, "
        "in one run, and ratios are medians over rounds.\n",
        *benches(),
        *peers(),
        *(part for name in SUITES for part in suite(name)),
        *kernels_beside_compile(),
        *shared(),
        *gpu(),
    ]
    return "\n".join(parts)


def benches() -> list[str]:
    """Return the section on the parts of the time of an update."""
    found = [(path, load(path)) for path in sorted(RESULTS.glob("bench_*.json"))]
    if not found:
        return []
    names = [f"{result['preset']}, {result['config']['network']}" for _, result in found]
    rows = {
        "processor": [result["machine"]["cpu"] for _, result in found],
        "layers": [describe_layers(r["precision"], r["kernels"]) for _, r in found],
        "whole loop, SPS": [f"{result['loop_sps']:,.0f}" for _, result in found],
        "upper limit, SPS": [f"{result['roof_sps']:,.0f}" for _, result in found],
        "share of the upper limit": [f"{result['share_of_roof']:.0%}" for _, result in found],
        **{
            f"time: {name}": [f"{result['time_shares'].get(name, 0):.0%}" for _, result in found]
            for name in found[0][1]["time_shares"]
        },
        "environment alone, SPS": [f"{result['env_sps']:,.0f}" for _, result in found],
        "acting alone, SPS": [f"{result['act_sps']:,.0f}" for _, result in found],
        "learning alone, samples/s": [f"{r['learn_samples_per_s']:,.0f}" for _, r in found],
        "MFLOP per agent step": [f"{r['mflop_per_agent_step']:.0f}" for _, r in found],
        "best matrix product, GFLOP/s": [
            f"{r['gemm_gflops_per_s'][r['precision']]:,.0f}" for _, r in found
        ],
        "peak memory, MiB": [f"{result['peak_memory_mib']:,.0f}" for _, result in found],
    }
    table = [f"| | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    table += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    return [
        "## Where the time goes\n",
        "`ppo37 bench` on Breakout. The upper limit is the speed with every product of the network "
        "as fast as the best matrix product of this machine and the emulator as fast as alone, one "
        "after the other, because they share the cores. It counts all products of a convolution; "
        "native kernels in fp32 need fewer. `env` and `act` are the time that a rollout thread "
        "waits for the emulator and for the policy; `copy` is the rest of a rollout.\n",
        *table,
        "",
        *(line for path, result in found for line in source(path, result)),
    ]


def peers() -> list[str]:
    """Return the section on Stable-Baselines3."""
    parts = []
    for path in sorted(RESULTS.glob("sb3_*.json")):
        result = load(path)
        parts += [peers_table(result), "", f"[{path.name}]({link(path)})\n"]
    if not parts:
        return []
    return [
        "## Peers\n",
        "Breakout with the hyperparameters of `classic`, in turn with Stable-Baselines3 "
        "(`ppo37 bench --peers 4`). ppo37 writes its logs, SB3 writes none.\n",
        *parts,
    ]


def kernels_beside_compile() -> list[str]:
    """Return the section on a gradient by PyTorch, torch.compile and native kernels."""
    parts = []
    for path in sorted(RESULTS.glob("kernels_*.json")):
        result = load(path)
        parts += [kernels.markdown(result), "", *source(path, result)]
    if not parts:
        return []
    return [
        "## Native kernels and torch.compile\n",
        "Forward and backward of 256 samples by the network `nature` in fp32, on two threads, in "
        "turn: medians of 30 (`python benchmarks/kernels.py`). `torch.compile` with its default "
        "settings compiles the trunk; its own start is not counted. `custom_op` was tried for the "
        "kernels and not adopted: it loads PyTorch's compiler at the start (4 s), and acting on 4 "
        "observations takes a tenth longer.\n",
        *parts,
    ]


def suite(name: str) -> list[str]:
    """Return the section on a suite of `speed.py`."""
    title, text = SUITES[name]
    paths = sorted(RESULTS.glob(f"{name}_*.json"))
    parts = [f"## {title}\n", f"{text} `python benchmarks/speed.py {name}`.\n"] if paths else []
    for path in paths:
        result = load(path)
        parts += [speed.markdown(result), "", *source(path, result)]
    return parts


def shared() -> list[str]:
    """Return the section on runs with other processes."""
    return [SHARED, *shared_tables("cpu")]


def shared_tables(device: str) -> list[str]:
    """Return the tables of `speed.py shared` on a device."""
    parts = []
    for path in sorted(RESULTS.glob("shared_*.json")):
        result = load(path)
        if result.get("device", "cpu") == device:
            parts += [speed.shared_markdown(result["summary"]), "", *source(path, result)]
    return parts


def gpu() -> list[str]:
    """Return the section on GPUs."""
    paths = sorted(RESULTS.glob("gpu_*.json"))
    parts = [GPU]
    for path in paths:
        result = load(path)
        parts += [f"### {result['what']}\n", result["markdown"], "", *source(path, result)]
    tables = shared_tables("cuda")
    return [*parts, GPU_SHARED, *tables] if tables else parts


def source(path: Path, result: dict[str, Any]) -> list[str]:
    """Return the line with the source of figures."""
    machine, versions = result["machine"], result["versions"]
    packages = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "ale-py"))
    device = machine["gpu"] if machine["gpu"] != "none" else "no GPU"
    number = result.get("rounds", 0)
    rounds = f"{number} round{'s' if number > 1 else ''}, " if number else ""
    return [
        f"[{path.name}]({link(path)}): {rounds}{machine['cpu']}, {machine['cores']} cores, "
        f"{machine['isa']}, {device}; {packages}; commit {short(result['commit'])}.\n"
    ]


def short(commit: str | None) -> str:
    """Shorten a commit to seven digits, with `-dirty` if it has it."""
    number, _, dirty = (commit or "none").partition("-")
    return number[:7] + ("-" + dirty if dirty else "")


def link(path: Path) -> str:
    return f"../benchmarks/results/{path.name}"


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


if __name__ == "__main__":
    main()
