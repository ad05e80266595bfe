"""Training: it can be repeated, resumed and stopped, and only the right algorithm learns."""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
from conftest import TinyNet, log_without_times, run_start, same_tensors, tiny

from ppo37 import Config, evaluate, load_agent, resume, train
from ppo37.algorithm.update import make_optimizer
from ppo37.backends.adam import Adam
from ppo37.envs import spaces_of
from ppo37.envs.catch import MAX_BALLS
from ppo37.session import checkpoint
from ppo37.session.checkpoint import load_newest
from ppo37.session.loggers import JsonLines
from ppo37.session.state import tensors_of_optimizer
from ppo37.session.view import NoView

LEARNING = Config(
    game="catch",
    total_timesteps=40_000,
    num_envs=32,
    num_steps=32,
    learning_rate=2e-3,
    clip_coef=0.2,
    network="nature_half",
    precision="fp32",
)
RANDOM_PLAY = 1.2
"""Mean score of random actions on catch, 1 + 1/6 + 1/36 + ...: a paddle at a random position
catches about one ball in six."""


def _model(run: Path) -> dict[str, torch.Tensor]:
    return load_newest(run / "checkpoints")[0].model


def test_same_seed_same_run_other_seed_another(finished_run: Path, tmp_path: Path) -> None:
    train(tiny(), tmp_path / "again", checkpoint_every=5)
    train(tiny(seed=4), tmp_path / "other")
    assert log_without_times(tmp_path / "again") == log_without_times(finished_run)
    assert same_tensors(_model(tmp_path / "again"), _model(finished_run))
    assert not same_tensors(_model(tmp_path / "other"), _model(finished_run))


def test_same_seed_same_run_in_the_emulator(breakout_run: Path, tmp_path: Path) -> None:
    config = tiny(game="breakout", num_envs=2, num_steps=16, total_timesteps=96)
    train(config, tmp_path / "again")
    assert log_without_times(tmp_path / "again") == log_without_times(breakout_run)
    assert same_tensors(_model(tmp_path / "again"), _model(breakout_run))


def test_run_directory_is_complete(finished_run: Path) -> None:
    config = json.loads((finished_run / "config.json").read_text())["config"]
    assert config == json.loads(json.dumps(dataclasses.asdict(tiny())))  # lists, as files have
    log = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in log] == [1, 2, 3, 4, 5, 6]
    assert [line["agent_steps"] for line in log] == [64 * k for k in range(1, 7)]
    assert all(line["frames"] == line["agent_steps"] for line in log)
    names = ("policy_loss", "value_loss", "entropy", "old_approx_kl", "approx_kl", "clipfrac")
    for line in log:
        assert {f"losses/{name}" for name in (*names, "explained_variance")} <= line.keys()
        assert {"charts/SPS", "charts/learning_rate", "charts/episodic_return"} <= line.keys()
        assert all(set(game) == {"env", "return", "length"} for game in line["episodes"])
    rates = [line["charts/learning_rate"] for line in log]
    assert rates == pytest.approx([2.5e-4 * (1 - k / 6) for k in range(6)])
    assert list(finished_run.glob("events.out.tfevents.*"))
    assert json.loads((finished_run / "summary.json").read_text())["finished"]
    kept = checkpoint.numbered(finished_run / "checkpoints")
    assert [path.name for path in kept] == ["00000006", "00000004", "00000002"]


def test_tensorboard_has_the_usual_names(finished_run: Path) -> None:
    events = _events(finished_run)
    log = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    returns = [game["return"] for line in log for game in line["episodes"]]
    assert [event.value for event in events.Scalars("charts/episodic_return")] == returns
    losses = [line["losses/value_loss"] for line in log]
    assert [e.value for e in events.Scalars("losses/value_loss")] == pytest.approx(losses)
    assert [e.step for e in events.Scalars("charts/SPS")] == [64 * k for k in range(1, 7)]


def _events(run: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    return events


def test_resume_continues_counters_weights_and_schedule(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny(), run, checkpoint_every=2)
    middle = checkpoint.load(run / "checkpoints" / "00000002")
    summary = resume(run / "checkpoints" / "00000002")
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in log] == [1, 2, 3, 4, 5, 6]
    assert log[2]["charts/learning_rate"] == pytest.approx(2.5e-4 * (1 - 2 / 6))
    for clock in ("wall_s", "cpu_s"):
        assert log[2][clock] > middle.state[clock] > log[0][clock] > 0
    assert summary.agent_steps == 384
    assert summary.games > middle.state["games"]
    final = load_newest(run / "checkpoints")[0]
    steps = [int(t) for name, t in final.optimizer.items() if name.endswith("/step")]
    assert steps == [6 * 2 * 2] * len(steps)
    assert [e.step for e in _events(run).Scalars("charts/SPS")] == [64 * k for k in range(1, 7)]


def test_a_run_resumed_from_an_older_checkpoint_does_not_use_later_ones(tmp_path: Path) -> None:
    """Also if it is stopped at once: its newest checkpoint must not be an old later one."""
    run = tmp_path / "run"
    train(tiny(), run, checkpoint_every=2)
    notes: list[str] = []

    class Stop(NoView):
        def note(self, text: str) -> None:
            notes.append(text)

        def show(self, record: Any, games: int, seconds: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        resume(run / "checkpoints" / "00000002", view=Stop())
    assert "the checkpoints and the log after update 2" in notes[-1]
    done = len((run / "metrics.jsonl").read_text().splitlines())
    assert done < 6
    assert load_agent(run).state["update"] == done
    (run / "metrics.jsonl").write_text('{"update": 1}\n{"update": 9}\n{"upd')
    logger = JsonLines()
    logger.start(run_start(run, 1))
    logger.close()
    assert (run / "metrics.jsonl").read_text() == '{"update": 1}\n'


def test_resume_restores_every_tensor(finished_run: Path) -> None:
    from ppo37.envs import env_factory

    start = sys.modules["ppo37.session.start"]
    config = tiny()
    envs = env_factory("catch")(4, 3)
    spaces = spaces_of(envs)
    agent = start.make_agent(config, spaces)
    optimizer = start.make_optimizer(agent, config.learning_rate, config.adam_eps)
    state = start.RunState(agent, optimizer, spaces)
    saved = load_newest(finished_run / "checkpoints")[0]
    start.restore(state, saved, config)
    assert same_tensors(agent.state_dict(), saved.model)
    names = (name for name, _ in agent.named_parameters())
    assert same_tensors(tensors_of_optimizer(optimizer, names), saved.optimizer)
    assert state.update == 6
    assert [list(game) for game in state.recent] == saved.state["recent"]


def test_resume_of_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny(), run)
    before = _model(run), log_without_times(run)
    resume(run)
    assert same_tensors(_model(run), before[0])
    assert log_without_times(run) == before[1]


@pytest.mark.parametrize("network", ["nature_half", "lstm"])
def test_a_loss_that_is_not_finite_ends_the_run(network: str, tmp_path: Path) -> None:
    from ppo37.errors import RunError

    config = tiny(network=network, learning_rate=1e30, adam_eps=1e-30, max_grad_norm=1e30)
    with pytest.raises(RunError, match="in update 1;"):
        train(config, tmp_path / "run")
    assert checkpoint.numbered(tmp_path / "run" / "checkpoints") == []
    kept = safetensors.torch.load_file(tmp_path / "run" / "broken_batch.safetensors")
    assert kept["obs"].dtype == torch.uint8
    assert kept["advantages"].numel() == kept["actions"].numel() == tiny().batch_size


def test_a_gradient_that_is_not_finite_ends_the_run_in_its_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the last minibatch of an update, after which no loss is computed."""
    from ppo37.algorithm import update
    from ppo37.errors import RunError

    right, calls = update.ppo_loss, itertools.count(1)
    config = tiny(total_timesteps=3 * tiny().batch_size)
    last = 2 * config.update_epochs * config.num_minibatches

    def poisoned(*arguments):  # type: ignore[no-untyped-def]
        terms = right(*arguments)
        if next(calls) == last:
            terms.loss.register_hook(lambda gradient: gradient * torch.nan)
        return terms

    monkeypatch.setattr(update, "ppo_loss", poisoned)
    with pytest.raises(RunError, match="weight is not finite in update 2;"):
        train(config, tmp_path / "run", checkpoint_every=1)
    [newest] = checkpoint.numbered(tmp_path / "run" / "checkpoints")
    assert newest.name == "00000001"
    assert len(evaluate(tmp_path / "run", episodes=1).scores) == 1


@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))]
)
def test_catch_is_learned(seed: int, tmp_path: Path) -> None:
    config = dataclasses.replace(LEARNING, seed=seed)
    train(config, tmp_path / "run")
    assert evaluate(tmp_path / "run", episodes=64).mean >= 0.95 * MAX_BALLS


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["the advantage's sign", "the ends of episodes"])
def test_catch_is_not_learned_with(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong algorithm does not learn the game; otherwise learning it would prove nothing."""
    from ppo37.algorithm import update

    right = update.gae

    def wrong(rewards, values, dones, gamma, gae_lambda):  # type: ignore[no-untyped-def]
        if fault == "the ends of episodes":
            return right(rewards, values, torch.zeros_like(dones), gamma, gae_lambda)
        return -right(rewards, values, dones, gamma, gae_lambda)

    monkeypatch.setattr(update, "gae", wrong)
    train(LEARNING, tmp_path / "run")
    assert evaluate(tmp_path / "run", episodes=64).mean < 3 * RANDOM_PLAY


def test_no_thread_is_left_after_training(tmp_path: Path) -> None:
    before = threading.active_count()
    train(tiny(game="pong", num_envs=2, num_steps=16, total_timesteps=32), tmp_path / "run")
    assert threading.active_count() == before
    names = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert names == ["00000001"]


class RecordedUpdate(NamedTuple):
    """The inputs of an update."""

    clip_coef: float
    learning_rate: float
    minibatches: list[list[int]]


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[RecordedUpdate]:
    """The inputs that the executables get, for all updates of a test."""
    start = sys.modules["ppo37.session.start"]
    original, recorded = start.make_executables, []

    def recording(agent: Any, optimizer: Any, *others: Any) -> Any:
        run = original(agent, optimizer, *others)

        def advantages(rollout: Any) -> Any:
            recorded.append(
                RecordedUpdate(
                    float(run.annealed["clip_coef"]), float(optimizer.param_groups[0]["lr"]), []
                )
            )
            return run.advantages(rollout)

        def train_step(batch: Any, indices: torch.Tensor) -> Any:
            recorded[-1].minibatches.append(indices.tolist())
            return run.train_step(batch, indices)

        return run._replace(advantages=advantages, train_step=train_step)

    monkeypatch.setattr(start, "make_executables", recording)
    return recorded


def test_schedules_continue_after_resume(tmp_path: Path, updates: list[RecordedUpdate]) -> None:
    """The clip range (A1), and the learning rate that the optimizer really uses (D04)."""

    def take_values() -> list[float]:
        values = [
            value for update in updates for value in (update.clip_coef, 10 * update.learning_rate)
        ]
        updates.clear()
        return values

    settings = {"clip_coef": 0.3, "learning_rate": 0.03}
    train(tiny(**settings, anneal_clip=True), tmp_path / "run", checkpoint_every=2)
    expected = [0.3 * (1 - k / 6) for k in range(6) for _ in range(2)]
    assert take_values() == pytest.approx(expected, rel=1e-6)
    resume(tmp_path / "run" / "checkpoints" / "00000002")
    assert take_values() == pytest.approx(expected[4:], rel=1e-6)
    train(tiny(**settings, anneal_lr=False), tmp_path / "constant")
    assert take_values() == pytest.approx([0.3] * 12, rel=1e-6)


def test_every_epoch_has_a_new_order(tmp_path: Path, updates: list[RecordedUpdate]) -> None:
    """D06: every sample once, and each order only once."""
    train(tiny(), tmp_path / "run")
    assert [len(update.minibatches) for update in updates] == [2 * 2] * 6
    halves = [minibatch for update in updates for minibatch in update.minibatches]
    epochs = [a + b for a, b in zip(halves[::2], halves[1::2], strict=True)]
    assert all(sorted(epoch) == list(range(64)) for epoch in epochs)
    assert len({*map(tuple, epochs), tuple(range(64))}) == 12 + 1


def test_the_optimizer_equals_pytorchs_without_its_compiler(tmp_path: Path) -> None:
    """Importing the compiler takes a second at every start."""
    parameters = []
    for kind in (torch.optim.Adam, Adam):
        net = TinyNet()
        optimizer = make_optimizer(net, 1e-2, 1e-5, kind)
        for step in range(3):
            optimizer.zero_grad()
            sum((p * (step + 1)).square().sum() for p in net.parameters()).backward()
            optimizer.step()
        parameters.append(net.state_dict())
    assert same_tensors(*parameters)

    arguments = ["train", "catch", "--preset", "debug", "--out", str(tmp_path / "run")]
    code = f"""if True:
        import sys
        from ppo37.cli import main
        try:
            main({arguments!r})
        finally:
            assert not {{"torch._dynamo", "sympy"}} & set(sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
