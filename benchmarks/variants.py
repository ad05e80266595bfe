"""Speed of the other policies, actions and observations beside the classic agent.

    python benchmarks/variants.py

Each round trains every variant in turn for some updates of `classic` on the same game, so that a
change of the machine's speed meets all. A variant's ratio is the median of its ratios to the
classic agent of the same round. Prints a Markdown table and writes every figure to
benchmarks/results/. Run nothing else beside it: the load average before each measurement is
recorded with it.
"""

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

from ppo37.bench import commit, whole_loop
from ppo37.config import from_preset
from ppo37.envs.games import resolve_game
from ppo37.runtime.device import describe_machine, resolve_device, versions
from ppo37.train import prepare_process

RESULTS = Path(__file__).parent / "results"
CLASSIC = "classic"
VARIANTS: dict[str, dict[str, Any]] = {
    CLASSIC: {},
    "lstm": {"network": "lstm"},
    "joystick": {"action_space": "joystick"},
    "joystick, masked": {"action_space": "joystick", "mask_actions": True},
    "continuous": {"action_space": "continuous"},
    "ram": {"observation": "ram"},
    "continuous, ram": {"action_space": "continuous", "observation": "ram"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--game", default="breakout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=6, help="of each measurement")
    options = parser.parse_args()
    game, device = resolve_game(options.game), resolve_device("auto")
    figures = []
    for number in range(1, options.rounds + 1):
        for name, changes in VARIANTS.items():
            config = from_preset(CLASSIC, game, device, precision="auto", **changes)
            prepare_process(config)
            load = os.getloadavg()[0]
            loop = whole_loop(config, options.updates)
            figures.append({"round": number, "variant": name, "load": load, **loop})
            print(f"round {number}, {name}: {loop['loop_sps']:,.0f} SPS", flush=True)
    result = {
        "game": game, "updates": options.updates, "machine": describe_machine(),
        "versions": versions(), "commit": commit(), "summary": summary(figures),
        "measurements": figures,
    }  # fmt: skip
    print(markdown(result["summary"]))
    path = RESULTS / f"variants_{result['machine']['cores']}cores.json"
    path.write_text(json.dumps(result, indent=2) + "\n")


def summary(figures: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Median speed of each variant, and of its ratios to the classic agent of the same round."""
    base = {f["round"]: f["loop_sps"] for f in figures if f["variant"] == CLASSIC}
    rows = {}
    for name in VARIANTS:
        own = [f for f in figures if f["variant"] == name]
        ratios = [f["loop_sps"] / base[f["round"]] for f in own]
        rows[name] = {
            "sps": statistics.median(f["loop_sps"] for f in own),
            "ratio": statistics.median(ratios),
            "lowest_ratio": min(ratios),
            "highest_ratio": max(ratios),
        }
    return rows


def markdown(rows: dict[str, dict[str, float]]) -> str:
    lines = ["| variant | agent steps/s | beside classic (lowest to highest) |", "|---|---|---|"]
    for name, row in rows.items():
        spread = f"{row['lowest_ratio']:.2f} to {row['highest_ratio']:.2f}"
        lines.append(f"| {name} | {row['sps']:,.0f} | {row['ratio']:.2f} ({spread}) |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
