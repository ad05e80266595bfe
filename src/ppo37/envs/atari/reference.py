"""Atari in plain Python over the single emulator: the nine Atari details, readable.

It has two uses. It is the oracle that the C++ environment `Atari` is compared with, and it gives
the real colour screens and the console's memory, which the C++ environment cannot. It plays in
one of two variants: `reference` does what OpenAI baselines' wrappers do; `engine` does what the
C++ engine does instead, and then plays the very games that `Atari` plays. docs/fidelity.md has
the differences.

The other two Atari details, the network and the scaling of pixels, are in networks/agent.py.
Legend: H is the height of the screen, 210 in most games and up to 250.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from ale_py import Action, ALEInterface, LoggerMode, roms
from numpy.typing import NDArray

from ...errors import UsageError
from ...randomness import game_seeds
from ..contract import Episode, Step, VecEnv
from .controls import make_controls, stick
from .protocols import FRAME_SHAPES, FRAME_SKIP, MAX_FRAMES, SIDE, STACK, Protocol, rules_of

NOOP_MAX = 30
Pixels = NDArray[np.uint8]


class GameVariant(NamedTuple):
    """Where the two ways to play the same details part."""

    min_noops: int
    """The fewest no-ops that open a game; the most are 29 more."""
    fire_first: bool
    """FIRE opens a game for one frame, the first of the no-ops. Otherwise FIRE and then the
    third action open it after the no-ops, each for a whole step."""
    reopen_lives: bool
    """A new life opens with a no-op step and what opens a game, and empties the frame stack.
    Otherwise it goes on, its first action being FIRE whatever the agent chose."""
    grey_first: bool
    """The maximum of two frames is taken of grey screens, otherwise of coloured ones."""
    see_last_frame: bool
    """The frame that ends a game is still looked at."""


GAME_VARIANTS = {
    "reference": GameVariant(
        min_noops=1, fire_first=False, reopen_lives=True, grey_first=False, see_last_frame=True
    ),
    "engine": GameVariant(
        min_noops=0, fire_first=True, reopen_lives=False, grey_first=True, see_last_frame=False
    ),
}


class ReferenceAtari(VecEnv):
    """N games of one kind, stepped one after another; see `contract.VecEnv`.

    Arguments mean the same as for `Atari`. `variant` is a key of `GAME_VARIANTS`. Rewards are
    always signs.

    `screens[i]` lists the colour screens [H, 160, 3] uint8 of every frame that environment i
    played in the last step, up to the end of its game if it ended; after `reset` those that
    opened the game.
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
        variant: str = "reference",
        action_space: str = "discrete",
        observation: str = "pixels",
        num_frames: int = STACK,
        max_frames: int = MAX_FRAMES,
    ) -> None:
        if variant not in GAME_VARIANTS:
            raise UsageError(f"unknown variant {variant!r}; there are {', '.join(GAME_VARIANTS)}")
        self.num_envs = num_envs
        kind = RamGame if observation == "ram" else Game
        self.obs_shape = (num_frames, *kind.frame_shape)
        self._first_env = first_env
        self.screens: list[list[Pixels]] = [[] for _ in range(num_envs)]
        rules = rules_of(game, protocol, action_space)
        self._life_ends_episode = rules.life_ends_episode
        self._games = [
            kind(game, int(game_seed), rules, GAME_VARIANTS[variant], max_frames, num_frames)
            for game_seed in game_seeds(seed, index, num_envs, first_env)
        ]
        engine_names = tuple(action.name for action in self._games[0].actions)
        self._controls = make_controls(action_space, engine_names)
        self.action_names = self._controls.names

    def reset(self) -> Pixels:
        for game in self._games:
            game.rewind()
            game.begin()
        self.screens = [game.screens for game in self._games]
        return self._observe()

    def step(self, actions: NDArray[Any]) -> Step:
        pressed = self._controls.press(actions, self.num_envs)
        rewards = np.zeros(self.num_envs, np.float32)
        dones = np.zeros(self.num_envs, np.bool_)
        truncated = np.zeros(self.num_envs, np.bool_)
        final_obs = np.zeros((self.num_envs, *self.obs_shape), np.uint8)
        episodes: list[Episode] = []
        for i, game in enumerate(self._games):
            rewards[i] = game.step(pressed[i])
            self.screens[i] = game.screens
            life_lost = game.count_lives() and self._life_ends_episode
            truncated[i] = game.ended and not game.over and not life_lost
            dones[i] = game.ended or life_lost  # D16
            final_obs[i] = game.stack
            if life_lost and not game.ended:
                game.begin_life()
            if game.ended:
                episodes.append(Episode(self._first_env + i, game.score, game.length))
                game.begin()
        clipped = np.sign(rewards)  # D19
        return Step(self._observe(), clipped, dones, truncated, final_obs, episodes)

    def close(self) -> None:
        """Nothing to free."""

    @property
    def played(self) -> list[str]:
        """The actions of the last step as they were played: FIRE where it was pressed instead."""
        return [game.played.name for game in self._games]

    @property
    def scores(self) -> list[float]:
        """The sums of the raw rewards of the games being played."""
        return [game.score for game in self._games]

    def _observe(self) -> Pixels:
        return np.stack([game.stack for game in self._games])


class Game:
    """One emulator with what is remembered of its game; `stack` holds the last frames seen.

    film: keep the colour screens of every frame.
    """

    frame_shape: tuple[int, ...] = FRAME_SHAPES["pixels"]

    def __init__(
        self,
        game: str,
        seed: int,
        protocol: Protocol,
        variant: GameVariant,
        max_frames: int,
        num_frames: int,
        film: bool = True,
    ) -> None:
        rom = roms.get_rom_path(game)
        if rom is None:
            raise UsageError(f"unknown game {game!r}; `ppo37 games` lists them all")
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self._rom, self._seed, self._fresh = rom, seed, False
        self._film = film
        self._variant = variant
        self._max_frames = max_frames
        self._num_frames = num_frames
        self._ale = ALEInterface()
        self._ale.setFloat("repeat_action_probability", protocol.repeat_action_probability)
        self.rewind(seed)
        full = protocol.full_action_space
        self.actions = self._ale.getLegalActionSet() if full else self._ale.getMinimalActionSet()
        fire = protocol.auto_fire and Action.FIRE in self.actions
        self._fire_first = fire and variant.fire_first
        self.played = Action.NOOP
        self._opening = (Action.FIRE, self.actions[2]) if fire and not variant.fire_first else ()

    def rewind(self, seed: int | None = None) -> None:
        """Go back to where only the seed determines what comes; None: the seed of before."""
        seed = self._seed if seed is None else seed
        if self._fresh and seed == self._seed:
            return
        self._seed = seed
        self._ale.setInt("random_seed", self._seed)
        self._ale.loadROM(self._rom)  # the seed takes effect only here
        self._random = np.random.RandomState(self._seed)  # the Mersenne Twister of the engine
        self._fresh = True

    def begin(self) -> None:
        """Start a new game: no-ops so that games differ, and FIRE where it has to be pressed."""
        self.score, self.length, self._frames, self._lives = 0.0, 0, 0, 0
        self.screens: list[Pixels] = []
        self._fire_next = self._fresh = False
        self._ale.reset_game()
        noops = self._variant.min_noops + draw(self._random, NOOP_MAX)
        if self._fire_first:
            self._act(Action.FIRE)  # D17
            noops -= 1
        for _ in range(noops):
            self._act(Action.NOOP)  # D14
            if self._ale.game_over():
                self._ale.reset_game()
        self._frames = 0  # the limit counts from here
        last = self._look()
        self._pool = [last, np.zeros_like(last)]
        self._open(self._opening)

    def begin_life(self) -> None:
        """Go on with the next life; as in a step, the game may end meanwhile."""
        if self._variant.reopen_lives:
            self._open((Action.NOOP, *self._opening))  # D17
        else:
            self._fire_next = self._fire_first

    def step(self, pressed: NDArray[Any]) -> float:
        """Play one agent step, a number or a continuous action; the sum of its raw rewards."""
        self.screens = []
        self.length += 1
        self.played, strength = self._chosen(pressed)
        if self._fire_next:
            self.played = Action.FIRE
        reward = self._play(self.played, strength)
        self._fire_next = False
        self._push()
        return reward

    def _chosen(self, pressed: NDArray[Any]) -> tuple[Action, float]:
        """The action to play and how fast a paddle moves."""
        if pressed.ndim == 0:
            return self.actions[int(pressed)], 1.0
        name, strength = stick(pressed)
        return Action.__members__[name], strength

    def count_lives(self) -> bool:
        """Whether a life was lost since the last count, but not the last one.

        Some games show no lives while the last one is being played.
        """
        before, self._lives = self._lives, int(self._ale.lives())
        return 0 < self._lives < before

    @property
    def over(self) -> bool:
        return bool(self._ale.game_over())

    @property
    def ended(self) -> bool:
        return self.over or self._frames >= self._max_frames

    @property
    def frame_numbers(self) -> tuple[int, int]:
        """Frames played since the emulator was loaded, and in this game."""
        return self._ale.getFrameNumber(), self._ale.getEpisodeFrameNumber()

    def _open(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            self._play(action)
        self.stack = np.zeros((self._num_frames, *self.frame_shape), np.uint8)
        self._push()
        self._lives = self._ale.lives()

    def _play(self, action: Action, strength: float = 1.0) -> float:
        """Hold the action for four frames, fewer if the game ends; look at the last two."""
        reward = 0.0
        for frame in range(FRAME_SKIP):  # D15
            reward += self._act(action, strength)
            ended = self.ended
            if frame >= FRAME_SKIP - 2 and (self._variant.see_last_frame or not ended):
                self._pool[frame - FRAME_SKIP + 2] = self._look()
            if ended:
                break
        self.score += reward
        return reward

    def _act(self, action: Action, strength: float = 1.0) -> int:
        reward = self._ale.act(action, strength)
        self._frames += 1
        if self._film:
            self.screens.append(self._ale.getScreenRGB())
        return int(reward)

    def _look(self) -> Pixels:
        grey_first = self._variant.grey_first
        return self._ale.getScreenGrayscale() if grey_first else self._ale.getScreenRGB()

    def _push(self) -> None:
        self.stack = np.concatenate([self.stack[1:], self._frame()[np.newaxis]])  # D20

    def _frame(self) -> Pixels:
        """What an agent sees of the last step."""
        pooled = np.maximum(*self._pool)  # D15
        self._pool[1] = pooled  # seen again only if the next step ends early
        return shrink(pooled if self._variant.grey_first else grayscale(pooled))


class RamGame(Game):
    """A game of which the 128 bytes of the console's memory are seen, as they are after a step."""

    frame_shape: tuple[int, ...] = FRAME_SHAPES["ram"]

    def _look(self) -> Pixels:
        return self._ale.getRAM()

    def _frame(self) -> Pixels:
        return self._ale.getRAM()


def draw(random: np.random.RandomState, count: int) -> int:
    """A draw from 0..count-1, by Lemire's multiplication of one 32-bit draw.

    GNU's `std::uniform_int_distribution` does the same, so the engine's no-ops can be foretold.
    Its rejection of one draw in 2^28 is left out.
    """
    return int(random.randint(2**32, dtype=np.uint32)) * count >> 32


def grayscale(screen: Pixels) -> Pixels:
    """The brightness [H, W] of colours [H, W, 3]: ITU-R BT.601 weights in 15 bits."""
    red, green, blue = np.moveaxis(screen.astype(np.int32), -1, 0)
    return ((9798 * red + 19235 * green + 3735 * blue + 2**14) >> 15).astype(np.uint8)


def shrink(screen: Pixels) -> Pixels:
    """A screen [H, W] averaged down to [84, 84]: each new pixel is the mean of the area it covers.

    Sums in 32 bits and in this order, columns before rows: exact halves are common, and the
    engine's resize rounds them by the error of its sums.
    """
    height, width = screen.shape
    columns, column_shares = overlaps(width)
    rows, row_shares = overlaps(height)
    narrow = sum(screen[:, i] * share for i, share in zip(columns, column_shares, strict=True))
    small = sum(narrow[i] * share[:, None] for i, share in zip(rows, row_shares, strict=True))
    return np.rint(small).astype(np.uint8)  # D18


@lru_cache(maxsize=8)
def overlaps(length: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which of `length` old pixels each of the 84 new ones covers: indices and shares [K, 84].

    The shares of a new pixel sum to 1; where it covers fewer than K old ones, some are 0.
    """
    # In units of 1/84 old pixel all bounds are whole numbers.
    start = np.arange(SIDE) * length
    first = start // SIDE
    most = max(-(-(start + length) // SIDE) - first)
    old = first + np.arange(most)[:, np.newaxis]
    overlap = np.minimum((old + 1) * SIDE, start + length) - np.maximum(old * SIDE, start)
    shares = (np.maximum(overlap, 0) / length).astype(np.float32)
    return np.minimum(old, length - 1), shares
