"""The environment of a trained agent in Gymnasium's form, for a loop of one's own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from ..backends.device import usable_cores
from ..build import make_factory
from ..config import Config
from ..envs import EnvFactory, VecEnv
from ..envs.contract import spaces_of
from ..envs.spaces import action_space_of, space_of_observations
from ..errors import UsageError
from ..session.directory import config_of, find_checkpoint
from .evaluate import games_seed
from .screens import Pixels, ShownEnv, shown_env, with_raw_rewards

RGB = "rgb_array"


def make_env(
    run: str | Path,
    render_mode: str | None = None,
    *,
    whole_games: bool = False,
    make_envs: EnvFactory | None = None,
    warn: Callable[[str], None] | None = None,
) -> "AgentEnv":
    """Make the environment that an agent was trained in, as one Gymnasium environment.

    Observations, actions and rules are those of the training, but observations are not normalized
    (`act` does that) and rewards are raw.  `reset(seed=s)` starts the game that `evaluate` plays
    first with this seed.  An episode ends as in training, so in protocol classic with a lost life;
    `reset` then continues the same game with the next life.  whole_games: end it only with the
    game.  `info["episode"]` of the last step of a game has its score `r` and length `l`.
    render_mode: "rgb_array" if `render()` shall return the screen [H, W, 3].  make_envs: as for
    `train`; its rewards are those that it gives.  warn: see `load_agent`.
    UsageError if there is no agent, or if its environment has no screens to render.
    """
    if render_mode not in (None, RGB):
        raise UsageError(f'render_mode must be None or "rgb_array", not {render_mode!r}')
    saved, warnings = find_checkpoint(run)
    for warning in warnings:
        (warn or (lambda _: None))(warning)
    return AgentEnv(config_of(saved.state), render_mode, whole_games, make_envs)


class AgentEnv(gymnasium.Env[NDArray[Any], Any]):
    """One environment of a `VecEnv`, as `make_env` makes it; see there."""

    def __init__(
        self,
        config: Config,
        render_mode: str | None = None,
        whole_games: bool = False,
        make_envs: EnvFactory | None = None,
    ) -> None:
        self.render_mode = render_mode
        self._config, self._make_envs = config, make_envs
        self._whole_games = whole_games
        self._envs, self._shown = self._make(0)
        self._obs = self._envs.reset()
        self._image: Pixels | None = None
        found = spaces_of(self._envs, config.action_space)
        self.observation_space = space_of_observations(found.obs_shape, self._obs.dtype.name)
        self.action_space = action_space_of(found)
        self.metadata = {"render_modes": [RGB]}
        if self._shown is not None:
            self.metadata["render_fps"] = self._shown.fps / self._shown.frames_per_step
        self._state = "new"  # then "running" or "ended"

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start an episode. Returns its first observation [*obs_shape], and an empty dict.

        seed: start the games of this seed; None: the next game (or life) where an episode has
        ended, otherwise a new game.  options: none.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._open(games_seed(seed))
        elif self._state != "ended":
            self._open(int(self.np_random.integers(2**31)))
        else:
            self._show_current()
        self._state = "running"
        return self._obs[0].copy(), {}

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Take an action. Returns observation, raw reward, terminated, truncated and info.

        The last observation of an episode is the environment's `final_obs`, which an environment of
        your own need not fill where `terminated` is set.  UsageError without `reset`, or for an
        action that is not in `action_space`.
        """
        if self._state != "running":
            raise UsageError("call reset() before step(): no episode is in progress")
        if not self.action_space.contains(action):
            raise UsageError(f"{action!r} is not an action of {self.action_space}")
        step = self._envs.step(np.asarray(action)[np.newaxis])
        self._obs = step.obs
        if self._shown is not None:
            self._image = self._shown.screens(step)[-1]
        info: dict[str, Any] = {}
        if step.episodes:
            info["episode"] = {"r": step.episodes[0].score, "l": step.episodes[0].length}
        done = bool(step.episodes) if self._whole_games else bool(step.dones[0])
        truncated = done and bool(step.truncated[0])
        self._state = "ended" if done else "running"
        # After a lost life the game continues, and its observation is that of both episodes.
        ended = bool(step.episodes) or truncated
        last = step.final_obs if ended else step.obs
        return last[0].copy(), float(step.rewards[0]), done and not truncated, truncated, info

    def render(self) -> Pixels | None:
        """Return the screen [H, W, 3] uint8; None without `render_mode` and before `reset`."""
        return None if self._image is None else self._image.copy()

    def close(self) -> None:
        """Release all resources."""
        self._envs.close()

    def _open(self, seed: int) -> None:
        """Make the environment anew, with this seed of its games."""
        self._envs.close()
        self._envs, self._shown = self._make(seed)
        self._obs = self._envs.reset()
        self._show_current()

    def _make(self, seed: int) -> tuple[VecEnv, ShownEnv | None]:
        """Make the environment, and how it is shown with a `render_mode`."""
        if self.render_mode is not None:
            shown = shown_env(self._config, seed, make_envs=self._make_envs)
            return shown.envs, shown
        raw = with_raw_rewards(self._config)
        return make_factory(raw, usable_cores(), make_envs=self._make_envs)(1, seed), None

    def _show_current(self) -> None:
        if self._shown is not None:
            self._image = self._shown.render()
