"""E6, E7, E8: advantages and value targets equal their definitions and have their properties."""

from typing import NamedTuple

import hypothesis.extra.numpy as hnp
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ppo37.algorithm.advantages import bootstrap_truncations, gae, value_targets
from ppo37.course import oracle

# At most 10 steps of numbers up to 10: sums stay below 200, whose float64 spacing is 3e-14.
EXACT = {"rtol": 0.0, "atol": 1e-12}

checked = settings(max_examples=60, deadline=None, derandomize=True, database=None)


class Case(NamedTuple):
    """The values of a rollout in float64, [T, N] and [T+1, N]."""

    rewards: Tensor
    values: Tensor
    dones: Tensor
    gamma: float
    gae_lambda: float


def floats(bound: float) -> st.SearchStrategy[float]:
    return st.floats(-bound, bound, allow_subnormal=False)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    t, n = draw(st.integers(1, 10)), draw(st.integers(1, 4))
    return Case(
        torch.from_numpy(draw(hnp.arrays(np.float64, (t, n), elements=floats(10.0)))),
        torch.from_numpy(draw(hnp.arrays(np.float64, (t + 1, n), elements=floats(10.0)))),
        torch.from_numpy(draw(hnp.arrays(np.bool_, (t, n)))).double(),
        draw(st.sampled_from([0.0, 0.5, 0.99, 1.0])),
        draw(st.sampled_from([0.0, 0.5, 0.95, 1.0])),
    )


def by_env(case: Case, function: object) -> Tensor:
    """Apply a function of the oracle to each environment: [T, N]."""
    assert callable(function)
    columns = [
        function(
            case.rewards[:, n].tolist(),
            case.values[:, n].tolist(),
            case.dones[:, n].tolist(),
            case.gamma,
            case.gae_lambda,
        )
        for n in range(case.rewards.shape[1])
    ]
    return torch.tensor(columns, dtype=torch.float64).T


def test_by_hand() -> None:
    """gamma = 1/2, lambda = 1/2, and the second of three steps ends an episode.

    delta_2 = 4 + .5*8 - 2 = 6          A_2 = 6
    delta_1 = 2 + 0    - 4 = -2         A_1 = -2
    delta_0 = 1 + .5*4 - 2 = 1          A_0 = 1 + .25*(-2) = .5
    """
    rewards = torch.tensor([[1.0], [2.0], [4.0]])
    values = torch.tensor([[2.0], [4.0], [2.0], [8.0]])
    dones = torch.tensor([[0.0], [1.0], [0.0]])
    advantages = gae(rewards, values, dones, 0.5, 0.5)
    assert advantages.flatten().tolist() == [0.5, -2.0, 6.0]
    assert value_targets(advantages, values).flatten().tolist() == [2.5, 2.0, 8.0]


@checked
@given(cases())
def test_equals_the_definitions(case: Case) -> None:
    """The recursion equals the double sum, and A + V the weighted mean of n-step returns."""
    advantages = gae(*case)
    torch.testing.assert_close(advantages, by_env(case, oracle.gae_by_definition), **EXACT)
    torch.testing.assert_close(advantages, by_env(case, oracle.gae_by_recursion), **EXACT)
    targets = value_targets(advantages, case.values)
    torch.testing.assert_close(targets, by_env(case, oracle.lambda_returns), **EXACT)


@checked
@given(cases())
def test_lambda_0_is_the_td_error(case: Case) -> None:
    expected = case.rewards - case.values[:-1]
    expected += torch.where(case.dones.bool(), 0.0, case.gamma * case.values[1:])
    torch.testing.assert_close(gae(*case._replace(gae_lambda=0.0)), expected, **EXACT)


@checked
@given(cases())
def test_lambda_1_is_monte_carlo(case: Case) -> None:
    """The target is the discounted sum of rewards, plus V only after the end of the rollout."""
    case = case._replace(gae_lambda=1.0)
    expected, target = torch.empty_like(case.rewards), case.values[-1]
    for t in reversed(range(len(expected))):
        target = case.rewards[t] + case.gamma * target.where(case.dones[t] == 0, 0.0)
        expected[t] = target
    torch.testing.assert_close(value_targets(gae(*case), case.values), expected, **EXACT)


@checked
@given(cases(), st.data())
def test_a_done_separates_episodes(case: Case, data: st.DataObject) -> None:
    """Later episodes and other environments do not change an advantage."""
    t_end = data.draw(st.integers(0, len(case.rewards) - 1))
    case.dones[t_end, 0] = 1.0
    later = Case(*(x.clone() if isinstance(x, Tensor) else x for x in case))
    later.rewards[t_end + 1 :, 0] += 100.0
    later.values[t_end + 1 :, 0] -= 100.0
    later.rewards[:, 1:] += 100.0
    later.values[:, 1:] -= 100.0
    assert torch.equal(gae(*case)[: t_end + 1, 0], gae(*later)[: t_end + 1, 0])


@checked
@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_environments_does_not_matter(case: Case, random: object) -> None:
    order = list(range(case.rewards.shape[1]))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = case._replace(
        rewards=case.rewards[:, order], values=case.values[:, order], dones=case.dones[:, order]
    )
    assert torch.equal(gae(*case)[:, order], gae(*shuffled))


@checked
@given(cases(), floats(3.0))
def test_linear_in_rewards_and_values(case: Case, factor: float) -> None:
    """gae(r + c r', v + c v') = gae(r, v) + c gae(r', v')."""
    other = case._replace(rewards=case.rewards.flip(0, 1), values=case.values.flip(0, 1))
    mixed = case._replace(
        rewards=case.rewards + factor * other.rewards, values=case.values + factor * other.values
    )
    expected = gae(*case) + factor * gae(*other)
    torch.testing.assert_close(gae(*mixed), expected, **EXACT)


@checked
@given(cases(), st.data())
def test_a_truncated_episode_is_bootstrapped(case: Case, data: st.DataObject) -> None:
    """An episode truncated at t has the targets of a rollout that ended at t within the episode.

    That rollout has no done at t, and the value of the episode's last observation after it.
    """
    t_cut = data.draw(st.integers(0, len(case.rewards) - 1))
    final_values = torch.zeros_like(case.rewards)
    final_values[t_cut] = torch.linspace(-3.0, 5.0, case.rewards.shape[1], dtype=torch.float64)
    case.dones[t_cut] = 1.0
    rewards = bootstrap_truncations(case.rewards, final_values, case.gamma)
    cut = case._replace(rewards=rewards)
    cut_targets = value_targets(gae(*cut), cut.values)[: t_cut + 1]

    dones = case.dones[: t_cut + 1].clone()
    dones[t_cut] = 0.0
    values = torch.cat([case.values[: t_cut + 1], final_values[t_cut : t_cut + 1]])
    continued = case._replace(rewards=case.rewards[: t_cut + 1], values=values, dones=dones)
    torch.testing.assert_close(cut_targets, value_targets(gae(*continued), values), **EXACT)


def test_arguments_are_not_changed() -> None:
    """The functions do not write to the buffers of the rollout."""
    case = Case(torch.ones(3, 2), torch.ones(4, 2), torch.zeros(3, 2), 0.9, 0.9)
    bootstrap_truncations(case.rewards, case.dones + 1.0, case.gamma)
    value_targets(gae(*case), case.values)
    assert case.rewards.eq(1).all()
    assert case.values.eq(1).all()
    assert case.dones.eq(0).all()
