"""E1, E2, E3, E5: all loss terms, gradients and diagnostics equal those of the scalar oracle."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ppo37.algorithm import losses
from ppo37.algorithm.distributions import Categorical
from ppo37.algorithm.update import explained_variance
from ppo37.course import oracle

SAMPLES, ACTIONS = 64, 6
EPS = 0.25  # exact in binary, and so are 1 - EPS and 1 + EPS
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-6}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


Inputs = dict[str, Tensor]
"""The arguments of `ppo_loss` by name, [M] each, without the coefficients."""


def random_inputs(seed: int, spread: float = 0.3) -> Inputs:
    """Make inputs whose log-probabilities changed by about `spread`, and values by 2 * EPS."""
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(SAMPLES, dtype=torch.float64, generator=generator)

    old_log_probs = -normal().abs() - 0.05
    old_values = normal()
    return {
        "new_log_probs": old_log_probs + spread * normal(),
        "entropies": normal().abs(),
        "new_values": old_values + 2 * EPS * normal(),
        "old_log_probs": old_log_probs,
        "old_values": old_values,
        "advantages": normal(),
        "targets": old_values + normal(),
    }


def at_the_kinks(seed: int) -> Inputs:
    """Make ratios and values at, just below and just above 1 - eps, 1 and 1 + eps."""
    inputs = random_inputs(seed)
    shifts = torch.tensor([0.0, -1e-9, 1e-9, -1e-3, 1e-3], dtype=torch.float64)
    kinks = (torch.tensor([1 - EPS, 1.0, 1 + EPS])[:, None] + shifts).flatten()
    ratios = kinks.repeat(SAMPLES // len(kinks) + 1)[:SAMPLES]
    inputs["new_log_probs"] = inputs["old_log_probs"] + ratios.log()
    inputs["new_values"] = inputs["old_values"] + ratios - 1.0
    return inputs


def from_logits(seed: int, scale: float) -> Inputs:
    """Make log-probabilities and entropies of policies with logits as large as `scale`."""
    inputs = random_inputs(seed)
    generator = torch.Generator().manual_seed(seed)
    old = scale * torch.randn(SAMPLES, ACTIONS, dtype=torch.float64, generator=generator)
    new = old + 0.3 * torch.randn(old.shape, dtype=torch.float64, generator=generator)
    actions = old.argmax(-1)
    inputs["new_log_probs"] = Categorical(new).log_prob(actions)
    inputs["old_log_probs"] = Categorical(old).log_prob(actions)
    inputs["entropies"] = Categorical(new).entropy()
    return inputs


BATCHES = {
    "near": random_inputs(1, spread=0.05),
    "far": random_inputs(2, spread=1.0),
    "unmoved": random_inputs(3) | {"new_log_probs": random_inputs(3)["old_log_probs"]},
    "kinks": at_the_kinks(4),
    "zero advantages": random_inputs(5) | {"advantages": torch.zeros(SAMPLES).double()},
    "equal advantages": random_inputs(6) | {"advantages": torch.full([SAMPLES], 2.5).double()},
    "logits of 1": from_logits(7, 1.0),
    "logits of 1000": from_logits(8, 1000.0),
}


def terms_of(inputs: Inputs, s: oracle.Settings) -> losses.LossTerms:
    ent_coef, vf_coef = inputs["advantages"].new_tensor([s.ent_coef, s.vf_coef])
    coefficients = losses.Coefficients(
        torch.tensor(s.clip_coef), s.clip_vloss, s.norm_adv, ent_coef, vf_coef
    )
    return losses.ppo_loss(**inputs, coefficients=coefficients)


def oracle_terms_of(inputs: Inputs, s: oracle.Settings) -> oracle.Terms:
    lists = {name: values.double().tolist() for name, values in inputs.items()}
    olds = oracle.Olds(
        lists["old_log_probs"], lists["old_values"], lists["advantages"], lists["targets"]
    )
    return oracle.ppo_loss(lists["new_log_probs"], lists["entropies"], lists["new_values"], olds, s)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("norm_adv", [True, False])
@pytest.mark.parametrize("clip_vloss", [True, False])
@pytest.mark.parametrize("name", BATCHES)
def test_every_term_equals_the_oracle(
    name: str, clip_vloss: bool, norm_adv: bool, dtype: torch.dtype
) -> None:
    """The oracle gets the inputs rounded to `dtype`, so only the rounding of ppo37 is measured."""
    inputs = {key: value.to(dtype) for key, value in BATCHES[name].items()}
    s = oracle.Settings(
        norm_adv=norm_adv, clip_coef=EPS, clip_vloss=clip_vloss, ent_coef=0.3, vf_coef=0.7
    )
    ours, expected = terms_of(inputs, s), oracle_terms_of(inputs, s)
    for field, number in expected._asdict().items():
        term = getattr(ours, field)
        assert term.dtype == dtype
        if field == "clipfrac" and name == "kinks":
            continue  # a step at the kink, where one rounding decides; tested below
        assert term.item() == pytest.approx(number, rel=TOLERANCES[dtype], abs=TOLERANCES[dtype]), (
            field
        )


@pytest.mark.parametrize("norm_adv", [True, False])
@pytest.mark.parametrize("clip_vloss", [True, False])
@pytest.mark.parametrize("name", ["near", "far", "logits of 1"])
def test_gradients(name: str, clip_vloss: bool, norm_adv: bool) -> None:
    """Autograd equals the oracle's derivatives and, except at the kinks, finite differences."""
    s = oracle.Settings(
        norm_adv=norm_adv, clip_coef=EPS, clip_vloss=clip_vloss, ent_coef=0.3, vf_coef=0.7
    )
    inputs = BATCHES[name]
    trained = ("new_log_probs", "entropies", "new_values")
    leaves = [inputs[key].clone().requires_grad_() for key in trained]

    def loss(*learned: Tensor) -> Tensor:
        return terms_of(inputs | dict(zip(trained, learned, strict=True)), s).loss

    assert torch.autograd.gradcheck(loss, leaves)
    lists = {key: value.tolist() for key, value in inputs.items()}
    olds = oracle.Olds(
        lists["old_log_probs"], lists["old_values"], lists["advantages"], lists["targets"]
    )
    expected = oracle.ppo_loss_gradient(lists["new_log_probs"], lists["new_values"], olds, s)
    gradients = torch.autograd.grad(loss(*leaves), leaves)
    for ours, numbers in zip(gradients, expected, strict=True):
        torch.testing.assert_close(
            ours, torch.tensor(numbers, dtype=torch.float64), rtol=1e-12, atol=1e-12
        )


def test_gradcheck_of_a_whole_network() -> None:
    """The gradient of every weight of a small network equals finite differences."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return 0.5 * torch.randn(shape, dtype=torch.float64, generator=generator)

    samples = 16
    inputs = {key: value[:samples] for key, value in BATCHES["near"].items()}
    obs, actions = normal(samples, 5), torch.arange(samples) % ACTIONS

    def loss(inner: Tensor, policy: Tensor, value: Tensor) -> Tensor:
        hidden = torch.tanh(obs @ inner)
        distribution = Categorical(hidden @ policy)
        learned = {
            "new_log_probs": distribution.log_prob(actions),
            "entropies": distribution.entropy(),
            "new_values": hidden @ value,
        }
        return terms_of(inputs | learned, oracle.Settings(clip_coef=EPS, ent_coef=0.3)).loss

    weights = [normal(5, 7), normal(7, ACTIONS), normal(7)]
    assert torch.autograd.gradcheck(loss, [weight.requires_grad_() for weight in weights])


@pytest.mark.parametrize(
    ("advantage", "ratio", "slope"),
    [
        # The probability of a good action increases until its ratio is above 1 + EPS, and that of
        # a bad action decreases until its ratio is below 1 - EPS. Otherwise, d(-rho A)/d rho = -A.
        (+2.0, 1 + EPS + 0.01, 0.0),
        (+2.0, 1 + EPS - 0.01, -2.0),
        (+2.0, 1 - EPS + 0.01, -2.0),
        (+2.0, 1 - EPS - 0.01, -2.0),
        (-2.0, 1 + EPS + 0.01, +2.0),
        (-2.0, 1 + EPS - 0.01, +2.0),
        (-2.0, 1 - EPS + 0.01, +2.0),
        (-2.0, 1 - EPS - 0.01, 0.0),
        (+2.0, 1.0, -2.0),
        (-2.0, 1.0, +2.0),
    ],
)
def test_where_the_policy_gradient_stops(advantage: float, ratio: float, slope: float) -> None:
    rho = torch.tensor([ratio, 1.0], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([advantage, 0.0], dtype=torch.float64)
    losses.policy_loss(advantages, rho, torch.tensor(EPS)).backward()
    assert rho.grad is not None
    assert rho.grad.tolist() == [slope / 2, 0.0]  # a mean over two samples


@pytest.mark.parametrize(
    ("step", "target", "slope", "clipped_slope"),
    [
        # The old value is 0. The slope of (V - R)^2 / 2 is V - R. With clipping it is 0 if V has
        # moved further than eps towards its target, because then the clipped error is larger.
        (+0.5, +2.0, -1.5, 0.0),
        (-0.5, -2.0, +1.5, 0.0),
        (+0.5, -2.0, +2.5, +2.5),
        (-0.5, +2.0, -2.5, -2.5),
        (+0.125, +2.0, -1.875, -1.875),
        (-0.125, +2.0, -2.125, -2.125),
    ],
)
def test_where_the_value_gradient_stops(
    step: float, target: float, slope: float, clipped_slope: float
) -> None:
    """The slope is V - R with clipping and without, because both have the factor 1/2."""
    for clip, expected in ((False, slope), (True, clipped_slope)):
        value = torch.tensor([step], dtype=torch.float64, requires_grad=True)
        zero = torch.zeros(1, dtype=torch.float64)
        losses.value_loss(value, zero, zero + target, torch.tensor(EPS), clip).backward()
        assert value.grad is not None
        assert value.grad.item() == expected


def test_value_loss_by_hand() -> None:
    """V = 3, R = 1, V_old = 0, eps = 1/4: (3-1)^2/2 = 2, and the clipped one is smaller."""
    three, zero, one = torch.tensor([3.0]), torch.tensor([0.0]), torch.tensor([1.0])
    eps = torch.tensor(EPS)
    assert losses.value_loss(three, zero, one, eps, clip=False).item() == 2.0
    assert losses.value_loss(three, zero, one, eps, clip=True).item() == 2.0
    # V = 1 equals R, but is 1 away from the old value: V_clip = 1/4, (3/4)^2/2.
    assert losses.value_loss(one, zero, one, eps, clip=False).item() == 0.0
    assert losses.value_loss(one, zero, one, eps, clip=True).item() == 0.28125


def test_advantages_are_normalized_by_the_unbiased_std() -> None:
    """-1, 0, 1, 2: variance 5/3 with ddof = 1, where openai/baselines would have 5/4."""
    advantages = torch.tensor([-1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
    normalized = losses.normalize_advantages(advantages)
    assert normalized[3].item() == pytest.approx(1.5 / (math.sqrt(5 / 3) + 1e-8), rel=1e-14)
    assert normalized.std(correction=1).item() == pytest.approx(1.0, abs=1e-7)
    assert normalized.mean().item() == pytest.approx(0.0, abs=1e-15)
    constant = losses.normalize_advantages(torch.full([4], 7.0))
    assert constant.tolist() == [0.0] * 4


def test_diagnostics_by_hand() -> None:
    """Ratios 1/2, 1, 1, 2: both KL estimates, and two of four samples outside the clip."""
    old = torch.full([4], -3.0, dtype=torch.float64)
    shift = math.log(2.0) * torch.tensor([-1.0, 0.0, 0.0, 3.0], dtype=torch.float64)
    inputs = {key: value[:4] for key, value in BATCHES["near"].items()}
    inputs |= {"old_log_probs": old, "new_log_probs": old + shift}
    terms = terms_of(inputs, oracle.Settings(clip_coef=0.25))
    assert terms.old_approx_kl.item() == pytest.approx(-2 * math.log(2.0) / 4)
    assert terms.approx_kl.item() == pytest.approx((-0.5 + 7.0 - 2 * math.log(2.0)) / 4)
    assert terms.clipfrac.item() == 0.5
    assert terms_of(inputs, oracle.Settings(clip_coef=0.5)).clipfrac.item() == 0.25


def test_the_expectation_of_both_kl_estimates_is_the_kl() -> None:
    """The expectation of both under the old policy is KL(old || new)."""
    old, new = torch.tensor([[0.0, 1.0, -1.0], [0.5, 0.2, -1.5]], dtype=torch.float64)
    old_log_probs, new_log_probs = old.log_softmax(-1), new.log_softmax(-1)
    kl = F.kl_div(new_log_probs, old_log_probs, log_target=True, reduction="sum").item()
    estimates = torch.zeros(2, dtype=torch.float64)
    inputs = {key: value[:1] for key, value in BATCHES["near"].items()}
    for action, prob in enumerate(old_log_probs.exp()):
        inputs["old_log_probs"] = old_log_probs[[action]]
        inputs["new_log_probs"] = new_log_probs[[action]]
        terms = terms_of(inputs, oracle.Settings(norm_adv=False))
        estimates += prob * torch.stack([terms.old_approx_kl, terms.approx_kl])
    assert estimates.tolist() == pytest.approx([kl, kl], rel=1e-12)


def test_only_the_loss_has_a_gradient() -> None:
    inputs = BATCHES["near"] | {"new_values": BATCHES["near"]["new_values"].clone()}
    inputs["new_values"].requires_grad_()
    terms = terms_of(inputs, oracle.Settings())
    carriers = [name for name, term in terms._asdict().items() if term.requires_grad]
    assert carriers == ["loss"]


def test_explained_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = 3.0 + torch.randn(100, dtype=torch.float64, generator=generator)
    values = targets + 0.5 * torch.randn(100, dtype=torch.float64, generator=generator)
    expected = oracle.explained_variance(values.tolist(), targets.tolist())
    assert explained_variance(values, targets).item() == pytest.approx(expected, rel=1e-12)
    assert 0.5 < expected < 0.9
    # A constant error does not reduce it; values with the wrong sign make it negative.
    assert explained_variance(targets - 5.0, targets).item() == pytest.approx(1.0)
    assert explained_variance(torch.zeros(100).double(), targets).item() == pytest.approx(0.0)
    assert explained_variance(-targets, targets).item() == pytest.approx(-3.0)


def test_explained_variance_of_constant_targets_is_nan() -> None:
    """There is no variance to explain, and infinity would make means and plots useless."""
    assert explained_variance(torch.arange(4.0), torch.ones(4)).isnan()
