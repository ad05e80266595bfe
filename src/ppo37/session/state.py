"""The state of a run: saved as a checkpoint, restored from one, and checked to be finite."""

import dataclasses
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ..algorithm.rollout import Rollout
from ..algorithm.update import Batch
from ..build import Stateful
from ..config import Config, flags
from ..envs import EnvState, Episode
from ..envs.contract import Spaces
from ..errors import RunError, UsageError
from ..networks.agent import Agent
from . import checkpoint, directory
from .changes import OF_THE_NETWORK
from .checkpoint import Checkpoint
from .checkpoint_format import EXTRAS, LARGEST_BYTES, MODEL, OPTIMIZER, Damaged
from .files import write_atomically

LSTM_STATE = "lstm_state"
"""The name of the LSTM state in the file of actions."""
ACTION_MASK = "policy.action_mask"
"""The name of the mask of a game's actions among the weights."""
LARGE = 1e4
"""Observations and rewards above this are probably the reason if a loss is not finite."""


@dataclasses.dataclass
class RunState:
    """Everything that changes during a run, except for the games themselves."""

    agent: Agent
    optimizer: torch.optim.Optimizer
    spaces: Spaces
    update: int = 0
    agent_steps: int = 0
    games: int = 0
    wall_s: float = 0.0
    cpu_s: float | None = 0.0
    """None in a run that began with a version that did not measure it."""
    seedings: int = 0
    exact: bool = True
    """Whether the result is that of an uninterrupted run: no change could affect it."""
    sources: dict[str, str] = dataclasses.field(default_factory=dict)
    """The SHA-256 of the source files of the user's own classes and modules, by their names."""
    extras: Mapping[str, Stateful] = dataclasses.field(default_factory=dict)
    """See `Brought`."""
    init_from: dict[str, str] | None = None
    """See `directory.INIT_FROM`."""
    recent: deque[Episode] = dataclasses.field(default_factory=lambda: deque(maxlen=100))


def save(
    path: Path,
    state: RunState,
    config: Config,
    env_states: Sequence[EnvState] = (),
    lstm_state: torch.Tensor | None = None,
    keep: int = checkpoint.KEPT,
) -> Path:
    """Write a checkpoint of the run in directory `path`, and delete all but the newest `keep`."""
    names = (name for name, _ in state.agent.named_parameters())
    document = _document(state, config)
    document["environments"] = [env_state.state for env_state in env_states]
    games = {str(env): torch.from_numpy(each.actions) for env, each in enumerate(env_states)}
    if lstm_state is not None and lstm_state.numel() and games:
        games[LSTM_STATE] = lstm_state.cpu()
    checkpoints = path / directory.CHECKPOINTS
    written = checkpoint.save(
        checkpoints / f"{state.update:08d}",
        state.agent.state_dict(),
        tensors_of_optimizer(state.optimizer, names),
        document,
        games or None,
        tensors_of_extras(state.extras) or None,
    )
    checkpoint.prune(checkpoints, keep)
    return written


def save_agent(folder: Path, state: RunState, config: Config, **more: Any) -> Path:
    """Write the agent as it is now, without optimizer and games. more: values for `state.json`."""
    document = {**_document(state, config), **more}
    return checkpoint.save(folder, state.agent.state_dict(), None, document)


def _document(state: RunState, config: Config) -> dict[str, Any]:
    """Return the content of `state.json`, without games."""
    return {
        "update": state.update,
        "agent_steps": state.agent_steps,
        "games": state.games,
        "wall_s": state.wall_s,
        **({} if state.cpu_s is None else {"cpu_s": state.cpu_s}),
        "seedings": state.seedings,
        "recent": [list(episode) for episode in state.recent],
        **state.spaces._asdict(),
        "environments": [],
        "config": dataclasses.asdict(config),
        "sources": state.sources,
        "exact": state.exact,
        **directory.describe_origin(),
    }


def restore(state: RunState, saved: Checkpoint, config: Config) -> None:
    """Load a checkpoint into a new state; UsageError if it does not fit."""
    saved_config = saved.state["config"]
    for what, found, expected in (
        ("game", saved_config.get("game"), config.game),
        ("network", saved_config.get("network"), config.network),
        ("actions", saved.state["action_names"], list(state.spaces.action_names)),
    ):
        if found != expected:
            raise UsageError(f"{saved.path} is of another {what}: {found}; expected {expected}")
    if saved.optimizer is None:
        raise UsageError(f"{saved.path} has no optimizer: a published agent cannot be resumed")
    load_model(state.agent, saved)
    names = (name for name, _ in state.agent.named_parameters())
    if saved.state["update"] or saved.optimizer:  # Adam has no state before its first step
        restore_optimizer(state.optimizer, names, saved)
    restore_extras(state.extras, saved)
    state.update = saved.state["update"]
    state.agent_steps = saved.state["agent_steps"]
    state.games = saved.state["games"]
    state.wall_s = saved.state["wall_s"]
    state.cpu_s = saved.state.get("cpu_s")
    state.recent.extend(Episode(*episode) for episode in saved.state["recent"])


def initialize(state: RunState, saved: Checkpoint, config: Config) -> None:
    """Load the weights of a saved agent into a new state, with its running statistics.

    UsageError if it has other actions, observations or another network.
    """
    old = directory.config_of(saved.state)
    spaces = directory.spaces_in(saved.state, old)
    names = [name for name in OF_THE_NETWORK if getattr(old, name) != getattr(config, name)]
    options = flags({name: getattr(old, name) for name in names})
    remedy = f"; use {' '.join(options)}" if options else ""
    for what, found, expected in (
        ("actions", spaces.action_names, state.spaces.action_names),
        ("observations of shape", spaces.obs_shape, state.spaces.obs_shape),
        ("observations of type", spaces.obs_dtype, state.spaces.obs_dtype),
    ):
        if found != expected:
            raise UsageError(
                f"the agent in {saved.path} has {what} {found}, and this run has {expected}{remedy}"
            )
    own = state.agent.state_dict()
    model = {name: own[name] if name == ACTION_MASK else w for name, w in saved.model.items()}
    try:
        load_model(state.agent, saved._replace(model={**model}))
    except Damaged as error:
        raise UsageError(
            f"the agent in {saved.path} has another network than this run{remedy or f': {error}'}"
        ) from error
    state.init_from = {"path": str(saved.path), "fingerprint": checkpoint.fingerprint(saved)}


def saved_env_states(saved: Checkpoint, config: Config) -> list[EnvState]:
    """Return the saved states of all environments; an empty list if none were saved."""
    states, games = saved.state["environments"], saved.actions or {}
    if not states:
        return []
    names = [str(env) for env in range(config.num_envs)]
    logs = [games.get(name, torch.empty(0)) for name in names]
    known = all(log.dtype in (torch.uint8, torch.float32) for log in logs)
    if not known or len(states) != len(names) or set(games) - {LSTM_STATE} != set(names):
        raise UsageError(f"{saved.path} does not have the games of {config.num_envs} environments")
    return [EnvState(state, log.numpy()) for state, log in zip(states, logs, strict=True)]


def saved_lstm_state(saved: Checkpoint, config: Config, agent: Agent) -> Tensor:
    """Return the saved LSTM state [N, R] of all environments; UsageError if it does not fit."""
    empty = agent.initial_state(config.num_envs)
    lstm_state = (saved.actions or {}).get(LSTM_STATE, empty)
    if lstm_state.shape != empty.shape or lstm_state.dtype != empty.dtype:
        raise UsageError(f"{saved.path} does not have the LSTM state of network {config.network}")
    return lstm_state.to(empty.device)


def checkpoints_bytes(agent: Agent, keep: int = checkpoint.KEPT) -> int:
    """Compute the bytes of `keep` checkpoints and of one being written.

    Each has the weights and two moments of Adam. UsageError for a network that cannot be saved.
    """
    weights = sum(p.numel() * p.element_size() for p in agent.parameters())
    if 2 * weights > LARGEST_BYTES[".safetensors"]:
        size = f"{weights / 1e6:,.0f} MB"
        raise UsageError(f"a network of {size} is too large; use smaller observations")
    return 3 * weights * (keep + 1)


def recent_mean(state: RunState) -> float | None:
    """Return the mean score of the last 100 games; None before the first has ended."""
    scores = [episode.score for episode in state.recent]
    return sum(scores) / len(scores) if scores else None


def require_finite(
    state: RunState, loss: float, rollout: Rollout, batch: Batch, path: Path | None
) -> None:
    """Raise RunError if the loss or a weight is not finite, after the batch is saved.

    path: the run directory; None if another process saves the batch and prints the error.
    Gradients are not checked: if one is not finite, the weights are not finite after its step.
    """
    parameters = state.agent.named_parameters()
    not_finite = next((name for name, p in parameters if not p.sum().isfinite()), None)
    if math.isfinite(loss) and not_finite is None:
        return
    if path is None:
        raise RunError("")
    file = path / directory.BROKEN_BATCH
    tensors = rollout._asdict() | {"advantages": batch.advantages, "targets": batch.targets}
    try:
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_atomically(file, safetensors.torch.save(contiguous))
        where = f"its batch is in {file}"
    except OSError as error:
        where = f"its batch cannot be written to {file}: {error.strerror}"
    what = "" if not_finite is None else f" and {not_finite} is not finite"
    raise RunError(
        f"the loss is {loss:.3g}{what} in update {state.update}; no checkpoint of it was "
        f"written. {_remedy(rollout)}; {where}"
    )


def _remedy(rollout: Rollout) -> str:
    """Return advice that probably makes the loss finite."""
    for name, values, setting in (
        ("observations", rollout.obs, "norm_obs"),
        ("rewards", rollout.rewards, "norm_reward"),
    ):
        largest = float(values.abs().max())
        if largest > LARGE:
            return f"Its {name} are up to {largest:.1e}: scale them, or use {setting}"
    return "Lower the learning rate"


def load_model(agent: torch.nn.Module, saved: Checkpoint) -> None:
    """Load saved weights; Damaged unless names, shapes and types agree.

    An agent on the device `meta`, which has shapes but no memory, takes the saved tensors as they
    are. UsageError for weights that are not finite.
    """
    weights = agent.state_dict()
    _require_alike(weights, saved.model, saved.path / MODEL)
    for name, weight in saved.model.items():
        if not weight.isfinite().all():
            raise UsageError(f"{saved.path / MODEL} has numbers that are not finite, in {name}")
    agent.load_state_dict(saved.model, assign=any(t.is_meta for t in weights.values()))


def tensors_of_optimizer(optimizer: Any, names: Iterator[str]) -> dict[str, Tensor]:
    """Return Adam's moments and step counts as `{parameter}/{key}`."""
    state = optimizer.state_dict()["state"]
    return {
        f"{name}/{key}": value
        for index, name in enumerate(names)
        for key, value in state.get(index, {}).items()
    }


def restore_optimizer(optimizer: Any, names: Iterator[str], saved: Checkpoint) -> None:
    """Load what `tensors_of_optimizer` returned; learning rate and epsilon stay as configured.

    Damaged unless every parameter has two moments of its shape, and a step count.
    """
    assert saved.optimizer is not None
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor | None]] = {}
    expected: dict[str, Tensor] = {}
    for index, (name, parameter) in enumerate(zip(names, parameters, strict=True)):
        like = {"exp_avg": parameter, "exp_avg_sq": parameter, "step": torch.tensor(0.0)}
        expected |= {f"{name}/{key}": tensor for key, tensor in like.items()}
        state[index] = {key: saved.optimizer.get(f"{name}/{key}") for key in like}
    _require_alike(expected, saved.optimizer, saved.path / OPTIMIZER)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def tensors_of_extras(extras: Mapping[str, Stateful]) -> dict[str, Tensor]:
    """Return the tensors of all extras as `{name}/{key}`; UsageError if one is no tensor."""
    found = {
        f"{name}/{key}": value
        for name, extra in extras.items()
        for key, value in extra.state_dict().items()
    }
    for name, value in found.items():
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise UsageError(f"state_dict() must have tensors only, but {name} is a {kind}")
    return {name: value.detach().cpu().contiguous() for name, value in found.items()}


def restore_extras(extras: Mapping[str, Stateful], saved: Checkpoint) -> None:
    """Load what `tensors_of_extras` returned.

    UsageError if the run was saved with other extras, Damaged if their tensors differ.
    """
    tensors = saved.extras or {}
    names = {name.partition("/")[0] for name in tensors}
    if names != set(extras):
        has, brings = (", ".join(sorted(each)) or "nothing" for each in (names, extras))
        raise UsageError(
            f"{saved.path} was saved with {has} beside the agent, and this program brings {brings};"
            " resume the run by the program that trained it"
        )
    _require_alike(tensors_of_extras(extras), tensors, saved.path / EXTRAS, ", ".join(names))
    for name, extra in extras.items():
        own = {key: tensors[f"{name}/{key}"] for key in extra.state_dict()}
        extra.load_state_dict(own)


def _require_alike(
    expected: dict[str, Tensor], found: dict[str, Tensor], path: Path, what: str = "the network"
) -> None:
    """Damaged unless names, shapes and types agree."""
    kinds = [{name: (t.shape, t.dtype) for name, t in each.items()} for each in (expected, found)]
    differing = sorted(name for name, _ in set(kinds[0].items()) ^ set(kinds[1].items()))
    if differing:
        raise Damaged(f"{path} does not fit {what}: {differing[0]} differs")
