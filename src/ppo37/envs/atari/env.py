"""Atari on ale-py's C++ vector environment, with episodes as in OpenAI baselines.

Several of the engine's defaults are changed; a comment at each says why. docs/fidelity.md lists the
differences from the Python wrappers of baselines.

Legend: N environments.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ...randomness import game_seeds
from ..contract import EnvState, Episode, Step, VecEnv
from ..games import game_info
from .controls import THRESHOLD, action_dims, make_controls
from .protocols import FRAME_SHAPES, FRAME_SKIP, MAX_FRAMES, SIDE, STACK, Protocol, rules_of
from .python_engine import PythonEngine
from .reference import modes_of
from .watchdog import Watchdog

RESET_S = 0.2
"""Time limit per environment: a reset takes up to 0.1 s, and all may reset in the same call."""
MOST_RESEEDINGS = 1 << 20
"""Upper limit of the seeded resets of one environment; the next `index` starts after them."""


class Atari(VecEnv):
    """N games of one kind, stepped by C++ threads; see `contract.VecEnv`.

    Observations: the last `num_frames` frames, [N, 4, 84, 84] uint8 (D18, D20), or [N, 1, 128] for
    `ram`. Environment i is seeded by (seed, index, first_env + i) alone, and plays the mode
    `modes[(first_env + i) % len(modes)]`, or the game's own. A game is truncated after
    `max_frames`, counted from its first observation.

    The emulator cannot save all of its state, but everything after a seeded reset is a function of
    the actions. So with a `reseed_interval` the actions since the last seeded reset are stored, and
    `restore` replays them. To limit how many there are, an environment gets a new seeded reset when
    its game ends and `reseed_interval` steps have passed; that takes 0.1 to 0.2 s. All environments
    do so at about the same time, because a replay takes as long as its longest log.
    """

    def __init__(
        self,
        game: str,
        num_envs: int,
        seed: int,
        protocol: str = "classic",
        *,
        first_env: int = 0,
        index: int = 0,
        action_space: str = "discrete",
        observation: str = "pixels",
        num_frames: int = STACK,
        clip_rewards: bool = True,
        num_threads: int = 0,
        reseed_interval: int | None = None,
        max_frames: int = MAX_FRAMES,
        modes: tuple[int, ...] | None = None,
        difficulty: int | None = None,
        watchdog_s: float = 60.0,
    ) -> None:
        self.num_envs = num_envs
        self._first_env = first_env
        self._protocol = rules_of(game, protocol, action_space)
        self._clip_rewards = clip_rewards
        self._seed = seed
        self._reseed_interval = reseed_interval
        self._first_seeding = index * MOST_RESEEDINGS
        self._seedings = np.full(num_envs, self._first_seeding)
        self._played: list[NDArray[Any]] = []  # the engine's actions [N, ...] of the last steps
        self._steps = 0
        self._seeded_at = np.zeros(num_envs, np.int64)  # the step of the last seeded reset
        self.obs_shape = (num_frames, *FRAME_SHAPES[observation])
        if observation == "ram" or modes is not None or difficulty is not None:
            own_modes = modes_of(modes, num_envs, first_env)
            limits = (max_frames, num_frames, observation)
            self._engine = PythonEngine(game, self._protocol, *limits, own_modes, difficulty)
        else:
            self._engine = _make_engine(
                game,
                num_envs,
                self._protocol,
                num_threads,
                max_frames,
                num_frames,
                action_space == "continuous",
            )
        engine_names = tuple(action.name for action in self._engine.ale.get_action_set())
        self._controls = make_controls(action_space, engine_names)
        self.action_names, self.action_space = self._controls.names, action_space
        self.action_dims = action_dims(action_space, self.action_names)
        self._presses_fire = self._protocol.auto_fire and "FIRE" in engine_names
        self._fire_next = np.zeros(num_envs, np.bool_)
        self._past_frames = np.zeros(num_envs, np.int64)
        self._scores = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, np.int64)
        self._watchdog = Watchdog(
            max(watchdog_s, RESET_S * num_envs),
            lambda: (
                f"{game}, environments {first_env}..{first_env + num_envs - 1}, "
                f"seeds {self._seeds(slice(None)).tolist()}"
            ),
        )

    def reset(self) -> NDArray[np.uint8]:
        self._seedings[:] = self._first_seeding
        self._steps = 0
        self._seeded_at[:] = 0
        self._played = []
        self._fire_next[:] = False
        self._scores[:] = 0
        self._lengths[:] = 0
        self._obs = self._seeded_reset(np.ones(self.num_envs, np.bool_))
        return self._obs

    def step(self, actions: NDArray[Any]) -> Step:
        actions = self._controls.to_engine(actions, self.num_envs)
        if self._fire_next.any():
            actions = actions.copy()  # the caller's array must not change
            actions[self._fire_next] = self._controls.fire  # D17
        with self._watchdog.guard(actions):
            obs, rewards, terminated, truncated, info = self._engine.step(_engine_dtype(actions))

        # The engine marks a lost life and the end of a game in the same way. Only at the end of a
        # game are its frames added to those of past games.
        ended = terminated | truncated
        past_frames = info["frame_number"] - info["episode_frame_number"]
        game_over = past_frames != self._past_frames
        self._past_frames[:] = past_frames
        self._fire_next = ended & ~game_over & self._presses_fire

        self._scores += rewards
        self._lengths += 1
        episodes = [
            Episode(self._first_env + int(i), float(self._scores[i]), int(self._lengths[i]))
            for i in np.flatnonzero(game_over)
        ]
        self._scores[game_over] = 0
        self._lengths[game_over] = 0
        self._obs = self._log_step(actions, obs, game_over)

        dones = ended if self._protocol.life_ends_episode else game_over  # D16
        if self._clip_rewards:
            rewards = np.sign(rewards)  # D19
        final_obs = info.get("final_obs", obs)
        return Step(
            self._obs, rewards.astype(np.float32), dones, truncated & game_over, final_obs, episodes
        )

    def save(self) -> list[EnvState]:
        if self._reseed_interval is None:
            return []
        neutral = self._controls.neutral
        played = np.array(self._played, neutral.dtype)
        played = played.reshape(-1, self.num_envs, *neutral.shape)
        return [
            EnvState(
                {
                    "seedings": int(self._seedings[i]),
                    "seeded_at": int(self._seeded_at[i]),
                    "score": float(self._scores[i]),
                    "length": int(self._lengths[i]),
                    "fire_next": bool(self._fire_next[i]),
                    "obs_sha256": hashlib.sha256(self._obs[i].tobytes()).hexdigest(),
                },
                played[len(played) - (self._steps - self._seeded_at[i]) :, i].copy(),
            )
            for i in range(self.num_envs)
        ]

    def restore(self, env_states: list[EnvState]) -> NDArray[np.uint8]:
        states, logs = [m.state for m in env_states], [m.actions for m in env_states]
        self._seedings[:] = [state["seedings"] for state in states]
        self._scores[:] = [state["score"] for state in states]
        self._lengths[:] = [state["length"] for state in states]
        self._fire_next[:] = [state["fire_next"] for state in states]
        self._seeded_at[:] = [state["seeded_at"] for state in states]
        self._steps = int(self._seeded_at[0]) + len(logs[0])
        self._obs = self._replay(logs)
        for i, (now, state) in enumerate(zip(self._obs, states, strict=True)):
            if hashlib.sha256(now.tobytes()).hexdigest() != state["obs_sha256"]:
                raise UsageError(
                    f"environment {self._first_env + i} is not as it was saved: another version of "
                    "the emulator, or a damaged log of actions; use --new-games"
                )
        return self._obs

    def _replay(self, logs: list[NDArray[Any]]) -> NDArray[np.uint8]:
        """Replay logs of different lengths so that all end together. Returns the observations.

        An environment with a shorter log first does nothing, and is reset when its log starts.
        """
        neutral = self._controls.neutral
        if any((log.dtype, log.shape[1:]) != (neutral.dtype, neutral.shape) for log in logs):
            raise ValueError(f"saved actions are not {neutral.dtype} {neutral.shape}")
        steps = max(map(len, logs))
        waits = np.array([steps - len(log) for log in logs])
        actions = np.empty((steps, self.num_envs, *neutral.shape), neutral.dtype)
        actions[:] = neutral
        for i, log in enumerate(logs):
            actions[waits[i] :, i] = log
        self._played = []
        obs = self._seeded_reset(np.ones(self.num_envs, np.bool_))
        for t, row in enumerate(actions):
            if t > 0 and (waits == t).any():
                self._seeded_reset(waits == t)
            self._controls.check(row, self.num_envs)
            with self._watchdog.guard(row):
                obs, _, _, _, info = self._engine.step(_engine_dtype(row))
            self._played.append(row)
            self._past_frames[:] = info["frame_number"] - info["episode_frame_number"]
        if steps > 0 and (waits == steps).any():
            obs = self._seeded_reset(waits == steps)
        return obs

    def _log_step(
        self, actions: NDArray[Any], obs: NDArray[np.uint8], game_over: NDArray[np.bool_]
    ) -> NDArray[np.uint8]:
        """Log a step and reseed environments that are due. Returns the next observations."""
        if self._reseed_interval is None:
            return obs
        self._played.append(actions.astype(self._controls.neutral.dtype))
        self._steps += 1
        intervals = (self._seeded_at // self._reseed_interval, self._steps // self._reseed_interval)
        due = game_over & (intervals[0] < intervals[1])
        if not due.any():
            return obs
        self._seedings[due] += 1
        self._seeded_at[due] = self._steps
        del self._played[: len(self._played) - (self._steps - self._seeded_at.min())]
        return self._seeded_reset(due)

    def _seeded_reset(self, which: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Reset some environments from their seeds. Returns the observations of all."""
        # Without seeds the engine would use the clock, and the same seed within a second.
        with self._watchdog.guard("reset"):
            obs, info = self._engine.reset(seed=self._seeds(which), options={"reset_mask": which})
        past_frames = info["frame_number"] - info["episode_frame_number"]
        self._past_frames[which] = past_frames[which]
        return obs

    def _seeds(self, which: Any) -> NDArray[np.int64]:
        """Draw the emulator's seeds of some environments."""
        numbers = np.arange(self._first_env, self._first_env + self.num_envs)[which]
        seedings = zip(self._seedings[which].tolist(), numbers.tolist(), strict=True)
        return np.array([game_seeds(self._seed, index, 1, env)[0] for index, env in seedings])

    def close(self) -> None:
        self._watchdog.close()
        self._engine.close()


def _engine_dtype(actions: NDArray[Any]) -> NDArray[Any]:
    """Convert actions to a type that the engine accepts: fp32 or int64."""
    return actions if actions.dtype == np.float32 else actions.astype(np.int64, copy=False)


def _make_engine(  # type: ignore[no-untyped-def]
    game: str,
    num_envs: int,
    protocol: Protocol,
    num_threads: int,
    max_frames: int,
    num_frames: int,
    continuous: bool,
):
    from ale_py import ALEInterface, LoggerMode
    from ale_py.vector_env import AtariVectorEnv
    from gymnasium.vector import AutoresetMode

    from .screen import ScreenEngine, screen_library

    ALEInterface.setLoggerMode(LoggerMode.Error)
    side = SIDE  # D18
    depth = num_frames  # D20
    shown, stacked = game_info(game).screen, 1
    try:
        screen_library(shown, side)
    except UsageError:  # without native code the engine itself shrinks and stacks
        shown, stacked = (side, side), depth
    engine = AtariVectorEnv(
        game,
        num_envs,
        num_threads=num_threads,
        # The default adds one step per episode in which the action is ignored.
        autoreset_mode=AutoresetMode.SAME_STEP,
        # `episodic_life=True` would restart the game at every lost life: later lives would never
        # be played.
        life_loss_info=protocol.life_ends_episode,
        reward_clipping=False,  # scores need raw rewards
        repeat_action_probability=protocol.repeat_action_probability,
        full_action_space=protocol.full_action_space,
        continuous=continuous,
        continuous_action_threshold=THRESHOLD,
        max_num_frames_per_episode=max_frames,
        noop_max=30,  # D14
        use_fire_reset=protocol.auto_fire,  # D17
        frameskip=FRAME_SKIP,  # D15
        maxpool=True,  # D15
        img_height=shown[0],
        img_width=shown[1],
        stack_num=stacked,
    )
    return engine if shown == (side, side) else ScreenEngine(engine, shown, side, depth)
