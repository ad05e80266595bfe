"""Environments of Gymnasium: an adapter from its vector environments to `VecEnv`.

Every episode starts from its own seed, a function of the seed of the run, the number of the
environment and the number of the episode. So an episode is a function of its seed and its actions,
and is restored by replaying them; see `Gymnasium.save`.

Legend: N environments.
"""

import hashlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from ..errors import RunError, UsageError
from ..randomness import ACTIONS, GAMES, generator
from .checked import LARGEST_FP32
from .contract import EnvState, Episode, Step, VecEnv, called, close_or_warn
from .single import Env, Observed, Scores
from .spaces import Actions, actions_of, observations_of

MASK = "action_mask"
"""The key of the mask of legal actions in `info`."""
HASHED_BYTES = 1024
"""Larger observations are not hashed in every step; of these only the last one is hashed."""
CHECK_SEEDS, CHECK_STEPS = 10, 8
"""Number of seeds, and steps of each, in the trial whether episodes can be replayed."""


class Tried(NamedTuple):
    """Facts about environments, found by a trial of some steps.

    exact: whether a seed gives the same episode again.  masked: whether they give masks of legal
    actions.  outside: a description of a number outside its space; empty if there was none.
    """

    exact: bool
    masked: bool
    outside: str


class Gymnasium(VecEnv):
    """N environments of Gymnasium, stepped one after the other.

    Observations, actions and masks are converted as `spaces.py` describes. An episode restarts in
    the step that ends it. Rewards are those of the environment; a game's score is the sum of the
    rewards below the user's wrappers.
    """

    def __init__(
        self,
        make: Callable[[], tuple[Env, Scores]],
        num_envs: int,
        seed: int,
        *,
        first_env: int = 0,
        index: int = 0,
        channels: str = "auto",
        tried: Tried | None = None,
    ) -> None:
        """Make the environments.

        make: makes one, with all wrappers, and its `Scores`.  channels: see `observations_of`.
        tried: the result of an earlier trial; None makes a new one.
        UsageError for spaces that are not supported.
        """
        made = [make() for _ in range(num_envs)]
        self._singles = [Observed(env) for env, _ in made]
        self._scores = [scores for _, scores in made]
        self._first_env, self._seeding = first_env, (seed, index)
        self.num_envs = num_envs
        self.name = str(self._singles[0].unwrapped)
        try:
            self._observe = observations_of(self._singles[0].observation_space, channels)
            self._actions = actions_of(self._singles[0].action_space)
        except UsageError as error:
            raise UsageError(f"{self.name}: {error}") from error
        try:
            self._envs = SyncVectorEnv(
                [partial(_same, env) for env in self._singles],
                copy=False,
                autoreset_mode=AutoresetMode.DISABLED,
            )
        except RuntimeError as error:  # spaces that differ between environments
            raise UsageError(f"the environments {self.name} have different spaces") from error
        self.action_names, self.action_space = self._actions.names, self._actions.kind
        self.action_dims = self._dims = self._actions.dims
        self.obs_shape = self.view_shape = self._observe.shape
        self.obs_dtype = self._observe.dtype
        self.metadata = self._singles[0].metadata
        self._renders = self._singles[0].render_mode == "rgb_array"
        self.final_images: dict[int, NDArray[np.uint8]] = {}
        """The last images of the episodes that ended in the last step, by environment."""
        self.tried = tried or self._try(make)
        self.exact = self.tried.exact
        self._masked = self.tried.masked and self.action_space != "continuous"
        if self._masked:
            self.obs_shape = (math.prod(self.view_shape) + sum(self._dims),)
        self._masks = np.ones((num_envs, sum(self._dims)), np.bool_)
        self._episodes = np.zeros(num_envs, np.int64)
        self._lengths = np.zeros(num_envs, np.int64)
        self._logs: list[list[NDArray[Any]]] = [[] for _ in range(num_envs)]
        # Hashes of all observations and rewards of the episodes in progress.
        self._digests = [hashlib.sha256() for _ in range(num_envs)]
        self._obs: NDArray[Any] = np.zeros((num_envs, *self.obs_shape), self.obs_dtype)

    @property
    def text(self) -> str:
        """The choices that were made, for the user."""
        found = [f"observations: {self._observe.text}"]
        if self.tried.outside:
            found.append(self.tried.outside)
        if self._masked:
            found.append("illegal actions are masked")
        if not self.exact:
            found.append("episodes cannot be replayed, so a resumed run starts new ones")
        return "; ".join(found)

    def reset(self) -> NDArray[Any]:
        self._start_at(np.zeros(self.num_envs, np.int64))
        return self._obs.copy()

    def step(self, actions: NDArray[Any]) -> Step:
        converted = self._actions.convert(actions)
        obs, rewards, terminated, truncated, infos = called(
            "step", self.name, self._envs.step, converted
        )
        self._lengths += 1
        dones = terminated | truncated
        if self.exact:
            for env, action in enumerate(actions.copy()):  # the caller may reuse its array
                self._logs[env].append(action)
        self._read_masks(infos, ~dones)
        final_obs = self._obs = self._observed(obs)
        if self.exact:
            for digest, row in zip(self._digests, _bytes(self._obs, rewards), strict=True):
                digest.update(row)
        truncated = truncated & ~terminated
        games = list[Episode]()
        self.final_images = {}
        if dones.any():
            if self._renders:
                self.final_images = {
                    int(env): self._image(int(env)) for env in np.flatnonzero(dones)
                }
            self._episodes[dones] += 1
            self._start(dones)
            games = self._games(dones)
        learned: NDArray[Any] = rewards
        if np.abs(rewards).max() <= LARGEST_FP32:  # `Checked` refuses others
            learned = rewards.astype(np.float32)
        return Step(self._obs, learned, dones, truncated, final_obs, games)

    def save(self) -> list[EnvState]:
        """Return the number and the actions of each environment's episode, to be replayed.

        The list is empty if the environments are not `exact`: their episodes are not a function of
        the seed and the actions, for example because a wrapper keeps something across episodes.
        """
        if not self.exact:
            return []
        return [
            EnvState(
                {"episode": int(self._episodes[env]), "sha256": self._hash(env)},
                self._log_of(env),
            )
            for env in range(self.num_envs)
        ]

    def restore(self, env_states: list[EnvState]) -> NDArray[Any]:
        self._start_at(np.array([each.state["episode"] for each in env_states], np.int64))
        for env, (state, actions) in enumerate(env_states):
            self._replay(env, actions)
            if self._hash(env) != state["sha256"]:
                raise UsageError(
                    f"environment {self._first_env + env}, {self.name}, does not replay its "
                    "episode: it has changed, is not deterministic, or keeps something from "
                    "earlier episodes; use --new-games"
                )
        return self._obs.copy()

    def render(self) -> list[NDArray[np.uint8]]:
        """Return an image [H, W, 3] of each environment; they need `render_mode` "rgb_array"."""
        return [self._image(env) for env in range(self.num_envs)]

    def _image(self, env: int) -> NDArray[np.uint8]:
        image: NDArray[Any] = np.asarray(called("render", self.name, self._singles[env].render))
        if image.dtype.kind == "f" and image.size and image.min() >= 0.0 and image.max() <= 1.0:
            return (255 * image).astype(np.uint8)  # as MinAtar draws
        return image

    @property
    def scores(self) -> list[float]:
        """The scores of the games in progress."""
        return [scores.score for scores in self._scores]

    def close(self) -> None:
        if not self._envs.closed:
            for single in self._singles:
                close_or_warn(single, self.name)
            self._envs.closed = True

    def _start_at(self, episodes: NDArray[np.int64]) -> None:
        """Start the episodes with these numbers [N] in all environments, and new games."""
        self._episodes = episodes
        self._start(np.ones(self.num_envs, np.bool_))
        self._lengths[:] = 0
        for scores in self._scores:
            scores.ended.clear()

    def _start(self, which: NDArray[np.bool_]) -> None:
        """Start an episode in some environments."""
        seeds = [self._seed(env) if starts else None for env, starts in enumerate(which)]
        obs, infos = called(
            "reset", self.name, self._envs.reset, seed=seeds, options={"reset_mask": which}
        )
        self._read_masks(infos, which)
        for env in np.flatnonzero(which):
            self._logs[env] = []
        self._obs = self._observed(obs)
        for env in np.flatnonzero(which):
            self._digests[env] = hashlib.sha256()
            self._digests[env].update(_bytes(self._obs[env : env + 1], np.zeros(1))[0])

    def _seed(self, env: int) -> int:
        (seed, index), episode = self._seeding, int(self._episodes[env])
        draws = generator(seed, GAMES, index, self._first_env + env, episode)
        return int(draws.integers(2**31))

    def _games(self, dones: NDArray[np.bool_]) -> list[Episode]:
        """Return the games that have ended with an episode; an episode may be a part of a game."""
        games = []
        for env in np.flatnonzero(dones):
            for score in self._scores[env].ended[-1:]:
                games.append(Episode(self._first_env + int(env), score, int(self._lengths[env])))
                self._lengths[env] = 0
            self._scores[env].ended.clear()
        return games

    def _replay(self, env: int, actions: NDArray[Any]) -> None:
        """Take actions [n, ...] in one environment, which has just started its episode."""
        self._lengths[env] = len(actions)
        self._logs[env] = list(actions)
        single = self._singles[env]
        for action in self._actions.convert(actions.astype(_dtype(self._actions))):
            obs, reward, terminated, truncated, info = called(
                "step", self.name, single.step, action
            )
            self._obs[env] = self._single(obs, info)
            rewards = np.array([reward], np.float64)
            self._digests[env].update(_bytes(self._obs[env : env + 1], rewards)[0])
            if terminated or truncated:  # the saved episode has not ended
                self._digests[env].update(b"ended")

    def _hash(self, env: int) -> str:
        """Return the SHA-256 of an environment's episode and of its last observation."""
        digest = self._digests[env].copy()
        digest.update(self._obs[env].tobytes())
        return digest.hexdigest()

    def _log_of(self, env: int) -> NDArray[Any]:
        """Return the actions of an environment's episode, [n, ...], uint8 or fp32."""
        parts = () if self.action_space == "discrete" else (len(self.action_names),)
        small = self._dims and max(self._dims) <= 256
        return np.asarray(self._logs[env], np.uint8 if small else np.float32).reshape(-1, *parts)

    def _observed(self, obs: NDArray[Any]) -> NDArray[Any]:
        """Convert observations; those of Gymnasium are overwritten in the next step."""
        if self._observe.bounds is not None:
            self._require_range(obs, *self._observe.bounds)
        converted = self._observe.convert(obs)
        if self._masked:
            flat = converted.reshape(self.num_envs, -1)
            return np.concatenate([flat, self._masks.astype(flat.dtype)], axis=1)
        return converted.copy() if np.may_share_memory(converted, obs) else converted

    def _require_range(self, obs: NDArray[Any], low: Any, high: Any) -> None:
        """Raise RunError if an image or a choice is not in its space: networks need its range."""
        if (obs < low).any() or (obs > high).any():
            wrong = np.argwhere((obs < low) | (obs > high))[0]
            space = self._singles[0].observation_space
            raise RunError(
                f"{self.name} gave an observation with {obs[tuple(wrong)]:g} in environment "
                f"{self._first_env + int(wrong[0])}; its observation_space is {space}"
            )

    def _single(self, obs: Any, info: dict[str, Any]) -> NDArray[Any]:
        """Convert the observation of one environment."""
        converted = self._observe.convert(np.asarray(obs)[np.newaxis])[0]
        if self._masked:
            mask = self._flat_mask(info.get(MASK)).astype(converted.dtype)
            return np.concatenate([converted.ravel(), mask])
        return converted

    def _read_masks(self, infos: dict[str, Any], which: NDArray[np.bool_]) -> None:
        """Keep the masks of some environments."""
        if self._masked:
            found = infos.get(MASK, [None] * self.num_envs)
            given = infos.get(f"_{MASK}", [False] * self.num_envs)
            for env in np.flatnonzero(which):
                self._masks[env] = self._flat_mask(found[env] if given[env] else None)

    def _flat_mask(self, found: Any) -> NDArray[np.bool_]:
        """Return a mask as [sum(action_dims)]; RunError if it is missing or not valid."""
        if found is None:
            raise RunError(f"{self.name} gave no {MASK} in info, which it did at its start")
        parts = found if isinstance(found, tuple | list) else [found]
        mask = np.concatenate([np.ravel(part) for part in parts]).astype(np.bool_)
        if mask.shape != (sum(self._dims),):
            raise RunError(
                f"{self.name} gave an {MASK} of {len(mask)} numbers; it needs "
                f"{sum(self._dims)}, one for each alternative"
            )
        ends = np.cumsum(self._dims)[:-1].tolist()
        if not all(part.any() for part in np.split(mask, ends)):
            raise RunError(f"{self.name} gave an {MASK} in which no action is legal: {found}")
        return mask

    def _try(self, make: Callable[[], tuple[Env, Scores]]) -> Tried:
        """Play some steps, and return what they show.

        Two new environments play the same seeds, the second one in reverse order. Their results
        differ if anything is kept from one episode to the next.
        """
        first, second = Observed(make()[0]), Observed(make()[0])
        seeds = range(CHECK_SEEDS)
        try:
            played = [self._played(first, seed) for seed in seeds]
            backwards = [self._played(second, seed) for seed in reversed(seeds)]
        except RunError as error:
            raise UsageError(str(error)) from error
        finally:
            close_or_warn(first, self.name)
            close_or_warn(second, self.name)
        outside = next((trial.outside for trial in played if trial.outside), "")
        return Tried(played == backwards[::-1], played[0].masked, outside)

    def _played(self, env: Env, seed: int) -> "_Trial":
        found: _Trial = called("reset or step", self.name, self._play, env, seed)
        return found

    def _play(self, env: Env, seed: int) -> "_Trial":
        """Play with random actions."""
        draws = generator(seed, ACTIONS)
        obs, info = env.reset(seed=seed)
        masked = MASK in info
        digest = hashlib.sha256(np.asarray(obs).tobytes())
        outside = self._outside(obs)
        for _ in range(CHECK_STEPS):
            action = self._random_action(draws, info.get(MASK))
            obs, reward, terminated, truncated, info = env.step(action)
            digest.update(np.asarray(obs).tobytes() + f"{reward}{terminated}{truncated}".encode())
            outside = outside or self._outside(obs)
            if terminated or truncated:
                obs, info = env.reset()
                digest.update(np.asarray(obs).tobytes())
        return _Trial(digest.hexdigest(), masked, outside)

    def _outside(self, obs: Any) -> str:
        """Describe a number of a vector outside its space, which is allowed; empty without one."""
        space = self._singles[0].observation_space
        if not isinstance(space, spaces.Box) or self._observe.bounds:
            return ""
        for wrong in np.argwhere((obs < space.low) | (obs > space.high))[:1]:
            place = tuple(wrong)
            return (
                f"an observation has {np.asarray(obs)[place]:g} at {wrong.tolist()}, outside of "
                f"its space, {space.low[place]:g} to {space.high[place]:g}"
            )
        return ""

    def _random_action(self, draws: np.random.Generator, mask: Any) -> Any:
        """Draw an action of one environment, a legal one if there is a mask."""
        dims = self._dims
        if self.action_space == "continuous":
            drawn = draws.standard_normal(len(self.action_names)).astype(np.float32)
            return self._actions.convert(drawn[np.newaxis])[0]
        weights = np.ones(sum(dims)) if mask is None else self._flat_mask(mask).astype(float)
        parts = np.split(weights, np.cumsum(dims)[:-1].tolist())
        chosen = np.array([draws.choice(len(part), p=part / part.sum()) for part in parts])
        return self._actions.convert(chosen if self.action_space == "discrete" else chosen[None])[0]


class _Trial(NamedTuple):
    """An episode of some steps: a hash of the results, and two parts of `Tried`."""

    sha256: str
    masked: bool
    outside: str


def _same(env: Env) -> Env:
    return env


def _bytes(obs: NDArray[Any], rewards: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return observations [n, ...], unless they are large, and rewards [n], as bytes [n, bytes]."""
    flat = obs.reshape(len(obs), -1)
    reward_bytes = rewards.view(np.uint8).reshape(-1, 8)
    if flat.nbytes > HASHED_BYTES * len(flat):
        return reward_bytes
    return np.concatenate([flat.view(np.uint8), reward_bytes], axis=1)


def _dtype(actions: Actions) -> type[Any]:
    return np.float32 if actions.kind == "continuous" else np.int64
