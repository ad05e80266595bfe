"""Interactive charts of the course: the figure for each position of their sliders.

A figure is a plain dictionary as plotly has it, with `data` and `layout`. The notebooks draw it
live, and the site ships the figures of all positions.
"""

import base64
import io
import itertools
import json
import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

from ..algorithm.advantages import gae
from ..algorithm.distributions import Categorical
from ..algorithm.losses import policy_loss
from ..tools.details import measured
from . import oracle
from .lessons import FOLDER

Figure = dict[str, Any]
BLUE, RED, GRAY, PALE = "#0072B2", "#D55E00", "#5f6b76", "#dfe7ee"


class Chart(NamedTuple):
    """A chart with sliders.

    name: also of its notebook.  lesson: that shows it.  text: what to try.  controls: the values of
    each slider by the name of its argument.  start: the position of each at first.  figure: makes
    the figure from values.
    """

    name: str
    lesson: str
    text: str
    controls: dict[str, tuple[Any, ...]]
    start: dict[str, Any]
    figure: Callable[..., Figure]

    def all_figures(self) -> Iterator[tuple[tuple[int, ...], Figure]]:
        """Yield the positions of all sliders, and the figure there."""
        ranges = [range(len(values)) for values in self.controls.values()]
        for positions in itertools.product(*ranges):
            chosen = zip(self.controls.items(), positions, strict=True)
            yield positions, self.figure(**{name: values[i] for (name, values), i in chosen})


def _layout(title: str, x: str = "", y: str = "", **more: Any) -> dict[str, Any]:
    """Return a layout; text is at least 12 pixels high, and nothing depends on color alone."""
    return {
        "title": {"text": title, "font": {"size": 15}},
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}},
        "height": 400,
        "margin": {"l": 60, "r": 20, "t": 60, "b": 50},
        "font": {"size": 13},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "legend": {"orientation": "h", "y": -0.25},
        **more,
    }


def _rounded(values: Any, digits: int = 4) -> list[Any]:
    return np.round(np.asarray(values, float), digits).tolist()


# ---- the clipped objective ----


def objective(ratio: float, advantage: float, eps: float) -> tuple[float, float]:
    """Compute what a sample adds to the objective, and its slope."""
    rho = torch.tensor([ratio], requires_grad=True)
    loss = policy_loss(torch.tensor([advantage]), rho, torch.tensor(eps))
    (gradient,) = torch.autograd.grad(loss, rho)
    return -loss.item(), -gradient.item()


@cache
def _curve(advantage: float, eps: float) -> tuple[list[float], list[float]]:
    ratios = np.linspace(0.4, 1.6, 61)
    return _rounded(ratios), _rounded([objective(float(r), advantage, eps)[0] for r in ratios])


def clip_figure(advantage: float, ratio: float, eps: float) -> Figure:
    """Draw the objective of one sample, and the sample with its gradient."""
    ratios, objectives = _curve(advantage, eps)
    value, slope = objective(ratio, advantage, eps)
    if slope == 0.0:
        case = "clipped: no gradient, it stops pushing"
    else:
        case = f"gradient {slope:+g}: make the action {'likelier' if slope > 0 else 'rarer'}"
    shade = {
        "type": "rect",
        "xref": "x",
        "yref": "paper",
        "x0": 1 - eps,
        "x1": 1 + eps,
        "y0": 0,
        "y1": 1,
        "fillcolor": PALE,
        "line": {"width": 0},
        "layer": "below",
    }
    ends = [max(0.4, ratio - 0.15), min(1.6, ratio + 0.15)]
    tangent = [value + slope * (end - ratio) for end in ends]
    plain = [advantage * r for r in ratios]
    return {
        "data": [
            _line(ratios, plain, "ratio times A, not clipped", GRAY, "dot"),
            _line(ratios, objectives, "the objective", BLUE, "solid"),
            _line(ends, tangent, "slope here", RED, "dash"),
            {
                "type": "scatter",
                "mode": "markers",
                "x": [ratio],
                "y": [round(value, 4)],
                "name": "this sample",
                "marker": {"size": 13, "color": "black"},
            },
        ],
        "layout": _layout(
            f"A = {advantage:+g}, ratio {ratio:g}, eps {eps:g}: {case}",
            "ratio",
            "objective",
            shapes=[shade],
        ),
    }


def _line(x: Any, y: Any, name: str, color: str, dash: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": _rounded(x),
        "y": _rounded(y),
        "name": name,
        "line": {"color": color, "dash": dash, "width": 3 if dash == "solid" else 2},
    }


# ---- advantages ----


def gae_figure(gamma: float, gae_lambda: float) -> Figure:
    """Draw who gets credit for one reward: E7 step by step, and the sum that it stands for."""
    steps, at = 14, 9
    rewards, dones, values = [0.0] * steps, [0.0] * steps, [0.0] * (steps + 1)
    rewards[at], dones[at] = 1.0, 1.0
    columns = [torch.tensor(part).unsqueeze(1) for part in (rewards, values, dones)]
    recursion = gae(columns[0], columns[1], columns[2], gamma, gae_lambda)
    unrolled = oracle.gae_by_definition(rewards, values, dones, gamma, gae_lambda)
    first = unrolled[0]
    return {
        "data": [
            {
                "type": "bar",
                "x": list(range(steps)),
                "y": _rounded(recursion.flatten()),
                "name": "from the last step to the first",
                "marker": {"color": BLUE},
            },
            {
                "type": "scatter",
                "mode": "markers",
                "x": list(range(steps)),
                "y": _rounded(unrolled),
                "name": "as a sum of later errors",
                "marker": {"symbol": "x", "size": 10, "color": "black"},
            },
        ],
        "layout": _layout(
            f"A reward of 1 in step {at}, which ends the episode: step 0 gets {first:.3f}",
            "step",
            "advantage",
            yaxis={"range": [0, 1.1], "title": {"text": "advantage"}},
        ),
    }


# ---- entropy and KL ----

LOGITS = (2.0, 1.0, 0.0, -1.0)
DRAWS = 64


def entropy_figure(temperature: float) -> Figure:
    """Draw a policy before and after its logits were divided by a temperature."""
    old = Categorical(torch.tensor([LOGITS]))
    new = Categorical(torch.tensor([LOGITS]) / temperature)
    old_logs, new_logs = (torch.log_softmax(each.logits, -1)[0] for each in (old, new))
    entropy, kl = float(new.entropy()), float((old_logs.exp() * (old_logs - new_logs)).sum())
    many = Categorical(torch.tensor([LOGITS]).expand(DRAWS, -1))
    uniforms = torch.rand(DRAWS, generator=torch.Generator().manual_seed(1))
    actions = many.sample(uniforms)
    log_ratio = new_logs[actions] - old_logs[actions]
    estimate = float((log_ratio.exp() - 1.0 - log_ratio).mean())
    names = [f"action {i}" for i in range(len(LOGITS))]
    return {
        "data": [
            {
                "type": "bar",
                "x": names,
                "y": _rounded(old_logs.exp()),
                "name": "old policy",
                "marker": {
                    "color": "white",
                    "line": {"color": GRAY, "width": 2},
                    "pattern": {"shape": "/", "fgcolor": GRAY},
                },
            },
            {
                "type": "bar",
                "x": names,
                "y": _rounded(new_logs.exp()),
                "name": "new policy",
                "marker": {"color": BLUE},
            },
        ],
        "layout": _layout(
            f"entropy {entropy:.3f} of at most {math.log(len(LOGITS)):.3f} nats; KL divergence "
            f"{kl:.3f}, estimated from {DRAWS} actions {estimate:.3f}",
            y="probability",
            yaxis={"range": [0, 1], "title": {"text": "probability"}},
        ),
    }


# ---- pixels ----

STAGES = ("frame 3", "frame 4", "the larger of both", "gray", "84 x 84", "the stack of four")


@cache
def screens() -> tuple[list[Any], Any]:
    """Play Ms. Pac-Man at random. Returns the four frames of a step, and the observation then."""
    from ..envs.atari.reference import ReferenceAtari

    envs = ReferenceAtari("ms_pacman", 1, seed=1, variant="engine")
    random = np.random.default_rng(0)
    envs.reset()
    action = 0
    for t in range(126):
        action = int(random.integers(len(envs.action_names))) if t % 8 == 0 else action
        step = envs.step(np.array([action]))
    frames = envs.screens[0]
    envs.close()
    return list(frames), step.obs[0]


def pixels_figure(stage: str) -> Figure:
    """Show what is made of the frames of one step."""
    from ..envs.atari.reference import grayscale, shrink

    frames, obs = screens()
    larger = np.maximum(frames[2], frames[3])
    pictures = {
        "frame 3": frames[2],
        "frame 4": frames[3],
        "the larger of both": larger,
        "gray": grayscale(larger),
        "84 x 84": shrink(np.maximum(grayscale(frames[2]), grayscale(frames[3]))),
        "the stack of four": np.concatenate(list(obs), axis=1),
    }
    picture = pictures[stage]
    height, width = picture.shape[:2]
    shape = " x ".join(map(str, obs.shape if stage == STAGES[-1] else picture.shape))
    image = {
        "source": _png(picture),
        "xref": "x",
        "yref": "y",
        "x": 0,
        "y": 0,
        "sizex": width,
        "sizey": height,
        "sizing": "stretch",
        "layer": "below",
    }
    axis = {"visible": False, "range": [0, width]}
    return {
        "data": [
            {
                "type": "scatter",
                "x": [0],
                "y": [0],
                "mode": "markers",
                "marker": {"opacity": 0},
                "showlegend": False,
                "hoverinfo": "skip",
            }
        ],
        "layout": _layout(
            f"{stage}: {shape} = {math.prod(picture.shape):,} numbers",
            images=[image],
            xaxis=axis,
            yaxis={"visible": False, "range": [height, 0], "scaleanchor": "x"},
        ),
    }


def _png(picture: Any) -> str:
    """Return a picture as the address of a PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


# ---- one update ----

UPDATE_STAGES = (
    "collected",
    "errors of one step (E6)",
    "advantages and targets (E7, E8)",
    "normalized in the minibatch",
    "after one gradient step",
    "after two gradient steps",
    "after three gradient steps",
)


@cache
def small_update() -> dict[str, dict[str, list[str]]]:
    """Run one update of catch on 2 environments x 4 steps. Returns a table for each stage."""
    from ..algorithm.losses import Coefficients, normalize_advantages
    from ..algorithm.rollout import act, allocate, collect
    from ..algorithm.update import gradient_step, make_batch, make_optimizer, minibatch
    from ..envs.catch import Catch
    from ..networks.agent import Agent
    from ..networks.policies import CategoricalPolicy

    steps, envs, gamma, gae_lambda = 4, 2, 0.99, 0.95
    games = Catch(envs, seed=4)
    agent = Agent(games.obs_shape, CategoricalPolicy(3), "mlp", seed=1)
    optimizer = make_optimizer(agent, 2e-3, 1e-5)
    buffers = allocate(steps, envs, games.obs_shape, torch.device("cpu"))
    uniforms = torch.rand(steps + 1, envs, generator=torch.Generator().manual_seed(6))
    obs, state = games.reset(), agent.initial_state(envs)
    for _ in range(4):  # the balls fall first, so that rewards come
        obs, state, _ = collect(
            games.step, lambda *x: act(agent, *x), buffers, obs, state, uniforms
        )
    batch = make_batch(buffers, gamma, gae_lambda, False)
    table = {
        "step": [f"{t}" for t in range(steps) for _ in range(envs)],
        "environment": [f"{n}" for _ in range(steps) for n in range(envs)],
        "action": [games.action_names[int(a)] for a in batch.actions.flatten()],
        "reward": _numbers(buffers.rewards),
        "done": _numbers(buffers.dones),
        "V": _numbers(batch.values),
        "pi_old": _numbers(batch.log_probs.exp()),
    }
    tables = [dict(table)]
    deltas = gae(buffers.rewards, buffers.values, buffers.dones, gamma, 0.0)
    table["delta"] = _numbers(deltas)
    tables.append(dict(table))
    table |= {"A": _numbers(batch.advantages), "R": _numbers(batch.targets)}
    tables.append(dict(table))
    table["A normalized"] = _numbers(normalize_advantages(batch.advantages.flatten()))
    tables.append(dict(table))
    order = torch.arange(steps * envs)
    coefficients = Coefficients(
        torch.tensor(0.2), True, True, torch.tensor(0.01), torch.tensor(0.5)
    )
    for _ in range(3):
        gradient_step(agent, optimizer, minibatch(batch, order), coefficients, 0.5)
        with torch.no_grad():
            policy, values, _ = agent(batch.obs.flatten(0, 1), batch.lstm_state, batch.dones)
            new = policy.log_prob(batch.actions.flatten())
        table["ratio"] = _numbers((new - batch.log_probs.flatten()).exp())
        table["new V"] = _numbers(values)
        tables.append(dict(table))
    return dict(zip(UPDATE_STAGES, tables, strict=True))


def _numbers(part: torch.Tensor) -> list[str]:
    return [f"{value:.3f}".rstrip("0").rstrip(".") for value in part.flatten().tolist()]


def update_figure(stage: str) -> Figure:
    """Show the numbers of a small update at one stage."""
    table = small_update()[stage]
    return {
        "data": [
            {
                "type": "table",
                "header": {"values": list(table), "fill": {"color": PALE}, "height": 28},
                "cells": {"values": list(table.values()), "height": 26},
            }
        ],
        "layout": _layout(stage, height=360),
    }


# ---- metrics ----

TAGS = ("score", "entropy", "approx_kl", "clipfrac", "explained_variance", "value_loss")


@cache
def stored_runs() -> dict[str, dict[str, list[float]]]:
    """Return the metrics of a healthy run of catch and of four broken ones, by their names."""
    found: dict[str, dict[str, list[float]]] = json.loads((FOLDER / "runs.json").read_text())
    return found


def metrics_figure(run: str, metric: str) -> Figure:
    """Draw a metric of a broken run beside that of the healthy one."""
    runs = stored_runs()
    healthy, broken = runs["healthy"], runs[run]
    return {
        "data": [
            _line(healthy["agent_steps"], healthy[metric], "healthy", GRAY, "dot"),
            _line(broken["agent_steps"], broken[metric], run, BLUE, "solid"),
        ],
        "layout": _layout(f"{metric}: {run}", "agent steps", metric),
    }


# ---- details over seeds ----


def detail_figure(tag: str) -> Figure:
    """Draw the curves of a small game with a detail and without it, and their means."""
    each = measured()["details"][tag]
    task = measured()["tasks"][each["task"]]
    data = []
    for curves, name, color, dash in (
        (task["curves"], "with it", GRAY, "dot"),
        (each["curves"], "without it", BLUE, "solid"),
    ):
        for curve in curves:
            single = _line(task["steps"], np.array(curve, float), name, color, dash)
            data.append({**single, "opacity": 0.2, "showlegend": False, "hoverinfo": "skip"})
        mean = np.nanmean(np.array(curves, float), axis=0)
        data.append(_line(task["steps"], mean, f"{name}, mean of {len(curves)} seeds", color, dash))
    return {
        "data": data,
        "layout": _layout(f"{each['task']}, with and without {tag}", "agent steps", "score"),
    }


BROKEN = ("learning_rate 1e-6", "learning_rate 0.1", "ent_coef 1", "targets are the values")
CHARTS = {
    chart.name: chart
    for chart in (
        Chart(
            "entropy",
            "policy",
            "Divide the logits by a temperature: a small one makes the policy certain.",
            {"temperature": (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)},
            {"temperature": 1.0},
            entropy_figure,
        ),
        Chart(
            "gae",
            "advantages",
            "Who gets credit for a reward? Move lambda to 0 and to 1.",
            {
                "gamma": (0.5, 0.8, 0.9, 0.99, 1.0),
                "gae_lambda": (0.0, 0.3, 0.6, 0.8, 0.95, 1.0),
            },
            {"gamma": 0.99, "gae_lambda": 0.8},
            gae_figure,
        ),
        Chart(
            "clip",
            "clip",
            "Move the ratio of a good action above the range, and then that of a bad one.",
            {
                "advantage": (-2.0, -1.0, 1.0, 2.0),
                "ratio": (0.5, 0.7, 0.85, 0.95, 1.0, 1.05, 1.15, 1.3, 1.5),
                "eps": (0.1, 0.2, 0.3),
            },
            {"advantage": 1.0, "ratio": 1.05, "eps": 0.2},
            clip_figure,
        ),
        Chart(
            "update",
            "update",
            "Follow the numbers of 2 environments x 4 steps from the rollout to the ratios.",
            {"stage": UPDATE_STAGES},
            {"stage": UPDATE_STAGES[0]},
            update_figure,
        ),
        Chart(
            "pixels",
            "pixels",
            "From two frames of the console to the observation.",
            {"stage": STAGES},
            {"stage": STAGES[0]},
            pixels_figure,
        ),
        Chart(
            "metrics",
            "training",
            "A healthy run of catch and four broken ones. Which metric shows it first?",
            {"run": BROKEN, "metric": TAGS},
            {"run": BROKEN[0], "metric": TAGS[0]},
            metrics_figure,
        ),
    )
}
