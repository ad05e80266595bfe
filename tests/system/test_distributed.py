"""Several ranks (A2): the same run as with one rank, and errors when a rank is lost."""

import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import (
    ACTIONS,
    FEATURES,
    HIDDEN,
    LIMIT_S,
    TinyNet,
    fingerprint_and_log,
    log_without_times,
    tiny,
    train_arguments,
    wait_until,
)
from torch import Tensor

from ppo37 import resume, train
from ppo37.algorithm.losses import Coefficients, LossTerms
from ppo37.algorithm.rollout import Rollout
from ppo37.algorithm.update import (
    Batch,
    gradient_step,
    make_batch,
    make_optimizer,
    minibatch,
    update,
)
from ppo37.backends.ranks import (
    EnvSlice,
    process_group,
    shared_train_step,
    torchrun,
    with_global_advantages,
)
from ppo37.backends.ranks.process_group import ConnectedRanks
from ppo37.config import arguments_of
from ppo37.envs import EnvState
from ppo37.errors import RunError, UsageError
from ppo37.session import checkpoint, directory
from ppo37.session.metrics import read_evaluations

EXACT = 1e-12
"""Bound on every parameter after 72 gradient steps in float64; measured: 4e-16."""
STEPS, ENVS = 8, 6
EPOCHS, UPDATES = 3, 2


# The arithmetic, in one process


def rollout_of(k: int, state_size: int) -> Rollout:
    """Return a random rollout of all environments, with ends of episodes."""
    generator = torch.Generator().manual_seed(k)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    return Rollout(
        obs=normal(STEPS, ENVS, FEATURES),
        actions=torch.randint(ACTIONS, (STEPS, ENVS), generator=generator),
        log_probs=-1.1 + 0.2 * normal(STEPS, ENVS),
        values=normal(STEPS + 1, ENVS),
        rewards=3.0 * normal(STEPS, ENVS),
        dones=(normal(STEPS, ENVS) > 1.0).double(),
        final_values=torch.zeros(STEPS, ENVS, dtype=torch.float64),
        lstm_state=normal(ENVS, state_size),
    )


def part(rollout: Rollout, env_slice: EnvSlice) -> Rollout:
    """Return the columns of a rollout that belong to one rank."""
    columns = {name: value[:, env_slice.envs] for name, value in rollout._asdict().items()}
    return Rollout(**{**columns, "lstm_state": rollout.lstm_state[env_slice.envs]})


class ThreadGroup:
    """Communication between ranks that are threads of this process."""

    def __init__(self, ranks: int) -> None:
        self._tensors: list[Tensor] = [torch.empty(0)] * ranks
        self._barrier = threading.Barrier(ranks, timeout=LIMIT_S)

    def gather(self, rank: int, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of all ranks."""
        self._tensors[rank] = tensor.clone()
        self._barrier.wait()
        tensors = list(self._tensors)
        self._barrier.wait()
        return tensors

    def add(self, rank: int, tensor: Tensor) -> None:
        """Replace a tensor by the sum over all ranks."""
        tensor.copy_(torch.stack(self.gather(rank, tensor)).sum(0))


Learned = tuple[dict[str, Tensor], list[dict[str, float]]]
"""Parameters at the end, and the metrics of every update."""


def learn(
    recurrent: bool,
    norm_adv: bool,
    target_kl: float | None,
    env_slice: EnvSlice,
    group: ThreadGroup | None,
) -> Learned:
    """Make updates with the environments of one rank; without a group, of the only rank."""
    net = TinyNet(recurrent)
    optimizer = make_optimizer(net, 3e-3, 1e-5)
    clip_coef, ent_coef, vf_coef = torch.tensor([0.2, 0.01, 0.5], dtype=torch.float64)
    weights = Coefficients(clip_coef, True, norm_adv, ent_coef, vf_coef)
    length, state_size = (STEPS, 2 * HIDDEN) if recurrent else (1, 0)
    rank = env_slice.first // env_slice.size

    def step_of_one_rank(batch: Batch, indices: Tensor) -> LossTerms:
        return gradient_step(net, optimizer, minibatch(batch, indices), weights, 0.5)

    metrics = []
    for k in range(UPDATES):
        batch = make_batch(part(rollout_of(k, state_size), env_slice), 0.99, 0.95, False, length)
        step = step_of_one_rank
        if group is not None:
            batch = with_global_advantages(batch, env_slice, partial(group.gather, rank))
            add = partial(group.add, rank)
            step = shared_train_step(net, optimizer, weights, 0.5, env_slice, add)
        sequences = STEPS * ENVS // length
        order = torch.Generator().manual_seed(100 + k)
        shuffles = torch.stack([torch.randperm(sequences, generator=order) for _ in range(EPOCHS)])
        found = update(step, batch, shuffles, 3 if recurrent else 12, target_kl)
        metrics.append({name: float(value) for name, value in found.items()})
    return {name: p.detach() for name, p in net.named_parameters()}, metrics


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(
    ("recurrent", "norm_adv", "target_kl"),
    [(False, True, None), (False, False, 1e-4), (True, True, None), (True, False, 1e-4)],
)
def test_several_ranks_take_the_same_steps_as_one(
    recurrent: bool, norm_adv: bool, target_kl: float | None, ranks: int
) -> None:
    """With minibatches of 4 samples, or of 2 sequences: some have nothing of some rank."""
    size = ENVS // ranks
    expected, expected_metrics = learn(
        recurrent, norm_adv, target_kl, EnvSlice(0, ENVS, ENVS), None
    )
    group = ThreadGroup(ranks)
    with ThreadPoolExecutor(ranks) as pool:
        calls = [
            pool.submit(
                learn, recurrent, norm_adv, target_kl, EnvSlice(r * size, size, ENVS), group
            )
            for r in range(ranks)
        ]
        found = [call.result() for call in calls]
    for parameters, metrics in found:
        for name, parameter in expected.items():
            assert torch.equal(parameters[name], found[0][0][name])
            torch.testing.assert_close(parameters[name], parameter, rtol=0, atol=EXACT)
        for values, expected_values in zip(metrics, expected_metrics, strict=True):
            assert values == pytest.approx(expected_values, abs=EXACT)


@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
@pytest.mark.parametrize("length", [1, 4, 8])
def test_every_sequence_of_a_minibatch_belongs_to_one_rank(ranks: int, length: int) -> None:
    size = ENVS // ranks
    slices = [EnvSlice(rank * size, size, ENVS) for rank in range(ranks)]
    whole = rollout_of(0, 0)
    batch = make_batch(whole, 0.99, 0.95, False, length)
    indices = torch.randperm(len(batch.obs), generator=torch.Generator().manual_seed(1))[:5]
    positions = []
    for env_slice in slices:
        own = make_batch(part(whole, env_slice), 0.99, 0.95, False, length)
        here, rows = env_slice.find(indices)
        assert torch.equal(own.obs[rows], batch.obs[indices[here]])
        positions += here.tolist()
    assert sorted(positions) == list(range(5))


def test_env_states_and_lstm_states_can_be_sent_to_another_rank() -> None:
    """With actions of both types, no actions, and numbers that JSON must not round."""
    env_states = [
        EnvState({"seed": 2**53, "x": 0.1}, np.arange(5, dtype=np.uint8)),
        EnvState({}, np.zeros((0, 3), np.float32)),
    ]
    lstm_state = torch.rand(4, 2).t()
    packed = process_group.pack_games(env_states, lstm_state)
    received, received_state = process_group.unpack_games(packed)
    assert torch.equal(received_state, lstm_state)
    for before, after in zip(env_states, received, strict=True):
        assert after.state == before.state
        assert after.actions.dtype == before.actions.dtype
        np.testing.assert_array_equal(after.actions, before.actions)


@pytest.mark.parametrize("text", ["", "x", "0", "nan", "inf"])
def test_an_invalid_timeout_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert torchrun.timeout_s() == 60.0
    monkeypatch.setenv("PPO37_TIMEOUT_S", text)
    with pytest.raises(UsageError, match="must be a number of seconds"):
        torchrun.timeout_s()


class ThreadRanks(ConnectedRanks):
    """Three ranks that are threads of this process."""

    def __init__(self, rank: int, group: ThreadGroup) -> None:
        self.rank, self.size, self._group = rank, 3, group

    def gather(self, tensor: Tensor) -> list[Tensor]:
        return self._group.gather(self.rank, tensor)


def in_threads(work: Callable[[ConnectedRanks], Any]) -> list[Any]:
    """Return the results of three ranks, or the errors that they end with."""
    group = ThreadGroup(3)
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(work, ThreadRanks(rank, group)) for rank in range(3)]
        return [call.exception() or call.result() for call in calls]


def test_weights_that_differ_end_the_run() -> None:
    def compare(difference: float, ranks: ConnectedRanks) -> None:
        weights = [torch.zeros(3, 4), torch.zeros(2) + difference * (ranks.rank == 2)]
        ranks.require_alike(weights, 7)

    assert in_threads(partial(compare, 0.0)) == [None, None, None]
    errors = in_threads(partial(compare, 1e-30))
    assert [type(error) for error in errors] == [RunError] * 3
    messages = [str(error) for error in errors]
    assert messages[0].startswith("the weights of rank 2 are not those of rank 0 after update 7")
    assert messages[1:] == ["", ""]


def test_results_and_errors_of_rank_0_are_broadcast() -> None:
    def fails() -> None:
        raise UsageError("no room")

    results = in_threads(lambda ranks: ranks.broadcast_from_main(lambda: [ranks.rank, None, "é"]))
    assert results == [[0, None, "é"]] * 3
    errors = in_threads(lambda ranks: ranks.broadcast_from_main(fails))
    assert [(type(error), str(error)) for error in errors] == [
        (UsageError, "no room"),
        (UsageError, ""),
        (UsageError, ""),
    ]


def test_one_process_uses_no_process_group(tmp_path: Path) -> None:
    assert type(process_group.join("cpu")) is process_group.Ranks
    train(tiny(total_timesteps=64), tmp_path / "run")
    assert not torch.distributed.is_initialized()
    assert "job" not in (tmp_path / "run" / "config.json").read_text()


# Real processes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def ranks(
    number: int, *arguments: str, restarts: int = 0, **variables: str
) -> Iterator["list[subprocess.Popen[str]]"]:
    """Start ranks like torchrun does, without its own start time."""
    port = str(free_port())
    processes = []
    for rank in range(number):
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "GROUP_RANK": 0}
        numbers |= {"TORCHELASTIC_RESTART_COUNT": restarts, "TORCHELASTIC_MAX_RESTARTS": restarts}
        store = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        environment = {
            **os.environ,
            **store,
            **{k: str(v) for k, v in numbers.items()},
            "OMP_NUM_THREADS": "1",
            **variables,
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "ppo37", *arguments],
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def ended(processes: "list[subprocess.Popen[str]]") -> tuple[list[int], list[str], list[str]]:
    """Wait for the ends of ranks. Returns exit codes, stdout and stderr of each."""
    texts = [process.communicate(timeout=LIMIT_S) for process in processes]
    return [p.returncode for p in processes], [out for out, _ in texts], [err for _, err in texts]


def newest(run: Path) -> checkpoint.Checkpoint:
    return checkpoint.load_newest(run / "checkpoints")[0]


LONG = tiny(total_timesteps=100_000 * 64)


@pytest.mark.parametrize("network", ["nature_half", pytest.param("lstm", marks=pytest.mark.slow)])
def test_two_ranks_make_the_same_run_as_one(network: str, tmp_path: Path) -> None:
    """Except for rounding. One process can resume it."""
    config = tiny(network=network, target_kl=1.0)
    train(config, tmp_path / "one")
    with ranks(2, *train_arguments(config, tmp_path / "two", "--json")) as processes:
        codes, out, errors = ended(processes)
    assert codes == [0, 0], errors
    assert out[0].count("\n") == 1
    assert (out[1], errors[1]) == ("", "")
    expected, found = (log_without_times(tmp_path / name) for name in ("one", "two"))
    assert found[0]["episodes"] == expected[0]["episodes"]
    assert len(found[0]["episodes"]) > 5
    assert [*found[0]] == [*expected[0]]
    assert found[0]["losses/loss"] == pytest.approx(expected[0]["losses/loss"], abs=1e-5)
    ends = [newest(tmp_path / name) for name in ("one", "two")]
    for name, weights in ends[0].model.items():
        torch.testing.assert_close(ends[1].model[name], weights, rtol=1e-3, atol=1e-3)
    assert (ends[1].actions or {}).keys() == (ends[0].actions or {}).keys()
    assert len(ends[1].state["environments"]) == config.num_envs
    # The checkpoint has the games of both ranks, and they continue in one process.
    longer = dataclasses.replace(config, total_timesteps=8 * 64)
    document = (tmp_path / "two" / "config.json").read_text()
    text = document.replace(f": {config.total_timesteps}", f": {longer.total_timesteps}")
    (tmp_path / "two" / "config.json").write_text(text)
    assert resume(tmp_path / "two").agent_steps == longer.total_timesteps
    assert newest(tmp_path / "two").state["seedings"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_any_rank_stops_all_after_the_same_update(
    number: signal.Signals, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    log = run / "metrics.jsonl"
    with ranks(2, *train_arguments(LONG, run)) as processes:
        wait_until(lambda: log.exists() and log.read_text().count("\n") > 2)
        assert not checkpoint.numbered(run / "checkpoints")
        processes[1].send_signal(signal.SIGUSR1)
        wait_until(lambda: bool(checkpoint.numbered(run / "checkpoints")))
        processes[1].send_signal(number)
        codes, _, errors = ended(processes)
    assert codes == [128 + number, 0], errors
    done = log.read_text().count("\n")
    assert newest(run).state["update"] == done
    assert '"finished": false' in (run / "summary.json").read_text()
    with ranks(2, "resume", str(run)) as processes:
        wait_until(lambda: log.read_text().count("\n") > done)
        processes[0].send_signal(number)
        assert ended(processes)[0] == [128 + number, 0]


def test_callbacks_work_on_rank_0_and_stop_all_ranks(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--eval-every", "64", "--eval-episodes", "2", "--keep-best", "--max-time", "0.01s")
    with ranks(2, *train_arguments(LONG, run, *options)) as processes:
        codes, _, errors = ended(processes)
    assert codes == [0, 0], errors
    assert "stopped by max_time after 64 agent steps" in errors[0]
    assert errors[1] == ""
    assert newest(run).state["update"] == 1
    assert len(read_evaluations(run)) == 1
    assert (run / "best").is_dir()


def test_a_score_stops_all_ranks(tmp_path: Path) -> None:
    with ranks(2, *train_arguments(LONG, tmp_path / "run", "--until", "0")) as processes:
        codes, _, errors = ended(processes)
    assert codes == [0, 0], errors
    assert "stopped by until 0" in errors[0]
    with ranks(2, "resume", str(tmp_path / "run"), "--until", "0") as processes:
        codes, _, errors = ended(processes)
    assert codes == [0, 0], errors
    assert "stopped by until 0" in errors[0]


def seconds_until_all_end(how: signal.Signals, run: Path, timeout_s: int) -> float:
    """End or stop rank 1 of 3, check the ends of the others, and return how long they took."""
    log = run / "metrics.jsonl"
    arguments = train_arguments(dataclasses.replace(LONG, num_envs=6), run)
    with ranks(3, *arguments, PPO37_TIMEOUT_S=str(timeout_s)) as processes:
        wait_until(lambda: log.exists() and log.read_text().count("\n") > 2)
        lost, others = processes[1], [processes[0], processes[2]]
        lost.send_signal(how)
        started = time.monotonic()
        codes, _, errors = ended(others)
        took_s = time.monotonic() - started
    assert codes == [1, 1], errors
    why = "its process has ended" if how == signal.SIGKILL else f"no answer within {timeout_s} s"
    assert errors[0].splitlines()[-1].startswith(f"ppo37: rank 1 lost: {why};")
    assert errors[1] == ""
    assert "Traceback" not in errors[0]
    return took_s


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_others(tmp_path: Path) -> None:
    """The limit is also the longest time between the starts of the ranks: not too short."""
    seconds_until_all_end(signal.SIGSTOP, tmp_path / "run", 10)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_rank_ends_the_others_in_time(how: signal.Signals, tmp_path: Path) -> None:
    """A dead rank is noticed at once, a hanging one after the limit. Needs an idle machine."""
    took_s = seconds_until_all_end(how, tmp_path / "run", 3)
    assert took_s < 3 + process_group.ROLL_CALL_S + 7


@pytest.mark.slow
def test_a_job_that_lost_a_rank_and_was_restarted_equals_one_without_a_fault(
    tmp_path: Path,
) -> None:
    config = tiny(total_timesteps=120 * 64)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with ranks(2, *train_arguments(config, whole)) as processes:
        codes, _, errors = ended(processes)
    assert codes == [0, 0], errors
    launcher = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            "--max-restarts=1",
            "-m",
            "ppo37",
            *train_arguments(config, broken, "--checkpoint-every", "5"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: len(checkpoint.numbered(broken / "checkpoints")) > 1)
        os.kill(processes_of(launcher.pid)[1], signal.SIGKILL)
        _, errors = launcher.communicate(timeout=LIMIT_S)
    finally:
        launcher.kill()
    assert launcher.returncode == 0, errors
    assert re.search(r"resuming after update [1-9]", errors)
    assert fingerprint_and_log(broken) == fingerprint_and_log(whole)


def processes_of(parent: int) -> list[int]:
    """Return the children of a process, oldest first."""
    done = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=True)
    return sorted(int(number) for number in done.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("named", "message"),
    [(True, "holds a run already"), (False, "name it by --out")],
)
def test_a_restarted_job_resumes_only_its_own_run(
    named: bool, message: str, finished_run: Path
) -> None:
    """The run of another job is refused, and so is a job that could not find its run again."""
    arguments = ["train", *arguments_of(tiny())]
    if named:
        arguments = train_arguments(tiny(), finished_run)
    with ranks(2, *arguments, restarts=1) as processes:
        codes, _, errors = ended(processes)
    assert codes == [2, 2]
    assert message in errors[0]
    assert (len(errors[0].splitlines()), errors[1]) == (1, "")
    assert directory.job_of(finished_run) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_envs": 3, "num_minibatches": 1}, "num_envs = 3 does not divide among 2 ranks"),
        ({"num_envs": 1}, "num_envs = 1 does not divide among 2 ranks"),
        ({"norm_reward": True}, "norm_obs and norm_reward look at all environments"),
    ],
)
def test_settings_that_several_ranks_cannot_use_are_one_line(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with ranks(2, *train_arguments(tiny(**changes), tmp_path / "run")) as processes:
        codes, _, errors = ended(processes)
    assert codes == [2, 2]
    assert errors[0].startswith(f"ppo37: {message}")
    assert (len(errors[0].splitlines()), errors[1]) == (1, "")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_budget_works_with_several_ranks(tmp_path: Path) -> None:
    """All ranks use the same measurement, and a restarted job keeps its plan."""
    run = tmp_path / "run"
    arguments = ["train", "catch", "--preset", "debug", "--out", str(run), "--budget"]
    for restarts in (0, 1):
        with ranks(2, *arguments, "30s", restarts=restarts, PPO37_TIMEOUT_S="20") as processes:
            codes, _, errors = ended(processes)
        assert codes == [0, 0], errors
        assert errors[1] == ""
        if restarts:
            assert "fit in 30 s" not in errors[0]
        else:
            found = re.search(r"([\d,]+) agent steps fit in 30 s", errors[0])
            assert found, errors[0]
            steps = int(found[1].replace(",", ""))
        assert newest(run).state["update"] * 64 == steps


@pytest.mark.slow
def test_a_budget_that_is_too_short_for_ranks_is_one_line(tmp_path: Path) -> None:
    """It is refused after the measurement."""
    run = tmp_path / "run"
    arguments = ["train", "catch", "--preset", "debug", "--out", str(run), "--budget", "3s"]
    with ranks(2, *arguments) as processes:
        codes, _, errors = ended(processes)
    assert codes == [2, 2]
    assert errors[0].splitlines()[0] == "ppo37: measuring 5 updates"
    assert "a budget of 3 s is too short" in errors[0].splitlines()[-1]
    assert errors[1] == ""
    assert not run.exists()


def test_ranks_of_one_host_divide_their_common_cores() -> None:
    """But not cores that affinity gives to one rank only, or cores of other hosts."""
    cores = [("0", [0, 1, 2, 3]), ("0", [2, 3]), ("0", [8]), ("1", [0, 1, 2, 3])]
    assert [process_group.cores_of_rank(own, cores, 4) for own in cores] == [2, 1, 1, 4]
    assert [process_group.cores_of_rank(own, cores, 2) for own in cores] == [1, 1, 1, 2]
