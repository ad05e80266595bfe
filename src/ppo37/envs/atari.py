"""Atari on ale-py's C++ vector environment, with the reference's meaning of an episode.

The engine is used against its defaults, each for a reason told where it happens; what it does
differently from the Python wrappers of the reference is listed in docs/fidelity.md.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..randomness import game_seeds
from .contract import Episode, Step, VecEnv, check_actions
from .watchdog import Watchdog

FRAME_SKIP = 4
STACK = 4
SIDE = 84
MAX_FRAMES = 108_000
"""Thirty minutes of play at 60 Hz: the cap that all published scores share."""


class Protocol(NamedTuple):
    """How a game is played; the two that the literature compares.

    `life_ends_episode`: a lost life ends the learning episode while the game goes on (D16).
    `auto_fire`: FIRE is pressed at the start of a game and of a life (D17).
    """

    repeat_action_probability: float
    full_action_space: bool
    life_ends_episode: bool
    auto_fire: bool


PROTOCOLS = {
    "classic": Protocol(0.0, False, life_ends_episode=True, auto_fire=True),
    "machado": Protocol(0.25, True, life_ends_episode=False, auto_fire=False),
}


def protocol_named(name: str) -> Protocol:
    """UsageError if there is no such protocol."""
    if name not in PROTOCOLS:
        raise UsageError(f"unknown protocol {name!r}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


class Atari(VecEnv):
    """N games of one kind, stepped by C++ threads; see `contract.VecEnv`.

    Observations: the last 4 frames, [N, 4, 84, 84] uint8 (D18, D20). Environment i is seeded by
    (seed, index, first_env + i) alone, `index` telling one seeding from the next. A game is cut
    off after `max_frames`, counted from its first observation.
    """

    obs_shape: tuple[int, ...] = (STACK, SIDE, SIDE)

    def __init__(
        self,
        game: str,
        num_envs: int,
        seed: int,
        protocol: str = "classic",
        *,
        first_env: int = 0,
        index: int = 0,
        num_threads: int = 0,
        max_frames: int = MAX_FRAMES,
        watchdog_s: float = 60.0,
    ) -> None:
        self.num_envs = num_envs
        self._first_env = first_env
        self._protocol = protocol_named(protocol)
        self._seeds = game_seeds(seed, index, num_envs, first_env)
        self._engine = _make_engine(game, num_envs, self._protocol, num_threads, max_frames)
        self.action_names = tuple(a.name for a in self._engine.ale.get_action_set())
        self._fire = self.action_names.index("FIRE") if "FIRE" in self.action_names else None
        self._fire_next = np.zeros(num_envs, np.bool_)
        self._past_frames = np.zeros(num_envs, np.int64)
        self._scores = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, np.int64)
        self._watchdog = Watchdog(
            watchdog_s, f"{game}, environments {first_env}..{first_env + num_envs - 1}, "
            f"seeds {self._seeds.tolist()}"
        )  # fmt: skip

    def reset(self) -> NDArray[np.uint8]:
        # Without seeds every game would be seeded by the clock, and in the same second alike.
        obs, info = self._engine.reset(seed=self._seeds)
        self._past_frames[:] = info["frame_number"] - info["episode_frame_number"]
        self._fire_next[:] = False
        self._scores[:] = 0
        self._lengths[:] = 0
        return obs

    def step(self, actions: NDArray[np.int64]) -> Step:
        check_actions(actions, self.num_envs, len(self.action_names))
        if self._fire is not None:
            actions = np.where(self._fire_next, self._fire, actions)  # D17
        with self._watchdog.guard(actions):
            obs, rewards, terminated, truncated, info = self._engine.step(actions)

        # A row marked as ended is a lost life or the end of a game, which the engine does not
        # tell apart. Only at the end of a game do its frames join those of past games.
        ended = terminated | truncated
        past_frames = info["frame_number"] - info["episode_frame_number"]
        game_over = past_frames != self._past_frames
        self._past_frames[:] = past_frames
        self._fire_next = ended & ~game_over & self._protocol.auto_fire

        self._scores += rewards
        self._lengths += 1
        episodes = [
            Episode(self._first_env + int(i), float(self._scores[i]), int(self._lengths[i]))
            for i in np.flatnonzero(game_over)
        ]
        self._scores[game_over] = 0
        self._lengths[game_over] = 0

        dones = ended if self._protocol.life_ends_episode else game_over  # D16
        clipped = np.sign(rewards).astype(np.float32)  # D19
        final_obs = info.get("final_obs", obs)
        return Step(obs, clipped, dones, truncated & game_over, final_obs, episodes)

    def close(self) -> None:
        self._watchdog.close()
        self._engine.close()


def _make_engine(  # type: ignore[no-untyped-def]
    game: str, num_envs: int, protocol: Protocol, num_threads: int, max_frames: int
):
    from ale_py import ALEInterface, LoggerMode
    from ale_py.vector_env import AtariVectorEnv
    from gymnasium.vector import AutoresetMode

    ALEInterface.setLoggerMode(LoggerMode.Error)
    return AtariVectorEnv(
        game,
        num_envs,
        num_threads=num_threads,
        # The default adds a row per episode in which the action is ignored.
        autoreset_mode=AutoresetMode.SAME_STEP,
        # `episodic_life=True` would restart the whole game at a lost life, so that later
        # lives are never seen.
        life_loss_info=protocol.life_ends_episode,
        reward_clipping=False,  # the raw reward would be lost
        repeat_action_probability=protocol.repeat_action_probability,
        full_action_space=protocol.full_action_space,
        max_num_frames_per_episode=max_frames,
        noop_max=30,  # D14
        use_fire_reset=protocol.auto_fire,
        frameskip=FRAME_SKIP,  # D15
        maxpool=True,
        img_height=SIDE,
        img_width=SIDE,
        stack_num=STACK,
    )
