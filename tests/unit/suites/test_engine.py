"""The engine of many runs: what is left, how long it takes, and whether there is room."""

import dataclasses
import json
from pathlib import Path

import psutil
import pytest
from conftest import tiny

from ppo37 import Config, train
from ppo37.build import make_agent
from ppo37.envs.contract import Spaces
from ppo37.errors import UsageError
from ppo37.session import directory
from ppo37.session.directory import is_locked, lock
from ppo37.session.metrics import last_record, read_metrics
from ppo37.session.signals import Signals
from ppo37.suites import engine
from ppo37.suites.engine import Grid, Run, command_of, fastest_jobs, time_left, train_all
from ppo37.suites.room import Needs, needs_of, require_room


def logged(path: Path, seed: int, updates: int, update_s: float, **changes: object) -> Run:
    """Return a run of 6 updates with a log of some of them."""
    path.mkdir()
    with (path / "metrics.jsonl").open("w") as log:
        for update in range(1, updates + 1):
            record = {"update": update, "frames": 256 * update, "wall_s": update * update_s}
            game = {"env": 0, "return": 1.0, "length": 9}
            log.write(json.dumps({**record, "episodes": [game]}) + "\n")
    return Run(tiny(seed=seed, **changes), path)


def test_the_last_record_is_found_without_the_others(tmp_path: Path) -> None:
    train(tiny(), tmp_path / "run")
    assert last_record(tmp_path / "run") == read_metrics(tmp_path / "run")[-1]
    log = tmp_path / "run" / "metrics.jsonl"
    before = log.read_bytes()
    log.write_bytes(before + b'{"update": 7, "fra')  # as a crash leaves it
    assert last_record(tmp_path / "run") == read_metrics(tmp_path / "run")[-1]
    record = {**json.loads(before.splitlines()[-1]), "update": 7}
    record["episodes"] = [{"env": 0, "return": 1.0, "length": 7}] * 2000
    log.write_bytes(before + json.dumps(record).encode() + b"\n")  # longer than what is read first
    assert last_record(tmp_path / "run") == record
    log.write_bytes(b"")
    assert last_record(tmp_path / "run") is None
    assert last_record(tmp_path / "none") is None


def test_the_time_left_by_hand(tmp_path: Path) -> None:
    done = logged(tmp_path / "a", 1, 6, 2.0)
    active = logged(tmp_path / "b", 2, 4, 3.0)  # 2 updates of 3 s are left
    waiting = [logged(tmp_path / f"w{seed}", seed, 0, 0.0) for seed in (3, 4)]
    runs = [done, active, *waiting]
    # The others take 6 updates of 2.5 s, the mean of the runs with these settings: 15 s.
    assert time_left([active, *waiting], runs, 2) == pytest.approx(15 + 6)
    assert time_left([active, *waiting], runs, 3) == pytest.approx(15)
    assert time_left(waiting, waiting, 1) is None
    # Nobody has trained this one: 2.5 s for 64 steps, as the others, and it has 32 updates of 12.
    other = logged(tmp_path / "c", 1, 0, 0.0, num_steps=3, num_minibatches=1)
    assert other.config.num_updates == 32
    assert time_left([other], [*runs, other], 1) == pytest.approx(32 * 12 * 2.5 / 64)


def test_a_grid_has_every_arm_with_every_seed(tmp_path: Path) -> None:
    grid = Grid(tmp_path, {"a": tiny(), "b": tiny(gamma=0.9)}, [4, 2])
    assert [run.name for run in grid.runs] == ["a__s4", "b__s4", "a__s2", "b__s2"]
    assert grid.runs[3].config == tiny(gamma=0.9, seed=2)


def test_a_run_is_begun_or_resumed(tmp_path: Path) -> None:
    run = Run(tiny(), tmp_path / "run")
    begun = command_of(run, ["--keep=2"], ["--init-from=x"]).arguments
    assert begun[:2] == ["train", "catch"]
    assert begun[-2:] == ["--init-from=x", "--keep=2"]
    train(dataclasses.replace(tiny(), total_timesteps=64), run.path)
    expected = ["resume", str(run.path), "--keep=2"]
    assert command_of(run, ["--keep=2"], ["--init-from=x"]).arguments == expected
    assert not is_locked(run.path)
    with lock(run.path, print):
        assert is_locked(run.path)
    assert not is_locked(tmp_path / "none")


class _Slower:
    """A place in which another process is a little earlier, once."""

    places, text = 1, ""

    def __init__(self) -> None:
        self.active: list[Run] = []
        self.started = self.pauses = 0

    def start(self, run: Run) -> None:
        self.active.append(run)
        self.started += 1
        self._lock = lock(run.path, print)

    def ended(self) -> list[tuple[Run, str]]:
        done, self.active = self.active, []
        return [(run, "it holds a run already") for run in done]

    def close(self) -> None:
        pass

    def pause(self, run: Run, at: int) -> None:
        self.pauses += 1
        if self.pauses == at:
            (run.path / "summary.json").write_text('{"finished": true}')
            self._lock.close()


@pytest.mark.parametrize(("pauses", "then"), [(1, "run finished: "), (3, "waiting for run, ")])
def test_a_run_that_another_process_trains_has_not_failed(
    pauses: int, then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, pool, lines = logged(tmp_path / "run", 1, 2, 1.0), _Slower(), list[str]()
    monkeypatch.setattr(engine.time, "sleep", lambda _: pool.pause(run, pauses))
    assert train_all([run], pool, lambda _: "", Signals(), lines.append) == {}
    assert pool.started == 1
    assert lines[0] == "starting run"
    assert [line.startswith(then) for line in lines[1:]] == [True]


def test_a_lock_outlasts_the_look_of_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = lock(tmp_path, print)
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        looking.close()

    monkeypatch.setattr(directory.time, "sleep", pause)
    lock(tmp_path, print).close()
    assert len(pauses) == 1


@pytest.mark.parametrize(
    ("runs", "device", "gibibytes", "threads", "jobs"),
    [
        (20, "cpu", 0, 1, 16),
        (20, "cpu", 0, 5, 3),
        (20, "cpu", 0, 99, 1),
        (3, "cpu", 0, 1, 3),
        (20, "cuda", 80, 1, 10),
        (20, "cuda", 6, 1, 1),
    ],
)
def test_a_run_for_each_core_as_far_as_the_memory_of_a_gpu_suffices(
    runs: int,
    device: str,
    gibibytes: int,
    threads: int,
    jobs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "usable_cores", lambda: 16)
    monkeypatch.setattr(engine, "gpu_memory_bytes", lambda: gibibytes << 30)
    assert fastest_jobs(runs, device, threads) == jobs
    monkeypatch.setattr(engine, "can_pin", lambda: False)
    assert fastest_jobs(runs, device) == 1


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    runs = Grid(tmp_path, {"a": tiny()}, [1, 2, 3]).runs
    free = psutil.virtual_memory().available
    needs = dict.fromkeys([run.name for run in runs], Needs(free // 2, 1000))
    require_room(runs, needs, 1, tmp_path)
    with pytest.raises(UsageError, match=r"3 runs at once need about .* GB of memory"):
        require_room(runs, needs, 3, tmp_path)
    assert Needs(1, 1000).with_kept(7) == Needs(1, 2000)  # 8 checkpoints instead of 4
    needs = dict.fromkeys(needs, Needs(1, 10**15))
    with pytest.raises(UsageError, match=r"no space left: .* for 3 runs"):
        require_room(runs, needs, 1, tmp_path)


def test_the_memory_of_the_reference_settings_is_about_what_was_measured() -> None:
    """Peaks of 426 MiB and 1,253 MiB (64 environments), on Linux with PyTorch 2.13."""
    spaces = Spaces((4, 84, 84), "uint8", "discrete", ("A", "B", "C", "D"), (4,), (4, 84, 84))
    small = Config(game="breakout", device="cpu")
    large = dataclasses.replace(small, num_envs=64)
    for config, measured in ((small, 426 << 20), (large, 1253 << 20)):
        needs = needs_of(config, make_agent(config, spaces))
        assert 0.9 * measured < needs.memory < 1.4 * measured
    assert needs.checkpoints > 4 * 3 * 1_600_000 * 4
