"""Recorded executables equal plain ones: recorded on the CPU, and by CUDA graphs on a GPU.

The recording on the CPU has the restrictions of CUDA graphs: a replay runs the recorded operations
at the same addresses, without Python. So code that reads a value while it is recorded, branches on
one, or uses a number instead of a tensor, is found without a GPU.
"""

import copy
import dataclasses
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import fingerprint_and_log, same_tensors, tiny
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ppo37 import resume, train
from ppo37.algorithm.rollout import Rollout, allocate, collect
from ppo37.algorithm.update import make_optimizer, set_learning_rate, update
from ppo37.backends.cuda_graphs import Work, cuda_graph, recorded
from ppo37.backends.device import make_exact
from ppo37.backends.executables import Executables, eager, make_buffers, unchanged
from ppo37.backends.self_test import TOLERANCES
from ppo37.backends.threads import RolloutThreads, split_envs
from ppo37.backends.transfer import staged
from ppo37.build import make_agent, make_factory
from ppo37.config import Config
from ppo37.envs import spaces_of
from ppo37.networks.agent import Agent
from ppo37.randomness import noise, permutations

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


class Tape(TorchDispatchMode):
    """A list of all operations with the tensors that they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "it reads a value"
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, result))
        return result

    @torch.inference_mode()
    def play(self) -> None:
        for func, args, kwargs, result in self.operations:
            read = {part.untyped_storage().data_ptr() for part in tensors_in((args, kwargs))}
            values = tensors_in(func(*args, **kwargs))
            for output, value in zip(tensors_in(result), values, strict=True):
                # Views and the results of in-place operations have their values already.
                if output.untyped_storage().data_ptr() not in read:
                    output.copy_(value)


def tensors_in(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def tape(work: Work) -> Work:
    """Record `work` on the CPU, instead of by `cuda_graph`."""
    for _ in range(2):
        work()
    with Tape() as recording:
        results = work()

    def replay() -> tuple[Tensor, ...]:
        recording.play()
        return results

    return replay


class Side:
    """One of two sides to compare: an agent, its environments, and its executables."""

    def __init__(
        self, config: Config, make: Callable[[Agent, Any, Rollout, list[int]], Executables]
    ) -> None:
        if config.device == "cuda":
            make_exact()
        factory = make_factory(config, 1)
        self.config = config
        self.parts = [
            factory(part.stop - part.start, config.seed, first_env=part.start)
            for part in split_envs(config.num_envs, config.divisible, 2)
        ]
        envs = self.parts[0]
        self.agent = make_agent(config, spaces_of(envs)).to(config.device)
        rate = config.schedule("learning_rate")[0]
        self.optimizer = make_optimizer(self.agent, rate, config.adam_eps)
        self.buffers = make_buffers(self.agent, config.num_steps, config.num_envs, envs.obs_shape)
        sizes = [part.num_envs for part in self.parts]
        self.run = make(self.agent, self.optimizer, self.buffers, sizes)

    def updates(self, count: int) -> list[dict[str, Tensor]]:
        """Run several updates. Returns the metrics of each."""
        config, metrics = self.config, []
        with ExitStack() as stack:
            for part in self.parts:
                stack.enter_context(closing(part))
            threads = stack.enter_context(
                closing(RolloutThreads(self.parts, self.run.acts, self.buffers))
            )
            for k in range(count):
                set_learning_rate(self.optimizer, config.schedule("learning_rate")[0] / (k + 1))
                for name, coefficient in self.run.annealed.items():
                    coefficient.fill_(config.schedule(name)[0] / (k + 1))
                draws = noise(
                    config.seed,
                    k,
                    config.num_steps + 1,
                    config.num_envs,
                    shape=self.agent.policy.action_shape,
                )
                with self.run.frozen_weights():
                    threads.collect(torch.from_numpy(draws).to(config.device))
                batch = self.run.advantages(self.buffers)
                orders = permutations(config.seed, k, config.update_epochs, config.num_sequences)
                metrics.append(
                    update(
                        self.run.train_step,
                        batch,
                        torch.from_numpy(orders).to(config.device),
                        config.num_minibatches,
                        config.target_kl,
                    )
                )
        return metrics


def plain_of(config: Config) -> Side:
    return Side(
        config, lambda agent, optimizer, _, sizes: eager(agent, optimizer, config, len(sizes))
    )


def recorded_of(config: Config, record: Callable[[Work], Work]) -> Side:
    def make(agent: Agent, optimizer: Any, buffers: Rollout, sizes: list[int]) -> Executables:
        plain = eager(agent, optimizer, config, len(sizes))
        size = config.minibatch_sequences
        return recorded(plain, buffers, sizes, size, optimizer, record)

    return Side(config, make)


def require_alike(one: Side, other: Side, updates: int = 3) -> None:
    """Require the same bits in buffers, metrics, weights and optimizer states."""
    metrics = [side.updates(updates) for side in (one, other)]
    assert same_tensors(one.buffers._asdict(), other.buffers._asdict())
    assert metrics[0] == metrics[1]
    assert same_tensors(one.agent.state_dict(), other.agent.state_dict())
    states = [side.optimizer.state_dict()["state"] for side in (one, other)]
    for index, state in states[0].items():
        assert same_tensors(state, states[1][index])


VARIANTS = {
    "classic": {},
    "lstm": {"network": "lstm", "frame_stack": 1},
    "joystick": {"action_space": "joystick", "mask_actions": True},
    "continuous": {"action_space": "continuous", "ent_coef": 0.0},
    "bf16": {"precision": "bf16"},
    "early stop": {"target_kl": 1e-4, "learning_rate": 1e-3, "clip_vloss": False},
}


def config_of(variant: str, **others: Any) -> Config:
    return tiny(
        **{
            "game": "breakout",
            "num_envs": 4,
            "num_steps": 16,
            "num_minibatches": 2,
            "update_epochs": 2,
            "bootstrap_truncated": True,
            "precision": "fp32",
            **VARIANTS[variant],
            **others,
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_replay_equals_plain_pytorch(variant: str) -> None:
    config = config_of(variant)
    require_alike(plain_of(config), recorded_of(config, tape))


@pytest.mark.slow
def test_a_replay_bootstraps_truncated_episodes() -> None:
    """A truncated step calls `act` twice; the first outputs must not be overwritten."""
    config = config_of("lstm", game="catch", num_envs=6, num_steps=40)
    one, other = plain_of(config), recorded_of(config, tape)
    for side in (one, other):
        for part in side.parts:
            limited(part)
    require_alike(one, other)
    assert one.buffers.final_values.count_nonzero() > 5


def limited(envs: Any) -> None:
    """Turn every third done into a truncation."""
    genuine, ends = envs.step, 0

    def step(actions: Any) -> Any:
        nonlocal ends
        result = genuine(actions)
        ends += int(result.dones.any())
        cut = result.dones & (ends % 3 == 0)
        return result._replace(truncated=cut, final_obs=result.obs)

    envs.step = step


def test_reading_a_value_cannot_be_recorded() -> None:
    number = torch.zeros(())
    with pytest.raises(AssertionError, match="reads a value"):
        tape(lambda: (number + float(number),))


@pytest.mark.slow
def test_a_replay_reads_the_recorded_memory() -> None:
    """A learning rate in other memory is not read: the recording reads the recorded memory."""
    config = config_of("classic")
    one, other = plain_of(config), recorded_of(config, tape)
    one.updates(2)
    frozen = other.optimizer.param_groups[0]["lr"].clone()
    other.optimizer.param_groups[0]["lr"] = frozen  # other memory
    other.updates(2)
    assert not same_tensors(one.agent.state_dict(), other.agent.state_dict())


def test_recording_does_not_change_weights_and_moments() -> None:
    config = config_of("classic")
    side = plain_of(config)
    side.updates(1)
    before = copy.deepcopy((side.agent.state_dict(), side.optimizer.state_dict()["state"]))
    sizes = [part.num_envs for part in side.parts]
    size = config.minibatch_sequences
    recorded(side.run, side.buffers, sizes, size, side.optimizer, tape)
    assert same_tensors(side.agent.state_dict(), before[0])
    for index, state in side.optimizer.state_dict()["state"].items():
        assert same_tensors(state, before[1][index])


def test_unchanged_restores_after_an_error() -> None:
    side = plain_of(config_of("classic"))
    before = copy.deepcopy(side.agent.state_dict())

    def fail() -> None:
        with unchanged(side.optimizer):
            side.updates(1)
            assert not same_tensors(side.agent.state_dict(), before)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert same_tensors(side.agent.state_dict(), before)
    values = [value for state in side.optimizer.state.values() for value in state.values()]
    assert values
    assert not any(value.count_nonzero() for value in values)


def test_several_ranks_record_only_act() -> None:
    """Only `act` is recorded, because the shapes of shared steps differ from step to step."""
    config = config_of("classic")
    side = plain_of(config)
    sizes = [part.num_envs for part in side.parts]
    run = recorded(side.run, side.buffers, sizes, 1, side.optimizer, tape, alone=False)
    assert run.train_step is side.run.train_step
    assert run.advantages is side.run.advantages
    assert run.acts[0] is not run.acts[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "record"), [("cpu", tape), pytest.param("cuda", cuda_graph, marks=GPU)]
)
def test_the_gradient_in_bf16_is_close_to_fp32(device: str, record: Callable[[Work], Work]) -> None:
    """For one minibatch of the same rollout, replayed."""
    gradients: list[Tensor] = []
    rollout: Rollout | None = None
    for precision in ("fp32", "bf16"):
        config = dataclasses.replace(config_of("classic"), device=device, precision=precision)
        side = recorded_of(config, record)
        if rollout is None:
            side.updates(1)
            rollout = Rollout(*(part.clone() for part in side.buffers))
            side = recorded_of(config, record)
        for mine, part in zip(side.buffers, rollout, strict=True):
            mine.copy_(part)
        batch = side.run.advantages(side.buffers)
        side.run.train_step(batch, torch.arange(32, device=device))
        parts = [p.grad.flatten() for p in side.agent.parameters() if p.grad is not None]
        gradients.append(torch.cat(parts))
    assert (gradients[0] - gradients[1]).norm() < TOLERANCES["bf16"][1] * gradients[0].norm()


def test_a_run_with_recordings_equals_a_plain_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train, save and resume with recordings, like on a GPU but on the CPU."""
    config = tiny(num_envs=6, num_steps=16, num_minibatches=3, total_timesteps=6 * 96)
    train(config, tmp_path / "plain", checkpoint_every=3)

    def record_all(
        agent: Agent, optimizer: Any, config: Config, buffers: Rollout, sizes: list[int], *_: Any
    ) -> Executables:
        plain = eager(agent, optimizer, config, len(sizes))
        return recorded(plain, buffers, sizes, 32, optimizer, tape)

    monkeypatch.setattr(sys.modules["ppo37.session.start"], "make_executables", record_all)
    train(config, tmp_path / "recorded", checkpoint_every=3)
    ends = [fingerprint_and_log(tmp_path / "plain"), fingerprint_and_log(tmp_path / "recorded")]
    assert ends[0] == ends[1]
    resume(tmp_path / "recorded" / "checkpoints" / "00000003")
    assert fingerprint_and_log(tmp_path / "recorded") == ends[0]


def test_steps_may_share_the_memory_of_observations() -> None:
    """Steps that share their memory give the same rollout as steps that do not."""
    factory = make_factory(config_of("classic"), 1)
    found = []
    for share_memory in (False, True):
        with closing(factory(2, 5)) as envs:
            step = staged(envs.step, np.zeros((2, *envs.obs_shape), np.uint8))
            buffers = allocate(40, 2, envs.obs_shape, torch.device("cpu"))
            collect(
                step if share_memory else envs.step,
                pixel_policy,
                buffers,
                envs.reset(),
                buffers.lstm_state,
                torch.rand(41, 2),
            )
            found.append(buffers)
    assert same_tensors(found[0]._asdict(), found[1]._asdict())
    assert found[0].obs.float().std(dim=0).max() > 1


def pixel_policy(
    obs: Tensor, lstm_state: Tensor, uniforms: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sums = obs.sum((1, 2, 3))
    return sums % 4, sums.float(), sums.float(), lstm_state


# On a GPU


@GPU
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "bf16"])
def test_cuda_graphs_equal_plain_pytorch(variant: str) -> None:
    config = dataclasses.replace(config_of(variant), device="cuda")
    require_alike(plain_of(config), recorded_of(config, cuda_graph))


@GPU
@pytest.mark.parametrize("variant", ["classic", "lstm"])
def test_a_run_on_a_gpu_is_resumed_bit_for_bit(variant: str, tmp_path: Path) -> None:
    config = dataclasses.replace(config_of(variant), device="cuda", total_timesteps=6 * 64)
    for name in ("whole", "parts"):
        train(config, tmp_path / name, checkpoint_every=3)
    resume(tmp_path / "parts" / "checkpoints" / "00000003")
    assert fingerprint_and_log(tmp_path / "parts") == fingerprint_and_log(tmp_path / "whole")
