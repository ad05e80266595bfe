"""A session: all that surrounds the training loop.

Opening or resuming a run, environments, ranks, precision, logs, checkpoints and signals.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import randomness
from ..algorithm.rollout import Rollout
from ..algorithm.update import Batch, make_optimizer
from ..backends.adam import Adam
from ..backends.clock import Clock
from ..backends.cuda_graphs import make_executables
from ..backends.device import (
    describe_machine,
    prepare_process,
    require_memory,
    resolve_device,
    settled,
    versions,
)
from ..backends.executables import make_buffers
from ..backends.precision import Choice, choose_precision, first_screens
from ..backends.ranks import CHECK_EVERY, Share, Team, job, join, may_restart, restarted
from ..backends.threads import Lanes, emulator_threads, split
from ..build import make_agent, make_factory, normalized
from ..config import Config, from_dict
from ..envs import EnvFactory, Episode, Moment, VecEnv
from ..envs.contract import name_of
from ..errors import UsageError
from ..networks.agent import Agent
from . import checkpoint, directory
from .checkpoint import Checkpoint
from .estimate import estimate_s
from .files import real_path, shown
from .metrics import FRAMES_PER_STEP, LAST_100, Logs, Unlogged, length_to, record_of
from .signals import Signals
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
from .view import NoView, View, duration

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


class Session:
    """The loop's view of a run: the functions of the algorithm, bound to a device, and one method
    for each thing around them.

    It is entered by `new_session` or `resumed_session`.
    """

    def __init__(
        self,
        config: Config,
        path: Path,
        state: State,
        parts: list[VecEnv],
        team: Team,
        checkpoint_every: int | None,
        view: View,
        signals: Signals,
    ) -> None:
        """parts: the environments of this rank, one part for each thread that acts."""
        self.config, self.path, self.state = config, path, state
        self.optimizer = state.optimizer
        self._parts, self._team, self._view, self._signals = parts, team, view, signals
        self._checkpoint_every = checkpoint_every
        self._share = team.share(config.num_envs)
        sizes = [part.num_envs for part in parts]
        self._buffers = make_buffers(state.agent, config.num_steps, sum(sizes), parts[0].obs_shape)
        run = make_executables(state.agent, state.optimizer, config, self._buffers, sizes, team)
        self._acts, self._held = run.acts, run.held
        self.advantages, self.train_step, self.clip_coef = (
            run.advantages,
            run.train_step,
            run.clip_coef,
        )
        self._clock = Clock()
        self.timed = self._clock.part
        self._stop: int | None = None

    @contextmanager
    def running(
        self, moments: Sequence[Moment] = (), memory: torch.Tensor | None = None
    ) -> Iterator["Session"]:
        """Start to act and to log; write the summary at the end.

        moments, memory: of the environments of this rank; without them new games begin.
        """
        state, team = self.state, self._team
        parts = [normalized(part, state.agent, self.config) for part in self._parts]
        self._before_s, self._started = state.wall_s, time.monotonic()
        self._saved_at_s = self._started
        with ExitStack() as stack:
            # Before anything of the run is touched, because games may not come back.
            self._lanes = Lanes(parts, self._acts, self._buffers, self._clock, moments, memory)
            stack.enter_context(closing(self._lanes))
            team.wait_for_all()
            self._logs = self._open_logs() if team.leads else Unlogged()
            self._signals.kept = self._kept()
            stack.enter_context(closing(self._logs))
            stack.enter_context(settled())
            yield self
        if team.leads:
            directory.write_summary(self.path, _summary_document(self.summary))
        team.wait_for_all()  # nobody leaves while another may still say something to it

    def updates(self) -> Iterator[int]:
        """Count the updates that are left, until the last one or a signal."""
        for k in range(self.state.update, self.config.num_updates):
            self._update_started = time.monotonic()
            yield k
            if self._stop is not None:
                return

    def collect(self, k: int) -> tuple[Rollout, list[Episode]]:
        """Collect a rollout; the second value holds the games that ended, on all ranks."""
        with self.timed("rollout"), self._held():
            episodes = self._lanes.collect(self._uniforms(k))
            return self._buffers, self._team.episodes(episodes)

    def permutations(self, k: int) -> torch.Tensor:
        """Shuffle the batch for each epoch: [epochs, S]."""
        config = self.config
        shuffles = randomness.permutations(
            config.seed, k, config.update_epochs, config.num_sequences
        )  # D06
        return torch.from_numpy(shuffles).to(self.state.agent.device)

    def end_update(
        self,
        k: int,
        learning_rate: float,
        batch: Batch,
        losses: dict[str, float],
        episodes: list[Episode],
    ) -> None:
        """Log update `k`, save where that is due, and look whether to stop.

        RunError if the loss or a weight is not finite.
        """
        config, state, team = self.config, self.state, self._team
        now = time.monotonic()
        self._signals.takes = f", which takes about {duration(now - self._update_started)}"
        state.update = k + 1
        state.wall_s = self._before_s + now - self._started
        state.games += len(episodes)
        state.recent.extend(episodes)
        require_finite(
            state, losses["loss"], self._buffers, batch, self.path if team.leads else None
        )
        tags = {
            LAST_100: recent_mean(state),
            "charts/SPS": config.batch_size / (now - self._update_started),
            "charts/learning_rate": learning_rate,
            **{f"losses/{name}": value for name, value in losses.items()},
        }
        record = record_of(
            state.update, state.update * config.batch_size, state.wall_s, tags, episodes
        )
        self._logs.write(record)
        if self._saves(now):
            self._logs.sync()
            self._save()
            self._saved_at_s = now
        self._view.show(record, state.games, self._clock.seconds)

    @property
    def summary(self) -> Summary:
        """How far the run has come."""
        state, config = self.state, self.config
        return Summary(
            self.path, state.update == config.num_updates, state.update * config.batch_size,
            state.wall_s, state.games, recent_mean(state), self._stop,
        )  # fmt: skip

    def _saves(self, now: float) -> bool:
        """Decide with all ranks whether to save after this update, and whether to stop."""
        state, team, every = self.state, self._team, self._checkpoint_every
        due = state.update % every == 0 if every else now - self._saved_at_s > SAVE_EVERY_S
        # Asked once: it may change at any moment. Of several clocks rank 0's counts.
        self._stop, saving = team.agreed(
            self._signals.stop, self._signals.take_save() or (due and team.leads)
        )
        finished = state.update == self.config.num_updates
        saving = saving or finished or self._stop is not None
        if saving or (state.update - 1) % CHECK_EVERY == 0:
            team.require_alike(state.agent.parameters(), state.update)
        return saving

    def _save(self) -> None:
        """Write a checkpoint with the games of all ranks."""
        games, memory = self._team.games(self._lanes.save(), self._lanes.memory)
        if not self._team.leads:
            return
        with self._signals.saving():
            save(self.path, self.state, self.config, self._parts[0], _where(), games, memory)
            self._signals.kept = self._kept()

    def _open_logs(self) -> Logs:
        """Put aside what the run has of later updates, and open its logs."""
        path, update = self.path, self.state.update
        replaced = directory.put_aside(path, update)
        if replaced is not None:
            self._view.note(f"what came after update {update}, checkpoints and log, is now in "
                            f"{shown(replaced)}")  # fmt: skip
        logs = Logs(path, update, update * self.config.batch_size)
        (path / directory.SUMMARY).unlink(missing_ok=True)  # of how it ended before
        return logs

    def _kept(self) -> str:
        """Say which checkpoint there is to resume from."""
        if not self.state.update:
            return "no checkpoint was saved yet"
        return f"checkpoint {self.state.update} is in {shown(self.path)}"

    def _uniforms(self, k: int) -> torch.Tensor:
        """Draw the random numbers of update `k` for the actions of this rank."""
        share, agent = self._share, self.state.agent
        draws = randomness.noise(
            self.config.seed, k, self.config.num_steps + 1, share.size, first_env=share.first,
            shape=agent.policy.action_shape,
        )  # fmt: skip
        return torch.from_numpy(draws).to(agent.device)


class _Saved(NamedTuple):
    """What a resumed run goes on from.

    checkpoint: None before the first.  moments: of all environments; none where new games begin.
    """

    checkpoint: Checkpoint | None
    moments: list[Moment]
    seedings: int


NOTHING_SAVED = _Saved(None, [], 0)


@contextmanager
def new_session(
    config: Config,
    out: str | Path | None,
    checkpoint_every: int | None,
    view: View | None,
    make_envs: EnvFactory | None,
) -> Iterator[Session]:
    """Enter a session in a new run directory; see `train`."""
    config = dataclasses.replace(config, device=resolve_device(config.device))
    with ExitStack() as stack:
        team = stack.enter_context(closing(join(config.device)))
        path = Path(team.decided(lambda: place_of(config, out)))
        view = _view(view, team)
        # A job that was restarted resumes its run.
        if out is not None and team.decided(lambda: directory.is_run(path)):
            yield stack.enter_context(
                _resumed(path, path, team, checkpoint_every, view, make_envs, False)
            )
            return
        config = dataclasses.replace(config, threads=config.threads or team.cores)
        parts, state = _open(stack, config, make_envs, team, NOTHING_SAVED)
        choice = _choose(config, state.agent, parts[0], team)
        config = choice.applied(config)
        state.agent.bf16 = config.precision == "bf16"
        # Before there is a run, so that none is left without an agent.
        signals = stack.enter_context(_signals(team))
        session = Session(config, path, state, parts, team, checkpoint_every, view, signals)
        # What is written down are the threads of rank 0.
        written = dataclasses.replace(config, threads=team.decided(lambda: config.threads))
        path = Path(team.decided(lambda: _create(stack, written, path, state, view, out is None)))
        session.path, session.config = path, written
        stack.enter_context(closing(view))
        view.announce(written, path, choice.reason, estimate_s(written))
        with session.running():
            yield session


@contextmanager
def resumed_session(
    run: str | Path,
    checkpoint_every: int | None,
    view: View | None,
    make_envs: EnvFactory | None,
    new_games: bool,
) -> Iterator[Session]:
    """Enter a session that continues a run; see `resume`."""
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
        with _resumed(wanted, path, team, checkpoint_every, view, make_envs, new_games) as session:
            yield session


@contextmanager
def _resumed(
    wanted: Path,
    path: Path,
    team: Team,
    checkpoint_every: int | None,
    view: View,
    make_envs: EnvFactory | None,
    new_games: bool,
) -> Iterator[Session]:
    """Resume the run in directory `path` from `wanted`: its newest checkpoint or another."""
    team.decided(lambda: checkpoint.require_makers(directory.read_document(path), make_envs, path))
    config = directory.read_config(path)
    with ExitStack() as stack:
        signals = stack.enter_context(_signals(team))
        team.decided(lambda: _hold(stack, path, view))
        stack.enter_context(closing(view))
        saved = _load(wanted, path, config, team, view, make_envs, new_games)
        running = dataclasses.replace(config, threads=_recorded_threads(config, team))
        parts, state = _open(stack, running, make_envs, team, saved)
        team.decided(lambda: length_to(path, state.update))  # refused before anything is moved
        if team.decided(lambda: state.update) != state.update:
            raise UsageError(f"the ranks do not see the same checkpoints; all need to read {path}")
        session = Session(running, path, state, parts, team, checkpoint_every, view, signals)
        session.config = config
        whole_s, left = estimate_s(config), 1 - state.update / config.num_updates
        expected_s = None if whole_s is None else left * whole_s
        view.announce(config, path, f"going on after update {state.update}", expected_s)
        mine = team.share(config.num_envs).envs
        memory = None
        if saved.checkpoint and saved.moments:
            memory = saved_memory(saved.checkpoint, config, state.agent)[mine]
        with session.running(saved.moments[mine], memory):
            yield session


def _open(
    stack: ExitStack,
    config: Config,
    make_envs: EnvFactory | None,
    team: Team,
    saved: _Saved,
) -> tuple[list[VecEnv], State]:
    """Make the environments of this rank, and the agent with its optimizer, as they were saved."""
    share = _share(config, team)
    prepare_process(config.device, config.threads or 1)
    parts = stack.enter_context(_open_parts(config, make_envs, share, saved.seedings))
    envs = parts[0]
    agent = make_agent(config, envs.obs_shape, envs.action_names).to(config.device)
    optimizer = make_optimizer(agent, config.learning_rate, config.adam_eps, Adam)
    state = State(agent, optimizer, seedings=saved.seedings, made_by=name_of(make_envs))
    if saved.checkpoint is not None:
        restore(state, saved.checkpoint, config, envs)
    return parts, state


def _choose(config: Config, agent: Agent, envs: VecEnv, team: Team) -> Choice:
    """Choose precision and kernels, on rank 0 for all."""
    size = max(1, config.minibatch_size // team.size)

    def chosen() -> Choice:
        return choose_precision(config, agent, envs.obs_shape, size, first_screens(envs, agent))

    return Choice(*team.decided(chosen))


def _create(
    stack: ExitStack, config: Config, path: Path, state: State, view: View, numbered: bool
) -> str:
    """Make a run directory, held as long as the stack; its path.

    numbered: whether it may have a number appended, where the name is taken.
    """
    document = {"config": dataclasses.asdict(config), checkpoint.MADE_BY: state.made_by, **_where()}
    if job():
        document["job"] = job()
    made = directory.claim(directory.alternatives(path)) if numbered else path
    lock = directory.create(made, document, checkpoints_bytes(state.agent), view.note)
    stack.enter_context(closing(lock))
    return str(made)


def _load(
    wanted: Path,
    path: Path,
    config: Config,
    team: Team,
    view: View,
    make_envs: EnvFactory | None,
    new_games: bool,
) -> _Saved:
    """Load the checkpoint to resume from, and say what is not as it was.

    UsageError if it does not belong to the run as it is configured now.
    """
    saved, warnings = _newest(wanted, path)
    if saved is None:
        warnings.append("no checkpoint was saved yet: beginning from the start")
    else:
        checkpoint.require_makers(saved.state, make_envs, path)
        if saved.state["update"] > config.num_updates:
            raise UsageError(team.once(
                f"{path} has made {saved.state['agent_steps']:,} agent steps, and its "
                f"{directory.CONFIG} wants {config.agent_steps:,} in all: nothing is left to do"
            ))  # fmt: skip
        saved_config = dataclasses.asdict(from_dict(saved.state["config"]))
        for before, now in (
            (saved.state["versions"], versions()),
            (_computed_by(saved.state["machine"]), _computed_by(describe_machine())),
            (saved_config, dataclasses.asdict(config)),
        ):
            warnings += _changed(before, now)
    for warning in warnings:
        view.note(warning)
    if saved is None:
        return NOTHING_SAVED
    goes_on = saved.state["update"] < config.num_updates
    moments = saved_moments(saved, config) if goes_on and not new_games else []
    seedings = saved.state["seedings"]
    if goes_on and not moments:
        seedings += 1
        view.note("the games begin anew: the run goes on, but not as it would have")
    return _Saved(saved, moments, seedings)


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
    factory = make_factory(
        config, emulator_threads(len(lanes), threads), reseed_interval=config.reseed_interval,
        make_envs=factory,
    )  # fmt: skip
    with ExitStack() as stack:
        parts = []
        for part in lanes:
            size = part.stop - part.start
            first = share.first + part.start
            envs = factory(size, config.seed, first_env=first, index=index)
            parts.append(stack.enter_context(closing(envs)))
        for name in ("obs_shape", "action_names"):
            found = {tuple(getattr(part, name)) for part in parts}
            if len(found) > 1:
                raise UsageError(f"{name} must be the same in all environments, not {found}")
        require_memory(share.size * config.num_steps, parts[0].obs_shape)
        yield parts


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
