"""Atari in plain, readable Python on ale-py's single emulator: the nine Atari details.

It is the reference that tests compare the C++ environment `Atari` with, and it has color screens
and RAM, which `Atari` has not. There are two variants: `reference` does what the wrappers of OpenAI
baselines do; `engine` does what the C++ engine does, and plays exactly the games that `Atari`
plays. docs/fidelity.md lists the differences.

The other two Atari details, the network and the scaling of pixels, are in networks/agent.py.
Legend: N environments, H is the height of the screen, 210 in most games and up to 250.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from ale_py import Action, ALEInterface, LoggerMode, roms
from numpy.typing import NDArray

from ...errors import UsageError
from ...randomness import game_seeds
from ..contract import Episode, Step, VecEnv
from .controls import action_dims, joystick_action, make_controls
from .protocols import FRAME_SHAPES, FRAME_SKIP, MAX_FRAMES, SIDE, STACK, Protocol, rules_of

NOOP_MAX = 30
Pixels = NDArray[np.uint8]


class GameVariant(NamedTuple):
    """The differences between the baselines wrappers and the C++ engine."""

    min_noops: int
    """Fewest no-ops at the start of a game; the most are 29 more."""
    fire_first: bool
    """At the start of a game FIRE is pressed for one frame and replaces the first no-op. Otherwise
    FIRE and the third action follow the no-ops, for one step each."""
    reopen_lives: bool
    """A new life starts with a no-op step and the same FIRE as a game, and clears the frame stack.
    Otherwise the game continues, and FIRE replaces the first action of the agent."""
    gray_first: bool
    """The maximum of two frames is taken of gray screens; otherwise of color screens."""
    see_last_frame: bool
    """The frame that ends a game is part of the last observation."""


GAME_VARIANTS = {
    "reference": GameVariant(
        min_noops=1, fire_first=False, reopen_lives=True, gray_first=False, see_last_frame=True
    ),
    "engine": GameVariant(
        min_noops=0, fire_first=True, reopen_lives=False, gray_first=True, see_last_frame=False
    ),
}


class ReferenceAtari(VecEnv):
    """N games of one kind, stepped one after another; see `contract.VecEnv`.

    The arguments are those of `Atari`, and `variant`, a key of `GAME_VARIANTS`.

    `screens[i]` lists the color screens [H, 160, 3] uint8 of all frames of environment i in the
    last step, up to the end of its game if it ended; after `reset`, those before the first
    observation.
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
        clip_rewards: bool = True,
        max_frames: int = MAX_FRAMES,
        modes: tuple[int, ...] | None = None,
        difficulty: int | None = None,
    ) -> None:
        if variant not in GAME_VARIANTS:
            raise UsageError(f"unknown variant {variant!r}; there are {', '.join(GAME_VARIANTS)}")
        self.num_envs = num_envs
        kind = game_class(observation)
        self.obs_shape = (num_frames, *kind.frame_shape)
        self._first_env = first_env
        self._clip_rewards = clip_rewards
        self.screens: list[list[Pixels]] = [[] for _ in range(num_envs)]
        rules = rules_of(game, protocol, action_space)
        self._life_ends_episode = rules.life_ends_episode
        limits = (max_frames, num_frames, True)
        seeds = game_seeds(seed, index, num_envs, first_env)
        own_modes = modes_of(modes, num_envs, first_env)
        self._games = [
            kind(game, int(game_seed), rules, GAME_VARIANTS[variant], *limits, mode, difficulty)
            for game_seed, mode in zip(seeds, own_modes, strict=True)
        ]
        engine_names = tuple(action.name for action in self._games[0].actions)
        self._controls = make_controls(action_space, engine_names)
        self.action_names, self.action_space = self._controls.names, action_space
        self.action_dims = action_dims(action_space, self.action_names)

    def reset(self) -> Pixels:
        for game in self._games:
            game.reseed()
            game.start_game()
        self.screens = [game.screens for game in self._games]
        return self._observe()

    def step(self, actions: NDArray[Any]) -> Step:
        actions = self._controls.to_engine(actions, self.num_envs)
        rewards = np.zeros(self.num_envs, np.float32)
        dones = np.zeros(self.num_envs, np.bool_)
        truncated = np.zeros(self.num_envs, np.bool_)
        final_obs = np.zeros((self.num_envs, *self.obs_shape), np.uint8)
        episodes: list[Episode] = []
        for i, game in enumerate(self._games):
            rewards[i] = game.step(actions[i])
            self.screens[i] = game.screens
            life_lost = game.life_lost() and self._life_ends_episode
            truncated[i] = game.ended and not game.over and not life_lost
            dones[i] = game.ended or life_lost  # D16
            final_obs[i] = game.stack
            if life_lost and not game.ended:
                game.start_life()
            if game.ended:
                episodes.append(Episode(self._first_env + i, game.score, game.length))
                game.start_game()
        if self._clip_rewards:
            rewards = np.sign(rewards)  # D19
        return Step(self._observe(), rewards, dones, truncated, final_obs, episodes)

    def close(self) -> None:
        """Do nothing: there are no resources to release."""

    def render(self) -> list[Pixels]:
        """Return the current color screens, [H, 160, 3] each."""
        return [game.render() for game in self._games]

    @property
    def played(self) -> list[str]:
        """The names of the actions of the last step, with FIRE where it replaced one."""
        return [game.played.name for game in self._games]

    @property
    def scores(self) -> list[float]:
        """The sums of raw rewards of the current games."""
        return [game.score for game in self._games]

    def _observe(self) -> Pixels:
        return np.stack([game.stack for game in self._games])


class Game:
    """One emulator and the state of its game; `stack` has the last observed frames.

    keep_screens: whether `screens` lists the color screens of all frames.
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
        keep_screens: bool = True,
        mode: int | None = None,
        difficulty: int | None = None,
    ) -> None:
        rom = roms.get_rom_path(game)
        if rom is None:
            raise UsageError(f"unknown game {game!r}; `ppo37 games` lists all")
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self._rom, self._seed, self._fresh = rom, seed, False
        self._keep_screens = keep_screens
        self._mode, self._difficulty = mode, difficulty
        self._variant = variant
        self._max_frames = max_frames
        self._num_frames = num_frames
        self._ale = ALEInterface()
        self._ale.setFloat("repeat_action_probability", protocol.repeat_action_probability)
        self.reseed(seed)
        full = protocol.full_action_space
        self.actions = self._ale.getLegalActionSet() if full else self._ale.getMinimalActionSet()
        fire = protocol.auto_fire and Action.FIRE in self.actions
        self._fire_first = fire and variant.fire_first
        self.played = Action.NOOP
        self._opening = (Action.FIRE, self.actions[2]) if fire and not variant.fire_first else ()

    def reseed(self, seed: int | None = None) -> None:
        """Reset all state, so that only the seed determines what follows; None keeps the seed."""
        seed = self._seed if seed is None else seed
        if self._fresh and seed == self._seed:
            return
        self._seed = seed
        self._ale.setInt("random_seed", self._seed)
        self._ale.loadROM(self._rom)  # the seed takes effect only here
        if self._mode is not None:  # takes effect when the next game starts
            self._ale.setMode(self._mode)
        if self._difficulty is not None:
            self._ale.setDifficulty(self._difficulty)
        self._random = np.random.RandomState(self._seed)  # the Mersenne Twister of the engine
        self._fresh = True

    def start_game(self) -> None:
        """Start a new game: no-ops, so that games differ, and FIRE where a game needs it."""
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
        self._frames = 0  # `max_frames` counts from here
        last = self._screen()
        self._pool = [last, np.zeros_like(last)]
        self._play_opening(self._opening)

    def start_life(self) -> None:
        """Continue with the next life; the game may end during this, as in a step."""
        if self._variant.reopen_lives:
            self._play_opening((Action.NOOP, *self._opening))  # D17
        else:
            self._fire_next = self._fire_first

    def step(self, action: NDArray[Any]) -> float:
        """Play one agent step, with an index (0-d) or a continuous action [3].

        Returns the sum of its raw rewards.
        """
        self.screens = []
        self.length += 1
        self.played, strength = self._chosen(action)
        if self._fire_next:
            self.played = Action.FIRE
        reward = self._play(self.played, strength)
        self._fire_next = False
        self._push()
        return reward

    def _chosen(self, action: NDArray[Any]) -> tuple[Action, float]:
        """Return the emulator's action and a paddle's speed."""
        if action.ndim == 0:
            return self.actions[int(action)], 1.0
        name, strength = joystick_action(action)
        return Action.__members__[name], strength

    def life_lost(self) -> bool:
        """Return whether a life was lost since the last call, but not the last life.

        Some games show 0 lives while the last one is being played.
        """
        before, self._lives = self._lives, int(self._ale.lives())
        return 0 < self._lives < before

    @property
    def over(self) -> bool:
        return bool(self._ale.game_over())

    @property
    def ended(self) -> bool:
        """True if the game is over or has reached `max_frames`."""
        return self.over or self._frames >= self._max_frames

    @property
    def frame_numbers(self) -> tuple[int, int]:
        """The frames since the ROM was loaded, and those of this game."""
        return self._ale.getFrameNumber(), self._ale.getEpisodeFrameNumber()

    def render(self) -> Pixels:
        """Return the current color screen [H, 160, 3]."""
        return np.asarray(self._ale.getScreenRGB())

    def _play_opening(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            self._play(action)
        self.stack = np.zeros((self._num_frames, *self.frame_shape), np.uint8)
        self._push()
        self._lives = self._ale.lives()

    def _play(self, action: Action, strength: float = 1.0) -> float:
        """Repeat the action for four frames, fewer if the game ends, and keep the last two."""
        reward = 0.0
        for frame in range(FRAME_SKIP):  # D15
            reward += self._act(action, strength)
            ended = self.ended
            if frame >= FRAME_SKIP - 2 and (self._variant.see_last_frame or not ended):
                self._pool[frame - FRAME_SKIP + 2] = self._screen()
            if ended:
                break
        self.score += reward
        return reward

    def _act(self, action: Action, strength: float = 1.0) -> int:
        reward = self._ale.act(action, strength)
        self._frames += 1
        if self._keep_screens:
            self.screens.append(self._ale.getScreenRGB())
        return int(reward)

    def _screen(self) -> Pixels:
        gray_first = self._variant.gray_first
        return self._ale.getScreenGrayscale() if gray_first else self._ale.getScreenRGB()

    def _push(self) -> None:
        self.stack = np.concatenate([self.stack[1:], self._frame()[np.newaxis]])  # D20

    def _frame(self) -> Pixels:
        """Compute the frame that the last step adds to the observation."""
        pooled = np.maximum(*self._pool)  # D15
        self._pool[1] = pooled  # used again only if the next step ends early
        return shrink(pooled if self._variant.gray_first else grayscale(pooled))


class RamGame(Game):
    """A game with RAM observations: the console's 128 bytes after each step."""

    frame_shape: tuple[int, ...] = FRAME_SHAPES["ram"]

    def _screen(self) -> Pixels:
        return self._ale.getRAM()

    def _frame(self) -> Pixels:
        return self._ale.getRAM()


def game_class(observation: str) -> type[Game]:
    """Return the class of games with these observations: `pixels` or `ram`."""
    return RamGame if observation == "ram" else Game


def modes_of(modes: tuple[int, ...] | None, num_envs: int, first_env: int) -> list[int | None]:
    """Return the mode of each environment: those of `modes` in turn; None for the game's own."""
    if not modes:
        return [None] * num_envs
    return [modes[env % len(modes)] for env in range(first_env, first_env + num_envs)]


def draw(random: np.random.RandomState, count: int) -> int:
    """Draw an integer from 0..count-1, by Lemire's multiplication of one 32-bit draw.

    GNU's `std::uniform_int_distribution` does the same, so these are the engine's no-ops. Its
    rejection of one draw in 2^28 is left out.
    """
    return int(random.randint(2**32, dtype=np.uint32)) * count >> 32


def grayscale(screen: Pixels) -> Pixels:
    """Compute the brightness [H, W] of colors [H, W, 3]: ITU-R BT.601 weights in 15 bits."""
    red, green, blue = np.moveaxis(screen.astype(np.int32), -1, 0)
    return ((9798 * red + 19235 * green + 3735 * blue + 2**14) >> 15).astype(np.uint8)


def shrink(screen: Pixels) -> Pixels:
    """Shrink a screen [H, W] to [84, 84]: each new pixel is the mean of the area that it covers.

    The order of the fp32 sums, columns before rows, is that of the engine: exact halves are common,
    and rounding errors decide which way they are rounded.
    """
    height, width = screen.shape
    columns, column_weights = overlaps(width)
    rows, row_weights = overlaps(height)
    narrow = sum(screen[:, i] * w for i, w in zip(columns, column_weights, strict=True))
    small = sum(narrow[i] * w[:, None] for i, w in zip(rows, row_weights, strict=True))
    return np.rint(small).astype(np.uint8)  # D18


@lru_cache(maxsize=8)
def overlaps(length: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the old pixels, of `length`, that each of the 84 new ones covers.

    Indices and weights [K, 84]; the weights of a new pixel sum to 1, and some are 0 where it covers
    fewer than K old ones.
    """
    # In units of 1/84 old pixel all bounds are integers.
    start = np.arange(SIDE) * length
    first = start // SIDE
    most = max(-(-(start + length) // SIDE) - first)
    old = first + np.arange(most)[:, np.newaxis]
    overlap = np.minimum((old + 1) * SIDE, start + length) - np.maximum(old * SIDE, start)
    weights = (np.maximum(overlap, 0) / length).astype(np.float32)
    return np.minimum(old, length - 1), weights
