"""Several ranks (A2): the run of one, written by one of them, and what if one is lost."""

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

EXACT = 1e-12
"""Bound on every parameter after 72 gradient steps in float64; measured: 4e-16."""
STEPS, ENVS = 8, 6
EPOCHS, UPDATES = 3, 2


# The arithmetic, in one process


def rollout_of(k: int, state_size: int) -> Rollout:
    """Numbers of every kind for all environments, among them ends and advantages of any size."""
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


def part(rollout: Rollout, share: EnvSlice) -> Rollout:
    columns = {name: value[:, share.envs] for name, value in rollout._asdict().items()}
    return Rollout(**{**columns, "lstm_state": rollout.lstm_state[share.envs]})


class Meeting:
    """Where ranks that are threads meet."""

    def __init__(self, ranks: int) -> None:
        self._told: list[Tensor] = [torch.empty(0)] * ranks
        self._barrier = threading.Barrier(ranks, timeout=60)

    def gather(self, rank: int, tensor: Tensor) -> list[Tensor]:
        self._told[rank] = tensor.clone()
        self._barrier.wait()
        told = list(self._told)
        self._barrier.wait()
        return told

    def add(self, rank: int, tensor: Tensor) -> None:
        tensor.copy_(torch.stack(self.gather(rank, tensor)).sum(0))


Learned = tuple[dict[str, Tensor], list[dict[str, float]]]
"""Parameters at the end, and the metrics of every update."""


def learn(
    recurrent: bool,
    norm_adv: bool,
    target_kl: float | None,
    share: EnvSlice,
    meeting: Meeting | None,
) -> Learned:
    """Whole updates on a rank's environments; on all of them if it meets nobody."""
    net = TinyNet(recurrent)
    optimizer = make_optimizer(net, 3e-3, 1e-5)
    weights = Coefficients(torch.tensor(0.2, dtype=torch.float64), True, norm_adv, 0.01, 0.5)
    length, state_size = (STEPS, 2 * HIDDEN) if recurrent else (1, 0)
    rank = share.first // share.size

    def alone(batch: Batch, indices: Tensor) -> LossTerms:
        return gradient_step(net, optimizer, minibatch(batch, indices), weights, 0.5)

    metrics = []
    for k in range(UPDATES):
        batch = make_batch(part(rollout_of(k, state_size), share), 0.99, 0.95, False, length)
        step = alone
        if meeting is not None:
            batch = with_global_advantages(batch, share, lambda told: meeting.gather(rank, told))
            step = shared_train_step(
                net, optimizer, weights, 0.5, share, lambda told: meeting.add(rank, told)
            )
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
def test_ranks_together_take_the_steps_of_one(
    recurrent: bool, norm_adv: bool, target_kl: float | None, ranks: int
) -> None:
    """Minibatches of 4 samples, or of 2 sequences: of some a rank has nothing."""
    size = ENVS // ranks
    wanted, told = learn(recurrent, norm_adv, target_kl, EnvSlice(0, ENVS, ENVS), None)
    meeting = Meeting(ranks)
    with ThreadPoolExecutor(ranks) as pool:
        calls = [
            pool.submit(
                learn, recurrent, norm_adv, target_kl, EnvSlice(r * size, size, ENVS), meeting
            )
            for r in range(ranks)
        ]
        found = [call.result() for call in calls]
    for parameters, metrics in found:
        for name, parameter in wanted.items():
            assert torch.equal(parameters[name], found[0][0][name])
            torch.testing.assert_close(parameters[name], parameter, rtol=0, atol=EXACT)
        for mine, theirs in zip(metrics, told, strict=True):
            assert mine == pytest.approx(theirs, abs=EXACT)


@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
@pytest.mark.parametrize("length", [1, 4, 8])
def test_every_sequence_of_a_minibatch_is_of_one_rank(ranks: int, length: int) -> None:
    size = ENVS // ranks
    shares = [EnvSlice(rank * size, size, ENVS) for rank in range(ranks)]
    whole = rollout_of(0, 0)
    batch = make_batch(whole, 0.99, 0.95, False, length)
    indices = torch.randperm(len(batch.obs), generator=torch.Generator().manual_seed(1))[:5]
    places = []
    for share in shares:
        own = make_batch(part(whole, share), 0.99, 0.95, False, length)
        here, rows = share.find(indices)
        assert torch.equal(own.obs[rows], batch.obs[indices[here]])
        places += here.tolist()
    assert sorted(places) == list(range(5))


def test_games_and_memory_survive_the_way_to_another_rank() -> None:
    """Bytes and real numbers, none played yet, and states with numbers that JSON must not round."""
    env_states = [
        EnvState({"seed": 2**53, "x": 0.1}, np.arange(5, dtype=np.uint8)),
        EnvState({}, np.zeros((0, 3), np.float32)),
    ]
    lstm_state = torch.rand(4, 2).t()
    back, remembered = process_group.unpack_games(process_group.pack_games(env_states, lstm_state))
    assert torch.equal(remembered, lstm_state)
    for before, after in zip(env_states, back, strict=True):
        assert after.state == before.state
        assert after.actions.dtype == before.actions.dtype
        np.testing.assert_array_equal(after.actions, before.actions)


@pytest.mark.parametrize("text", ["", "x", "0", "nan", "inf"])
def test_a_timeout_that_is_no_time_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert torchrun.timeout_s() == 60.0
    monkeypatch.setenv("PPO37_TIMEOUT_S", text)
    with pytest.raises(UsageError, match="must be a number of seconds"):
        torchrun.timeout_s()


class InThread(ConnectedRanks):
    """A rank that is a thread."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self.size, self._meeting = rank, 3, meeting

    def gather(self, tensor: Tensor) -> list[Tensor]:
        return self._meeting.gather(self.rank, tensor)


def in_threads(work: Callable[[ConnectedRanks], Any]) -> list[Any]:
    """What three ranks answer, or the errors that they end with."""
    meeting = Meeting(3)
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(work, InThread(rank, meeting)) for rank in range(3)]
        return [call.exception() or call.result() for call in calls]


def test_weights_that_differ_end_the_run() -> None:
    def compare(different: float, team: ConnectedRanks) -> None:
        weights = [torch.zeros(3, 4), torch.zeros(2) + different * (team.rank == 2)]
        team.require_alike(weights, 7)

    assert in_threads(partial(compare, 0.0)) == [None, None, None]
    errors = in_threads(partial(compare, 1e-30))
    assert [type(error) for error in errors] == [RunError] * 3
    told = [str(error) for error in errors]
    assert told[0].startswith("the weights of rank 2 are not those of rank 0 after update 7")
    assert told[1:] == ["", ""]


def test_what_rank_0_decides_is_so_for_all_and_so_are_its_errors() -> None:
    def fails() -> None:
        raise UsageError("no room")

    assert (
        in_threads(lambda team: team.broadcast_from_main(lambda: [team.rank, None, "é"]))
        == [[0, None, "é"]] * 3
    )
    errors = in_threads(lambda team: team.broadcast_from_main(fails))
    assert [(type(error), str(error)) for error in errors] == [
        (UsageError, "no room"),
        (UsageError, ""),
        (UsageError, ""),
    ]


def test_one_process_has_no_team(tmp_path: Path) -> None:
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
    number: int, *words: str, restarts: int = 0, **variables: str
) -> Iterator["list[subprocess.Popen[str]]"]:
    """Ranks as torchrun starts them, without the seconds that it takes itself."""
    port = str(free_port())
    processes = []
    for rank in range(number):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "GROUP_RANK": 0}
        place |= {"TORCHELASTIC_RESTART_COUNT": restarts, "TORCHELASTIC_MAX_RESTARTS": restarts}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        environment = {
            **os.environ,
            **meeting,
            **{k: str(v) for k, v in place.items()},
            "OMP_NUM_THREADS": "1",
            **variables,
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "ppo37", *words],
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
    """How ranks end: codes, and what each has said on stdout and stderr."""
    words = [process.communicate(timeout=300) for process in processes]
    return [p.returncode for p in processes], [out for out, _ in words], [err for _, err in words]


def newest(run: Path) -> checkpoint.Checkpoint:
    return checkpoint.load_newest(run / "checkpoints")[0]


LONG = tiny(total_timesteps=100_000 * 64)


@pytest.mark.parametrize("network", ["nature_half", pytest.param("lstm", marks=pytest.mark.slow)])
def test_two_ranks_are_one_run(network: str, tmp_path: Path) -> None:
    """As far as rounding goes; what one saves, another number of ranks goes on with."""
    config = tiny(network=network, target_kl=1.0)
    train(config, tmp_path / "one")
    with ranks(2, *train_arguments(config, tmp_path / "two", "--json")) as processes:
        codes, out, errors = ended(processes)
    assert codes == [0, 0], errors
    assert out[0].count("\n") == 1
    assert (out[1], errors[1]) == ("", "")
    wanted, found = (log_without_times(tmp_path / name) for name in ("one", "two"))
    assert found[0]["episodes"] == wanted[0]["episodes"]
    assert len(found[0]["episodes"]) > 5
    assert [*found[0]] == [*wanted[0]]
    assert found[0]["losses/loss"] == pytest.approx(wanted[0]["losses/loss"], abs=1e-5)
    ends = [newest(tmp_path / name) for name in ("one", "two")]
    for name, weights in ends[0].model.items():
        torch.testing.assert_close(ends[1].model[name], weights, rtol=1e-3, atol=1e-3)
    assert (ends[1].actions or {}).keys() == (ends[0].actions or {}).keys()
    assert len(ends[1].state["environments"]) == config.num_envs
    # The games of both ranks are there, and go on in one process.
    longer = dataclasses.replace(config, total_timesteps=8 * 64)
    document = (tmp_path / "two" / "config.json").read_text()
    text = document.replace(f": {config.total_timesteps}", f": {longer.total_timesteps}")
    (tmp_path / "two" / "config.json").write_text(text)
    assert resume(tmp_path / "two").agent_steps == longer.total_timesteps
    assert newest(tmp_path / "two").state["seedings"] == 0


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
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


@pytest.mark.parametrize(
    "how", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGSTOP]
)
def test_a_rank_that_is_lost_ends_the_others_in_time(how: signal.Signals, tmp_path: Path) -> None:
    """One that dies is noticed at once, one that hangs after the time that was set."""
    log = tmp_path / "run" / "metrics.jsonl"
    config = dataclasses.replace(LONG, num_envs=6)
    with ranks(3, *train_arguments(config, tmp_path / "run"), PPO37_TIMEOUT_S="3") as processes:
        wait_until(lambda: log.exists() and log.read_text().count("\n") > 2)
        lost, others = processes[1], [processes[0], processes[2]]
        lost.send_signal(how)
        started = time.monotonic()
        codes, _, errors = ended(others)
        took_s = time.monotonic() - started
    assert codes == [1, 1], errors
    assert took_s < 3 + process_group.ROLL_CALL_S + 7
    why = "its process has ended" if how == signal.SIGKILL else "no answer within 3 s"
    assert errors[0].splitlines()[-1].startswith(f"ppo37: rank 1 lost: {why};")
    assert errors[1] == ""
    assert "Traceback" not in errors[0]


@pytest.mark.slow
def test_torchrun_restarts_a_job_that_lost_a_rank_and_it_ends_as_if_nothing_had_been(
    tmp_path: Path,
) -> None:
    config = tiny(total_timesteps=80 * 64)
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
        wait_until(lambda: (broken / "checkpoints" / "00000010").exists())
        os.kill(processes_of(launcher.pid)[1], signal.SIGKILL)
        _, words = launcher.communicate(timeout=300)
    finally:
        launcher.kill()
    assert launcher.returncode == 0, words
    assert re.search(r"going on after update [1-9]", words)
    assert fingerprint_and_log(broken) == fingerprint_and_log(whole)


def processes_of(parent: int) -> list[int]:
    """The children of a process, oldest first."""
    done = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=True)
    return sorted(int(number) for number in done.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("named", "message"),
    [(True, "holds a run already"), (False, "name it by --out")],
)
def test_only_a_restarted_job_goes_on_with_its_own_run(
    named: bool, message: str, finished_run: Path
) -> None:
    """Another's directory is refused, as is a job that could not find its run again."""
    words = (
        train_arguments(tiny(), finished_run)
        if named
        else ["train", "catch", *arguments_of(tiny())]
    )
    with ranks(2, *words, restarts=1) as processes:
        codes, _, errors = ended(processes)
    assert codes == [2, 2]
    assert message in errors[0]
    assert (len(errors[0].splitlines()), errors[1]) == (1, "")
    assert directory.job_of(finished_run) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_envs": 3, "num_minibatches": 1}, "num_envs = 3 does not divide among 2 ranks"),
        pytest.param(
            {"num_envs": 1}, "num_envs = 1 does not divide among 2 ranks", marks=pytest.mark.slow
        ),
        pytest.param(
            {"norm_reward": True},
            "norm_obs and norm_reward look at all environments",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_ranks_cannot_share_is_one_line(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with ranks(2, *train_arguments(tiny(**changes), tmp_path / "run")) as processes:
        codes, _, errors = ended(processes)
    assert codes == [2, 2]
    assert errors[0].startswith(f"ppo37: {message}")
    assert (len(errors[0].splitlines()), errors[1]) == (1, "")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_ranks_plan_within_a_budget_together(tmp_path: Path) -> None:
    """By what they have measured together; a job that is restarted goes on with its plan."""
    run = tmp_path / "run"
    words = ["train", "catch", "--preset", "debug", "--out", str(run), "--budget"]
    for restarts in (0, 1):
        with ranks(2, *words, "30s", restarts=restarts, PPO37_TIMEOUT_S="20") as processes:
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
    """After they have measured together."""
    run = tmp_path / "run"
    words = ["train", "catch", "--preset", "debug", "--out", str(run), "--budget", "3s"]
    with ranks(2, *words) as processes:
        codes, _, errors = ended(processes)
    assert codes == [2, 2]
    assert errors[0].splitlines()[0] == "ppo37: measuring 5 updates"
    assert "a budget of 3 s is too short" in errors[0].splitlines()[-1]
    assert errors[1] == ""
    assert not run.exists()


def test_ranks_share_the_cores_that_they_share() -> None:
    """But not those that affinity has given to one of them alone, nor those of other nodes."""
    told = [("0", [0, 1, 2, 3]), ("0", [2, 3]), ("0", [8]), ("1", [0, 1, 2, 3])]
    assert [process_group.cores_of_rank(own, told, 4) for own in told] == [2, 1, 1, 4]
    assert [process_group.cores_of_rank(own, told, 2) for own in told] == [1, 1, 1, 2]
