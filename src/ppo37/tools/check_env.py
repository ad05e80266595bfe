"""Check environments before they are trained on: play them, and report one line for each check.

Every step is checked as in training, and what no single step shows is checked by playing several
times: that equal seeds give equal bits, and that environments do not depend on each other.

Legend: N environments.
"""

import hashlib
import math
import warnings
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import CATCH
from ..envs import Episode, Spaces, Step, VecEnv, spaces_of
from ..envs.checked import checked
from ..envs.games import is_built_in
from ..envs.source import EnvSource
from ..errors import RunError, UsageError
from ..networks.registry import readers
from ..presets import auto_preset
from ..randomness import ACTIONS, generator
from .doctor import Check
from .evaluate import MOST_STEPS

NUM_ENVS, SEED, STEPS = 3, 0, 1000
"""The environments that are played, their seed, and by default for how many steps."""
TOLERANCE = 1e-3
"""Largest relative difference of a score from the sum of its rewards, which are fp32."""
MOST_NAMES = 8
"""Parts of an action, or actions, that are listed."""
RULE_OF_MANY = "environment i must depend on (seed, index, first_env + i) and its actions alone"
RULE_OF_ONE = (
    "take random numbers from self.np_random only, after super().reset(seed=seed) in reset: "
    "np.random and sample() of a space do not use this seed; and share nothing between environments"
)
"""What makes environments repeatable: for a `VecEnv`, and for one environment of Gymnasium."""


class _Player:
    """Environments that are played from a reset, and what the checks need of their steps.

    rows: [steps + 1][N] hashes of what each environment returned.  actions: one entry per step.
    games: each with the number of steps and the rewards since the last game.  fault: why playing
    had to stop.
    """

    def __init__(self, envs: VecEnv, first_env: int = 0) -> None:
        self.envs, self.spaces, self._first_env = envs, spaces_of(envs), first_env
        self.rows, self.actions = list[list[str]](), list[NDArray[Any]]()
        self.games = list[tuple[Episode, int, float]]()
        self.rewards, self.legal = set[float](), list[float]()
        self.low, self.high = math.inf, -math.inf
        self.dones = self.truncated = self.same_final = 0
        self.reused, self.wrong_mask, self.fault = False, "", ""
        self._totals, self._lengths = np.zeros(envs.num_envs), np.zeros(envs.num_envs, int)

    def play(self, steps: int, actions: list[NDArray[Any]] | None = None) -> "_Player":
        """Play with legal random actions, or those given; ends at a fault. Returns itself."""
        draws = generator(SEED, ACTIONS)
        try:
            self.reset()
            for number in range(steps):
                self.step(self._random(draws) if actions is None else actions[number])
        except (RunError, UsageError) as error:
            self.fault = str(error)
        return self

    def reset(self) -> None:
        self._obs = self.envs.reset()
        self.rows.append(_hashes(self._obs))

    def step(self, actions: NDArray[Any]) -> None:
        """Take a step and keep what the checks need of it."""
        self.actions.append(actions)
        before, copy = self._obs, self._obs.copy()
        step = self.envs.step(actions)
        self.reused |= before.tobytes() != copy.tobytes()
        self._obs = step.obs
        self._totals += step.rewards
        self._lengths += 1
        self.low = min(self.low, float(step.obs.min()))
        self.high = max(self.high, float(step.obs.max()))
        self.rewards.update(step.rewards.tolist())
        self.dones += int(step.dones.sum())
        self._add_final_obs(step)
        final = np.where(step.truncated.reshape(-1, *[1] * (step.obs.ndim - 1)), step.final_obs, 0)
        parts = (step.obs, final, step.rewards, step.dones, step.truncated)
        self.rows.append(_hashes(*parts, games=self._games(step)))

    def _add_final_obs(self, step: Step) -> None:
        for env in np.flatnonzero(step.truncated):
            self.truncated += 1
            self.same_final += bool((step.final_obs[env] == step.obs[env]).all())

    def _games(self, step: Step) -> list[list[Any]]:
        """Keep the games that ended. Returns their scores and lengths, by environment."""
        games: list[list[Any]] = [[] for _ in self._lengths]
        for game in step.episodes:
            env = game.env - self._first_env
            games[env].append(game[1:])
            self.games.append((game, int(self._lengths[env]), float(self._totals[env])))
            self._totals[env] = self._lengths[env] = 0
        return games

    def _random(self, draws: np.random.Generator) -> NDArray[Any]:
        """Draw actions [N] or [N, parts] of a uniform policy, legal ones if there are masks."""
        spaces, num_envs = self.spaces, len(self._obs)
        if spaces.action_space == "continuous":
            return draws.standard_normal((num_envs, len(spaces.action_names))).astype(np.float32)
        dims = spaces.action_dims
        masks, ends = np.ones((num_envs, sum(dims))), np.cumsum(dims)[:-1].tolist()
        if spaces.masked:
            masks = self._obs[:, -sum(dims) :].astype(float)
            self._check_masks(masks, ends)
        parts = np.split(masks * draws.random(masks.shape), ends, axis=1)
        chosen = np.stack([part.argmax(axis=1) for part in parts], axis=1)
        return chosen[:, 0] if spaces.action_space == "discrete" else chosen

    def _check_masks(self, masks: NDArray[Any], ends: list[int]) -> None:
        self.legal.append(float(masks.mean()))
        if not np.isin(masks, (0, 1)).all():
            self.wrong_mask = "the mask at the end of an observation has other numbers than 0 and 1"
        if not all(part.any(axis=1).all() for part in np.split(masks, ends, axis=1)):
            self.wrong_mask = "a mask in which no action is legal"


def check_env(make_envs: Any, steps: int = STEPS) -> list[Check]:
    """Play environments and check them; the first fault may leave some checks out.

    make_envs: what makes them, as for `train`, or an `EnvSource`.  steps: of each of the three
    environments, with random actions.  A check that is `ok` with a remedy is a note: it does not
    prevent training.  UsageError if the environments are unknown or built in.
    """
    source = make_envs if isinstance(make_envs, EnvSource) else EnvSource(make_envs)
    if isinstance(source.env, str) and is_built_in(source.env):
        hint = "" if source.env == CATCH else "; its engine is tested against that of Gymnasium"
        raise UsageError(f"{source.env} is built in and needs no check{hint}")
    if steps < 1:
        raise UsageError(f"steps must be at least 1, not {steps}")
    source.load()
    found = list[Check]()
    make = checked(source)
    try:
        with closing(make(NUM_ENVS, SEED)) as envs:
            spaces, text = spaces_of(envs), getattr(envs, "text", "")
            found += [Check("constructor", True, f"{source.name} made {NUM_ENVS} environments")]
            found += [_spaces(spaces, text, _bounds(source, spaces))]
            played = _Player(envs).play(steps)
            again = played if played.fault else _Player(envs).play(steps, played.actions)
    except (UsageError, RunError) as error:
        return [*found, _first_fault(error, bool(found))]
    found += _steps(played, spaces, steps)
    if not played.fault:
        found += [_reset_again(played, again, source.makes_single)]
        try:
            found += _repeated(make, played, source.makes_single)
            found.append(_resume(make, played.actions, source.makes_single))
        except (RunError, UsageError) as error:  # of objects that are made and played again
            found.append(Check("again", False, str(error)))
    found.append(_render(source))
    return [*found, *([_of_gymnasium(source)] if source.makes_single else [])]


def _hashes(*arrays: NDArray[Any], games: list[list[Any]] | None = None) -> list[str]:
    """Hash the rows of arrays [N, ...], and the games of each environment."""
    rows = []
    for env in range(len(arrays[0])):
        digest = hashlib.sha256(repr(games[env] if games else []).encode())
        for array in arrays:
            digest.update(array[env].tobytes())
        rows.append(digest.hexdigest())
    return rows


def _first_fault(error: Exception, made: bool) -> Check:
    """Report why environments cannot be used: they are not made, or their first steps fail."""
    in_trials = isinstance(error.__cause__, RunError)  # `Gymnasium` plays some steps when made
    name = "first steps" if in_trials else "spaces" if made else "constructor"
    return Check(name, False, str(error))


def _bounds(source: EnvSource, spaces: Spaces) -> list[str]:
    """Return the range of each number of an action; none where they are unknown."""
    if spaces.action_space != "continuous" or not source.makes_single:
        return []
    env, _ = source.maker(source.load())()
    with closing(env):
        low, high = np.ravel(env.action_space.low), np.ravel(env.action_space.high)
    return [f"from {first:g} to {last:g}" for first, last in zip(low, high, strict=True)]


def _spaces(spaces: Spaces, text: str, bounds: list[str]) -> Check:
    """Report the spaces, and which preset and networks fit."""
    listed = bounds or spaces.action_names
    kinds = {"multi_discrete": ", the parts", "continuous": ", real numbers"}
    kind = spaces.action_space + " actions" + kinds.get(spaces.action_space, "")
    actions = f"{kind}: {', '.join(listed[:MOST_NAMES])}"
    actions += ", ..." if len(listed) > MOST_NAMES else ""
    shape = f"{list(spaces.view_shape)} {spaces.obs_dtype}; {actions}"
    names = f"preset {auto_preset(spaces)}; networks {', '.join(readers(spaces.view_shape))}"
    return Check("spaces", True, "; ".join([shape, *([text] if text else []), names]))


def _steps(played: _Player, spaces: Spaces, steps: int) -> list[Check]:
    """Report what single steps and whole games show."""
    done = len(played.rows) - 1
    if played.fault:
        return [Check("steps", False, f"after {max(done, 0)} steps: {played.fault}")]
    found = [
        Check("steps", True, f"{done:,} of each environment: form, types, shapes, finite"),
        _observations(played),
        _rewards(played),
        _episodes(played, steps),
    ]
    if played.games:
        found += [_restart(played), _scores(played)]
    if played.truncated:
        found.append(_final_obs(played))
    if spaces.masked:
        detail = played.wrong_mask or f"{np.mean(played.legal):.0%} of actions are legal"
        found.append(Check("masks", not played.wrong_mask, detail))
    return found


def _observations(played: _Player) -> Check:
    name, detail = "observations", f"from {played.low:g} to {played.high:g}"
    if played.reused:
        remedy = "step changes the observations that it gave before; better give new arrays"
        return Check(name, True, detail, remedy)
    if played.low == played.high:
        return Check(name, True, detail, "all numbers are equal: is anything observed?")
    return Check(name, True, detail)


def _rewards(played: _Player) -> Check:
    rewards = played.rewards
    low, high = min(rewards), max(rewards)
    detail = f"always {low:g}" if low == high else f"from {low:g} to {high:g}"
    if rewards == {0.0}:
        remedy = "random play finds no reward: learning may never begin"
        return Check("rewards", True, detail, remedy)
    return Check("rewards", True, detail)


def _episodes(played: _Player, steps: int) -> Check:
    if played.games:
        lengths = [length for _, length, _ in played.games]
        detail = f"{len(lengths)} games of {min(lengths):,} to {max(lengths):,} steps"
        return Check("episodes", True, f"{detail}; {played.truncated} truncated by a time limit")
    ended = f"no game ended in {steps:,} steps"
    if played.dones:
        remedy = f"{played.dones} episodes ended: list whole games in `episodes` of the Step"
        return Check("episodes", True, ended, remedy)
    remedy = (
        f"--steps N plays longer; an evaluation fails after {MOST_STEPS:,} steps without an end"
    )
    return Check("episodes", True, ended, remedy)


def _restart(played: _Player) -> Check:
    """Check that a game begins in the step that ends the last one: no step is lost between."""
    for game, steps, _ in played.games:
        if game.length != steps:
            return Check(
                "restart",
                False,
                f"environment {game.env} ended a game of {game.length} steps {steps} steps after "
                "the last; it has to restart in the step that ends a game, and count all steps",
            )
    return Check("restart", True, "games follow each other without a step between")


def _scores(played: _Player) -> Check:
    for game, _, total in played.games:
        if abs(game.score - total) > TOLERANCE * max(1.0, abs(total)):
            remedy = "fine if rewards are only for learning, as with a wrapper of rewards"
            detail = f"a game has the score {game.score:g}, and its rewards sum to {total:g}"
            return Check("scores", True, detail, remedy)
    return Check("scores", True, "sums of the rewards")


def _final_obs(played: _Player) -> Check:
    if played.same_final == played.truncated and played.low < played.high:
        return Check(
            "final obs",
            False,
            "final_obs of truncated episodes is the first observation of the next one; it has to "
            "be the last one of the old",
        )
    return Check("final obs", True, f"{played.truncated} differ from the observation that follows")


def _reset_again(played: _Player, again: _Player, of_gymnasium: bool) -> Check:
    what = "the same object after reset"
    found = _same("reset again", what, played.rows, again.rows, of_gymnasium)
    if found.ok or not of_gymnasium:
        return found
    return found._replace(ok=True, remedy="resume is not exact: something is kept over episodes")


def _repeated(make: Callable[..., VecEnv], played: _Player, of_gymnasium: bool) -> list[Check]:
    """Check what depends on seeds and numbers, by playing the same actions again."""
    found, actions = list[Check](), played.actions
    with closing(make(NUM_ENVS, SEED)) as envs:
        other = _Player(envs).play(len(actions), actions).rows
    what = "a new object with the same seed"
    found.append(_same("determinism", what, played.rows, other, of_gymnasium))
    if found[-1].ok:  # otherwise the parts would differ, too
        what, other = "objects with a part each", _parts(make, actions)
        found.append(_same("parts", what, played.rows, other, of_gymnasium))
    same = list[str]()
    for name, arguments in (("seed", (SEED + 1, 0)), ("index", (SEED, 1))):
        with closing(make(NUM_ENVS, arguments[0], index=arguments[1])) as envs:
            if _Player(envs).play(len(actions), actions).rows == played.rows:
                same.append(name)
    found.append(_seeds(same, played))
    return found


def _seeds(same: list[str], played: _Player) -> Check:
    if same:
        remedy = f"is {' and '.join(same)} used? Fine where nothing is random"
        return Check("seeds", True, "other seeds give the same steps", remedy)
    if all(len(set(row)) == 1 for row in played.rows):
        return Check("seeds", True, "all environments are equal", "use first_env + i in the seed")
    return Check("seeds", True, "other seeds and other environments give other steps")


def _parts(make: Callable[..., VecEnv], actions: list[NDArray[Any]]) -> list[list[str]]:
    """Play the environments in two objects, step by step in turn; return the rows of both."""
    with closing(make(1, SEED)) as first, closing(make(NUM_ENVS - 1, SEED, first_env=1)) as others:
        one, other = _Player(first), _Player(others, first_env=1)
        with suppress(RunError, UsageError):
            one.reset()
            other.reset()
            for row in actions:
                one.step(row[:1])
                other.step(row[1:])
        return [a + b for a, b in zip(one.rows, other.rows, strict=False)]


def _same(
    name: str, what: str, expected: list[list[str]], found: list[list[str]], of_gymnasium: bool
) -> Check:
    """Compare the rows of two plays."""
    for step, (row, other) in enumerate(zip(expected, found, strict=False)):
        if row != other:
            pairs = zip(row, other, strict=False)
            env = next((env for env, (a, b) in enumerate(pairs) if a != b), 0)
            where = "after reset" if step == 0 else f"in step {step}"
            rule = RULE_OF_ONE if of_gymnasium else RULE_OF_MANY
            return Check(name, False, f"{what} differs {where} in environment {env}", rule)
    if len(found) < len(expected):
        return Check(name, False, f"{what} failed after {len(found)} steps")
    return Check(name, True, f"{what} gives the same bits")


def _resume(make: Callable[..., VecEnv], actions: list[NDArray[Any]], of_gymnasium: bool) -> Check:
    """Save in the middle, restore a new object and compare what follows."""
    before, after = actions[: len(actions) // 2], actions[len(actions) // 2 :]
    with closing(make(NUM_ENVS, SEED)) as envs, closing(make(NUM_ENVS, SEED)) as other:
        envs.reset()
        for row in before:
            envs.step(row)
        saved = envs.save()
        if not saved:
            need = "episodes that depend on seed and actions alone"
            remedy = f"optional: {need if of_gymnasium else '`save` and `restore`'}"
            remedy += " make a resume exact"
            return Check("resume", True, "a resumed run starts new games", remedy)
        try:
            other.restore(saved)
        except (RunError, UsageError) as error:
            return Check("resume", True, str(error), "resume such runs with --new-games")
        steps = ((envs.step(row), other.step(row)) for row in after)
        if all(_hashes(*one[:4]) == _hashes(*again[:4]) for one, again in steps):
            return Check("resume", True, "restored environments continue with the same bits")
        return Check("resume", False, "restored environments continue differently")


def _render(source: EnvSource) -> Check:
    """Make an image; environments without images can be trained on."""
    remedy = "only `ppo37 record` needs images [H, W, 3] uint8 from render()"
    try:
        with closing(
            source.rendered()(1, SEED) if source.makes_single else source(1, SEED)
        ) as envs:
            envs.reset()
            images = envs.render()  # type: ignore[attr-defined]
    except UsageError as error:  # its constructor raised an exception, given render_mode
        if source.makes_single and isinstance(error.__cause__, TypeError):
            remedy = f"add the argument render_mode to its constructor; {remedy}"
        return Check("render", True, str(error)[:200], remedy)
    except Exception as error:  # whatever a renderer raises
        return Check("render", True, f"{type(error).__name__}: {error}"[:200], remedy)
    image = np.asarray(images[0]) if len(images) == 1 else np.asarray(images)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        return Check("render", True, f"an image {list(image.shape)} {image.dtype}", remedy)
    return Check("render", True, f"images of {image.shape[0]} x {image.shape[1]} pixels")


def _of_gymnasium(source: EnvSource) -> Check:
    """Run Gymnasium's own checker on one environment; what it says is a note."""
    from gymnasium.utils.env_checker import check_env

    env, _ = source.maker(source.load())()
    said = list[str]()
    with closing(env), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check_env(env.unwrapped, skip_render_check=True, skip_close_check=True)
        except Exception as error:  # it raises AssertionError, TypeError and others
            said.append(f"{type(error).__name__}: {error}")
    said += [str(warning.message) for warning in caught]
    texts = dict.fromkeys(" ".join(_plain(text).split())[:300] for text in said)
    if not texts:
        return Check("gymnasium", True, "its own checker finds nothing")
    return Check("gymnasium", True, "its own checker says", " ".join(texts))


def _plain(text: str) -> str:
    """Return a text without the colors of a terminal."""
    for code in ("\x1b[33m", "\x1b[31m", "\x1b[0m"):
        text = text.replace(code, "")
    return text.removeprefix("WARN: ")
