"""The training loop of PPO. Start reading here.

    for each update:
        collect T steps in each of N environments      algorithm/rollout.py
        estimate advantages and value targets          algorithm/advantages.py
        improve the policy for a few epochs            algorithm/update.py, losses.py

The session (session/) surrounds the loop: environments, logs, checkpoints, signals.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from .algorithm.update import update
from .build import Brought
from .config import Config
from .envs import EnvFactory
from .session.observer import Callbacks, SessionOptions, ViewOption
from .session.session import Session, Summary
from .session.start import new_session, resumed_session


def learn(session: Session) -> None:
    """Run the updates that are left in a session: Algorithm 1 of Schulman et al. 2017."""
    config = session.config
    for k in session.updates():
        session.anneal()  # D04

        rollout, episodes = session.collect(k)

        with session.timed("update"):
            batch = session.advantages(rollout)
            losses = update(
                session.train_step,
                batch,
                session.permutations(k),
                config.num_minibatches,
                config.target_kl,
            )
        session.end_update(k, batch, losses, episodes)


def train(
    config: Config,
    out: str | Path | None = None,
    checkpoint_every: int | None = None,
    view: ViewOption = "auto",
    make_envs: EnvFactory | None = None,
    network: type[nn.Module] | None = None,
    *,
    callbacks: Callbacks = (),
    keep: int = 3,
    init_from: str | Path | None = None,
) -> Summary:
    """Train from the beginning in a new run directory `out` (default: under `runs/`).

    checkpoint_every: updates between checkpoints; None saves every two minutes.  view: shows the
    progress; "auto" does so in a terminal or a notebook, None nowhere.  make_envs, network: your
    own environments and network; None for those of `config`.  callbacks: observe the run and may
    stop it.  keep: so many checkpoints, the newest.  init_from: a run or an agent whose weights to
    begin with.  UsageError for settings that cannot work, before anything is written; RunError for
    a failure during training, with the last checkpoint valid; KeyboardInterrupt after a signal,
    with a checkpoint saved.
    """
    options = SessionOptions(checkpoint_every, keep, view, callbacks)
    brought = Brought(make_envs, network)
    with new_session(config, out, options, brought, init_from) as session:
        learn(session)
    return session.end()


def resume(
    run: str | Path,
    checkpoint_every: int | None = None,
    view: ViewOption = "auto",
    make_envs: EnvFactory | None = None,
    network: type[nn.Module] | None = None,
    new_games: bool = False,
    *,
    callbacks: Callbacks = (),
    keep: int = 3,
    changes: Mapping[str, Any] | None = None,
) -> Summary:
    """Resume a run from its newest valid checkpoint, or from its beginning if it has none.

    On the same machine with the same versions the result is that of an uninterrupted run, to the
    last bit: the games are restored by replaying their actions.  `run` may be one of the run's
    checkpoints: then the updates after it are computed again, and their files are moved to the
    folder `replaced-1` (or -2, ...) in the run.
    new_games: start new games instead, as with environments that cannot be saved.  changes: new
    values of settings by name.  The other arguments and the errors are those of `train`.
    """
    options = SessionOptions(checkpoint_every, keep, view, callbacks)
    brought = Brought(make_envs, network)
    with resumed_session(run, options, brought, new_games, changes or {}) as session:
        learn(session)
    return session.end()
