"""E4 and sampling: distributions equal their definitions, and their samples are fair."""

import math
import statistics

import pytest
import torch
from torch import Tensor

from ppo37.algorithm.distributions import Categorical, Gaussian, MultiCategorical, mask_logits
from ppo37.course import oracle

LAST_UNIFORM = 1.0 - 2.0**-24
"""The largest value of an fp32 uniform in [0, 1)."""

RARE = 1e-6
"""The p-value of a fair sampler is smaller for one logit set in a million."""


def uniforms(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator)


def logit_sets(count: int, num_actions: int, seed: int) -> Tensor:
    """Logits [count, A] from nearly uniform to nearly deterministic."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(-2, 0.7, count).unsqueeze(-1)
    return scales * torch.randn(count, num_actions, generator=generator)


def probabilities(logits: Tensor) -> Tensor:
    rows = [oracle.log_softmax(row) for row in logits.double().tolist()]
    return torch.tensor(rows, dtype=torch.float64).exp()


def chi_square_p(counts: Tensor, probs: Tensor) -> float:
    """Compute the p-value of a fair sampler; cells with fewer than 5 expected draws are merged."""
    expected = probs * counts.sum()
    small = expected < 5.0
    counts = torch.cat([counts[~small], counts[small].sum().reshape(1)])
    expected = torch.cat([expected[~small], expected[small].sum().reshape(1)])
    used = expected > 0.0
    assert counts[~used].eq(0).all()
    statistic = ((counts[used] - expected[used]).square() / expected[used]).sum()
    freedom = used.sum().double() - 1.0
    return torch.special.gammaincc(freedom / 2.0, statistic / 2.0).item() if freedom else 1.0


@pytest.mark.parametrize("num_actions", [2, 6, 18])
def test_sampling_by_chi_square(num_actions: int) -> None:
    """For 70 logit sets of 10,000 draws, the p-values are not tiny and their mean is 1/2."""
    logits = logit_sets(70, num_actions, seed=num_actions)
    draws = Categorical(logits.unsqueeze(1).expand(-1, 10_000, -1)).sample(
        uniforms(num_actions, 70, 10_000)
    )
    assert draws.shape == (70, 10_000)
    assert draws.dtype == torch.int64
    ps = [
        chi_square_p(torch.bincount(row, minlength=num_actions).double(), probs)
        for row, probs in zip(draws, probabilities(logits), strict=True)
    ]
    assert min(ps) > RARE
    # p-values of a fair sampler are uniform: their mean is 1/2 +- 0.0345 (5 sigma: 0.17).
    assert abs(sum(ps) / len(ps) - 0.5) < 0.17


@pytest.mark.parametrize("num_actions", [2, 6, 18])
def test_categorical_samples_are_the_inverse_cdf(num_actions: int) -> None:
    """Samples are exact on both sides of every boundary between two actions.

    The nearest fp32 uniforms differ by 2^-24 there, so fp32 sums would not be exact enough.
    """
    logits = logit_sets(200, num_actions, seed=100 + num_actions)
    boundaries = probabilities(logits).cumsum(-1)[:, :-1]
    below = (boundaries * 2**24).floor() / 2**24
    u = torch.cat([below, below + 2.0**-24], dim=1).clamp(max=LAST_UNIFORM)
    expected = (boundaries.unsqueeze(1) <= u.unsqueeze(-1)).sum(-1)
    draws = Categorical(logits.unsqueeze(1).expand(-1, u.shape[1], -1)).sample(u.float())
    assert torch.equal(draws, expected)


@pytest.mark.parametrize("never", [float("-inf"), -1e9])
@pytest.mark.parametrize("impossible", [[0], [3], [5], [0, 1, 5], [0, 1, 2, 3, 4], [1, 2, 3, 4, 5]])
def test_an_action_of_probability_zero_is_never_drawn(impossible: list[int], never: float) -> None:
    """Not even at the ends of [0, 1), where a wrong comparison would draw it."""
    logits = logit_sets(50, 6, seed=9)
    logits[:, impossible] = never
    edges = torch.tensor([0.0, 2.0**-24, 0.5, 1.0 - 2.0**-23, LAST_UNIFORM])
    u = torch.cat([edges.expand(50, -1), uniforms(9, 50, 2_000)], dim=1)
    draws = Categorical(logits.unsqueeze(1).expand(-1, u.shape[1], -1)).sample(u)
    assert draws.min() >= 0
    assert draws.max() <= 5
    assert not torch.isin(draws, torch.tensor(impossible)).any()


def test_uniforms_at_the_ends_draw_the_first_and_last_action() -> None:
    logits = logit_sets(50, 6, seed=10)[:30]  # the last action's probability is above 2^-24
    assert Categorical(logits).sample(torch.zeros(30)).eq(0).all()
    assert Categorical(logits).sample(torch.full([30], LAST_UNIFORM)).eq(5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4])
def test_log_prob_and_entropy_equal_their_definitions(scale: float, dtype: torch.dtype) -> None:
    """The tolerance grows with the logits, because the rounding error of log p does."""
    logits = (scale * logit_sets(20, 6, seed=11)).to(dtype)
    every_action = torch.arange(6).expand(20, 6)
    log_probs = Categorical(logits.unsqueeze(1).expand(-1, 6, -1)).log_prob(every_action)
    entropies = Categorical(logits).entropy()
    rows = logits.double().tolist()
    expected = torch.tensor([oracle.log_softmax(row) for row in rows], dtype=torch.float64)
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(log_probs.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(
        entropies.double(),
        torch.tensor([oracle.entropy(row) for row in rows], dtype=torch.float64),
        rtol=4 * tolerance,
        atol=4 * tolerance,
    )
    torch.testing.assert_close(
        log_probs.exp().sum(-1), torch.ones(20, dtype=dtype), rtol=0.0, atol=2 * tolerance
    )


def test_entropy_by_hand() -> None:
    assert Categorical(torch.zeros(3, 4)).entropy().tolist() == pytest.approx([1.3862944] * 3)
    certain = Categorical(torch.tensor([[0.0, -1e9, -1e9]])).entropy()
    assert certain.item() == 0.0


@pytest.mark.parametrize("size", [1e4, 1e9, 1e30])
def test_extreme_logits_stay_finite(size: float) -> None:
    """Log-probabilities, entropies and gradients are finite if one action has all probability."""
    logits = torch.tensor([[size, 0.0, -size], [-size, -size, -size], [0.0, size, size]])
    logits.requires_grad_()
    distribution = Categorical(logits)
    log_probs = distribution.log_prob(torch.tensor([2, 1, 0]))
    entropies = distribution.entropy()
    assert log_probs.isfinite().all()
    assert entropies.isfinite().all()
    (log_probs.sum() + entropies.sum()).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert distribution.sample(torch.tensor([0.5, 0.0, LAST_UNIFORM])).tolist() == [0, 0, 2]


# Several independent action dimensions


NVEC = (3, 3, 2)


def choices(count: int, seed: int) -> MultiCategorical:
    return MultiCategorical(
        tuple(Categorical(logit_sets(count, n, seed + d)) for d, n in enumerate(NVEC))
    )


def test_a_multi_categorical_equals_the_joint_distribution() -> None:
    """Log-probabilities and entropy equal those of all 18 combinations (D37)."""
    several = choices(20, seed=12)
    rows = [probabilities(choice.logits) for choice in several.choices]
    joint = torch.einsum("ba,bc,bd->bacd", *rows)
    every = torch.cartesian_prod(*(torch.arange(n) for n in NVEC))
    found = MultiCategorical(
        tuple(
            Categorical(c.logits.double().unsqueeze(1).expand(-1, 18, -1)) for c in several.choices
        )
    ).log_prob(every.expand(20, 18, 3))
    torch.testing.assert_close(found.exp(), joint.flatten(1), rtol=1e-12, atol=1e-15)
    entropies = [-sum(p * math.log(p) for p in row if p > 0) for row in joint.flatten(1).tolist()]
    torch.testing.assert_close(
        several.entropy().double(),
        torch.tensor(entropies, dtype=torch.float64),
        rtol=1e-5,
        atol=1e-6,
    )


def test_each_dimension_has_its_own_uniform() -> None:
    several, u = choices(40, seed=13), uniforms(13, 40, 3)
    drawn = several.sample(u)
    for d, choice in enumerate(several.choices):
        assert torch.equal(drawn[:, d], choice.sample(u[:, d]))


def test_a_masked_action_has_no_probability_entropy_or_gradient() -> None:
    logits = logit_sets(50, 6, seed=14).requires_grad_()
    allowed = torch.tensor([True, False, True, True, False, True])
    some, fewer = Categorical(mask_logits(logits, allowed)), Categorical(logits[:, allowed])
    torch.testing.assert_close(some.entropy(), fewer.entropy(), rtol=1e-6, atol=1e-7)
    kept = torch.arange(6)[allowed]
    for k, action in enumerate(kept.tolist()):
        torch.testing.assert_close(
            some.log_prob(torch.full([50], action)),
            fewer.log_prob(torch.full([50], k)),
            rtol=1e-6,
            atol=1e-7,
        )
    drawn = Categorical(some.logits.unsqueeze(1).expand(-1, 500, -1)).sample(uniforms(14, 50, 500))
    assert torch.isin(drawn, kept).all()
    (some.entropy().sum() + some.log_prob(torch.full([50], 2)).sum()).backward()
    assert logits.grad is not None
    assert logits.grad[:, ~allowed].eq(0).all()
    assert logits.grad[:, allowed].ne(0).any()


# Continuous actions


def gaussian(count: int, dimensions: int, seed: int) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    mean = 3 * torch.randn(count, dimensions, generator=generator, dtype=torch.float64)
    return Gaussian(mean, torch.randn(dimensions, generator=generator, dtype=torch.float64))


def test_the_density_of_a_gaussian() -> None:
    """The density of an action is the product over its dimensions, as in `statistics`."""
    policy = gaussian(10, 3, seed=15)
    actions = policy.mean + torch.randn(10, 3, dtype=torch.float64)
    std = policy.log_std.exp().tolist()
    for row, action, found in zip(
        policy.mean.tolist(), actions.tolist(), policy.log_prob(actions).tolist(), strict=True
    ):
        density = math.prod(
            statistics.NormalDist(m, s).pdf(a) for m, s, a in zip(row, std, action, strict=True)
        )
        assert found == pytest.approx(math.log(density), rel=1e-12)
    entropy = sum(math.log(s * math.sqrt(2 * math.pi * math.e)) for s in std)
    assert policy.entropy().tolist() == pytest.approx([entropy] * 10, rel=1e-12)


def test_gaussian_samples_are_the_inverse_cdf() -> None:
    policy, u = gaussian(200, 2, seed=16), uniforms(16, 200, 2)
    std = policy.log_std.exp().tolist()
    drawn = policy.sample(u)
    for mean, row, numbers in zip(
        policy.mean.tolist(), drawn.tolist(), u.double().tolist(), strict=True
    ):
        for m, s, x, number in zip(mean, std, row, numbers, strict=True):
            assert statistics.NormalDist(m, s).cdf(x) == pytest.approx(number, abs=2e-7)


def test_uniforms_at_the_ends_give_finite_actions() -> None:
    policy = gaussian(5, 3, seed=17)
    for u in (0.0, LAST_UNIFORM):
        drawn = policy.sample(torch.full([5, 3], u))
        assert drawn.isfinite().all()
        off = ((drawn - policy.mean) / policy.log_std.exp()).abs()
        assert off.max() < 6  # 2^-25 is the tail beyond 5.4 deviations


def test_gradients_of_a_gaussian_equal_finite_differences() -> None:
    policy = gaussian(4, 3, seed=18)
    actions = policy.mean + torch.randn(4, 3, dtype=torch.float64)

    def f(mean: Tensor, log_std: Tensor) -> Tensor:
        made = Gaussian(mean, log_std)
        return made.log_prob(actions) + made.entropy()

    inputs = tuple(part.clone().requires_grad_() for part in policy)
    assert torch.autograd.gradcheck(f, inputs)


def test_the_mode_is_the_action_of_the_highest_probability() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 5, generator=generator)
    mask = torch.rand(200, 5, generator=generator) < 0.5
    mask[:, 0] = True
    for values in (logits, mask_logits(logits, mask)):
        every = torch.arange(5).expand(200, 5).T
        best = torch.stack([Categorical(values).log_prob(a) for a in every]).max(0).values
        assert torch.equal(Categorical(values).log_prob(Categorical(values).mode()), best)
    several = MultiCategorical((Categorical(logits), Categorical(logits[:, :2])))
    assert torch.equal(
        several.mode(), torch.stack([logits.max(1).indices, logits[:, :2].max(1).indices], 1)
    )
    gaussian = Gaussian(logits, torch.randn(5, generator=generator))
    nearby = torch.randn(100, 200, 5, generator=generator)
    assert (gaussian.log_prob(gaussian.mode()) >= gaussian.log_prob(nearby)).all()
