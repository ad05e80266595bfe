"""E9, D06, D11 and whole updates: every parameter equals that of the oracle."""

import struct
from typing import NamedTuple

import pytest
import torch
from conftest import ACTIONS, FEATURES, TinyNet, forward_step
from torch import Tensor, nn

from ppo37.algorithm import rollout as rollouts
from ppo37.algorithm.distributions import Categorical
from ppo37.algorithm.losses import Coefficients, LossTerms, ppo_loss
from ppo37.algorithm.schedules import linear
from ppo37.algorithm.update import (
    Batch,
    gradient_step,
    make_batch,
    make_optimizer,
    minibatch,
    set_learning_rate,
    update,
)
from ppo37.backends.network import make_network
from ppo37.course import oracle
from ppo37.errors import UsageError
from ppo37.networks.agent import Agent
from ppo37.networks.policies import CategoricalPolicy

STEPS, ENVS = 16, 4
EPOCHS, UPDATES, NUM_UPDATES = 3, 3, 5
LEARNING_RATE = 3e-3

EXACT = 1e-12
"""Bound on every parameter after 36 gradient steps in float64; measured: 3e-16."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


NOTHING = torch.zeros(0)
"""LSTM state and dones for a network that ignores them."""


def weights_of(net: nn.Module) -> oracle.Weights:
    return {name: p.detach().flatten().tolist() for name, p in net.named_parameters()}


def make_rollout(k: int) -> rollouts.Rollout:
    """Make a rollout that reaches every branch: clipped ratios and values, dones, truncations."""
    generator = torch.Generator().manual_seed(1000 + k)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    net = TinyNet()
    obs = normal(STEPS, ENVS, FEATURES)
    actions = torch.randint(ACTIONS, (STEPS, ENVS), generator=generator)
    with torch.no_grad():
        distribution, values, _ = net(obs, NOTHING, NOTHING)
    dones = (normal(STEPS, ENVS) > 1.0).double()
    return rollouts.Rollout(
        obs=obs,
        actions=actions,
        log_probs=distribution.log_prob(actions) + 0.1 * normal(STEPS, ENVS),
        values=torch.cat([values, values[:1]]) + 0.1 * normal(STEPS + 1, ENVS),
        rewards=normal(STEPS, ENVS),
        dones=dones,
        final_values=dones * normal(STEPS, ENVS) * (normal(STEPS, ENVS) > 0),
        lstm_state=torch.zeros(ENVS, 0, dtype=torch.float64),
    )


def make_permutations(k: int) -> Tensor:
    generator = torch.Generator().manual_seed(2000 + k)
    return torch.stack([torch.randperm(STEPS * ENVS, generator=generator) for _ in range(EPOCHS)])


def fp32(number: float) -> float:
    return float(struct.unpack("f", struct.pack("f", number))[0])


class Run(NamedTuple):
    """The results of several updates."""

    weights: oracle.Weights
    metrics: list[dict[str, float]]
    norms: list[float]


def ours(s: oracle.Settings) -> Run:
    """Run updates by the package, on the same inputs as `theirs`."""
    net, metrics = TinyNet(), []
    optimizer = make_optimizer(net, LEARNING_RATE, s.adam_eps)
    clip_coef = torch.tensor(s.clip_coef, dtype=torch.float64)
    ent_coef, vf_coef = (torch.tensor(x, dtype=torch.float64) for x in (s.ent_coef, s.vf_coef))
    coefficients = Coefficients(clip_coef, s.clip_vloss, s.norm_adv, ent_coef, vf_coef)

    def train_step(batch: Batch, indices: Tensor) -> LossTerms:
        samples = minibatch(batch, indices)
        return gradient_step(net, optimizer, samples, coefficients, s.max_grad_norm)

    for k in range(UPDATES):
        set_learning_rate(optimizer, linear(LEARNING_RATE, 0.0, k, NUM_UPDATES))
        batch = make_batch(make_rollout(k), s.gamma, s.gae_lambda, s.bootstrap_truncated)
        terms = update(train_step, batch, make_permutations(k), s.num_minibatches)
        metrics.append(terms)
    return Run(weights_of(net), metrics, [])


def theirs(s: oracle.Settings, anneal: bool = True, shuffle: bool = True) -> Run:
    """Run the same updates by the oracle.

    The package has the learning rate in an fp32 tensor, so the oracle gets it rounded to fp32.
    Without rounding, the parameters would differ by 3e-8 of their changes (about 1e-9).
    """
    weights, metrics, norms = weights_of(TinyNet()), [], []
    adam = oracle.Adam(weights)
    for k in range(UPDATES):
        rate = oracle.linear(LEARNING_RATE, k if anneal else 0, NUM_UPDATES)
        *lists, _ = (part.tolist() for part in make_rollout(k))
        samples = oracle.make_batch(oracle.Rollout(*lists), s)
        orders = make_permutations(k).tolist() if shuffle else [list(range(STEPS * ENVS))] * EPOCHS
        history, gradient_norms = oracle.update(weights, adam, samples, orders, fp32(rate), s)
        norms += gradient_norms
        means = {
            name: oracle.mean([getattr(terms, name) for terms in history])
            for name in oracle.Terms._fields
        }
        means["explained_variance"] = oracle.explained_variance(
            [sample.value for sample in samples], [sample.target for sample in samples]
        )
        metrics.append(means)
    return Run(weights, metrics, norms)


def distance(a: oracle.Weights, b: oracle.Weights) -> float:
    """Return the largest difference of any parameter."""
    assert a.keys() == b.keys()
    pairs = [zip(a[name], b[name], strict=True) for name in a]
    return max(abs(x - y) for pair in pairs for x, y in pair)


REFERENCE = oracle.Settings(max_grad_norm=0.7)


@pytest.mark.parametrize(
    "s",
    [
        REFERENCE,
        REFERENCE._replace(clip_vloss=False, norm_adv=False, bootstrap_truncated=False),
        REFERENCE._replace(num_minibatches=1, clip_coef=0.2, ent_coef=0.0, gae_lambda=1.0),
    ],
    ids=["reference", "without value clipping", "one minibatch"],
)
def test_whole_updates_equal_the_oracle(s: oracle.Settings) -> None:
    """All parameters and metrics are equal after three updates of three epochs."""
    run, expected = ours(s), theirs(s)
    assert distance(run.weights, expected.weights) < EXACT
    for metrics, numbers in zip(run.metrics, expected.metrics, strict=True):
        assert metrics == pytest.approx(numbers, rel=1e-10, abs=EXACT)


def test_every_branch_is_reached() -> None:
    """Some samples are clipped and some are not, and so are gradients."""
    expected = theirs(REFERENCE)
    assert all(0.1 < metrics["clipfrac"] < 0.9 for metrics in expected.metrics)
    assert min(expected.norms) < REFERENCE.max_grad_norm < max(expected.norms)
    rollout = make_rollout(0)
    assert 0 < rollout.final_values.count_nonzero() < rollout.dones.count_nonzero()


@pytest.mark.parametrize(
    "change",
    [
        {"gae_lambda": 0.94},
        {"gamma": 0.98},
        {"bootstrap_truncated": False},
        {"num_minibatches": 8},
        {"norm_adv": False},
        {"norm_adv_ddof": 0},
        {"clip_coef": 0.11},
        {"clip_vloss": False},
        {"ent_coef": 0.011},
        {"vf_coef": 1.0},
        {"max_grad_norm": float("inf")},
        {"grad_norm_eps": 0.0},
        {"adam_eps": 1e-8},
        {"adam_betas": (0.9, 0.99)},
    ],
    ids=str,
)
def test_a_changed_setting_is_noticed(change: dict[str, object]) -> None:
    """Any setting changed only in the oracle gives a difference of over 1000 times the bound."""
    other = theirs(REFERENCE._replace(**change))  # type: ignore[arg-type]
    assert distance(ours(REFERENCE).weights, other.weights) > 1000 * EXACT


def test_a_changed_schedule_or_shuffle_is_noticed() -> None:
    run = ours(REFERENCE)
    assert distance(run.weights, theirs(REFERENCE, anneal=False).weights) > 1000 * EXACT
    assert distance(run.weights, theirs(REFERENCE, shuffle=False).weights) > 1000 * EXACT


def test_schedule() -> None:
    """E9; towards 0 in the very numbers of the reference, also counted in agent steps."""
    assert [linear(8.0, 0.0, k, 4) for k in range(4)] == [8.0, 6.0, 4.0, 2.0]
    assert [linear(8.0, 4.0, k, 4) for k in range(4)] == [8.0, 7.0, 6.0, 5.0]
    assert {linear(0.1, 0.1, k, 9765) for k in range(9765)} == {0.1}
    rates = [linear(2.5e-4, 0.0, k * 1024, 9765 * 1024) for k in range(9765)]
    assert rates == [2.5e-4 * (1.0 - k / 9765) for k in range(9765)]
    assert rates[0] == 2.5e-4
    assert rates[-1] == pytest.approx(2.5e-4 / 9765, rel=1e-9)
    assert rates == pytest.approx([oracle.linear(2.5e-4, k, 9765) for k in range(9765)])


def test_set_learning_rate_keeps_the_tensor() -> None:
    """The rate is changed in place, because a recorded step reads the same memory."""
    optimizer = make_optimizer(TinyNet(), LEARNING_RATE, 1e-5)
    before = [group["lr"] for group in optimizer.param_groups]
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"].item() for group in optimizer.param_groups] == [0.125]
    assert optimizer.param_groups[0]["lr"] is before[0]


# ---- minibatches ----


def fake_terms(approx_kl: float = 0.0, number: float = 0.0) -> LossTerms:
    terms = LossTerms(*torch.full([len(LossTerms._fields)], number).unbind())
    return terms._replace(approx_kl=torch.tensor(approx_kl))


def run_recorded(
    permutations: Tensor, num_minibatches: int, kls: list[float], target_kl: float | None
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Run an update whose minibatches report `kls`. Returns their indices and the metrics."""
    seen: list[Tensor] = []

    def train_step(batch: Batch, indices: Tensor) -> LossTerms:
        seen.append(indices.clone())
        return fake_terms(kls[len(seen) - 1], number=float(len(seen)))

    size = permutations.shape[1]
    batch = Batch(*(torch.arange(size, dtype=torch.float32) for _ in Batch._fields))
    return seen, update(train_step, batch, permutations, num_minibatches, target_kl)


@pytest.mark.parametrize(("num_minibatches", "size"), [(1, 64), (4, 16), (32, 2)])
def test_every_sample_is_used_once_per_epoch(num_minibatches: int, size: int) -> None:
    """Each epoch has its own permutation, divided into slices of equal size in order."""
    permutations = make_permutations(0)
    kls = [0.0] * EPOCHS * num_minibatches
    seen, _ = run_recorded(permutations, num_minibatches, kls, None)
    assert [len(indices) for indices in seen] == [size] * num_minibatches * EPOCHS
    assert torch.equal(torch.cat(seen), permutations.flatten())


@pytest.mark.parametrize(
    ("target_kl", "minibatches"),
    [(None, 12), (0.9, 12), (0.5, 8), (0.3, 4), (0.2, 4)],
)
def test_target_kl_stops_after_an_epoch(target_kl: float | None, minibatches: int) -> None:
    """An update stops if the KL of the last minibatch of an epoch exceeds the target."""
    kls = [0.9, 0.9, 0.9, 0.375, 0.0, 0.0, 0.0, 0.75, 0.9, 0.9, 0.9, 0.9]
    seen, metrics = run_recorded(make_permutations(0), 4, kls, target_kl)
    assert len(seen) == minibatches
    # Metrics are means over the minibatches that were run: here of 1, 2, 3, ...
    assert metrics["loss"] == (minibatches + 1) / 2


def test_kl_equal_to_the_target_does_not_stop() -> None:
    seen, _ = run_recorded(make_permutations(0), 2, [0.25] * 6, 0.25)
    assert len(seen) == 6


def test_the_parts_of_a_sample_stay_together() -> None:
    """All parts of a sample stay together, also when [T, N] is flattened."""
    numbers = torch.arange(float(STEPS * ENVS)).reshape(STEPS, ENVS)  # sequences of one step
    rollout = make_rollout(0)._replace(
        obs=numbers[..., None].expand(-1, -1, 3),
        actions=numbers.long(),
        log_probs=numbers,
        values=torch.cat([numbers, torch.zeros(1, ENVS)]),
        rewards=numbers,
        dones=torch.ones(STEPS, ENVS),
    )
    batch = make_batch(rollout, 0.9, 0.9, bootstrap_truncated=False)
    indices = torch.tensor([5, 0, 63, 17])
    chosen = minibatch(batch, indices)
    assert chosen.obs.tolist() == [[[float(i)] * 3] for i in indices]
    for part in (chosen.actions, chosen.log_probs, chosen.values, chosen.targets):
        assert part.flatten().tolist() == indices.tolist()
    assert chosen.advantages.flatten().tolist() == [0.0] * 4  # every step ends: r - V = 0


@pytest.mark.parametrize("length", [1, 4, STEPS])
def test_a_sequence_has_consecutive_steps_of_one_environment(length: int) -> None:
    """D35: with whole rollouts, sequence n is environment n, with the LSTM state at its start."""
    numbers = torch.arange(float(STEPS * ENVS)).reshape(STEPS, ENVS)  # step * ENVS + environment
    rollout = make_rollout(0)._replace(
        log_probs=numbers, lstm_state=torch.arange(float(ENVS)).unsqueeze(1)
    )
    batch = make_batch(rollout, 0.9, 0.9, bootstrap_truncated=False, length=length)
    assert batch.log_probs.shape == (STEPS * ENVS // length, length)
    assert batch.obs.shape == (STEPS * ENVS // length, length, FEATURES)
    environments, steps = batch.log_probs % ENVS, batch.log_probs // ENVS
    assert torch.equal(environments, environments[:, :1].expand(-1, length))
    assert torch.equal(steps - steps[:, :1], torch.arange(float(length)).expand_as(steps))
    assert batch.log_probs.flatten().sort().values.tolist() == numbers.flatten().tolist()
    assert torch.equal(batch.lstm_state[:, 0], environments[:, 0])


@pytest.mark.parametrize("max_grad_norm", [0.01, 1e6])
def test_the_gradient_norm_is_bounded(max_grad_norm: float) -> None:
    """Adam gets the gradient of the loss, scaled to the bound."""
    net, batch = TinyNet(), make_batch(make_rollout(0), 0.99, 0.95, True)
    clip_coef, ent_coef, vf_coef = torch.tensor([0.1, 0.01, 0.5])
    coefficients = Coefficients(clip_coef, True, True, ent_coef, vf_coef)
    optimizer = make_optimizer(net, 0.0, 1e-5)
    for _ in range(2):  # the second would be longer if gradients were not cleared
        gradient_step(net, optimizer, batch, coefficients, max_grad_norm)
    gradient = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])

    distribution, values, _ = net(batch.obs, batch.lstm_state, batch.dones)  # as they are
    terms = ppo_loss(
        distribution.log_prob(batch.actions),
        distribution.entropy(),
        values,
        batch.log_probs,
        batch.values,
        batch.advantages,
        batch.targets,
        coefficients,
    )
    raw = torch.cat([g.flatten() for g in torch.autograd.grad(terms.loss, list(net.parameters()))])
    scale = min(1.0, max_grad_norm / (raw.norm().item() + 1e-6))
    torch.testing.assert_close(gradient, scale * raw, rtol=1e-12, atol=1e-15)
    assert gradient.norm().item() <= max_grad_norm
    assert raw.norm().item() > 0.01


# ---- the first minibatch of an update ----


def frames(generator: torch.Generator, count: int) -> Tensor:
    """Make screens [count, 4, 84, 84] uint8 like a game's: flat, with bars and moving sprites."""
    screens = torch.full((count, 4, 84, 84), 87, dtype=torch.uint8)
    screens[:, :, :10] = 0
    screens[:, :, 78:] = 236
    screens[:, :, 10:12] = 142
    for _ in range(6):
        y, x, shade = (int(torch.randint(n, (), generator=generator)) for n in (50, 60, 256))
        for i in range(count):
            for age in range(4):
                top, left = 12 + (y + 2 * i + age) % 60, (x + 3 * i - age) % 76
                screens[i, age, top : top + 4, left : left + 8] = shade
    return screens


def log_ratios_before_a_step(
    gain: float, num_envs: int, acting_bf16: bool, learning_bf16: bool, kernels: str = "torch"
) -> Tensor:
    """Compute log rho [128] of the first minibatches of an update, before any step.

    Old log-probabilities come from batches of `num_envs`, as in a rollout, and new ones from
    shuffled minibatches of 32 with gradients: only the order of sums may differ.
    """
    generator = torch.Generator().manual_seed(0)
    agent = Agent((4, 84, 84), CategoricalPolicy(6), "nature", seed=1)
    nn.init.orthogonal_(agent.policy_head.weight, gain, generator=generator)
    agent.bf16 = acting_bf16
    network = make_network(agent, kernels)
    obs = network.arrange(frames(generator, 128))
    with network.frozen_weights():
        logits = torch.cat(
            [forward_step(network, screens)[0].logits for screens in obs.split(num_envs)]
        )
    actions = Categorical(logits).sample(torch.rand(128, generator=generator))
    old = Categorical(logits).log_prob(actions)
    largest = logits.softmax(-1).amax(-1).mean().item()
    assert (largest < 0.18) if gain < 1.0 else (0.5 < largest < 0.9)

    zeros = torch.zeros(128, 1)
    batch = Batch(
        obs.unsqueeze(1),
        actions.unsqueeze(1),
        old.unsqueeze(1),
        zeros,
        zeros,
        zeros,
        zeros,
        agent.initial_state(128),
    )
    agent.bf16 = learning_bf16
    log_ratios = []
    for indices in torch.randperm(128, generator=generator).chunk(4):
        samples = minibatch(batch, indices)
        distribution, _ = forward_step(network, samples.obs.flatten(0, 1))
        new = distribution.log_prob(samples.actions.flatten())
        log_ratios.append(new - samples.log_probs.flatten())
    return torch.cat(log_ratios).detach()


@pytest.mark.parametrize("kernels", ["torch", "native"])
@pytest.mark.parametrize("num_envs", [8, 1])
@pytest.mark.parametrize(
    ("bf16", "gain", "bound"),
    [(False, 0.01, 1e-6), (False, 5.0, 1e-5), (True, 0.01, 1e-5), (True, 5.0, 2e-3)],
    ids=["fp32 new", "fp32 trained", "bf16 new", "bf16 trained"],
)
def test_the_ratio_is_1_before_the_first_step(
    bf16: bool, gain: float, bound: float, num_envs: int, kernels: str
) -> None:
    """A new policy is nearly uniform; a trained one gives its best action about 0.55.

    Measured on a CPU with native bf16: exactly 0 for 8 environments, because the kernels sum in
    the same order for every batch of at least 4. For 1 environment 1e-7, 3e-6, 1e-7 and 4e-6, the
    last up to 5e-5 for other heads.
    """
    try:
        log_ratios = log_ratios_before_a_step(gain, num_envs, bf16, bf16, kernels)
    except UsageError as error:
        pytest.skip(str(error))
    assert log_ratios.abs().max().item() < bound


def test_different_precisions_in_rollout_and_update_are_noticed() -> None:
    """The difference is above the bound for bf16; measured: 0.02."""
    log_ratios = log_ratios_before_a_step(5.0, 8, acting_bf16=False, learning_bf16=True)
    assert log_ratios.abs().max().item() > 2e-3
