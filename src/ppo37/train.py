"""The training loop: the one place that knows everything."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from . import randomness
from .algorithm.rollout import Rollout
from .algorithm.schedules import linear
from .algorithm.update import make_optimizer, set_learning_rate, update
from .build import make_agent, make_factory, normalized
from .config import Config, from_dict
from .envs import EnvFactory, Moment, VecEnv
from .envs.checked import checked
from .envs.contract import name_of
from .errors import UsageError
from .model import Agent
from .run import checkpoint, directory
from .run.files import real_path, shown
from .run.metrics import FRAMES_PER_STEP, LAST_100, Logs, Unlogged, length_to, record_of
from .run.signals import Signals
from .run.view import NoView, View, duration
from .runtime.adam import Adam
from .runtime.clock import Clock
from .runtime.device import (
    describe_machine,
    prepare_process,
    require_memory,
    resolve_device,
    settled,
    versions,
)
from .runtime.distributed import CHECK_EVERY, Share, Team, job, join, may_restart, restarted
from .runtime.estimate import estimate_s
from .runtime.executables import Executables, make_buffers
from .runtime.graphs import make_executables
from .runtime.lanes import Lanes, emulator_threads, split
from .runtime.precision import Choice, choose_precision, first_screens
from .state import (
    State,
    checkpoints_bytes,
    recent_mean,
    require_finite,
    restore,
    save,
    saved_memory,
    saved_moments,
)

SAVE_EVERY_S = 120.0
STOPPING = "stopping after this update{takes}; a checkpoint will be left"


class Summary(NamedTuple):
    """How a call of `train` or `resume` ended.

    signal_number: what asked it to stop, be it that it was finished by then; None if nothing did.
    """

    run: Path
    finished: bool
    agent_steps: int
    wall_s: float
    games: int
    last_100_mean: float | None
    signal_number: int | None


class Equipment(NamedTuple):
    """What a run is done with: its executables, the buffers of a rollout, and the environments, in
    a part for each lane."""

    run: Executables
    buffers: Rollout
    parts: list[VecEnv]


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
    config = dataclasses.replace(config, device=resolve_device(config.device))
    with closing(join(config.device)) as team:
        path = Path(team.decided(lambda: place_of(config, out)))
        view = _view(view, team)
        # Restarted, and no longer new.
        if out is not None and team.decided(lambda: directory.is_run(path)):
            return _go_on(path, path, team, checkpoint_every, view, make_envs)
        share = _share(config, team)
        threads = config.threads or team.cores
        prepare_process(config.device, threads)
        running = dataclasses.replace(config, threads=threads)
        with _open_parts(running, make_envs, share) as parts:
            envs = parts[0]
            agent = make_agent(config, envs.obs_shape, envs.action_names).to(config.device)
            size = max(1, config.minibatch_size // team.size)
            choice = Choice(*team.decided(lambda: choose_precision(
                running, agent, envs.obs_shape, size, first_screens(envs, agent)
            )))  # fmt: skip
            running = choice.applied(running)
            agent.bf16 = running.precision == "bf16"
            optimizer = make_optimizer(agent, config.learning_rate, config.adam_eps, Adam)
            equipment = _equip(running, agent, optimizer, parts, team)
            # What is written down are the threads of rank 0.
            chosen = dataclasses.replace(running, threads=team.decided(lambda: threads))
            made_by = name_of(make_envs)
            document = {"config": dataclasses.asdict(chosen), checkpoint.MADE_BY: made_by,
                        **_where()}  # fmt: skip
            if job():
                document["job"] = job()
            with ExitStack() as stack:
                # Before there is a run, so that none is left without an agent.
                signals = stack.enter_context(_signals(team))

                needed = checkpoints_bytes(agent)

                def create() -> str:
                    made = path if out else directory.claim(directory.alternatives(path))
                    lock = directory.create(made, document, needed, view.note)
                    stack.enter_context(closing(lock))
                    return str(made)

                path = Path(team.decided(create))
                stack.enter_context(closing(view))
                view.announce(chosen, path, choice.reason, estimate_s(chosen))
                state = State(agent, optimizer, made_by=made_by)
                return _run(chosen, path, state, equipment, team, checkpoint_every, view, signals)


def resume(
    run: str | Path, checkpoint_every: int | None = None, view: View | None = None,
    make_envs: EnvFactory | None = None, new_games: bool = False,
) -> Summary:  # fmt: skip
    """Go on where a run stopped, from its newest valid checkpoint or from its beginning.

    On the same machine with the same versions this is the run that would have been, to the last
    bit: the games are brought back by playing their actions again.  RUN may be a checkpoint of
    the run: then the updates after it are done anew, and what the run held of them is moved into
    its folder `replaced-1` (or -2, ...).
    new_games: begin new games instead, as happens with environments that cannot be saved.
    """
    wanted = real_path(run)
    path = directory.run_of(wanted)
    config = directory.read_config(path)
    if config.device == "cuda" and resolve_device("auto") != "cuda":
        raise UsageError(
            f"{path} was trained on a GPU and none is available here; its agent can be evaluated "
            "and recorded, but not go on"
        )
    with closing(join(config.device)) as team:
        view = _view(view, team)
        return _go_on(wanted, path, team, checkpoint_every, view, make_envs, new_games)


def _go_on(
    wanted: Path, path: Path, team: Team, checkpoint_every: int | None, view: View,
    make_envs: EnvFactory | None, new_games: bool = False,
) -> Summary:  # fmt: skip
    """Go on with the run in directory `path`, from `wanted`: its newest checkpoint or another."""
    team.decided(lambda: checkpoint.require_makers(directory.read_document(path), make_envs, path))
    config = directory.read_config(path)
    share = _share(config, team)
    threads = _recorded_threads(config, team)
    prepare_process(config.device, threads)
    running = dataclasses.replace(config, threads=threads)
    with ExitStack() as stack:
        signals = stack.enter_context(_signals(team))
        team.decided(lambda: _hold(stack, path, view))
        stack.enter_context(closing(view))
        saved, warnings = _newest(wanted, path)
        if saved is None:
            warnings.append("no checkpoint was saved yet: beginning from the start")
        else:
            checkpoint.require_makers(saved.state, make_envs, path)
            done, wanted_steps = saved.state["agent_steps"], config.agent_steps
            if saved.state["update"] > config.num_updates:
                raise UsageError(team.once(
                    f"{path} has made {done:,} agent steps, and its {directory.CONFIG} wants "
                    f"{wanted_steps:,} in all: nothing is left to do"
                ))  # fmt: skip
            warnings += _changed(saved.state["versions"], versions())
            warnings += _changed(_computed_by(saved.state["machine"]),
                                 _computed_by(describe_machine()))  # fmt: skip
            saved_config = dataclasses.asdict(from_dict(saved.state["config"]))
            warnings += _changed(saved_config, dataclasses.asdict(config))
        for warning in warnings:
            view.note(warning)
        goes_on = saved is not None and saved.state["update"] < config.num_updates
        moments = saved_moments(saved, config) if saved and goes_on and not new_games else []
        seedings = saved.state["seedings"] if saved else 0
        if goes_on and not moments:
            seedings += 1
            view.note("the games begin anew: the run goes on, but not as it would have")
        parts = stack.enter_context(_open_parts(running, make_envs, share, seedings))
        envs = parts[0]
        agent = make_agent(config, envs.obs_shape, envs.action_names).to(config.device)
        optimizer = make_optimizer(agent, config.learning_rate, config.adam_eps, Adam)
        state = State(agent, optimizer, seedings=seedings, made_by=name_of(make_envs))
        if saved is not None:
            restore(state, saved, config, envs)
        team.decided(lambda: length_to(path, state.update))  # refused before anything is moved
        if team.decided(lambda: state.update) != state.update:
            raise UsageError(f"the ranks do not see the same checkpoints; all need to read {path}")
        equipment = _equip(running, agent, optimizer, parts, team)
        whole_s, left = estimate_s(config), 1 - state.update / config.num_updates
        expected_s = None if whole_s is None else left * whole_s
        view.announce(config, path, f"going on after update {state.update}", expected_s)
        memory = saved_memory(saved, config, agent)[share.envs] if saved and moments else None
        return _run(config, path, state, equipment, team, checkpoint_every, view, signals,
                    moments[share.envs], memory)  # fmt: skip


def _run(
    config: Config, path: Path, state: State, equipment: Equipment, team: Team,
    checkpoint_every: int | None, view: View, signals: Signals, moments: Sequence[Moment] = (),
    memory: torch.Tensor | None = None,
) -> Summary:  # fmt: skip
    """The loop of PPO, with what surrounds it: logs, checkpoints and stopping.

    moments, memory: of the environments of this rank.
    """
    run, buffers, parts = equipment
    device = state.agent.device
    share = team.share(config.num_envs)
    parts = [normalized(part, state.agent, config) for part in parts]
    clock = Clock()
    before_s, started = state.wall_s, time.monotonic()
    saved_at_s = started
    stop: int | None = None

    with ExitStack() as stack:
        # Before anything of the run is touched, because games may not come back.
        lanes = Lanes(parts, run.acts, buffers, clock, moments, memory)
        stack.enter_context(closing(lanes))
        team.wait_for_all()
        logs = _go_back(path, state, config, view) if team.leads else Unlogged()
        signals.kept = _kept(path, state)
        stack.enter_context(closing(logs))
        stack.enter_context(settled())
        for k in range(state.update, config.num_updates):
            update_started = time.monotonic()
            learning_rate = _scheduled(config.learning_rate, config.anneal_lr, k, config)
            set_learning_rate(state.optimizer, learning_rate)  # D04
            run.clip_coef.fill_(_scheduled(config.clip_coef, config.anneal_clip, k, config))  # A1

            with clock.part("rollout"), run.held():
                episodes = lanes.collect(_uniforms(config, k, state.agent, share))
                episodes = team.episodes(episodes)
            with clock.part("update"):
                shuffles = _shuffles(config, k, device)
                batch = run.advantages(buffers)
                metrics = update(run.train_step, batch, shuffles, config.num_minibatches,
                                 config.target_kl)  # fmt: skip
                # To look at them is to wait for all that a GPU was asked for.
                losses = {f"losses/{name}": float(value) for name, value in metrics.items()}

            now = time.monotonic()
            signals.takes = f", which takes about {duration(now - update_started)}"
            state.update = k + 1
            state.wall_s = before_s + now - started
            state.games += len(episodes)
            state.recent.extend(episodes)
            require_finite(
                state, losses["losses/loss"], buffers, batch, path if team.leads else None
            )
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
            # Asked once: it may change at any moment. Of several clocks rank 0's counts.
            stop, saving = team.agreed(signals.stop, signals.take_save() or (due and team.leads))
            saving = saving or finished or stop is not None
            if saving or k % CHECK_EVERY == 0:
                team.require_alike(state.agent.parameters(), state.update)
            if saving:
                logs.sync()
                _save(path, state, config, parts[0], team, lanes, signals)
                saved_at_s = now
            view.show(record, state.games, clock.seconds)
            if stop is not None:
                break

    summary = Summary(
        path, state.update == config.num_updates, state.update * config.batch_size, state.wall_s,
        state.games, recent_mean(state), stop,
    )  # fmt: skip
    if team.leads:
        directory.write_summary(path, _summary_document(summary))
    team.wait_for_all()  # nobody leaves while another may still say something to it
    return summary


def _equip(
    config: Config, agent: Agent, optimizer: torch.optim.Optimizer, parts: list[VecEnv],
    team: Team,
) -> Equipment:  # fmt: skip
    """For parts of the environments of this rank."""
    lanes = [part.num_envs for part in parts]
    buffers = make_buffers(agent, config.num_steps, sum(lanes), parts[0].obs_shape)
    run = make_executables(agent, optimizer, config, buffers, lanes, team)
    return Equipment(run, buffers, parts)


def place_of(config: Config, out: str | Path | None) -> str:
    """The directory of a new run, or of the one that this job had begun when it was restarted.

    UsageError if something else is there.
    """
    if out is None and may_restart():
        raise UsageError("a job that may restart has to find its run again; name it by --out DIR")
    if out is None:
        return str(directory.default_path(config))
    path = real_path(out)
    if not (restarted() and directory.job_of(path) == job()):
        directory.require_new(path)
    return str(path)


def _go_back(path: Path, state: State, config: Config, view: View) -> Logs:
    """Forget what a run knows of later updates; its logs, to go on with."""
    replaced = directory.put_aside(path, state.update)
    if replaced is not None:
        view.note(f"what came after update {state.update}, checkpoints and log, is now in "
                  f"{shown(replaced)}")  # fmt: skip
    logs = Logs(path, state.update, state.update * config.batch_size)
    (path / directory.SUMMARY).unlink(missing_ok=True)  # of how it ended before
    return logs


def _save(
    path: Path, state: State, config: Config, envs: VecEnv, team: Team, lanes: Lanes,
    signals: Signals,
) -> None:  # fmt: skip
    """Write a checkpoint with the games of all ranks."""
    games, memory = team.games(lanes.save(), lanes.memory)
    if not team.leads:
        return
    with signals.saving():
        save(path, state, config, envs, _where(), games, memory)
        signals.kept = _kept(path, state)


def _kept(path: Path, state: State) -> str:
    """Say what there is to go on from."""
    if not state.update:
        return "no checkpoint was saved yet"
    return f"checkpoint {state.update} is in {shown(path)}"


def _hold(stack: ExitStack, path: Path, view: View) -> None:
    stack.enter_context(closing(directory.lock(path, view.note)))


def _signals(team: Team) -> Signals:
    return Signals(STOPPING if team.leads else "")


def _view(view: View | None, team: Team) -> View:
    return view if view is not None and team.leads else NoView()


def _share(config: Config, team: Team) -> Share:
    """The environments of this rank; UsageError if they cannot be shared."""
    if team.size > 1 and not config.divisible:
        raise UsageError(
            team.once(
                "norm_obs and norm_reward look at all environments in every step, which several "
                "ranks cannot yet; use --no-norm-obs --no-norm-reward, or one process"
            )
        )
    return team.share(config.num_envs)


def _recorded_threads(config: Config, team: Team) -> int:
    """The threads of a run that goes on: as many as it had, but not more than several ranks have
    cores."""
    if config.threads is None:
        return team.cores
    return config.threads if team.size == 1 else min(config.threads, team.cores)


def _computed_by(machine: dict[str, Any]) -> dict[str, Any]:
    """Take what decides the bits of a machine's results."""
    return {name: machine.get(name) for name in ("cpu", "isa", "gpu")}


def _where() -> dict[str, Any]:
    return {"machine": describe_machine(), "versions": versions()}


@contextmanager
def _open_parts(
    config: Config, factory: EnvFactory | None, share: Share, index: int = 0
) -> Iterator[list[VecEnv]]:
    """A rank's environments, for the `index`-th seeding of a run, in a part for each lane."""
    threads = config.threads or 1
    lanes = split(share.size, config.divisible, threads)
    if factory is None:
        factory = make_factory(
            config, emulator_threads(len(lanes), threads), reseed_interval=config.reseed_interval
        )
    else:
        factory = checked(factory, config.norm_obs)
    with ExitStack() as stack:
        parts = []
        for part in lanes:
            size = part.stop - part.start
            first = share.first + part.start
            envs = factory(size, config.seed, first_env=first, index=index)
            parts.append(stack.enter_context(closing(envs)))
        require_memory(share.size * config.num_steps, parts[0].obs_shape)
        yield parts


def _scheduled(initial: float, anneal: bool, k: int, config: Config) -> float:
    return linear(initial, k, config.num_updates) if anneal else initial


def _uniforms(config: Config, k: int, agent: Agent, share: Share) -> torch.Tensor:
    draws = randomness.noise(config.seed, k, config.num_steps + 1, share.size,
                             first_env=share.first, shape=agent.policy.action_shape)  # fmt: skip
    return torch.from_numpy(draws).to(agent.device)


def _shuffles(config: Config, k: int, device: torch.device) -> torch.Tensor:
    shuffles = randomness.permutations(
        config.seed, k, config.update_epochs, config.num_sequences
    )  # D06
    return torch.from_numpy(shuffles).to(device)


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
    for name in ("run", "signal_number"):
        values.pop(name)
    return {**values, "frames": FRAMES_PER_STEP * summary.agent_steps}
