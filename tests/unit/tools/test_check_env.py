"""`ppo37 check-env` finds each fault that an environment is given, and none in one without."""

import json
import re
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from conftest import run_command
from gymnasium import spaces

from ppo37.envs import Episode
from ppo37.envs.catch import Catch
from ppo37.errors import UsageError
from ppo37.tools.check_env import check_env

STEPS = 100
SHARED = np.random.default_rng(0)


class Walk(gymnasium.Env[Any, Any]):
    """A walk on a line, whose episode ends at 3 and is truncated after 9 steps."""

    def __init__(self, fault: str = "") -> None:
        if fault == "constructor":
            raise OSError("no simulator")
        high = 0.5 if fault == "outside" else 30.0
        self.observation_space: Any = spaces.Box(-30, high, (2,), np.float32)
        if fault in ("floats", "bright"):
            kind = np.uint8 if fault == "floats" else np.float32
            self.observation_space = spaces.Box(0, 255 if fault == "floats" else 1, (8, 8, 1), kind)
        if fault == "choice":
            self.observation_space = spaces.Discrete(2)
        self.action_space, self.fault, self.total = spaces.Discrete(2), fault, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place, self.steps = int(self.np_random.integers(-2, 2)), 0
        if self.fault == "unseeded":
            self.place = int(SHARED.integers(-9, 2))
        return self.observe() if self.fault == "old reset" else (self.observe(), {})

    def step(self, action: int) -> Any:
        self.place += 2 * int(action) - 1
        self.steps += 1
        self.total += 1
        late = self.total > 85  # after the trials at the start
        ended = self.place == 3 and self.fault != "never"
        timeout = self.steps == 9 and self.fault != "never"
        if self.fault == "old step":
            return self.observe(), 0.0, ended, {}
        reward: Any = {"nan": np.nan, "a row": np.zeros(1), "text": "1"}.get(self.fault, 1.0)
        return self.observe(), reward if late else 1.0, ended, timeout, {}

    def observe(self) -> Any:
        late = self.total > 85
        if self.fault in ("floats", "bright"):
            pixels = np.full((8, 8, 1), 1.0 if self.fault == "floats" else 200.0, np.float32)
            return pixels if late else (pixels / 255).astype(self.observation_space.dtype)
        if self.fault == "choice":
            return 2 if late else 1
        if self.fault == "dict" and late:
            return {"place": self.place}
        row = np.array([self.place, self.steps], np.float32)
        return row[None] if self.fault == "shape" and late else row


FOUND = {
    "constructor": ("constructor", "Walk cannot be made: OSError: no simulator"),
    "old reset": ("first steps", r"reset of .*Walk.* gave a ndarray; it has to be \(obs, info\)"),
    "old step": ("first steps", "step of .*Walk.* gave a tuple of 4, .*truncated, info"),
    "shape": ("steps", r"step of .*Walk.* gave an observation \[1, 2\] float32; .*\[2\] float32"),
    "dict": ("steps", "gave an observation of type dict"),
    "floats": ("steps", r"observation \[8, 8, 1\] float32; .* \[8, 8, 1\] uint8, as its"),
    "bright": ("steps", r"observation with 200 in environment 0; .* Box\(0.0, 1.0"),
    "choice": ("steps", r"observation with 2 in environment 0; .*Discrete\(2\)"),
    "nan": (
        "steps",
        r"rewards that are not finite in environment 0 \(nan\).* \[3\] finite real numbers",
    ),
    "a row": ("steps", r"gave a reward \[1\] float64: \[0.\]; it has to be a number"),
    "text": ("steps", "gave a reward .*: 1; it has to be a number"),
    "unseeded": (
        "determinism",
        "the same seed differs after reset .*take random numbers from self.np_random",
    ),
}


@pytest.mark.parametrize("fault", FOUND)
def test_faults_are_found_and_named(fault: str) -> None:
    name, message = FOUND[fault]
    found = check_env(partial(Walk, fault), STEPS)
    wrong = {check.name: check.detail + check.remedy for check in found if not check.ok}
    assert list(wrong) == [name]
    assert re.search(message, wrong[name]), wrong[name]


def notes(make_envs: Any) -> dict[str, str]:
    """Return the remedies of an environment that can be trained on."""
    found = check_env(make_envs, STEPS)
    assert all(check.ok for check in found), found
    return {check.name: check.detail + check.remedy for check in found}


def test_an_environment_of_gymnasium_without_faults() -> None:
    found = notes(Walk)
    assert found["resume"] == "restored environments continue with the same bits"
    assert "truncated by a time limit" in found["episodes"]
    assert found["scores"] == "sums of the rewards"
    assert found["rewards"] == "always 1"
    assert "add the argument render_mode to its constructor" in found["render"]
    assert "actions, real numbers: from -2 to 2;" in notes("Pendulum-v1")["spaces"]
    assert "no game ended in 100 steps" in notes(partial(Walk, "never"))["episodes"]
    assert re.search(
        r"has \S+ at \[.\], outside of .* 0.5", notes(partial(Walk, "outside"))["spaces"]
    )


class Late(Catch):
    """Catch whose games are counted as one step shorter, as if it restarted a step later."""

    def step(self, actions: Any) -> Any:
        step = super().step(actions)
        games = [Episode(g.env, g.score, g.length - 1) for g in step.episodes]
        return step._replace(episodes=games)


class FirstAsFinal(Catch):
    """Catch with time limits, whose last observations are the first of the next game."""

    def step(self, actions: Any) -> Any:
        step = super().step(actions)
        return step._replace(truncated=step.dones, final_obs=step.obs)


class Numberless(Catch):
    """Catch whose environments do not depend on their numbers."""

    def __init__(self, num_envs: int, seed: int, *, first_env: int = 0, index: int = 0) -> None:
        super().__init__(num_envs, seed, first_env=0, index=index)
        self._shift = first_env

    def step(self, actions: Any) -> Any:
        step = super().step(actions)
        return step._replace(episodes=[g._replace(env=g.env + self._shift) for g in step.episodes])


class Shared(Catch):
    """Catch whose objects share something that changes."""

    steps = 0

    def step(self, actions: Any) -> Any:
        Shared.steps += 1
        step = super().step(actions)
        return step._replace(rewards=step.rewards + Shared.steps)


class Again(Catch):
    """Catch that a reset does not start again."""

    resets = 0

    def reset(self) -> Any:
        self.resets += 1
        return super().reset() // self.resets


class Buffer(Catch):
    """Catch that gives the same array in every step."""

    buffer: Any = None

    def step(self, actions: Any) -> Any:
        step = super().step(actions)
        self.buffer = np.empty_like(step.obs) if self.buffer is None else self.buffer
        self.buffer[:] = step.obs
        return step._replace(obs=self.buffer)


class Unseeded(Catch):
    """Catch that does not use its seed."""

    def __init__(self, num_envs: int, seed: int, *, first_env: int = 0, index: int = 0) -> None:
        super().__init__(num_envs, 0, first_env=first_env)


class Doubled(Catch):
    """Catch whose scores are not the sums of its rewards."""

    def step(self, actions: Any) -> Any:
        step = super().step(actions)
        return step._replace(episodes=[g._replace(score=2 * g.score) for g in step.episodes])


CONTRACT = {
    Late: ("restart", "has to restart in the step that ends a game"),
    FirstAsFinal: ("final obs", "is the first observation of the next one"),
    Numberless: ("parts", "objects with a part each differs after reset in environment 1"),
    Shared: ("reset again", "the same object after reset differs in step 1"),
    Again: ("reset again", "the same object after reset differs after reset"),
}


@pytest.mark.parametrize("kind", CONTRACT, ids=lambda kind: kind.__name__)
def test_broken_contracts_are_found(kind: Any) -> None:
    name, message = CONTRACT[kind]
    wrong = {check.name: check.detail for check in check_env(kind, STEPS) if not check.ok}
    assert message in wrong[name]


def test_notes_on_environments_that_can_be_trained_on() -> None:
    assert "sums of the rewards" in notes(Catch)["scores"]
    assert "is seed and index used?" in notes(Unseeded)["seeds"]
    assert "better give new arrays" in notes(Buffer)["observations"]
    assert "fine if rewards are only for learning" in notes(Doubled)["scores"]


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_command(capsys, "check-env", f"{__file__}:Walk", "--steps", "90", "--json")
    document = json.loads(out)
    assert (code, document["ok"]) == (0, True)
    assert "gymnasium" in [check["name"] for check in document["checks"]]
    arguments = ("--env-kwargs", '{"fault": "nan"}', "--steps", "90")
    code, out, _ = run_command(capsys, "check-env", f"{__file__}:Walk", *arguments)
    assert code == 1
    assert "FAIL  steps" in out
    for wrong in ("pong", "nothing:Walk", "Walk-v7"):
        code, out, err = run_command(capsys, "check-env", wrong)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
    with pytest.raises(UsageError, match="at least 1"):
        check_env(Catch, 0)
