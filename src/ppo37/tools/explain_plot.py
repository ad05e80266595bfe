"""A picture of one update: what was learned from, and what it changed."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from .explain import Explanation, clip_cases
from .figures import COLORS, FAINT_INK, STYLE, import_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, RED = COLORS[:2]


def figure(found: Explanation) -> "Figure":
    """Draw the ratios, the gradient norms, and the state in which the policy changed most."""
    matplotlib, new_figure = import_matplotlib()
    with matplotlib.rc_context(STYLE):
        drawing = new_figure(figsize=(11.0, 8.0), layout="constrained")
        panels = drawing.subplots(2, 2)
        _ratios(panels[0, 0], found)
        _norms(panels[0, 1], found)
        _observation(panels[1, 0], found)
        _policy(panels[1, 1], found)
        drawing.suptitle(
            f"Update {found.update}, after {found.agent_steps:,} agent steps", x=0.01, ha="left"
        )
    return drawing


def _ratios(panel: "Axes", found: Explanation) -> None:
    """Draw each sample: its ratio at the end against its advantage."""
    ratios, advantages = torch.tensor(found.ratios), torch.tensor(found.advantages)
    eps = found.settings["clip_coef"]
    stopped = clip_cases(ratios, advantages, eps) < 2  # the first two of CASES
    panel.axvspan(1 - eps, 1 + eps, color="#dfe7ee", zorder=0)
    for part, color, sign, name in (
        (~stopped, BLUE, ".", "gradient flows"),
        (stopped, RED, "x", "clipped: no gradient"),
    ):
        label = f"{name} ({part.float().mean():.0%})"
        panel.plot(ratios[part], advantages[part], sign, color=color, markersize=4, label=label)
    panel.axhline(0, color=FAINT_INK, linewidth=0.8)
    panel.set_xlabel("ratio of new to old probability; shaded: the clip range")
    panel.set_ylabel("advantage, normalized")
    panel.set_title("Samples at the end of the update")
    panel.legend(fontsize=9)


def _norms(panel: "Axes", found: Explanation) -> None:
    """Draw the norm of the gradient in each step, and its bound."""
    steps = np.arange(1, len(found.norms) + 1)
    bound = found.settings["max_grad_norm"]
    panel.plot(steps, found.norms, "o-", color=BLUE, markersize=4, label="before clipping")
    panel.plot(
        steps, np.minimum(found.norms, bound), "x--", color=RED, markersize=4, label="after it"
    )
    panel.axhline(bound, color=FAINT_INK, linestyle=":")
    panel.set_ylim(bottom=0)
    panel.set_xlabel("gradient step")
    panel.set_title("Norm of the gradient")
    panel.legend(fontsize=9)


def _observation(panel: "Axes", found: Explanation) -> None:
    """Draw the observation where the policy changed most: its pictures, or its numbers."""
    env, step = found.state
    panel.set_title(f"The policy changed most here: env {env}, step {step}", fontsize=11)
    panel.grid(False)
    obs = found.obs.float().numpy()
    if obs.ndim == 3:
        panel.imshow(np.concatenate(list(obs), axis=1), cmap="gray", interpolation="nearest")
        panel.set_xticks([])
        panel.set_yticks([])
        text = "its pictures, the newest on the right" if len(obs) > 1 else "its picture"
        panel.set_xlabel(text)
    else:
        panel.bar(np.arange(obs.size), obs.ravel(), color=BLUE)
        panel.set_xlabel("number of the observation")


def _policy(panel: "Axes", found: Explanation) -> None:
    """Draw the policy there, before and after the update."""
    names = list(found.before)
    places = np.arange(len(names))
    before, after = [[part[name] for name in names] for part in (found.before, found.after)]
    panel.barh(places - 0.2, before, 0.38, color="white", edgecolor=BLUE, hatch="//")
    panel.barh(places + 0.2, after, 0.38, color=BLUE)
    panel.set_yticks(places, names)
    panel.invert_yaxis()
    is_real = any(name.endswith(" std") for name in names)
    panel.set_xlabel("value" if is_real else "probability")
    panel.set_title("The policy there: before (hatched) and after", fontsize=11)
