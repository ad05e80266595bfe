"""The start of a session: in a new run directory, or in that of a run to resume."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..algorithm.rollout import Rollout
from ..algorithm.update import make_optimizer
from ..backends.adam import Adam
from ..backends.cuda_graphs import make_executables
from ..backends.device import (
    PROCESSOR,
    describe_machine,
    prepare_process,
    require_memory,
    resolve_device,
    usable_cores,
    versions,
)
from ..backends.executables import Executables, make_buffers
from ..backends.precision import Choice, choose_precision
from ..backends.ranks import EnvSlice, Ranks, job, join, may_restart, restarted
from ..backends.self_test import first_screens
from ..backends.threads import emulator_threads, split_envs
from ..build import Brought, is_divisible, make_agent, make_factory, named, sources_of
from ..config import Config
from ..envs import EnvState, VecEnv
from ..envs.contract import Spaces, spaces_of
from ..errors import UsageError
from ..networks.agent import Agent
from . import checkpoint, directory
from .changes import DECIDE_THE_BACKEND, changed_config, schedule_notes
from .checkpoint import Checkpoint
from .estimate import estimate_s
from .files import real_path, shown
from .metrics import length_to
from .observer import Observer, Observers, SessionOptions
from .session import Session
from .signals import Signals
from .state import (
    RunState,
    checkpoints_bytes,
    initialize,
    restore,
    saved_env_states,
    saved_lstm_state,
    tensors_of_extras,
)
from .view import view_of

MAY_DIFFER = "the result may differ from an uninterrupted run"
STOPPING = "stopping after this update{takes}; a checkpoint will be left"


class _Saved(NamedTuple):
    """The saved part of a run that a session starts from.

    checkpoint: None at the beginning of a run.  env_states: those of all environments; empty if new
    games start.  seedings: how often the environments were seeded anew.  exact: whether the run is
    equal to an uninterrupted one, to the last bit.  first_weights: the agent whose weights a run
    without a checkpoint begins with, instead of random ones.
    """

    checkpoint: Checkpoint | None
    env_states: list[EnvState]
    seedings: int
    exact: bool
    first_weights: Checkpoint | None = None


NOTHING_SAVED = _Saved(None, [], 0, True)


@contextmanager
def new_session(
    config: Config,
    out: str | Path | None,
    options: SessionOptions,
    brought: Brought,
    init_from: str | Path | None = None,
) -> Iterator[Session]:
    """Enter a session in a new run directory; see `train`."""
    options.check()
    config = dataclasses.replace(named(config, brought), device=resolve_device(config.device))
    with ExitStack() as stack:
        ranks = stack.enter_context(closing(join(config.device)))
        path = Path(ranks.broadcast_from_main(lambda: choose_directory(config, out)))
        observers = _observers(options, ranks)
        if out is not None and ranks.broadcast_from_main(lambda: directory.is_run(path)):
            # torchrun has restarted this job.
            own = directory.read_config(path)
            resumed = _resumed(path, path, own, ranks, options, observers, brought, False)
            yield stack.enter_context(resumed)
            return
        ranks.broadcast_from_main(lambda: observers.check(config, brought))
        config = dataclasses.replace(config, threads=config.threads or ranks.cores)
        saved = NOTHING_SAVED
        if init_from is not None:
            agent, warnings = directory.find_checkpoint(Path(init_from))
            saved = saved._replace(first_weights=agent)
        parts, state = _open(stack, config, brought, ranks, saved)
        if saved.first_weights is not None:
            for line in (*warnings, f"the weights are those of {saved.first_weights.path}"):
                observers.note(line)
        choice = _choose(config, state.agent, parts[0], ranks)
        config = choice.applied(config)
        text = getattr(parts[0], "text", "")
        state.agent.bf16 = config.precision == "bf16"
        # The directory is made last, so that nothing remains if the session cannot start.
        signals = stack.enter_context(_signals(ranks))
        buffers, run = _executables(config, state, parts, ranks)
        # Ranks may have different numbers of threads; the directory has those of rank 0.
        threads = ranks.broadcast_from_main(lambda: config.threads)
        config = dataclasses.replace(config, threads=threads)
        numbered = out is None
        kept_bytes = checkpoints_bytes(state.agent, min(options.keep, config.num_updates))
        path = Path(
            ranks.broadcast_from_main(
                lambda: _create(stack, config, path, state, kept_bytes, observers, numbered)
            )
        )
        stack.enter_context(closing(observers))
        session = Session(
            config, path, state, parts, buffers, run, ranks, options, observers, signals
        )
        if text:
            observers.note(text)
        with session.running(choice.reason, estimate_s(config), brought):
            yield session


@contextmanager
def resumed_session(
    run: str | Path,
    options: SessionOptions,
    brought: Brought,
    new_games: bool,
    changes: Mapping[str, Any],
) -> Iterator[Session]:
    """Enter a session that resumes a run; see `resume`."""
    options.check()
    wanted = directory.find_agent(run)
    path = directory.run_of(wanted)
    config = changed_config(directory.read_config(path), changes)
    if "device" in changes:
        config = dataclasses.replace(config, device=resolve_device(config.device))
    if config.device == "cuda" and resolve_device("auto") != "cuda":
        raise UsageError(
            f"{path} was trained on a GPU and none is available here; its agent can be evaluated "
            "and recorded, but its training cannot be resumed"
        )
    with closing(join(config.device)) as ranks:
        observers = _observers(options, ranks)
        arguments = (wanted, path, config, ranks, options, observers, brought, new_games)
        resumed = _resumed(*arguments, asked=changes)
        with resumed as session:
            yield session


@contextmanager
def _resumed(
    wanted: Path,
    path: Path,
    config: Config,
    ranks: Ranks,
    options: SessionOptions,
    observers: Observer,
    brought: Brought,
    new_games: bool,
    asked: Collection[str] = (),
) -> Iterator[Session]:
    """Resume the run in directory `path` from `wanted`: itself, or one of its checkpoints.

    config: its settings; they replace those in the directory if they differ.  asked: the names of
    the settings that this command changes.
    """
    with ExitStack() as stack:
        signals = stack.enter_context(_signals(ranks))
        ranks.broadcast_from_main(lambda: _lock(stack, path, observers))
        stack.enter_context(closing(observers))
        ranks.broadcast_from_main(lambda: observers.check(config, brought))
        saved = _load(wanted, path, config, ranks, observers, brought, new_games, asked)
        # This rank's threads may differ from those in the directory.
        own_config = dataclasses.replace(config, threads=_threads(config, ranks))
        parts, state = _open(stack, own_config, brought, ranks, saved)
        before = directory.read_config(path)
        if any(getattr(config, name) != getattr(before, name) for name in DECIDE_THE_BACKEND):
            choice = _choose(own_config, state.agent, parts[0], ranks)
            config, own_config = choice.applied(config), choice.applied(own_config)
            state.agent.bf16 = config.precision == "bf16"
        # A damaged log is refused before any file is moved.
        ranks.broadcast_from_main(lambda: length_to(path, state.update))
        if ranks.broadcast_from_main(lambda: state.update) != state.update:
            raise UsageError(f"the ranks do not see the same checkpoints; all need to read {path}")
        buffers, run = _executables(own_config, state, parts, ranks)
        session = Session(
            config, path, state, parts, buffers, run, ranks, options, observers, signals
        )
        left = config.updates_left(state.agent_steps)
        whole_s = estimate_s(config)
        expected_s = None if whole_s is None else left / config.num_updates * whole_s
        if not left:
            more = state.agent_steps + config.batch_size
            observers.note(
                f"{path} is finished: nothing is left to do. To continue it, give more steps in "
                f"all: `ppo37 resume {shown(path)} --total-timesteps N`, at least {more:,}"
            )
        own = ranks.env_slice(config.num_envs).envs
        lstm_state = None
        if saved.checkpoint and saved.env_states:
            lstm_state = saved_lstm_state(saved.checkpoint, config, state.agent)[own]
        reason = f"resuming after update {state.update}"
        games = saved.env_states[own]
        with session.running(reason, expected_s, brought, games, lstm_state):
            yield session


def choose_directory(config: Config, out: str | Path | None) -> str:
    """Return the directory of a new run, or that of this job before it was restarted.

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


def _open(
    stack: ExitStack,
    config: Config,
    brought: Brought,
    ranks: Ranks,
    saved: _Saved,
) -> tuple[list[VecEnv], RunState]:
    """Make the environments of this rank, the agent and its optimizer, and load the saved state."""
    env_slice = _env_slice(config, ranks)
    if ranks.size > 1 and brought.extras:
        names = ", ".join(brought.extras)
        raise UsageError(ranks.main_only(f"several ranks cannot have {names} in common yet"))
    prepare_process(config.device, config.threads or 1)
    parts = stack.enter_context(_open_parts(config, brought, env_slice, saved.seedings))
    spaces = spaces_of(parts[0], config.action_space)
    agent = make_agent(config, spaces, brought.network).to(config.device)
    optimizer = make_optimizer(agent, config.schedule("learning_rate")[0], config.adam_eps, Adam)
    state = RunState(agent, optimizer, spaces, seedings=saved.seedings, exact=saved.exact)
    state.sources, state.extras = sources_of(config, brought), brought.extras
    tensors_of_extras(brought.extras)  # fails if they cannot be saved
    if saved.checkpoint is not None:
        restore(state, saved.checkpoint, config)
    elif saved.first_weights is not None:
        initialize(state, saved.first_weights, config)
    return parts, state


@contextmanager
def _open_parts(
    config: Config, brought: Brought, env_slice: EnvSlice, index: int
) -> Iterator[list[VecEnv]]:
    """Make a rank's environments for the `index`-th seeding, one part for each rollout thread."""
    threads = config.threads or 1
    slices = split_envs(env_slice.size, is_divisible(config, brought.make_envs), threads)
    factory = make_factory(
        config,
        emulator_threads(len(slices), threads),
        reseed_interval=config.reseed_interval,
        make_envs=brought.make_envs,
    )
    with ExitStack() as stack:
        parts = []
        for part in slices:
            size = part.stop - part.start
            first = env_slice.first + part.start
            envs = factory(size, config.seed, first_env=first, index=index)
            parts.append(stack.enter_context(closing(envs)))
        spaces = [spaces_of(part, config.action_space) for part in parts]
        for name in Spaces._fields:
            found = {getattr(each, name) for each in spaces}
            if len(found) > 1:
                raise UsageError(f"{name} must be the same in all environments, not {found}")
        require_memory(env_slice.size * config.num_steps, parts[0].obs_shape)
        yield parts


def _choose(config: Config, agent: Agent, envs: VecEnv, ranks: Ranks) -> Choice:
    """Choose precision and kernels, on rank 0 for all."""
    size = max(1, config.minibatch_size // ranks.size)

    def choose() -> Choice:
        return choose_precision(config, agent, envs.obs_shape, size, first_screens(envs, agent))

    return Choice(*ranks.broadcast_from_main(choose))


def _executables(
    config: Config, state: RunState, parts: list[VecEnv], ranks: Ranks
) -> tuple[Rollout, Executables]:
    """Make the buffers of a rollout and the loop's functions."""
    sizes = [part.num_envs for part in parts]
    buffers = make_buffers(state.agent, config.num_steps, sum(sizes), parts[0].obs_shape)
    run = make_executables(state.agent, state.optimizer, config, buffers, sizes, ranks)
    return buffers, run


def _create(
    stack: ExitStack,
    config: Config,
    path: Path,
    state: RunState,
    needed_bytes: int,
    observers: Observer,
    numbered: bool,
) -> str:
    """Make a run directory and lock it as long as the stack is open. Returns its path.

    needed_bytes: free space for its checkpoints.  numbered: whether a number may be added to the
    name of an existing directory.
    """
    document = {
        "config": dataclasses.asdict(config),
        "sources": state.sources,
        **({} if state.init_from is None else {directory.INIT_FROM: state.init_from}),
        **directory.describe_origin(),
    }
    if job():
        document["job"] = job()
    made = directory.claim(directory.alternatives(path)) if numbered else path
    lock = directory.create(made, document, needed_bytes, observers.note)
    stack.enter_context(closing(lock))
    return str(made)


def _load(
    wanted: Path,
    path: Path,
    config: Config,
    ranks: Ranks,
    observers: Observer,
    brought: Brought,
    new_games: bool,
    asked: Collection[str],
) -> _Saved:
    """Load the checkpoint to resume from, and print what has changed since.

    UsageError if it does not belong to the run as it is configured now.
    """
    saved, warnings = _newest(wanted, path)
    changed = list[str]()
    first_weights = None
    if saved is None:
        first_weights = _first_weights(path)
        warnings.append("no checkpoint was saved yet: training starts from the beginning")
    else:
        agent_steps = saved.state["agent_steps"]
        if agent_steps > config.total_timesteps:
            raise UsageError(
                ranks.main_only(
                    f"{path} has made {agent_steps:,} agent steps, and total_timesteps is "
                    f"{config.total_timesteps:,}: nothing is left to do"
                )
            )
        saved_config = directory.config_of(saved.state)
        for before, now in (
            (saved.state["versions"], versions()),
            (_processors(saved.state["machine"]), _processors(describe_machine())),
            (dataclasses.asdict(saved_config), dataclasses.asdict(config)),
        ):
            changed += _changes(before, now, asked)
        changed += _missing_cores(config)
        changed += _changed_sources(saved.state.get("sources", {}), sources_of(config, brought))
        warnings += schedule_notes(saved_config, config, agent_steps)
    for warning in changed + warnings:
        observers.note(warning)
    if saved is None:
        return NOTHING_SAVED._replace(first_weights=first_weights)
    unfinished = config.updates_left(agent_steps) > 0
    new_games = new_games or saved_config.num_envs != config.num_envs
    env_states = saved_env_states(saved, config) if unfinished and not new_games else []
    seedings = saved.state["seedings"]
    if unfinished and not env_states:
        seedings += 1
        observers.note("starting new games: the result will differ from an uninterrupted run")
    elif env_states:
        observers.note("replaying the games of the checkpoint")
    exact = saved.state.get("exact", True) and not changed and (bool(env_states) or not unfinished)
    return _Saved(saved, env_states, seedings, exact)


def _first_weights(path: Path) -> Checkpoint | None:
    """Load the agent whose weights a run began with; None if they were drawn at random.

    UsageError if it is not there any more as it was.
    """
    origin = directory.read_document(path).get(directory.INIT_FROM)
    if origin is None:
        return None
    try:
        found, _ = directory.find_checkpoint(Path(origin["path"]))
        if checkpoint.fingerprint(found) == origin["fingerprint"]:
            return found
    except (UsageError, KeyError, TypeError):
        pass
    raise UsageError(
        f"{path} has no checkpoint, and the agent whose weights it began with has changed or is "
        f"gone: {origin}; train a new run"
    )


def _newest(wanted: Path, run: Path) -> tuple[Checkpoint | None, list[str]]:
    """Find the checkpoint to resume from; None for a run that stopped before its first."""
    if wanted == run and not checkpoint.numbered(run / directory.CHECKPOINTS):
        return None, []
    return directory.find_checkpoint(wanted)


def _changes(before: dict[str, Any], now: dict[str, Any], asked: Collection[str]) -> list[str]:
    """List the versions or settings that have changed since the checkpoint.

    asked: the names of the settings that this command has changed.
    """
    return [
        f"{name} is {value} from now on, as asked; it was {before[name]}"
        if name in asked
        else f"{name} changed from {before[name]} to {value} since the checkpoint: {MAY_DIFFER}"
        for name, value in now.items()
        if name in before and before[name] != value
    ]


def _missing_cores(config: Config) -> list[str]:
    """Return a warning if a run has more threads than there are cores, as on another machine."""
    cores, threads = usable_cores(), config.threads or 1
    if threads <= cores or config.device != "cpu":
        return []
    return [f"the run has {threads} threads, and only {cores} can be used here: {MAY_DIFFER}"]


def _changed_sources(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """List the user's own classes and modules whose files have changed, under any name."""
    known = set(before.values())
    return [
        f"the source of {name} changed since the checkpoint: {MAY_DIFFER}"
        for name, value in now.items()
        if before and value not in known
    ]


def _processors(machine: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of a machine that determine the bits of its results."""
    return {name: machine.get(name) for name in PROCESSOR}


def _env_slice(config: Config, ranks: Ranks) -> EnvSlice:
    """Return the environments of this rank; UsageError if they cannot be divided."""
    if ranks.size > 1 and not config.divisible:
        raise UsageError(
            ranks.main_only(
                "norm_obs and norm_reward look at all environments in every step, which several "
                "ranks cannot yet; use --no-norm-obs --no-norm-reward, or one process"
            )
        )
    return ranks.env_slice(config.num_envs)


def _threads(config: Config, ranks: Ranks) -> int:
    """Return the threads of a resumed run: as before; of several ranks at most their cores."""
    if config.threads is None:
        return ranks.cores
    return config.threads if ranks.size == 1 else min(config.threads, ranks.cores)


def _lock(stack: ExitStack, path: Path, observers: Observer) -> None:
    stack.enter_context(closing(directory.lock(path, observers.note)))


def _signals(ranks: Ranks) -> Signals:
    return Signals(STOPPING if ranks.is_main else "")


def _observers(options: SessionOptions, ranks: Ranks) -> Observer:
    """Return the view and the callbacks as one observer; only rank 0 has them."""
    if not ranks.is_main:
        return Observer()
    return Observers([view_of(options.view), *options.callbacks])
