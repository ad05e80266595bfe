"""One real update of a run in numbers: samples, ratios, clipping, gradients, and what it changed.

The update that would come next is computed in a copy of the run, so the run itself stays as it is.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..algorithm.distributions import Categorical, Distribution, Gaussian, MultiCategorical
from ..algorithm.losses import normalize_advantages, probability_ratio
from ..algorithm.rollout import Rollout
from ..algorithm.update import Batch, update
from ..build import Brought
from ..config import Config
from ..errors import RunError, UsageError
from ..networks.agent import Agent
from ..session import checkpoint, directory
from ..session.changes import annealed
from ..session.observer import SessionOptions
from ..session.session import Session
from ..session.start import resumed_session

SHOWN = 8
"""Samples that are shown, of each case of the clip as equally many as there are."""
CASES = ("stopped above", "stopped below", "A > 0, pushes up", "A < 0, pushes down")
"""The cases of the clipped objective: in the first two a sample has no gradient any more."""


class Shown(NamedTuple):
    """A sample of the update. old, new: probability of the action, or its density."""

    env: int
    step: int
    action: str
    reward: float
    done: bool
    value: float
    target: float
    advantage: float
    normalized: float
    old: float
    new: float
    ratio: float
    case: str


class Explanation(NamedTuple):
    """One update in numbers.

    update, agent_steps: its number, counted from 1, and the steps before it.  settings: those that
    matter for it, as annealed.  rollout: facts of it.  samples: some of them.  ratios, advantages:
    of all samples, [S]; the advantages are normalized where the run does that.  parts: the share of
    samples in each of CASES at the end.  norms: of the gradient, before it was clipped, for each
    step.  losses: as logged.  state: the env and the step where the policy changed most.  before,
    after: the policy there, a number for each name.  obs: the observation there.
    """

    update: int
    agent_steps: int
    settings: dict[str, float]
    rollout: dict[str, float]
    samples: list[Shown]
    ratios: list[float]
    advantages: list[float]
    parts: dict[str, float]
    norms: list[float]
    losses: dict[str, float]
    state: tuple[int, int]
    before: dict[str, float]
    after: dict[str, float]
    obs: Tensor
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON can have it, without the observation and the numbers of all samples."""
        values = self._asdict()
        for name in ("obs", "ratios", "advantages"):
            values.pop(name)
        return {**values, "samples": [sample._asdict() for sample in self.samples]}


def explain(run: str | Path, brought: Brought | None = None) -> Explanation:
    """Compute the next update of a run, or that after one of its checkpoints, in a copy of it.

    brought: the user's own classes that the run names.  A finished run has no next update: then it
    is the one after the checkpoint before its last. UsageError if there is none.
    """
    notes: list[str] = []
    source, start = _beginning(run, notes)
    with _copy(source, start) as copied, _norms() as norms:
        options = SessionOptions(None, 1, None)
        try:
            with resumed_session(copied, options, brought or Brought(), False, {}) as session:
                return _explained(session, norms, notes)
        except (RunError, UsageError) as error:  # name the run, not its copy
            raise type(error)(str(error).replace(str(copied), str(source))) from error


def _beginning(run: str | Path, notes: list[str]) -> tuple[Path, Path]:
    """Return the run directory, and the checkpoint from which an update is left."""
    wanted = directory.find_agent(run)
    path = directory.run_of(wanted)
    config = directory.read_config(path)
    saved = checkpoint.numbered(path / directory.CHECKPOINTS)
    candidates = saved if wanted == path else [wanted]
    for candidate in candidates:
        if config.updates_left(checkpoint.load(candidate).state["agent_steps"]):
            if candidate != candidates[0]:
                notes.append("the run is finished; this is an update before its end")
            return path, candidate
    what = (
        f"{path} is finished, and has no earlier checkpoint" if candidates else f"{path} has none"
    )
    raise UsageError(
        f"an update needs a checkpoint to begin with: {what}; train with --checkpoint-every, or "
        "stop a run before its end"
    )


@contextmanager
def _copy(run: Path, start: Path) -> Iterator[Path]:
    """Copy what is needed to resume a run from a checkpoint."""
    with tempfile.TemporaryDirectory(prefix="ppo37-explain-") as name:
        copied = Path(name) / "run"
        copied.mkdir()
        for file in (directory.CONFIG, directory.METRICS):
            if (run / file).exists():
                shutil.copy(run / file, copied / file)
        shutil.copytree(start, copied / directory.CHECKPOINTS / start.name)
        yield copied


@contextmanager
def _norms() -> Iterator[list[float]]:
    """Record the norm of each gradient that is clipped inside the block."""
    norms: list[float] = []
    clip = torch.nn.utils.clip_grad_norm_

    def recorded(*arguments: Any, **named: Any) -> Tensor:
        norm = clip(*arguments, **named)
        norms.append(float(norm))
        return norm

    torch.nn.utils.clip_grad_norm_ = recorded
    try:
        yield norms
    finally:
        torch.nn.utils.clip_grad_norm_ = clip


def _explained(session: Session, norms: list[float], notes: list[str]) -> Explanation:
    """Run one update of a session, and describe it."""
    config, agent = session.config, session.state.agent
    k = next(session.updates())
    session.anneal()
    rollout, _ = session.collect(k)
    batch = session.advantages(rollout)
    orders = session.permutations(k)
    before = _policy(agent, rollout)
    losses = update(session.train_step, batch, orders, config.num_minibatches, config.target_kl)
    after = _policy(agent, rollout)
    actions = rollout.actions.flatten(0, 1)
    old, new = before.log_prob(actions), after.log_prob(actions)
    ratios = probability_ratio(new, old)
    advantages = _in_time(batch.advantages, config)
    normalized = _in_time(_normalized(batch, orders[0], config), config)
    settings = annealed(config, session.state.agent_steps)
    cases = clip_cases(ratios, normalized, settings["clip_coef"])
    changed = int((old.exp() - new.exp()).abs().argmax())
    if not session.state.exact:
        notes.append("its games could not be restored, so this update is of new games")
    names = session.state.spaces.action_names
    columns = {
        "reward": rollout.rewards.flatten(),
        "done": rollout.dones.flatten(),
        "value": rollout.values[:-1].flatten(),
        "target": _in_time(batch.targets, config),
        "advantage": advantages,
        "normalized": normalized,
        "old": old.exp(),
        "new": new.exp(),
        "ratio": ratios,
    }
    samples = [
        _shown(i, columns, actions[i], names, CASES[int(cases[i])], config)
        for i in _chosen(cases, ratios)
    ]
    return Explanation(
        update=k + 1,
        agent_steps=session.state.agent_steps,
        settings={**settings, "max_grad_norm": config.max_grad_norm},
        rollout={
            "steps": config.num_steps,
            "environments": config.num_envs,
            "episodes": float(rollout.dones.sum()),
            "mean reward": float(rollout.rewards.mean()),
        },
        samples=samples,
        ratios=ratios.tolist(),
        advantages=normalized.tolist(),
        parts={name: float((cases == i).float().mean()) for i, name in enumerate(CASES)},
        norms=norms,
        losses=losses,
        state=(changed % config.num_envs, changed // config.num_envs),
        before=_numbers(before, changed, names),
        after=_numbers(after, changed, names),
        obs=rollout.obs.flatten(0, 1)[changed].cpu(),
        notes=notes,
    )


@torch.no_grad()
def _policy(agent: Agent, rollout: Rollout) -> Distribution:
    """Compute the policy of all steps of a rollout, [T * N], with the weights of now."""
    steps = []
    state = rollout.lstm_state
    for obs, dones in zip(rollout.obs, rollout.dones, strict=True):
        dones = dones.to(agent.device).unsqueeze(-1)
        distribution, _, state = agent(obs.to(agent.device), state, dones)
        steps.append(distribution)
    return _joined(steps)


def _joined(steps: list[Distribution]) -> Distribution:
    """Return the distributions of all steps as one."""
    match steps[0]:
        case Categorical():
            return Categorical(torch.cat([step.outputs[0] for step in steps]))
        case MultiCategorical():
            parts = zip(*(step.outputs for step in steps), strict=True)
            return MultiCategorical(tuple(Categorical(torch.cat(part)) for part in parts))
        case Gaussian(_, log_std):
            return Gaussian(torch.cat([step.outputs[0] for step in steps]), log_std.clone())
    raise UsageError(f"a {type(steps[0]).__name__} policy cannot be explained")


def _in_time(part: Tensor, config: Config) -> Tensor:
    """Return a part of a batch [S, L] in the order of the rollout, [T * N]."""
    if config.sequence_length == 1:
        return part.flatten()
    return part.T.flatten()  # sequences of T steps, one for each environment


def _normalized(batch: Batch, order: Tensor, config: Config) -> Tensor:
    """Return the advantages [S, L] as the first epoch normalizes them in its minibatches."""
    if not config.norm_adv:
        return batch.advantages
    found = torch.empty_like(batch.advantages)
    for indices in order.split(len(order) // config.num_minibatches):
        advantages = batch.advantages[indices]
        found[indices] = normalize_advantages(advantages.flatten()).view_as(advantages)
    return found


def clip_cases(ratios: Tensor, advantages: Tensor, clip_coef: float) -> Tensor:
    """Return the index in CASES of each sample, [S]."""
    above = (advantages > 0) & (ratios > 1.0 + clip_coef)
    below = (advantages < 0) & (ratios < 1.0 - clip_coef)
    pushes = torch.where(advantages > 0, 2, 3)
    return torch.where(above, 0, torch.where(below, 1, pushes))


def _chosen(cases: Tensor, ratios: Tensor) -> list[int]:
    """Choose samples of all cases, those whose ratio moved most first."""
    distance = (ratios - 1.0).abs()
    by_case = [
        sorted((cases == i).nonzero().flatten().tolist(), key=lambda j: -float(distance[j]))
        for i in range(len(CASES))
    ]
    chosen: list[int] = []
    for rank in range(len(cases)):
        chosen += [each[rank] for each in by_case if len(each) > rank]
        if len(chosen) >= SHOWN:
            break
    return sorted(chosen[:SHOWN], key=lambda i: int(cases[i]))


def _shown(
    i: int,
    columns: Mapping[str, Tensor],
    action: Tensor,
    names: tuple[str, ...],
    case: str,
    config: Config,
) -> Shown:
    """Return sample `i` of a rollout: step i // N in environment i % N."""
    values = {name: float(column[i]) for name, column in columns.items()}
    done = bool(values.pop("done"))
    if action.dim() == 0:
        text = names[int(action)]
    else:
        numbers = [int(x) if x == int(x) else round(x, 2) for x in action.tolist()]
        text = ", ".join(f"{n} {x}" for n, x in zip(names, numbers, strict=True))
    env, step = i % config.num_envs, i // config.num_envs
    return Shown(env=env, step=step, action=text, done=done, case=case, **values)


def _numbers(policy: Distribution, i: int, names: tuple[str, ...]) -> dict[str, float]:
    """Return the policy of one step: probabilities, or means and standard deviations."""
    match policy:
        case Categorical(logits):
            return dict(zip(names, torch.softmax(logits[i], -1).tolist(), strict=True))
        case MultiCategorical(choices):
            return {
                f"{name} {j}": p
                for name, choice in zip(names, choices, strict=True)
                for j, p in enumerate(torch.softmax(choice.logits[i], -1).tolist())
            }
        case Gaussian(mean, log_std):
            means = {f"{n} mean": m for n, m in zip(names, mean[i].tolist(), strict=True)}
            stds = zip(names, log_std.exp().tolist(), strict=True)
            return means | {f"{name} std": std for name, std in stds}
    raise AssertionError(policy)


def text(found: Explanation) -> str:
    """Return an explanation as text with tables in Markdown."""
    settings, rollout, eps = found.settings, found.rollout, found.settings["clip_coef"]
    clipped = [norm for norm in found.norms if norm > settings["max_grad_norm"]]
    norms = sorted(found.norms)
    lines = [
        *(f"Note: {note}." for note in found.notes),
        f"Update {found.update}, after {found.agent_steps:,} agent steps.",
        f"Collected: {rollout['steps']:g} steps in {rollout['environments']:g} environments, "
        f"{rollout['episodes']:g} ends of episodes, mean reward {rollout['mean reward']:.3g}.",
        f"Learned with a learning rate of {settings['learning_rate']:.3g} and eps {eps:g}, in "
        f"{len(found.norms)} gradient steps.",
        "",
        f"Samples at the end of the update (lessons `ratio` and `clip`; the range is "
        f"{1 - eps:g} to {1 + eps:g}):",
        "",
        _table(found.samples),
        "",
        "Of all samples: " + ", ".join(f"{part:.0%} {name}" for name, part in found.parts.items()),
        f"Gradient norms before clipping: first {found.norms[0]:.3g}, median "
        f"{norms[len(norms) // 2]:.3g}, largest {norms[-1]:.3g}; {len(clipped)} of {len(norms)} "
        f"were scaled down to {settings['max_grad_norm']:g}",
        "Means over the gradient steps: "
        + ", ".join(f"{name} {value:.3g}" for name, value in found.losses.items()),
        "",
        f"Where the policy changed most (environment {found.state[0]}, step {found.state[1]}):",
        "",
        "| | before | after |",
        "|---|---|---|",
        *(
            f"| {name} | {before:.4f} | {found.after[name]:.4f} |"
            for name, before in found.before.items()
        ),
    ]
    return "\n".join(lines)


def _table(samples: list[Shown]) -> str:
    rows = [
        "| env, step | action | reward | V | target R | A | normalized | old | new | ratio | |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for s in samples:
        step = f"{s.env}, {s.step}{' (end)' if s.done else ''}"
        numbers = (s.reward, s.value, s.target, s.advantage, s.normalized, s.old, s.new, s.ratio)
        cells = " | ".join(f"{number:.3g}" for number in numbers)
        rows.append(f"| {step} | {s.action} | {cells} | {s.case} |")
    return "\n".join(rows)
