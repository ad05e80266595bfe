"""Custom environments that violate the contract are refused."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FaultyCatch, fingerprint_and_log, replace_parts, tiny

from ppo37 import evaluate, load_agent, resume, train
from ppo37.envs import EnvState, Episode
from ppo37.envs.catch import Catch
from ppo37.errors import RunError, UsageError


def all_of(values: Any) -> Any:
    return np.ones_like(values)


WRONG: dict[str, tuple[Any, str]] = {
    "floats": (replace_parts(obs=lambda s: s.obs / 255), "obs .* float64; it has to be .* uint8"),
    "wide integers": (replace_parts(obs=lambda s: s.obs.astype(np.int64) * 2), "obs .* int64"),
    "booleans": (replace_parts(obs=lambda s: s.obs > 0), "obs .* bool"),
    "another shape": (replace_parts(obs=lambda s: s.obs[:, :, 1:]), r"obs \[4, 1, 35, 36\] uint8"),
    "a list": (replace_parts(obs=lambda s: s.obs.tolist()), "obs of type list"),
    "nothing": (replace_parts(obs=lambda s: None), "obs of type NoneType"),
    "one reward": (replace_parts(rewards=lambda s: s.rewards[:1]), r"rewards \[1\] float32"),
    "a single number": (replace_parts(rewards=lambda s: 1.0), "rewards of type float"),
    "a column": (replace_parts(rewards=lambda s: s.rewards[:, None]), r"rewards \[4, 1\]"),
    "nan": (
        replace_parts(rewards=lambda s: s.rewards * np.nan),
        "not finite in environment 0",
    ),
    "too large": (
        replace_parts(rewards=lambda s: s.rewards.astype(float) + 1e300),
        r"rewards that are too large for fp32 in environment 0 \(1e\+300\)",
    ),
    "objects": (replace_parts(rewards=lambda s: s.rewards.astype(object)), "rewards .* object"),
    "swapped": (replace_parts(rewards=lambda s: s.dones), "rewards .* bool"),
    "dones as numbers": (replace_parts(dones=lambda s: s.dones * 2), "dones .* int64; .* bool"),
    "one done": (replace_parts(dones=lambda s: s.dones.any()), "dones of type bool"),
    "truncated but not done": (
        replace_parts(dones=lambda s: ~all_of(s.dones), truncated=lambda s: all_of(s.dones)),
        "truncated without dones",
    ),
    "no final_obs": (
        replace_parts(
            dones=lambda s: all_of(s.dones),
            truncated=lambda s: all_of(s.dones),
            final_obs=lambda s: None,
        ),
        "final_obs of type NoneType",
    ),
    "another final_obs": (
        replace_parts(
            dones=lambda s: all_of(s.dones),
            truncated=lambda s: all_of(s.dones),
            final_obs=lambda s: np.zeros((4, 1), np.uint8),
        ),
        r"final_obs \[4, 1\] uint8; it has to be \[4, 1, 36, 36\] uint8",
    ),
    "channels last": (
        replace_parts(obs=lambda s: np.moveaxis(s.obs, 1, -1)),
        r"obs \[4, 36, 36, 1\] uint8; .*: the channels have to be first",
    ),
    "Gymnasium's form": (
        lambda s: (s.obs, s.rewards, s.dones, s.truncated, {}),
        "gave a tuple of 5; .* to use an environment of Gymnasium, give a class",
    ),
    "a tuple": (tuple, "gave a tuple; it has to be a ppo37.envs.Step"),
    "no step": (lambda step: None, "gave a NoneType"),
    "a game that has not ended": (
        replace_parts(
            dones=lambda s: ~all_of(s.dones),
            truncated=lambda s: ~all_of(s.dones),
            episodes=lambda s: [Episode(0, 1.0, 1)],
        ),
        "the game .* without dones",
    ),
    "no restart": (
        replace_parts(
            dones=lambda s: all_of(s.dones),
            truncated=lambda s: ~all_of(s.dones),
            episodes=lambda s: [Episode(0, 1.0, 5)],
        ),
        "the game .* after only 1 steps",
    ),
    "a string as score": (replace_parts(episodes=lambda s: [Episode(0, "7", 1)]), "gave the game"),
    "no list of games": (replace_parts(episodes=lambda s: None), "episodes of type NoneType"),
    "a game of another environment": (
        replace_parts(episodes=lambda s: [Episode(99, 1.0, 1)]),
        "with env from 0 to 3",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_first_step_is_refused_before_there_is_a_run(name: str, tmp_path: Path) -> None:
    change, expected = WRONG[name]
    with pytest.raises(UsageError, match=expected):
        train(tiny(), tmp_path / "run", make_envs=partial(FaultyCatch, change, 1))
    assert not (tmp_path / "run").exists()


class ChangedStates(Catch):
    """Catch whose saved states are changed."""

    def __init__(self, change: Callable[[list[EnvState]], Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._change_states = change

    def save(self) -> Any:
        return self._change_states(super().save())


UNSAVEABLE: dict[str, tuple[Callable[[list[EnvState]], Any], str]] = {
    "too few": (lambda env_states: env_states[1:], "save of ChangedStates gave 3 states"),
    "tuples": (lambda env_states: [tuple(m) for m in env_states], "gave a tuple"),
    "nan": (lambda env_states: [m._replace(state={"x": float("nan")}) for m in env_states], "JSON"),
    "a list": (
        lambda env_states: [m._replace(actions=[1]) for m in env_states],
        "actions of type list",
    ),
    "large": (
        lambda env_states: [m._replace(actions=np.array([256])) for m in env_states],
        "int64",
    ),
}


@pytest.mark.parametrize("name", UNSAVEABLE)
def test_wrong_states_are_refused_before_there_is_a_run(name: str, tmp_path: Path) -> None:
    change, expected = UNSAVEABLE[name]
    with pytest.raises(UsageError, match=expected):
        train(tiny(), tmp_path / "run", make_envs=partial(ChangedStates, change))
    assert not (tmp_path / "run").exists()


def test_saved_actions_may_be_any_integers_up_to_255(tmp_path: Path) -> None:
    def change(env_states: list[EnvState]) -> list[EnvState]:
        shared = np.arange(6)[::2]
        return [m._replace(actions=shared) for m in env_states]

    make = partial(ChangedStates, change)
    train(tiny(), tmp_path / "run", 2, make_envs=make)
    resume(tmp_path / "run" / "checkpoints" / "00000004", make_envs=make)


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        (lambda *a, **k: None, "a NoneType, which has no num_envs"),
        (type("Twice", (Catch,), {"action_names": ("A", "A", "B")}), "different names"),
        (type("Flat", (Catch,), {"obs_shape": 36}), "obs_shape of Flat must be"),
        (type("Truth", (Catch,), {"obs_shape": (True, 36, 36)}), "obs_shape of Truth must be"),
    ],
    ids=["none", "twice", "flat", "truth"],
)
def test_wrong_attributes_are_refused(factory: Any, expected: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=expected):
        train(tiny(), tmp_path / "run", make_envs=factory)
    assert not (tmp_path / "run").exists()


def test_parts_that_differ_are_refused(tmp_path: Path) -> None:
    def make(num_envs: int, seed: int, *, first_env: int = 0, index: int = 0) -> Catch:
        envs = Catch(num_envs, seed, first_env=first_env, index=index)
        if first_env:
            envs.action_names = envs.action_names[::-1]
        return envs

    with pytest.raises(UsageError, match="action_names must be the same"):
        train(tiny(threads=2), tmp_path / "run", make_envs=make)
    assert not (tmp_path / "run").exists()


def test_integers_of_numpy_are_valid_sizes(tmp_path: Path) -> None:
    kind = type("Sizes", (Catch,), {"obs_shape": [np.int64(1), np.int64(36), np.int64(36)]})
    train(tiny(), tmp_path / "run", make_envs=kind)
    assert load_agent(tmp_path / "run").state["obs_shape"] == [1, 36, 36]


def test_an_evaluation_in_which_a_game_never_ends_stops(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if games of other environments end."""
    monkeypatch.setattr(sys.modules["ppo37.tools.evaluate"], "MOST_STEPS", 50)
    for ends, missing in ((-1, 4), (0, 3)):
        change = replace_parts(episodes=lambda s, e=ends: [g for g in s.episodes if g.env == e])
        with pytest.raises(RunError, match=f"{missing} of 4 games did not end: .* in 50 steps"):
            evaluate(finished_run, 4, make_envs=partial(FaultyCatch, change, 1))


class Failing(Catch):
    """Catch that fails in its constructor, in reset, or in a late step."""

    def __init__(self, where: str, *args: Any, **kwargs: Any) -> None:
        if where == "constructor":
            raise OSError("no simulator")
        super().__init__(*args, **kwargs)
        self._where, self._steps = where, 0

    def reset(self) -> Any:
        found = super().reset()
        return (found, {}) if self._where == "reset" else found

    def step(self, actions: Any) -> Any:
        self._steps += 1
        return super().step(actions if self._steps < 50 else actions[:1])


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        (partial(Failing, "constructor"), "Failing cannot be made: OSError: no simulator"),
        (partial(Failing, "reset"), "reset of Failing gave a tuple as in Gymnasium"),
        (
            lambda num_envs: Catch(num_envs, 0),
            r"called with \(num_envs, seed, first_env=..., index",
        ),
    ],
    ids=["constructor", "reset", "parameters"],
)
def test_environments_that_cannot_begin_are_refused(
    factory: Any, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=expected):
        train(tiny(), tmp_path / "run", make_envs=factory)
    assert not (tmp_path / "run").exists()


def test_errors_of_the_environments_name_them(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="step of Failing failed: ValueError: expected 4 actions"):
        train(tiny(), tmp_path / "run", make_envs=partial(Failing, "step"))


def test_rewards_that_are_too_large_are_named_and_not_the_learning_rate(tmp_path: Path) -> None:
    make = partial(FaultyCatch, replace_parts(rewards=lambda s: s.rewards + 1e30), 1)
    with pytest.raises(RunError, match=r"rewards are up to 1\.0e\+30: scale them, or use norm_rew"):
        train(tiny(), tmp_path / "run", make_envs=make)


class Numbers(Catch):
    """Catch as real numbers from 0 to 1."""

    obs_dtype = "float32"

    def reset(self) -> Any:
        return super().reset() / np.float32(255)

    def step(self, actions: Any) -> Any:
        step = super().step(actions)
        both = (part / np.float32(255) for part in (step.obs, step.final_obs))
        return step._replace(**dict(zip(("obs", "final_obs"), both, strict=True)))


def test_images_of_real_numbers_train_as_those_of_bytes(tmp_path: Path) -> None:
    """And with all kernels that can be chosen; native ones are only for bytes."""
    for name, kernels in (("torch", "torch"), ("auto", "auto")):
        train(tiny(kernels=kernels), tmp_path / name, make_envs=Numbers)
    train(tiny(), tmp_path / "bytes", make_envs=Catch)
    logs = [fingerprint_and_log(tmp_path / name)[1] for name in ("torch", "auto", "bytes")]
    assert logs[0] == logs[1]
    for key, value in logs[2][0].items():
        if isinstance(value, float):
            assert logs[0][0][key] == pytest.approx(value, rel=1e-3, abs=1e-5), key
    with pytest.raises(UsageError, match="native kernels are for the convolutions of nature"):
        train(tiny(kernels="native"), tmp_path / "native", make_envs=Numbers)
    assert not (tmp_path / "native").exists()


class Planes(Catch):
    """Catch with two equal planes, as an array whose channels are last in memory."""

    obs_shape = (2, 36, 36)
    contiguous = False

    def reset(self) -> Any:
        return self._twice(super().reset())

    def step(self, actions: Any) -> Any:
        step = super().step(actions)
        return step._replace(obs=self._twice(step.obs), final_obs=self._twice(step.final_obs))

    def _twice(self, obs: Any) -> Any:
        view = np.moveaxis(np.concatenate([np.moveaxis(obs, 1, -1)] * 2, axis=-1), -1, 1)
        assert not view.flags.c_contiguous
        return np.ascontiguousarray(view) if self.contiguous else view


@pytest.mark.parametrize("kernels", ["torch", "auto"])
def test_views_train_as_their_copies(kernels: str, tmp_path: Path) -> None:
    copies = type("Copies", (Planes,), {"contiguous": True})
    for name, make in (("views", Planes), ("copies", copies)):
        train(tiny(kernels=kernels), tmp_path / name, make_envs=make)
    logs = [fingerprint_and_log(tmp_path / name)[1] for name in ("views", "copies")]
    assert logs[0] == logs[1]


def test_a_wrong_later_step_ends_the_run_with_a_valid_checkpoint(
    tmp_path: Path,
) -> None:
    for name in ("floats", "nan", "a game of another environment"):
        run = tmp_path / name
        change, expected = WRONG[name]
        with pytest.raises(RunError, match=expected):
            train(tiny(total_timesteps=64 * 64), run, 2, make_envs=partial(FaultyCatch, change, 64))
        assert load_agent(run).state["update"] == 3
        for line in (run / "metrics.jsonl").read_text().splitlines():
            json.loads(line, parse_constant=pytest.fail)


def test_real_observations_must_be_finite(tmp_path: Path) -> None:
    """With norm_obs observations may be any real numbers, but not infinite or booleans."""
    config = tiny(observation="ram", network="mlp", norm_obs=True)
    numbers = {"obs": lambda s: s.obs * 0.5 - 3, "final_obs": lambda s: s.final_obs * 0.5 - 3}
    train(config, tmp_path / "run", make_envs=partial(FaultyCatch, replace_parts(**numbers), 1))
    for wrong in (lambda s: s.obs + np.inf, lambda s: s.obs > 0):
        with pytest.raises(UsageError, match="obs"):
            train(
                config,
                tmp_path / "none",
                make_envs=partial(FaultyCatch, replace_parts(obs=wrong), 1),
            )


def test_valid_results_do_not_change(tmp_path: Path) -> None:
    """Also with another memory layout or another type of numbers."""
    same = {
        "obs": lambda s: np.asfortranarray(s.obs),
        "rewards": lambda s: s.rewards.astype(int),
        "episodes": lambda s: tuple(g._replace(score=np.float32(g.score)) for g in s.episodes),
    }
    train(tiny(), tmp_path / "plain", make_envs=Catch)
    train(tiny(), tmp_path / "same", make_envs=partial(FaultyCatch, replace_parts(**same), 1))
    logs = [fingerprint_and_log(tmp_path / name)[1] for name in ("plain", "same")]
    assert logs[0] == logs[1]


def test_an_evaluation_checks_as_well(finished_run: Path) -> None:
    for name in ("floats", "one reward", "a game of another environment", "a tuple"):
        change, expected = WRONG[name]
        with pytest.raises(RunError, match=expected):
            evaluate(finished_run, 4, make_envs=partial(FaultyCatch, change, 3))
