"""The variant `reference` of the Python environment against the wrappers of a peer library.

Needs the extra `bench`, for Stable-Baselines3 and OpenCV.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ppo37.envs.atari.reference import NOOP_MAX, ReferenceAtari, draw, grayscale, shrink
from ppo37.randomness import game_seeds

gymnasium = pytest.importorskip("gymnasium")
wrappers = pytest.importorskip("stable_baselines3.common.atari_wrappers")
cv2 = pytest.importorskip("cv2")
STEPS = 600


class Peer:
    """A game in the peer's wrappers that restarts by itself, with a stack of frames."""

    def __init__(self, game_id: str, seed: int) -> None:
        self._env = wrappers.AtariWrapper(gymnasium.make(f"ale_py:{game_id}NoFrameskip-v4"))
        self._env.reset(seed=seed)
        rng = np.random.RandomState(seed)
        self._env.unwrapped._np_random = SimpleNamespace(
            integers=lambda low, high: low + draw(rng, high - low)
        )
        inner = self._env
        while not isinstance(inner, wrappers.EpisodicLifeEnv):
            inner = inner.env
        inner.was_real_done = True  # start a game, not a life
        self._restart()

    def _restart(self) -> None:
        self.stack = np.zeros((4, 84, 84), np.uint8)
        self._push(self._env.reset()[0])

    def _push(self, frame: Any) -> None:
        self.stack = np.concatenate([self.stack[1:], frame[np.newaxis, :, :, 0]])

    def step(self, action: int) -> tuple[float, bool]:
        frame, reward, terminated, truncated, _ = self._env.step(action)
        self._push(frame)
        if terminated or truncated:
            self._restart()
        return float(reward), bool(terminated or truncated)


@pytest.mark.parametrize(
    ("game", "game_id"),
    [
        ("pong", "Pong"),
        ("breakout", "Breakout"),
        ("space_invaders", "SpaceInvaders"),
        ("qbert", "Qbert"),
        ("seaquest", "Seaquest"),
        ("ms_pacman", "MsPacman"),
    ],
)
def test_the_reference_plays_as_the_wrappers_do(game: str, game_id: str) -> None:
    envs = ReferenceAtari(game, 1, seed=5, variant="reference")
    peer = Peer(game_id, int(game_seeds(5, 0, 1)[0]))
    obs = envs.reset()
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(STEPS):
        off = np.abs(obs[0].astype(int) - peer.stack)
        assert off.max() <= 1  # rounding of gray values and of the resize
        assert (off > 0).mean() < 0.02
        action = int(rng.integers(len(envs.action_names)))
        step = envs.step(np.array([action]))
        assert (float(step.rewards[0]), bool(step.dones[0])) == peer.step(action)
        ends += int(step.dones[0])
        obs = step.obs
    assert game == "pong" or ends > 1
    assert NOOP_MAX == 30


def test_gray_and_resize_are_those_of_opencv() -> None:
    rng = np.random.default_rng(0)
    for height in (210, 230, 250):
        screen = rng.integers(0, 256, (height, 160, 3), np.uint8)
        gray = grayscale(screen)
        theirs = cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY)
        assert np.abs(gray.astype(int) - theirs).max() <= 1
        small = cv2.resize(theirs, (84, 84), interpolation=cv2.INTER_AREA)
        assert np.abs(shrink(theirs).astype(int) - small).max() <= 1
