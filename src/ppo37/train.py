"""The training loop: the one place that knows everything."""

import dataclasses
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from . import randomness
from .algorithm.rollout import Rollout
from .algorithm.schedules import linear
from .algorithm.update import Batch, make_optimizer, set_learning_rate, update
from .build import make_agent, make_factory, normalized
from .config import Config, from_dict
from .envs import EnvFactory, Episode, Moment, VecEnv
from .errors import RunError, UsageError
from .model import Agent
from .run import checkpoint, directory
from .run.metrics import FRAMES_PER_STEP, LAST_100, Logs, record_of
from .run.signals import Signals
from .run.view import NoView, View
from .runtime.clock import Clock
from .runtime.device import (
    describe_machine,
    keep_freed_memory,
    resolve_device,
    settled,
    usable_cores,
    versions,
)
from .runtime.estimate import estimate_s
from .runtime.executables import eager, make_buffers
from .runtime.lanes import Lanes, emulator_threads, split
from .runtime.precision import choose_precision

SAVE_EVERY_S = 120.0
MEMORY = "memory"
"""The name of the network's memory beside the logs of the games."""
STOPPING = "stopping after this update; a checkpoint will be left"


class Summary(NamedTuple):
    """How a call of `train` or `resume` ended. `signal_number` is None if the run is finished."""

    run: Path
    agent_steps: int
    wall_s: float
    games: int
    last_100_mean: float | None
    signal_number: int | None


@dataclasses.dataclass
class State:
    """All that changes while a run goes on, apart from the games themselves."""

    agent: Agent
    optimizer: torch.optim.Optimizer
    update: int = 0
    games: int = 0
    wall_s: float = 0.0
    seedings: int = 0
    recent: deque[Episode] = dataclasses.field(default_factory=lambda: deque(maxlen=100))


def train(
    config: Config, out: str | Path | None = None, checkpoint_every: int | None = None,
    view: View | None = None, make_envs: EnvFactory | None = None,
) -> Summary:  # fmt: skip
    """Train from the beginning in a new run directory `out` (default: under `runs/`).

    checkpoint_every: updates between checkpoints; None saves every two minutes.  make_envs: how
    to make environments of your own; None plays `config.game`.  UsageError for what cannot work,
    before anything is written; RunError for a failure in the middle, with the last checkpoint
    valid.
    """
    path = Path(out) if out is not None else directory.default_path(config)
    directory.require_new(path)
    config = dataclasses.replace(config, device=resolve_device(config.device))
    prepare_process(config)
    with _open_parts(config, make_envs) as parts:
        envs = parts[0]
        agent = make_agent(config, envs.obs_shape, envs.action_names).to(config.device)
        choice = choose_precision(config.precision, agent, envs.obs_shape, config.minibatch_size)
        config = dataclasses.replace(config, precision=choice.precision)
        agent.bf16 = choice.precision == "bf16"
        optimizer = make_optimizer(agent, config.learning_rate, config.adam_eps)
        document = {
            "config": dataclasses.asdict(config),
            "machine": describe_machine(),
            "versions": versions(),
        }
        with Signals(
            STOPPING
        ) as signals:  # before there is a run, so that none is left without an agent
            lock = directory.create(path, document, _checkpoints_bytes(agent))
            with closing(lock), closing(view or NoView()) as view:
                view.announce(config, path, choice.reason, estimate_s(config, agent, parts))
                state = State(agent, optimizer)
                return _run(config, path, state, parts, checkpoint_every, view, signals)


def resume(
    run: str | Path, checkpoint_every: int | None = None, view: View | None = None,
    make_envs: EnvFactory | None = None, new_games: bool = False,
) -> Summary:  # fmt: skip
    """Go on where a run stopped, from its newest valid checkpoint or from its beginning.

    On the same machine with the same versions this is the run that would have been, to the last
    bit: the games are brought back by playing their actions again.  RUN may be a checkpoint of
    the run: then the updates after it are done anew, and what the run held of them is deleted.
    new_games: begin new games instead, as happens with environments that cannot be saved.
    """
    path = directory.run_of(Path(run))
    config = directory.read_config(path)
    if config.device == "cuda" and resolve_device("auto") != "cuda":
        raise UsageError(
            f"{path} was trained on a GPU and none is available here; its agent can be evaluated "
            "and recorded, but not go on"
        )
    prepare_process(config)
    with (
        Signals(STOPPING) as signals,
        closing(directory.lock(path)),
        closing(view or NoView()) as view,
    ):
        saved, warnings = _newest(Path(run), path)
        if saved is None:
            warnings.append("no checkpoint was saved yet: beginning from the start")
        else:
            warnings += _changed(saved.state["versions"], versions())
            saved_config = dataclasses.asdict(from_dict(saved.state["config"]))
            warnings += _changed(saved_config, dataclasses.asdict(config))
        for warning in warnings:
            view.note(warning)
        goes_on = saved is not None and saved.state["update"] < config.num_updates
        moments = _moments(saved, config) if saved and goes_on and not new_games else []
        seedings = saved.state["seedings"] if saved else 0
        if goes_on and not moments:
            seedings += 1
            view.note("the games begin anew: the run goes on, but not as it would have")
        with _open_parts(config, make_envs, seedings) as parts:
            envs = parts[0]
            agent = make_agent(config, envs.obs_shape, envs.action_names).to(config.device)
            optimizer = make_optimizer(agent, config.learning_rate, config.adam_eps)
            state = State(agent, optimizer, seedings=seedings)
            if saved is not None:
                restore(state, saved, config, envs)
            left = 1 - state.update / config.num_updates
            expected_s = left * estimate_s(config, agent, parts)
            view.announce(config, path, f"going on after update {state.update}", expected_s)
            memory = _memory(saved, config, agent) if saved and moments else None
            return _run(config, path, state, parts, checkpoint_every, view, signals, moments,
                        memory)  # fmt: skip


def _run(
    config: Config, path: Path, state: State, parts: list[VecEnv], checkpoint_every: int | None,
    view: View, signals: Signals, moments: Sequence[Moment] = (),
    memory: torch.Tensor | None = None,
) -> Summary:  # fmt: skip
    """The loop of PPO, with what surrounds it: logs, checkpoints and stopping."""
    device = torch.device(config.device)
    clip_coef = torch.tensor(config.clip_coef, device=device)
    run = eager(state.agent, state.optimizer, config, clip_coef)
    parts = [normalized(part, state.agent, config) for part in parts]
    buffers = make_buffers(state.agent, config.num_steps, config.num_envs, parts[0].obs_shape)
    clock = Clock()
    before_s, started = state.wall_s, time.monotonic()
    saved_at_s = started

    with ExitStack() as stack:
        # Before anything of the run is touched, because games may not come back.
        lanes = stack.enter_context(closing(Lanes(parts, run.act, buffers, clock, moments, memory)))
        logs = Logs(path, state.update, state.update * config.batch_size)
        stack.enter_context(closing(logs))
        for name in checkpoint.forget_after(path / directory.CHECKPOINTS, state.update):
            view.note(f"deleted checkpoint {name}: going on from before it")
        (path / directory.SUMMARY).unlink(missing_ok=True)  # of how it ended before
        stack.enter_context(settled())
        for k in range(state.update, config.num_updates):
            update_started = time.monotonic()
            learning_rate = _scheduled(config.learning_rate, config.anneal_lr, k, config)
            set_learning_rate(state.optimizer, learning_rate)  # D04
            clip_coef.fill_(_scheduled(config.clip_coef, config.anneal_clip, k, config))  # A1

            with clock.part("rollout"), run.held():
                episodes = lanes.collect(_uniforms(config, k, state.agent))
            with clock.part("update"):
                batch = run.advantages(buffers)
                shuffles = _shuffles(config, k, device)
                metrics = update(run.train_step, batch, shuffles, config.num_minibatches,
                                 config.target_kl)  # fmt: skip

            now = time.monotonic()
            state.update = k + 1
            state.wall_s = before_s + now - started
            state.games += len(episodes)
            state.recent.extend(episodes)
            losses = {f"losses/{name}": float(value) for name, value in metrics.items()}
            _require_finite(state, losses["losses/loss"], buffers, batch, path)
            tags = {
                LAST_100: recent_mean(state),
                "charts/SPS": config.batch_size / (now - update_started),
                "charts/learning_rate": learning_rate,
                **losses,
            }
            record = record_of(state.update, state.update * config.batch_size, state.wall_s,
                               tags, episodes)  # fmt: skip
            logs.write(record)

            finished = state.update == config.num_updates
            due = (state.update % checkpoint_every == 0 if checkpoint_every
                   else now - saved_at_s > SAVE_EVERY_S)  # fmt: skip
            stopping = signals.stop is not None  # asked once: it may change at any moment
            if signals.take_save() or finished or due or stopping:
                logs.sync()
                save(path, state, config, parts[0], lanes.save(), lanes.memory)
                saved_at_s = now
            view.show(record, state.games, clock.seconds)
            if stopping:
                break

    summary = Summary(
        path, state.update * config.batch_size, state.wall_s, state.games, recent_mean(state),
        None if state.update == config.num_updates else signals.stop,
    )  # fmt: skip
    directory.write_summary(path, _summary_document(summary))
    return summary


@contextmanager
def _open_parts(
    config: Config, factory: EnvFactory | None, index: int = 0
) -> Iterator[list[VecEnv]]:
    """The environments of a run, for its `index`-th seeding, in a part for each lane."""
    lanes = split(config.num_envs, config.divisible)
    factory = factory or make_factory(
        config, emulator_threads(len(lanes)), reseed_interval=config.reseed_interval
    )
    with ExitStack() as stack:
        parts = []
        for part in lanes:
            size = part.stop - part.start
            envs = factory(size, config.seed, first_env=part.start, index=index)
            parts.append(stack.enter_context(closing(envs)))
        yield parts


def prepare_process(config: Config) -> None:
    """Threads and memory of this process, for training or acting."""
    torch.set_num_threads(usable_cores())
    if config.device == "cpu":
        keep_freed_memory()


def save(
    path: Path, state: State, config: Config, envs: VecEnv, moments: Sequence[Moment] = (),
    memory: torch.Tensor | None = None,
) -> Path:  # fmt: skip
    """Write a checkpoint of the run in directory `path`, and delete old ones."""
    names = (name for name, _ in state.agent.named_parameters())
    document = {
        "update": state.update,
        "agent_steps": state.update * config.batch_size,
        "games": state.games,
        "wall_s": state.wall_s,
        "seedings": state.seedings,
        "recent": [list(episode) for episode in state.recent],
        "action_names": list(envs.action_names),
        "obs_shape": list(envs.obs_shape),
        "environments": [moment.state for moment in moments],
        "config": dataclasses.asdict(config),
        "machine": describe_machine(),
        "versions": versions(),
    }
    games = {str(env): torch.from_numpy(moment.actions) for env, moment in enumerate(moments)}
    if memory is not None and memory.numel() and games:
        games[MEMORY] = memory.cpu()
    checkpoints = path / directory.CHECKPOINTS
    written = checkpoint.save(
        checkpoints / f"{state.update:08d}",
        state.agent.state_dict(),
        checkpoint.tensors_of_optimizer(state.optimizer, names),
        document,
        games or None,
    )
    checkpoint.prune(checkpoints)
    return written


def restore(state: State, saved: checkpoint.Checkpoint, config: Config, envs: VecEnv) -> None:
    """Put a checkpoint into a fresh state; UsageError naming what does not fit."""
    checkpoint.require_same(saved, "game", saved.state["config"].get("game"), config.game)
    checkpoint.require_same(saved, "network", saved.state["config"].get("network"), config.network)
    checkpoint.require_same(saved, "actions", saved.state["action_names"], list(envs.action_names))
    if saved.optimizer is None:
        raise UsageError(f"{saved.path} is a published agent without optimizer; it cannot go on")
    checkpoint.load_model(state.agent, saved)
    names = (name for name, _ in state.agent.named_parameters())
    checkpoint.restore_optimizer(state.optimizer, names, saved)
    state.update = saved.state["update"]
    state.games = saved.state["games"]
    state.wall_s = saved.state["wall_s"]
    state.recent.extend(Episode(*episode) for episode in saved.state["recent"])


def _moments(saved: checkpoint.Checkpoint, config: Config) -> list[Moment]:
    """The saved moments of all environments; none if there are none."""
    states, games = saved.state["environments"], saved.actions or {}
    if not states:
        return []
    names = [str(env) for env in range(config.num_envs)]
    logs = [games.get(name, torch.empty(0)) for name in names]
    known = all(log.dtype in (torch.uint8, torch.float32) for log in logs)
    if not known or len(states) != len(names) or set(games) - {MEMORY} != set(names):
        raise UsageError(f"{saved.path} does not hold the games of {config.num_envs} environments")
    return [Moment(state, log.numpy()) for state, log in zip(states, logs, strict=True)]


def _memory(saved: checkpoint.Checkpoint, config: Config, agent: Agent) -> torch.Tensor:
    """What the network remembered of all environments; UsageError if that does not fit."""
    empty = agent.empty_memory(config.num_envs)
    memory = (saved.actions or {}).get(MEMORY, empty)
    if memory.shape != empty.shape or memory.dtype != empty.dtype:
        raise UsageError(f"{saved.path} does not hold the memory of network {config.network}")
    return memory.to(empty.device)


def _checkpoints_bytes(agent: Agent) -> int:
    """Room for the checkpoints that are kept and one being written: weights and two moments."""
    weights = sum(p.numel() * p.element_size() for p in agent.parameters())
    if 2 * weights > checkpoint.LARGEST_BYTES[".safetensors"]:
        raise UsageError(
            f"a network of {weights / 1e6:,.0f} MB is too large to be saved; make the observations "
            "smaller"
        )
    return 3 * weights * (checkpoint.KEPT + 1)


def recent_mean(state: State) -> float | None:
    """Mean score of the last 100 games; None before the first has ended."""
    scores = [episode.score for episode in state.recent]
    return sum(scores) / len(scores) if scores else None


def _scheduled(initial: float, anneal: bool, k: int, config: Config) -> float:
    return linear(initial, k, config.num_updates) if anneal else initial


def _uniforms(config: Config, k: int, agent: Agent) -> torch.Tensor:
    draws = randomness.noise(config.seed, k, config.num_steps + 1, config.num_envs,
                             shape=agent.policy.action_shape)  # fmt: skip
    return torch.from_numpy(draws).to(agent.device)


def _shuffles(config: Config, k: int, device: torch.device) -> torch.Tensor:
    shuffles = randomness.permutations(
        config.seed, k, config.update_epochs, config.num_sequences
    )  # D06
    return torch.from_numpy(shuffles).to(device)


def _require_finite(state: State, loss: float, rollout: Rollout, batch: Batch, path: Path) -> None:
    """RunError if learning broke; what it was learning from is kept beside the checkpoints.

    A gradient that is not finite needs no look of its own: it makes weights of that kind.
    """
    parameters = state.agent.named_parameters()
    broken = next((name for name, p in parameters if not p.sum().isfinite()), None)
    if math.isfinite(loss) and broken is None:
        return
    kept = path / directory.BROKEN_BATCH
    judged = {"advantages": batch.advantages, "targets": batch.targets}
    try:
        checkpoint.save_tensors(kept, rollout._asdict() | judged)
        whereabouts = f"what it learned from is in {kept}"
    except OSError as error:
        whereabouts = f"what it learned from cannot be kept in {kept}: {error.strerror}"
    where = "" if broken is None else f" and {broken} is not finite"
    raise RunError(
        f"the loss is {loss:.3g}{where} in update {state.update}; no checkpoint of it was "
        f"written. Lower the learning rate; {whereabouts}"
    )


def _newest(wanted: Path, run: Path) -> tuple[checkpoint.Checkpoint | None, list[str]]:
    """The checkpoint to go on from; None for a run that stopped before its first."""
    if wanted == run and not checkpoint.numbered(run / directory.CHECKPOINTS):
        return None, []
    return directory.find_checkpoint(wanted)


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What a person should know who goes on with another version or setting than was saved."""
    return [
        f"this run was saved with {name} {before.get(name)}, and this is {value}: it goes on, "
        "but not as it would have"
        for name, value in now.items()
        if before.get(name) != value
    ]


def _summary_document(summary: Summary) -> dict[str, Any]:
    values = summary._asdict()
    values.pop("run")
    values["finished"] = values.pop("signal_number") is None
    return {**values, "frames": FRAMES_PER_STEP * summary.agent_steps}
