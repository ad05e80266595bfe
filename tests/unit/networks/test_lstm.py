"""D32-D36: the LSTM equals PyTorch's, and an update sees the same states as the rollout."""

from contextlib import closing
from pathlib import Path

import pytest
import torch
from conftest import tiny
from torch import Tensor, nn

from ppo37 import evaluate, train
from ppo37.algorithm.advantages import gae
from ppo37.algorithm.distributions import Categorical
from ppo37.algorithm.losses import Coefficients
from ppo37.algorithm.rollout import Rollout, allocate, reset_state
from ppo37.algorithm.update import gradient_step, make_batch, make_optimizer, minibatch
from ppo37.backends.executables import make_act
from ppo37.backends.network import make_network
from ppo37.backends.threads import RolloutThreads
from ppo37.envs import env_factory
from ppo37.errors import UsageError
from ppo37.networks.agent import Agent
from ppo37.networks.lstm import LSTM
from ppo37.networks.policies import CategoricalPolicy
from ppo37.randomness import noise

FEATURES, CELLS = 7, 5


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def ours(seed: int = 0) -> LSTM:
    core = LSTM(FEATURES, CELLS).double()
    for k, parameter in enumerate(core.parameters()):
        parameter.data = 0.5 * normal(*parameter.shape, seed=seed + k)
    return core


def theirs(core: LSTM) -> nn.LSTM:
    """Return PyTorch's LSTM with the same weights; it has two biases that are added."""
    peer = nn.LSTM(FEATURES, CELLS, batch_first=True).double()
    state = {
        "weight_ih_l0": core.inputs.weight,
        "bias_ih_l0": core.inputs.bias,
        "weight_hh_l0": core.recurrent.weight,
        "bias_hh_l0": torch.zeros(4 * CELLS),
    }
    peer.load_state_dict({name: part.detach() for name, part in state.items()})
    return peer


def episode_by_episode(peer: nn.LSTM, x: Tensor, lstm_state: Tensor, dones: Tensor) -> Tensor:
    """Compute the outputs [M, L, H] of a peer that starts from zeros in every episode."""
    rows = []
    for sequence, before, ends in zip(x, lstm_state, dones, strict=True):
        state = tuple(part.view(1, 1, CELLS) for part in before.chunk(2))
        parts, begin = [], 0
        cuts = [int(t) + 1 for t in ends.nonzero()]
        for cut in (*cuts, len(sequence)):
            if cut > begin:
                parts.append(peer(sequence[begin:cut].unsqueeze(0), state)[0][0])
            state = (torch.zeros(1, 1, CELLS).double(),) * 2
            begin = cut
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def test_the_lstm_equals_pytorchs_and_is_reset_after_an_episode() -> None:
    core, x, lstm_state = ours(), normal(4, 9, FEATURES), normal(4, 2 * CELLS, seed=1)
    dones = (normal(4, 9, seed=2) > 0.7).double()
    dones[1], dones[2, 0], dones[3, -1] = 0, 1, 1
    outputs, after = core(x.flatten(0, 1), lstm_state, dones)
    outputs = outputs.unflatten(0, dones.shape)
    expected = episode_by_episode(theirs(core), x, lstm_state, dones)
    torch.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-14)
    assert after[3].eq(0).all()
    assert after[1].ne(0).all()
    # Two parts give the same, as when a rollout continues the one before.
    first, between = core(x[:, :4].flatten(0, 1), lstm_state, dones[:, :4])
    second, last = core(x[:, 4:].flatten(0, 1), between, dones[:, 4:])
    both = torch.cat([first.unflatten(0, (4, 4)), second.unflatten(0, (4, 5))], 1)
    torch.testing.assert_close(both, outputs, rtol=0, atol=1e-15)
    torch.testing.assert_close(last, after, rtol=0, atol=1e-15)


def test_gradients_equal_finite_differences() -> None:
    core = ours().requires_grad_(False)
    dones = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]).double()
    inputs = (normal(6, FEATURES).requires_grad_(), normal(2, 2 * CELLS).requires_grad_())
    assert torch.autograd.gradcheck(lambda x, m: core(x, m, dones), inputs)


def test_initial_weights_are_orthogonal_with_gain_1() -> None:
    agent = Agent((1, 84, 84), CategoricalPolicy(6), "lstm", seed=3)
    assert (agent.core.features, agent.core.state_size) == (128, 256)
    assert agent.core.inputs.bias.eq(0).all()
    for weight in (agent.core.inputs.weight, agent.core.recurrent.weight):
        columns = weight.detach().double()
        identity = torch.eye(columns.shape[1], dtype=torch.float64)
        torch.testing.assert_close(columns.T @ columns, identity, rtol=0, atol=1e-5)
    assert agent.initial_state(3).eq(0).all()
    assert agent.policy_head.weight.shape == (6, 128)


class Small(nn.Module):
    """A network in float64 with the LSTM of ppo37, or with a peer that runs episode by episode."""

    def __init__(self, peer: bool) -> None:
        super().__init__()
        self.core = ours()
        self.peer = theirs(self.core) if peer else None
        self.policy, self.value = nn.Linear(CELLS, 3).double(), nn.Linear(CELLS, 1).double()
        for k, part in enumerate((*self.policy.parameters(), *self.value.parameters())):
            part.data = normal(*part.shape, seed=50 + k)
        if self.peer is not None:
            self.core.requires_grad_(False)
            self.peer.bias_hh_l0.requires_grad_(False)  # the other bias replaces both

    def forward(
        self, obs: Tensor, lstm_state: Tensor, dones: Tensor
    ) -> tuple[Categorical, Tensor, Tensor]:
        if self.peer is None:
            x = self.core(obs, lstm_state, dones)[0]
        else:
            sequences = obs.unflatten(0, dones.shape)
            x = episode_by_episode(self.peer, sequences, lstm_state, dones).flatten(0, 1)
        return Categorical(self.policy(x)), self.value(x).squeeze(-1), lstm_state


def test_an_update_equals_that_of_pytorchs_lstm() -> None:
    """All weights are equal after gradient steps on shuffled, whole sequences (D35, D36)."""
    steps, envs = 8, 4
    rollout = Rollout(
        obs=normal(steps, envs, FEATURES, seed=3),
        actions=torch.randint(3, (steps, envs), generator=torch.Generator().manual_seed(4)),
        log_probs=-1.1 + 0.1 * normal(steps, envs, seed=5),
        values=normal(steps + 1, envs, seed=6),
        rewards=normal(steps, envs, seed=7),
        dones=(normal(steps, envs, seed=8) > 1).double(),
        final_values=torch.zeros(steps, envs).double(),
        lstm_state=normal(envs, 2 * CELLS, seed=9),
    )
    assert rollout.dones.sum() > 2
    batch = make_batch(rollout, 0.99, 0.95, False, length=steps)
    expected = gae(rollout.rewards, rollout.values, rollout.dones, 0.99, 0.95)
    assert torch.equal(batch.advantages, expected.T)
    clip_coef, ent_coef, vf_coef = torch.tensor([0.1, 0.01, 0.5]).double()
    coefficients = Coefficients(clip_coef, True, True, ent_coef, vf_coef)
    nets = Small(peer=False), Small(peer=True)
    for net in nets:
        optimizer = make_optimizer(net, 1e-2, 1e-5)
        for indices in ([2, 0], [3, 1], [1, 2], [0, 3]):
            gradient_step(
                net, optimizer, minibatch(batch, torch.tensor(indices)), coefficients, 0.5
            )
    found, peer = nets[0].core, nets[1].peer
    assert peer is not None
    pairs = [
        (found.inputs.weight, peer.weight_ih_l0),
        (found.recurrent.weight, peer.weight_hh_l0),
        (nets[0].policy.weight, nets[1].policy.weight),
        (nets[0].value.bias, nets[1].value.bias),
    ]
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    assert (found.inputs.weight - ours().inputs.weight).abs().max() > 0.01


def test_a_gradient_step_starts_from_the_lstm_state_of_the_rollout() -> None:
    """All ratios are 1 before the first step, for a policy that acted by a peer's LSTM (D36)."""
    steps, envs = 8, 4
    obs, lstm_state = normal(envs, steps, FEATURES, seed=3), normal(envs, 2 * CELLS, seed=9)
    dones = (normal(envs, steps, seed=8) > 1).double()
    with torch.no_grad():
        acted, values, _ = Small(peer=True)(obs.flatten(0, 1), lstm_state, dones)
    actions = torch.randint(3, (envs * steps,), generator=torch.Generator().manual_seed(4))

    def buffer(part: Tensor) -> Tensor:
        """[N * T, ...] -> [T, N, ...]"""
        return part.unflatten(0, (envs, steps)).transpose(0, 1)

    rollout = Rollout(
        obs=obs.transpose(0, 1),
        actions=buffer(actions),
        dones=dones.T,
        lstm_state=lstm_state,
        log_probs=buffer(acted.log_prob(actions)),
        values=torch.cat([buffer(values), normal(1, envs)]),
        rewards=normal(steps, envs, seed=7),
        final_values=torch.zeros(steps, envs).double(),
    )
    batch = make_batch(rollout, 0.99, 0.95, False, length=steps)
    clip_coef, ent_coef, vf_coef = torch.tensor([0.1, 0.01, 0.5]).double()
    coefficients = Coefficients(clip_coef, True, True, ent_coef, vf_coef)

    def kl(before: Tensor) -> float:
        net = Small(peer=False)
        optimizer = make_optimizer(net, 1e-2, 1e-5)
        sample = minibatch(batch._replace(lstm_state=before), torch.tensor([2, 0, 3]))
        return float(gradient_step(net, optimizer, sample, coefficients, 0.5).approx_kl)

    assert kl(batch.lstm_state) == pytest.approx(0.0, abs=1e-14)
    assert kl(torch.zeros_like(batch.lstm_state)) > 1e-4


@pytest.mark.parametrize("game", ["catch", pytest.param("breakout", marks=pytest.mark.slow)])
def test_an_update_sees_the_states_of_the_rollout(game: str) -> None:
    """An update computes the same log-probabilities and values as the rollout (D34, D36)."""
    factory = env_factory(game, num_frames=1)
    parts = [factory(2, 5), factory(2, 5, first_env=2)]
    agent = Agent(parts[0].obs_shape, CategoricalPolicy(len(parts[0].action_names)), "lstm", seed=1)
    nn.init.orthogonal_(agent.policy_head.weight, 3.0)
    network = make_network(agent)
    steps = 64
    buffers = allocate(steps, 4, parts[0].obs_shape, torch.device("cpu"), agent.core.state_size)
    with closing(RolloutThreads(parts, [make_act(network)] * len(parts), buffers)) as threads:
        for k in range(3):
            threads.collect(torch.from_numpy(noise(5, k, steps + 1, 4)))
    for envs in parts:
        envs.close()
    assert buffers.dones.sum() > 0
    assert buffers.lstm_state.ne(0).any()
    batch = make_batch(buffers, 0.99, 0.95, False, length=steps)
    obs = network.arrange(batch.obs.flatten(0, 1))

    @torch.no_grad()
    def difference(lstm_state: Tensor, dones: Tensor) -> float:
        distribution, values, _ = network(obs, lstm_state, dones)
        ratio = (distribution.log_prob(batch.actions.flatten()) - batch.log_probs.flatten()).exp()
        errors = values - batch.values.flatten()
        return max(float((ratio - 1).abs().max()), float(errors.abs().max()))

    assert difference(batch.lstm_state, batch.dones) < 1e-4
    assert difference(torch.zeros_like(batch.lstm_state), batch.dones) > 1e-3
    assert difference(batch.lstm_state, torch.zeros_like(batch.dones)) > 1e-3


def test_reset_state() -> None:
    lstm_state = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert reset_state(lstm_state, torch.tensor([0.0, 1.0])).tolist() == [[1.0, 2.0], [0.0, 0.0]]
    assert reset_state(torch.zeros(2, 0), torch.tensor([0.0, 1.0])).shape == (2, 0)


@pytest.mark.slow
def test_it_learns_catch(tmp_path: Path) -> None:
    config = tiny(
        network="lstm",
        total_timesteps=40_960,
        num_envs=32,
        num_steps=32,
        num_minibatches=4,
        update_epochs=4,
        learning_rate=1e-3,
    )
    train(config, tmp_path / "run")
    assert evaluate(tmp_path / "run", episodes=64).mean > 5


def test_every_minibatch_needs_whole_environments() -> None:
    with pytest.raises(UsageError, match="num_envs = 6 does not divide into num_minibatches = 4"):
        tiny(network="lstm", num_envs=6, num_minibatches=4)
    assert tiny(network="lstm").num_frames == 1
    stacked = tiny(network="lstm", frame_stack=4)
    assert stacked.num_frames == 4
    assert "4 stacked frames" in stacked.warnings[0]
    assert not tiny(network="lstm").warnings
    assert not tiny(frame_stack=4).warnings
    assert tiny().num_frames == 4
