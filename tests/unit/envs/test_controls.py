"""D27, D37 and masks: from the actions of a policy to those of the emulator."""

import itertools

import numpy as np
import pytest
import torch
from ale_py import AtariEnv

from ppo37.envs.atari import Atari
from ppo37.envs.atari.controls import (
    BUTTON,
    CHOICES,
    HORIZONTAL,
    VERTICAL,
    ContinuousActions,
    MultiDiscreteActions,
    action_mask,
    action_name,
    joystick_action,
)
from ppo37.envs.games import game_info
from ppo37.networks.policies import GaussianPolicy, make_policy

LEGAL = (
    "NOOP",
    "FIRE",
    "UP",
    "RIGHT",
    "LEFT",
    "DOWN",
    "UPRIGHT",
    "UPLEFT",
    "DOWNRIGHT",
    "DOWNLEFT",
    "UPFIRE",
    "RIGHTFIRE",
    "LEFTFIRE",
    "DOWNFIRE",
    "UPRIGHTFIRE",
    "UPLEFTFIRE",
    "DOWNRIGHTFIRE",
    "DOWNLEFTFIRE",
)
"""The 18 actions of the console, in the order of the ALE's documentation."""


def test_each_combination_of_choices_is_one_action() -> None:
    assert CHOICES == (3, 3, 2)
    rows = np.array(list(itertools.product(range(3), range(3), range(2))))
    engine_actions = MultiDiscreteActions(LEGAL).to_engine(rows, len(rows))
    assert sorted(engine_actions) == list(range(18))
    for (x, y, fire), number in zip(rows.tolist(), engine_actions.tolist(), strict=True):
        theirs = AtariEnv.map_action_idx(x - 1, y - 1, bool(fire))
        assert LEGAL[number] == theirs.name


def test_the_joystick_is_that_of_the_ale() -> None:
    engine_actions = ContinuousActions().to_engine(
        np.random.default_rng(0).normal(size=(500, 3)).astype("f4"), 500
    )
    names = set()
    for radius, angle, fire in engine_actions:
        x, y = radius * np.cos(angle), radius * np.sin(angle)
        sides = [-int(side < -0.5) + int(side > 0.5) for side in (x, y)]
        name, strength = joystick_action(np.array([radius, angle, fire]))
        assert name == AtariEnv.map_action_idx(*sides, bool(fire > 0.5)).name
        assert strength == radius
        names.add(name)
    assert names == set(LEGAL)


def test_what_the_emulator_gets_is_clipped_and_what_was_drawn_is_not() -> None:
    drawn = np.array([[-3.0, 0.5, 0.0], [1.0, -7.0, 2.0], [0.0, 0.0, -0.5]], np.float32)
    before = drawn.copy()
    engine_actions = ContinuousActions().to_engine(drawn, 3)
    expected = [[0.0, np.pi / 2, 0.5], [1.0, -np.pi, 1.0], [0.5, 0.0, 0.25]]
    np.testing.assert_allclose(engine_actions, expected, rtol=1e-6)
    assert engine_actions.dtype == np.float32
    np.testing.assert_array_equal(drawn, before)


@pytest.mark.parametrize("space", ["joystick", pytest.param("continuous", marks=pytest.mark.slow)])
def test_fire_starts_a_life_only_in_games_that_use_it(space: str) -> None:
    """All 18 actions are available in every game; Ms. Pac-Man does not use FIRE."""
    for game, uses_fire in (("breakout", True), ("ms_pacman", False)):
        envs = Atari(game, 2, 1, action_space=space, num_threads=1)
        sent = []
        step = envs._engine.step
        envs._engine.step = lambda actions, step=step, sent=sent: (
            sent.append(actions) or step(actions)
        )
        envs.reset()
        neutral = {"joystick": np.full((2, 3), (1, 1, 0)), "continuous": np.full((2, 3), -1.0)}
        lost = fired = 0
        for _ in range(500):
            dones = envs.step(neutral[space].astype("f4" if space == "continuous" else "i8")).dones
            now = np.array(sent[-1]).reshape(2, -1)[:, -1]
            fired += int((now > 0).sum())
            lost += int(dones.sum())
        envs.close()
        assert lost >= 2, game
        assert (fired > 0) == uses_fire, game


@pytest.mark.parametrize(
    ("space", "wrong", "message"),
    [
        ("joystick", [[0, 0, 0], [0, 3, 0]], "action 3 of environment 1 is not in 0..2"),
        ("joystick", [[0, 0, 0], [0, 0, -1]], "action -1 of environment 1 is not in 0..1"),
        ("continuous", [[0, 0, 0], [0, np.nan, 0]], "of environment 1 is not finite"),
        ("continuous", [[np.inf, 0, 0], [0, 0, 0]], "of environment 0 is not finite"),
        ("continuous", [[0, 0], [0, 0]], "expected 2 actions of 3 numbers"),
    ],
)
def test_a_wrong_action_never_reaches_the_engine(space, wrong, message) -> None:
    envs = Atari("pong", 2, 1, action_space=space, num_threads=1)
    envs.reset()
    envs._engine.step = None
    dtype = np.float32 if space == "continuous" else np.int64
    with pytest.raises(ValueError, match=message):
        envs.step(np.array(wrong, dtype))
    envs.close()


@pytest.mark.parametrize("game", ["pong", "breakout", "freeway", "ms_pacman", "boxing"])
def test_actions_that_a_game_ignores_are_masked(game: str) -> None:
    known = game_info(game).known_actions
    assert action_mask("discrete", LEGAL, known) == [name in known for name in LEGAL]
    mask = action_mask("joystick", (), known)
    sides, ups, fires = mask[:3], mask[3:6], mask[6:]
    reached = {
        action_name(HORIZONTAL[x], VERTICAL[y], BUTTON[b])
        for x, y, b in itertools.product(range(3), range(3), range(2))
        if sides[x] and ups[y] and fires[b]
    }
    assert reached >= set(known)
    if game in ("pong", "freeway", "boxing"):
        assert reached == set(known)  # all remaining combinations are its actions
    assert all(mask) == (game == "boxing")


@pytest.mark.parametrize("space", ["discrete", "joystick"])
def test_a_masked_policy_never_takes_a_masked_action(space: str) -> None:
    """Its probabilities and entropy are those of the other actions alone (A4)."""
    mask = action_mask(space, LEGAL, game_info("pong").known_actions)
    sizes = CHOICES if space == "joystick" else (18,)
    policy = make_policy(space, LEGAL, sizes, mask)
    generator = torch.Generator().manual_seed(0)
    outputs = 5 * torch.randn(4000, policy.num_outputs, generator=generator)
    uniforms = torch.rand(4000, *policy.action_shape, generator=generator)
    distribution = policy(outputs)
    actions = distribution.sample(uniforms).reshape(4000, -1)
    log_probs = entropy = 0.0
    first = 0
    for part, size in enumerate(sizes):
        allowed = [k for k in range(size) if mask[first + k]]
        assert set(actions[:, part].tolist()) == set(allowed)
        few = torch.distributions.Categorical(logits=outputs[:, [first + k for k in allowed]])
        indices = torch.tensor([allowed.index(a) for a in actions[:, part].tolist()])
        log_probs, entropy = log_probs + few.log_prob(indices), entropy + few.entropy()
        first += size
    taken = actions.squeeze(1) if space == "discrete" else actions
    torch.testing.assert_close(distribution.log_prob(taken), log_probs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(distribution.entropy(), entropy, rtol=1e-5, atol=1e-5)


def test_deviations_are_learned_but_the_same_in_every_state() -> None:
    policy = GaussianPolicy(3)
    assert policy.log_std.tolist() == [0.0, 0.0, 0.0]  # initial std 1
    assert policy.log_std.requires_grad
    distribution = policy(torch.randn(5, 3))
    assert distribution.log_std is policy.log_std
