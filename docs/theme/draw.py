"""Draw the pictures of the lessons in src/ppo37/course/lessons.

    python docs/theme/draw.py              all pictures
    python docs/theme/draw.py clip run     some of them

Curves are computed by the functions of ppo37, shapes are read from its tensors, screens come from
the emulator. The background is white, so a picture is readable on light and dark pages.
"""

import dataclasses
import gzip
import io
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

from ppo37.algorithm.distributions import Categorical, Gaussian
from ppo37.algorithm.losses import probability_ratio, value_loss
from ppo37.algorithm.rollout import allocate
from ppo37.algorithm.update import make_batch, minibatch
from ppo37.config import Config
from ppo37.course.charts import TAGS, objective
from ppo37.course.charts import screens as played_screens
from ppo37.course.exercises import EXERCISES
from ppo37.course.exercises.statistics import RUNS as TEN_SCORES
from ppo37.course.in_place import train_with
from ppo37.envs.atari.reference import grayscale, shrink
from ppo37.networks.agent import Agent
from ppo37.networks.policies import CategoricalPolicy
from ppo37.presets import from_preset
from ppo37.session.metrics import LAST_100
from ppo37.tools.stats import t_interval_of_mean

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "src/ppo37/course/lessons/figures"
RUNS = ROOT / "benchmarks/results/runs/contrast_bias"
BLUE, RED, GREEN, GRAY, PALE = "#0072B2", "#D55E00", "#009E73", "#5f6b76", "#dfe7ee"

plt.rcParams.update(
    {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "ppo37",
        "savefig.facecolor": "white",
        "axes.titlesize": 10,
    }
)


def clip() -> None:
    """Draw the objective of one sample against its ratio, for both signs of the advantage."""
    eps = torch.tensor(Config().clip_coef)
    ratios = torch.linspace(0.75, 1.25, 201)
    figure, panels = plt.subplots(1, 2, figsize=(8.2, 3.2), layout="constrained")
    for axes, advantage in zip(panels, (1.0, -1.0), strict=True):
        pairs = [objective(float(ratio), advantage, float(eps)) for ratio in ratios]
        objectives, gradients = np.array(pairs).T
        axes.axvspan(
            1 - float(eps), 1 + float(eps), color=PALE, label=r"$1-\epsilon$ to $1+\epsilon$"
        )
        axes.plot(ratios, advantage * ratios, ":", color=GRAY, label=r"$\rho A$, not clipped")
        for flows, color, text in ((True, BLUE, "gradient"), (False, RED, "no gradient")):
            part = np.where((gradients != 0) == flows, objectives, np.nan)
            axes.plot(ratios, part, color=color, linewidth=3, label=text)
        axes.set_title(f"A = {advantage:+g}: {'likelier' if advantage > 0 else 'rarer'} is better")
        axes.set_xlabel(r"ratio $\rho$ (E1)")
        axes.plot(1, advantage, "o", color="black", markersize=5)
    panels[0].set_ylabel(r"$\min(\rho A,\ \mathrm{clip}(\rho) A)$ (E2)")
    panels[0].legend(frameon=False, fontsize=9, loc="upper left")
    _save(figure, "clip")


def value() -> None:
    """Draw the value loss of one sample against the new value."""
    eps, old, target = torch.tensor(Config().clip_coef), torch.zeros(1), torch.tensor([0.5])
    values = torch.linspace(-0.5, 1.3, 361)
    figure, axes = plt.subplots(figsize=(5.6, 3.2), layout="constrained")
    axes.axvspan(
        -float(eps), float(eps), color=PALE, label=r"$V_{old}-\epsilon$ to $V_{old}+\epsilon$"
    )
    losses, gradients = [], []
    for new in values:
        new = new[None].clone().requires_grad_()
        loss = value_loss(new, old, target, eps, clip=True)
        losses.append(loss.item())
        gradients.append(float(torch.autograd.grad(loss, new)[0]))
    plain = [float(value_loss(new[None], old, target, eps, clip=False)) for new in values]
    axes.plot(values, plain, ":", color=GRAY, label="without clipping")
    for flows, color, text in ((True, BLUE, "gradient"), (False, RED, "no gradient")):
        part = np.where((np.array(gradients) != 0) == flows, losses, np.nan)
        axes.plot(values, part, color=color, linewidth=3, label=text)
    axes.axvline(float(target), color=GRAY, linewidth=1)
    axes.text(float(target) + 0.02, 0.2, "target R = 0.5", color=GRAY)
    axes.set_ylim(0, 0.5)
    axes.set_xlabel(r"new value V; the old value is $V_{old} = 0$")
    axes.set_ylabel("value loss (E3)")
    axes.legend(frameon=False, fontsize=9, loc="upper right")
    _save(figure, "value")


def weights() -> None:
    """Draw the weight of each later delta in an advantage."""
    gamma, steps = Config().gamma, np.arange(41)
    figure, axes = plt.subplots(figsize=(5.6, 2.9), layout="constrained")
    for lam, color in ((0.0, RED), (0.8, GREEN), (0.95, BLUE), (1.0, GRAY)):
        label = rf"$\lambda = {lam:g}$" + (" (default)" if lam == Config().gae_lambda else "")
        axes.plot(steps, (gamma * lam) ** steps, ".-", color=color, label=label, markersize=4)
    axes.set_xlabel(r"steps later, $l$")
    axes.set_ylabel(r"weight of $\delta_{t+l}$ in $A_t$")
    axes.legend(frameon=False, fontsize=9)
    _save(figure, "weights")


def screens() -> None:
    """Draw one agent step of Ms. Pac-Man: its four frames, and the observation made of them."""
    frames, obs = played_screens()
    gray = [grayscale(frame) for frame in frames]
    seen = shrink(np.maximum(gray[2], gray[3]))
    # The emulator's own gray differs from these weights by 1 at most.
    assert np.abs(seen.astype(int) - obs[-1]).max() <= 1
    last = (gray[2], gray[3], np.maximum(gray[2], gray[3]), obs[-1])
    names = [f"frame {n}" for n in range(1, 5)]
    names += ["frame 3, gray", "frame 4, gray", "maximum of both", "made smaller: 84 x 84"]
    figure, panels = plt.subplots(2, 4, figsize=(8.2, 5.6), layout="constrained")
    for axes, picture, name in zip(panels.flat, (*frames, *last), names, strict=True):
        _show(axes, picture, name)
    _save(figure, "screens", "png")

    names = ["3 steps ago", "2 steps ago", "1 step ago", "now"]
    figure, panels = plt.subplots(1, 4, figsize=(8.2, 2.2), layout="constrained")
    for axes, picture, name in zip(panels, obs, names, strict=True):
        _show(axes, picture, name)
    _save(figure, "stack", "png")


def _show(axes: Axes, picture: np.ndarray, name: str) -> None:
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_title(name, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def network() -> None:
    """Draw the layers of the network `nature` with the shapes of what flows between them."""
    agent = Agent((4, 84, 84), CategoricalPolicy(6), "nature", seed=1)
    trunk = agent.trunk
    shapes: list[str] = []
    trunk.conv2.register_forward_pre_hook(lambda _m, inputs: shapes.append(_size(inputs[0][0])))
    for layer in (trunk.conv2, trunk.conv3, trunk.dense):
        layer.register_forward_hook(lambda _m, _i, out: shapes.append(_size(out[0])))
    obs = torch.zeros(1, 4, 84, 84, dtype=torch.uint8)
    distribution, values, _ = agent(obs, agent.initial_state(1), torch.zeros(1, 1))
    assert shapes[-1] == "512"
    assert values.shape == (1,)
    assert distribution.outputs[0].shape == (1, 6)
    names = [
        f"conv{n}\n{c.kernel_size[0]} x {c.kernel_size[0]}, stride {c.stride[0]}"
        for n, c in enumerate(trunk.convolutions, start=1)
    ]
    texts = ["observation\n4 x 84 x 84"]
    texts += [f"{name}\n{shape}" for name, shape in zip([*names, "dense"], shapes, strict=True)]
    figure, axes = _canvas(8.6, 2.5, 12.0, 3.4)
    for i, text in enumerate(texts):
        _box(axes, 1.0 + 2.0 * i, 1.7, 1.6, 1.3, text, PALE if i else "white")
    for i in range(4):
        _arrow(axes, (1.8 + 2.0 * i, 1.7), (2.2 + 2.0 * i, 1.7))
    _box(axes, 11.1, 2.55, 1.6, 1.0, "policy head\nA logits", "#fbe3d3")
    _box(axes, 11.1, 0.85, 1.6, 1.0, "value head\n1 value", "#d5efe6")
    _arrow(axes, (9.8, 1.9), (10.3, 2.5))
    _arrow(axes, (9.8, 1.5), (10.3, 0.9))
    axes.text(
        5.0,
        0.45,
        "trunk, with a ReLU after each layer; shared by both heads",
        ha="center",
        color=GRAY,
        fontsize=9,
    )
    _save(figure, "network")


def _classic() -> Config:
    return from_preset("classic", "pong", "cpu", precision="fp32")


def _size(tensor: torch.Tensor) -> str:
    return " x ".join(map(str, tensor.shape))


def dataflow() -> None:
    """Draw the tensors of one update, with their shapes."""
    config = _classic()
    rollout = _rollout(config)
    batch = make_batch(rollout, config.gamma, config.gae_lambda, config.bootstrap_truncated)
    part = minibatch(batch, torch.arange(config.minibatch_size))
    figure, axes = _canvas(8.6, 4.9, 12.0, 6.9)
    collected = _listed(rollout, ("obs", "actions", "log_probs", "values", "rewards", "dones"))
    judged = _listed(batch, ("obs", "actions", "log_probs", "values", "advantages", "targets"))
    chosen = _listed(part, ("obs", "actions", "log_probs", "values", "advantages", "targets"))
    _box(
        axes,
        1.9,
        6.15,
        3.4,
        1.1,
        f"N = {config.num_envs} environments\n+ network, weights fixed",
        "white",
    )
    _table(axes, 1.9, 2.95, 3.4, "Rollout", collected)
    _table(axes, 6.0, 2.95, 3.4, "Batch", judged)
    _table(axes, 10.1, 2.95, 3.4, "minibatch", chosen)
    steps = config.update_epochs * config.num_minibatches
    _box(
        axes,
        9.2,
        6.15,
        5.2,
        1.1,
        f"{config.update_epochs} epochs x {config.num_minibatches} minibatches"
        f" = {steps} gradient steps\nloss E5, gradient norm <= {config.max_grad_norm}, Adam",
        "white",
    )
    _arrow(axes, (1.9, 5.6), (1.9, 4.8))
    axes.text(2.05, 5.15, f"collect: T = {config.num_steps} steps", color=GRAY, fontsize=9)
    _arrow(axes, (3.6, 3.0), (4.3, 3.0))
    axes.text(
        3.95,
        0.45,
        "make_batch: E6, E7, E8,\nall steps in a row",
        color=GRAY,
        fontsize=9,
        ha="center",
    )
    _arrow(axes, (7.7, 3.0), (8.4, 3.0))
    axes.text(
        8.05,
        0.45,
        f"a new shuffle in each epoch,\nM = {config.minibatch_size} of S = {config.batch_size}",
        color=GRAY,
        fontsize=9,
        ha="center",
    )
    _arrow(axes, (10.1, 4.8), (10.1, 5.6))
    _arrow(axes, (6.6, 6.15), (3.6, 6.15))
    axes.text(5.1, 6.3, "new weights", color=GRAY, fontsize=9, ha="center")
    _save(figure, "dataflow")


def _rollout(config: Config) -> Any:
    """Allocate the buffers of a rollout as a run does."""
    return allocate(config.num_steps, config.num_envs, (4, 84, 84), torch.device("cpu"))


def _listed(parts: Any, names: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(name, str(list(getattr(parts, name).shape))) for name in names]


def _table(
    axes: Axes, x: float, y: float, width: float, title: str, rows: list[tuple[str, str]]
) -> None:
    """Draw a box with a title and rows of a name and a shape."""
    _box(axes, x, y, width, 3.7, "", PALE)
    axes.text(x, y + 1.5, title, ha="center", va="center", weight="bold")
    for i, (name, shape) in enumerate(rows):
        height = y + 0.95 - 0.49 * i
        axes.text(x - width / 2 + 0.15, height, name, va="center", fontsize=9)
        axes.text(x + width / 2 - 0.15, height, shape, va="center", ha="right", fontsize=8)


def _canvas(width: float, height: float, columns: float, rows: float) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.set_xlim(0, columns)
    axes.set_ylim(0, rows)
    axes.axis("off")
    return figure, axes


def _box(
    axes: Axes, x: float, y: float, width: float, height: float, text: str, color: str
) -> None:
    """Draw a box around the middle (x, y)."""
    corner = (x - width / 2, y - height / 2)
    style = "round,pad=0,rounding_size=0.12"
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, fc=color, ec=GRAY))
    axes.text(x, y, text, ha="center", va="center", fontsize=9, linespacing=1.4)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "mutation_scale": 12, "color": GRAY, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(start, end, **style))


def run() -> None:
    """Draw two committed runs of Pong: the same settings, two seeds."""
    seeds = {105: BLUE, 101: RED}
    logs = {seed: _log(RUNS / f"bias_0__s{seed}.jsonl.gz") for seed in seeds}
    names = (
        "return of each game",
        "entropy",
        "approx_kl",
        "clipfrac",
        "explained_variance",
        "value_loss",
    )
    figure, panels = plt.subplots(2, 3, figsize=(8.6, 4.8), layout="constrained", sharex=True)
    for axes, name in zip(panels.flat, names, strict=True):
        axes.set_title(name)
        for seed, log in logs.items():
            if name == names[0]:
                _draw_games(axes, log, seeds[seed], f"seed {seed}")
            else:
                _draw_metric(axes, log, f"losses/{name}", seeds[seed])
    panels[0, 0].legend(frameon=False, fontsize=9, loc="upper left")
    panels[0, 1].axhline(np.log(6), color=GRAY, linestyle=":", linewidth=1)
    panels[0, 1].text(
        300, np.log(6) - 0.005, "ln 6: uniform", color=GRAY, fontsize=8, ha="right", va="top"
    )
    panels[0, 2].axhline(0.015, color=GRAY, linestyle=":", linewidth=1)
    panels[0, 2].text(0, 0.0151, "target_kl", color=GRAY, fontsize=8, va="bottom")
    for axes in panels[1]:
        axes.set_xlabel("agent steps, thousands")
    _save(figure, "run", "png")


def _log(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def _draw_games(axes: Axes, log: list[dict[str, Any]], color: str, label: str) -> None:
    games = [(r["agent_steps"] / 1000, e["return"]) for r in log for e in r["episodes"]]
    steps, returns = np.array(games).T
    axes.plot(steps, returns, ".", color=color, markersize=2, alpha=0.5)
    axes.plot(steps[9:], _smooth(returns, 10), color=color, linewidth=1.5, label=label)


def _draw_metric(axes: Axes, log: list[dict[str, Any]], name: str, color: str) -> None:
    steps = np.array([r["agent_steps"] / 1000 for r in log])
    values = np.array([r[name] for r in log], float)
    axes.plot(steps, values, color=color, linewidth=0.5, alpha=0.35)
    axes.plot(steps[9:], _smooth(values, 10), color=color, linewidth=1.5)


def _smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Compute the mean of each value and those before it."""
    return np.convolve(values, np.ones(window) / window, mode="valid")


def _save(figure: Figure, name: str, kind: str = "svg") -> None:
    path = FIGURES / f"{name}.{kind}"
    if kind == "svg":
        figure.savefig(path, metadata={"Date": None})
    else:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120)
        Image.open(buffer).convert("RGB").quantize(64).save(path, optimize=True)
    plt.close(figure)
    print(path.relative_to(ROOT), f"{path.stat().st_size / 1000:.0f} kB")


def policy() -> None:
    """Draw the probabilities of three actions as parts of a bar, and a random number on it."""
    logits = torch.tensor([0.0, 1.0, -1.0])
    parts = torch.softmax(logits, -1)
    chosen = int(Categorical(logits[None]).sample(torch.tensor([0.6])))
    names = ("LEFT", "STAY", "RIGHT")
    figure, axes = plt.subplots(figsize=(7.0, 1.7), layout="constrained")
    left = 0.0
    for i, (name, part) in enumerate(zip(names, parts.tolist(), strict=True)):
        color, hatch = (BLUE, "//") if i == chosen else (PALE, "")
        axes.barh(0, part, left=left, color="white" if hatch else color, ec=color, hatch=hatch)
        axes.barh(0, part, left=left, color="none", ec=GRAY)
        label = axes.text(left + part / 2, 0, f"{name}\n{part:.3f}", ha="center", va="center")
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.5})
        left += part
    axes.annotate(
        f"u = 0.6: {names[chosen]}",
        (0.6, 0.42),
        (0.6, 0.85),
        ha="center",
        annotation_clip=False,
        arrowprops={"arrowstyle": "-|>", "color": "black"},
    )
    axes.set_ylim(-0.45, 0.75)
    axes.set_xlim(0, 1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xticks([0, *parts.cumsum(-1).tolist()])
    axes.set_xlabel("cumulative probability")
    axes.xaxis.set_major_formatter("{x:.3g}")
    _save(figure, "policy")


def returns() -> None:
    """Draw rewards, and how much they count in the return of the first step."""
    rewards = np.array([0, 1, 0, 0, 1, 1, 0, 0, 1])
    gamma, steps = 0.8, np.arange(len(rewards))
    figure, axes = plt.subplots(figsize=(6.4, 2.6), layout="constrained")
    axes.bar(steps, rewards, color="white", ec=GRAY, width=0.7, label="reward")
    counted = rewards * gamma**steps
    axes.bar(steps, counted, color=BLUE, width=0.7, label=r"$\gamma^t$ times the reward")
    axes.plot(steps, gamma**steps, ":", color="black", label=r"$\gamma^t$, with $\gamma = 0.8$")
    axes.set_xlabel("step t")
    axes.set_title(f"the return of step 0 is the sum of the filled bars: {counted.sum():.2f}")
    axes.set_ylim(0, 1.45)
    axes.legend(frameon=False, fontsize=9, ncols=3, loc="upper left")
    _save(figure, "return")


def ratio() -> None:
    """Draw the probabilities of three actions before and after some learning, and the ratios."""
    old = torch.tensor([0.5, 0.3, 0.2])
    new = torch.tensor([0.6, 0.3, 0.1])
    ratios = probability_ratio(new.log(), old.log())
    figure, axes = plt.subplots(figsize=(6.0, 2.6), layout="constrained")
    places = np.arange(3)
    axes.bar(places - 0.2, old, 0.36, color="white", ec=GRAY, hatch="..", label=r"$\pi_{old}$")
    axes.bar(places + 0.2, new, 0.36, color=BLUE, label=r"$\pi_{new}$")
    for place, top, value in zip(places, torch.maximum(old, new), ratios.tolist(), strict=True):
        axes.text(place, float(top) + 0.03, rf"$\rho = {value:.2g}$", ha="center")
    axes.set_xticks(places, ["LEFT", "STAY", "RIGHT"])
    axes.set_ylabel("probability")
    axes.set_ylim(0, 0.8)
    axes.legend(frameon=False, loc="upper right")
    _save(figure, "ratio")


def memory() -> None:
    """Draw the state of an LSTM over five steps, of which one ends an episode."""
    figure, axes = _canvas(8.6, 2.6, 12.0, 3.6)
    for i in range(5):
        x = 1.2 + 2.4 * i
        _box(axes, x, 1.7, 1.1, 0.9, f"LSTM\nstep {i}", PALE)
        axes.text(x, 0.55, "observation", ha="center", va="center", fontsize=8, color=GRAY)
        _arrow(axes, (x, 0.75), (x, 1.2))
        axes.text(x, 2.95, "output", ha="center", va="center", fontsize=8, color=GRAY)
        _arrow(axes, (x, 2.2), (x, 2.75))
        if i < 4:
            _arrow(axes, (x + 0.6, 1.7), (x + 1.8, 1.7))
            text = "state" if i != 2 else "done:\n0"
            axes.text(x + 1.2, 1.78, text, ha="center", va="bottom", fontsize=9)
    axes.plot([7.2, 7.2], [0.4, 1.55], ":", color="black")
    axes.text(7.2, 0.2, "a new episode", ha="center", va="center", fontsize=9)
    _save(figure, "memory")


def continuous() -> None:
    """Draw a narrow and a wide normal distribution, and the density of one action."""
    points = torch.linspace(-3, 4, 281)
    figure, axes = plt.subplots(figsize=(6.2, 2.8), layout="constrained")
    action = torch.tensor([[1.5]])
    for log_std, color, style in ((-0.5, BLUE, "-"), (0.3, RED, "--")):
        policy = Gaussian(torch.tensor([[0.5]]), torch.tensor([log_std]))
        densities = [float(policy.log_prob(point.view(1, 1)).exp()) for point in points]
        std = float(torch.tensor(log_std).exp())
        axes.plot(points, densities, style, color=color, label=f"standard deviation {std:.2f}")
        density = float(policy.log_prob(action).exp())
        axes.plot(1.5, density, "o", color=color)
        axes.annotate(f"{density:.2f}", (1.5, density), (8, 6), textcoords="offset points")
    axes.axvline(0.5, color=GRAY, linewidth=1)
    axes.text(0.45, 0.02, "mean 0.5", ha="right", color=GRAY)
    axes.axvline(1.5, color=GRAY, linestyle=":", linewidth=1)
    axes.set_xlabel("action; the dots are the densities of a = 1.5")
    axes.set_ylabel("density")
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    _save(figure, "continuous")


def numbers() -> None:
    """Draw the scores of ten runs, their mean and the interval of the mean."""
    scores = TEN_SCORES
    low, high = t_interval_of_mean(scores)
    figure, axes = plt.subplots(figsize=(7.0, 2.2), layout="constrained")
    axes.plot([low, high], [1, 1], color=RED, linewidth=3)
    axes.plot(np.mean(scores), 1, "D", color=RED)
    axes.text(np.mean(scores), 1.22, "mean and its 95% interval", ha="center", color=RED)
    for i, score in enumerate(sorted(scores)):
        axes.plot(score, 0.3 + 0.12 * (i % 3), "o", color=BLUE, mec="white", markersize=9)
    axes.text(10.6, 0.42, "ten runs", color=BLUE, va="center")
    axes.set_ylim(-0.15, 1.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("score of 30 games of Pong")
    _save(figure, "numbers")


def papers() -> None:
    """Draw the parts of a paper, and the questions that each has to answer."""
    parts = {
        "abstract": "What is claimed, and by how much? Best of what?",
        "method": "What is new? Is each new part left out once?",
        "setup": "Which protocol, games, steps or frames, budget?",
        "baselines": "Who tuned them? As good as published?",
        "results": "How many seeds? An interval over what?",
        "appendix": "Which details differ? Can it be run?",
    }
    figure, axes = _canvas(7.6, 3.2, 12.0, 5.2)
    for i, (name, question) in enumerate(parts.items()):
        y = 4.7 - 0.85 * i
        _box(axes, 1.4, y, 2.2, 0.6, name, PALE)
        _arrow(axes, (2.6, y), (3.3, y))
        axes.text(3.5, y, question, va="center", fontsize=10)
    _save(figure, "papers")


def runs() -> None:
    """Train catch with and without mistakes, and store the metrics for a chart."""
    found = {}
    exercise = EXERCISES["value_targets"]
    broken = {"learning_rate 1e-6": {"learning_rate": 1e-6}}
    broken |= {"learning_rate 0.1": {"learning_rate": 0.1, "target_kl": None}}
    broken |= {"ent_coef 1": {"ent_coef": 1.0}, "targets are the values": {}, "healthy": {}}
    for name, changes in broken.items():
        function = None
        if name == "targets are the values":
            function = partial(exercise.solve, frozenset({"only_values"}))
        changed = dataclasses.replace(exercise, settings=changes)
        with tempfile.TemporaryDirectory() as folder:
            trained = train_with(changed, function, Path(folder) / "run")
        metrics = {"score": trained.metrics[LAST_100]}
        metrics |= {tag: trained.metrics[f"losses/{tag}"] for tag in TAGS[1:]}
        rounded = {tag: [float(f"{v:.4g}") for v in values] for tag, values in metrics.items()}
        found[name] = {"agent_steps": trained.steps, **rounded}
    path = FIGURES.parent / "runs.json"
    path.write_text(json.dumps(found) + "\n")
    print(path.relative_to(ROOT), f"{path.stat().st_size / 1000:.0f} kB")


DRAWN = (policy, returns, weights, ratio, clip, value, dataflow, screens, network, memory)
PICTURES = {f.__name__: f for f in (*DRAWN, continuous, run, numbers, papers, runs)}

if __name__ == "__main__":
    for name in sys.argv[1:] or PICTURES:
        PICTURES[name]()
