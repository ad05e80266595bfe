"""Environments of one's own that are not as the contract says: nothing of them is believed."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import end, tiny

from ppo37 import evaluate, load_agent, train
from ppo37.envs import Episode, Step
from ppo37.envs.catch import Catch
from ppo37.errors import RunError, UsageError

Change = Callable[[Step], Any]


class Wrong(Catch):
    """Catch that changes what its steps give, from one of them on."""

    def __init__(self, change: Change, since: int, num_envs: int, seed: int, **more: Any) -> None:
        super().__init__(num_envs, seed, **more)
        self._change, self._since, self._steps = change, since, 0

    def reset(self) -> Any:
        self._steps = 0
        return super().reset()

    def step(self, actions: Any) -> Any:
        step = super().step(actions)
        self._steps += 1
        return self._change(step) if self._steps >= self._since else step


def put(**parts: Any) -> Change:
    """A step with other parts, each made of the step."""
    return lambda step: step._replace(**{name: make(step) for name, make in parts.items()})


def all_of(values: Any) -> Any:
    return np.ones_like(values)


WRONG: dict[str, tuple[Change, str]] = {
    "floats": (put(obs=lambda s: s.obs / 255), "obs .* float64; it has to be .* uint8"),
    "wide integers": (put(obs=lambda s: s.obs.astype(np.int64) * 2), "obs .* int64"),
    "truths": (put(obs=lambda s: s.obs > 0), "obs .* bool"),
    "another shape": (put(obs=lambda s: s.obs[:, :, 1:]), r"obs \[4, 1, 35, 36\] uint8"),
    "a list": (put(obs=lambda s: s.obs.tolist()), "obs of type list"),
    "nothing": (put(obs=lambda s: None), "obs of type NoneType"),
    "one reward": (put(rewards=lambda s: s.rewards[:1]), r"rewards \[1\] float32"),
    "a single number": (put(rewards=lambda s: 1.0), "rewards of type float"),
    "a column": (put(rewards=lambda s: s.rewards[:, None]), r"rewards \[4, 1\]"),
    "no number": (put(rewards=lambda s: s.rewards * np.nan), "rewards that are not all finite"),
    "too large": (put(rewards=lambda s: s.rewards.astype(float) + 1e300), "not all finite in fp32"),
    "objects": (put(rewards=lambda s: s.rewards.astype(object)), "rewards .* object"),
    "swapped": (put(rewards=lambda s: s.dones), "rewards .* bool"),
    "dones as numbers": (put(dones=lambda s: s.dones * 2), "dones .* int64; .* bool"),
    "one done": (put(dones=lambda s: s.dones.any()), "dones of type bool"),
    "cut off and going on": (
        put(dones=lambda s: ~all_of(s.dones), truncated=lambda s: all_of(s.dones)),
        "truncated without dones",
    ),
    "no last sight": (
        put(dones=lambda s: all_of(s.dones), truncated=lambda s: all_of(s.dones),
            final_obs=lambda s: None), "final_obs of type NoneType",
    ),
    "a tuple": (tuple, "gave a tuple; it has to be a ppo37.envs.Step"),
    "no step": (lambda step: None, "gave a NoneType"),
    "another's game": (put(episodes=lambda s: [Episode(99, 1.0, 1)]), "with env from 0 to 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_a_first_step_gives_wrong_is_told_before_there_is_a_run(
    name: str, tmp_path: Path
) -> None:
    change, expected = WRONG[name]
    with pytest.raises(UsageError, match=expected):
        train(tiny(), tmp_path / "run", make_envs=partial(Wrong, change, 1))
    assert not (tmp_path / "run").exists()


def test_what_a_later_step_gives_wrong_ends_the_run_with_a_valid_checkpoint(
    tmp_path: Path,
) -> None:
    for name in ("floats", "no number", "another's game"):
        run = tmp_path / name
        change, expected = WRONG[name]
        with pytest.raises(RunError, match=expected):
            train(tiny(total_timesteps=64 * 64), run, 2, make_envs=partial(Wrong, change, 64))
        assert load_agent(run).state["update"] == 2
        for line in (run / "metrics.jsonl").read_text().splitlines():
            json.loads(line, parse_constant=pytest.fail)


def test_an_agent_that_sees_numbers_is_given_finite_ones(tmp_path: Path) -> None:
    """Where observations are normalised any real numbers do, but no others."""
    config = tiny(observation="ram", network="mlp", norm_obs=True)
    numbers = {"obs": lambda s: s.obs * 0.5 - 3, "final_obs": lambda s: s.final_obs * 0.5 - 3}
    train(config, tmp_path / "run", make_envs=partial(Wrong, put(**numbers), 1))
    for wrong in (lambda s: s.obs + np.inf, lambda s: s.obs > 0):
        with pytest.raises(UsageError, match="obs"):
            train(config, tmp_path / "none", make_envs=partial(Wrong, put(obs=wrong), 1))


def test_what_is_right_is_left_as_it_is(tmp_path: Path) -> None:
    """Also where it lies in memory in another way, or is of another kind of numbers."""
    same = {"obs": lambda s: np.asfortranarray(s.obs),
            "rewards": lambda s: s.rewards.astype(int),
            "episodes": lambda s: tuple(s.episodes)}  # fmt: skip
    train(tiny(), tmp_path / "plain", make_envs=Catch)
    train(tiny(), tmp_path / "same", make_envs=partial(Wrong, put(**same), 1))
    logs = [end(tmp_path / name)[1] for name in ("plain", "same")]
    assert logs[0] == logs[1]


def test_an_evaluation_looks_as_well(finished_run: Path) -> None:
    for name in ("floats", "one reward", "another's game", "a tuple"):
        change, expected = WRONG[name]
        with pytest.raises(RunError, match=expected):
            evaluate(finished_run, 4, make_envs=partial(Wrong, change, 3))
