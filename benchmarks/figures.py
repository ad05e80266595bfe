"""Draw docs/images/peers.png from benchmarks/results: `python benchmarks/figures.py`."""

import json
from pathlib import Path

from ppo37.tools.figures import STYLE, import_matplotlib

ROOT = Path(__file__).parents[1]
IMAGES, RESULTS = ROOT / "docs" / "images", Path(__file__).parent / "results"
PROCESSORS = {"sb3_epyc.json": "AMD EPYC (Zen 4, bf16)", "sb3_xeon.json": "Intel Xeon (fp32)"}
ARMS = {
    "ppo37": ("ppo37", "#2a6fbb"),
    "ppo37, kernels of PyTorch": ("ppo37, PyTorch's kernels", "#7fb0e0"),
    "SB3, DummyVecEnv": ("SB3, DummyVecEnv", "#9a9a9a"),
    "SB3, SubprocVecEnv": ("SB3, SubprocVecEnv", "#c4c4c4"),
}


def peers() -> None:
    """Draw the speed of ppo37 and Stable-Baselines3 on two processors."""
    matplotlib, new_figure = import_matplotlib()
    with matplotlib.rc_context(STYLE):
        drawing = new_figure(figsize=(9.0, 3.4), layout="constrained")
        panels = drawing.subplots(1, len(PROCESSORS), sharex=True)
        for panel, (name, title) in zip(panels, PROCESSORS.items(), strict=True):
            arms = json.loads((RESULTS / name).read_text())["summary"]["arms"]
            for row, (arm, (_, color)) in enumerate(reversed(ARMS.items())):
                speed, ratio = arms[arm]["sps"], arms[arm]["ratio"]["median"]
                median = speed["median"]
                spread = [[median - speed["lowest"]], [speed["highest"] - median]]
                panel.barh(row, median, color=color, xerr=spread, ecolor="#444444", capsize=3)
                text = f"{median:,.0f}" + ("" if ratio == 1 else f"   {ratio:.2f} x")
                panel.text(speed["highest"] + 25, row, text, va="center", fontsize=10)
            panel.set_yticks(range(len(ARMS)), [label for label, _ in reversed(ARMS.values())])
            panel.set_title(title)
            panel.set_xlim(0, 1450)
            panel.set_xlabel("agent steps per second")
            panel.grid(axis="y", visible=False)
        panels[1].set_yticklabels([])
        drawing.savefig(IMAGES / "peers.png", dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    peers()
