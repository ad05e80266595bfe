"""Makes docs/performance.md from the figures in benchmarks/results/.

    python benchmarks/performance.py

Measures nothing. Every table is made from a file, which stands under it.
"""

import json
from pathlib import Path
from typing import Any

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
        "the work per step is the same. Frames are stored as they are seen, four a step: an "
        "observation of 28 kB, 3.6 MB per environment in a rollout.",
    ),
    "network": (
        "Larger and smaller networks",
        "`nature_half` has half of each layer, and so about a third of the work; `lstm` is "
        "`nature` on single frames with 128 cells behind it.",
    ),
    "ranks": (
        "Several ranks",
        "The same run by one process and by two that talk by gloo, on the same cores, and one on a "
        "single core. Ideal for two ranks is twice the speed of one rank on one core.",
    ),
    "variants": (
        "Other actions and observations",
        "Policies, actions and observations beside the plain agent.",
    ),
}
SHARED = """## Beside other work

`fast` on Breakout, alone and beside busy processes; of two trainings at once the sum of both. The
ratio is to the speed alone of the rows named "before" (commit eef3be5, whose kernels used OpenMP)
in the same round, else of this code. `python benchmarks/speed.py shared`. Where a training made no
update in the time, its figure is an upper bound. The OpenMP of macOS and of Intel has not been
measured.
"""

GPU = """## On a GPU

`python benchmarks/gpu.py` checks, measures and writes its files, in calls of less than eight
minutes; what has such a file is shown here, and nothing else has been measured on a GPU. On the
machine below the emulator takes most of the time: the GPU waits for the 16 cores. For a gradient of
`classic` PyTorch's bf16 takes half the time of its fp32 (331,000 and 157,000 samples/s), for one of
`fast` too (543,000 and 254,000; `ppo37 doctor --measure`). [Two seeds of
Pong](../benchmarks/results/runs/gpu_pong/README.md) show that the values of `fast` for a GPU are
not good yet.
"""


def main() -> None:
    PAGE.write_text(page())


def page() -> str:
    """The whole page."""
    parts = [
        "# Performance\n",
        "Made by `python benchmarks/performance.py` from the files in "
        "[benchmarks/results](../benchmarks/results); change those, not this page. Speed is in "
        "agent steps a second (SPS); a step is four frames. The machines are shared and their "
        "speed drifts by a tenth within minutes, so what is compared was measured in turn, in one "
        "run, and ratios are medians over rounds.\n",
        *benches(),
        *peers(),
        *(part for name in SUITES for part in suite(name)),
        *shared(),
        *gpu(),
    ]
    return "\n".join(parts)


def benches() -> list[str]:
    """Where the time of an update goes, of the presets that were measured."""
    found = [(path, load(path)) for path in sorted(RESULTS.glob("bench_*.json"))]
    if not found:
        return []
    names = [f"{result['preset']}, {result['config']['network']}" for _, result in found]
    rows = {
        "processor": [result["machine"]["cpu"] for _, result in found],
        "layers": [describe_layers(r["precision"], r["kernels"]) for _, r in found],
        "whole loop, SPS": [f"{result['loop_sps']:,.0f}" for _, result in found],
        "roof, SPS": [f"{result['roof_sps']:,.0f}" for _, result in found],
        "share of the roof": [f"{result['share_of_roof']:.0%}" for _, result in found],
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
        "`ppo37 bench` on Breakout. The roof is the speed at which every product of the network "
        "would run like the best matrix product of this machine and the emulator like alone, one "
        "after the other: they share the cores. It counts the products of a convolution as it is "
        "written; native kernels in fp32 need fewer. `env` and `act` are what a lane waits for "
        "the emulator and for the policy; `copy` is the rest of a rollout.\n",
        *table,
        "",
        *(line for path, result in found for line in source(path, result)),
    ]


def peers() -> list[str]:
    """Stable-Baselines3 beside us."""
    parts = []
    for path in sorted(RESULTS.glob("sb3_*.json")):
        result = load(path)
        parts += [peers_table(result), "", f"[{path.name}]({link(path)})\n"]
    if not parts:
        return []
    return [
        "## Peers\n",
        "Breakout with the hyperparameters of `classic`, alternating with Stable-Baselines3 "
        "(`ppo37 bench --peers 4`). ppo37 writes its logs meanwhile, SB3 writes none.\n",
        *parts,
    ]


def suite(name: str) -> list[str]:
    """A suite of `speed.py`."""
    title, text = SUITES[name]
    paths = sorted(RESULTS.glob(f"{name}_*.json"))
    parts = [f"## {title}\n", f"{text} `python benchmarks/speed.py {name}`.\n"] if paths else []
    for path in paths:
        result = load(path)
        parts += [speed.markdown(result), "", *source(path, result)]
    return parts


def shared() -> list[str]:
    """Beside other work, and two trainings at once."""
    paths = sorted(RESULTS.glob("shared_*.json"))
    parts = [SHARED] if paths else []
    for path in paths:
        result = load(path)
        parts += [speed.shared_markdown(result["summary"]), "", *source(path, result)]
    return parts


def gpu() -> list[str]:
    """What was measured on a GPU."""
    paths = sorted(RESULTS.glob("gpu_*.json"))
    parts = [GPU]
    for path in paths:
        result = load(path)
        parts += [f"### {result['what']}\n", result["markdown"], "", *source(path, result)]
    return parts


def source(path: Path, result: dict[str, Any]) -> list[str]:
    """A line that says where figures come from."""
    machine, versions = result["machine"], result["versions"]
    packages = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "ale-py"))
    device = machine["gpu"] if machine["gpu"] != "none" else "no GPU"
    rounds = f"{result['rounds']} rounds, " if "rounds" in result else ""
    return [
        f"[{path.name}]({link(path)}): {rounds}{machine['cpu']}, {machine['cores']} cores, "
        f"{machine['isa']}, {device}; {packages}; commit {short(result['commit'])}.\n"
    ]


def short(commit: str | None) -> str:
    """A commit for people; whether files differed from it is kept."""
    number, _, dirty = (commit or "none").partition("-")
    return number[:7] + ("-" + dirty if dirty else "")


def link(path: Path) -> str:
    return f"../benchmarks/results/{path.name}"


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


if __name__ == "__main__":
    main()
