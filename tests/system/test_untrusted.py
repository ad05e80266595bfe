"""Untrusted checkpoints: they are read or refused, and do nothing else."""

import hashlib
import json
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import child_environment

from ppo37.backends.network import make_network
from ppo37.envs import spaces_of
from ppo37.session import checkpoint
from ppo37.session.checkpoint_format import FORMAT, MANIFEST, Damaged

NASTY = [
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    10**400,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "\ud800",
    "../../etc",
    "x" * 10_000,
    [],
    [[]],
    {},
    {"": None},
    [None] * 1000,
    "I64",
    "F4",
    "F8_E8M0",
    "BOOL",
    "C64",
    [2**40, 2**40],
    [0, 2**63],
]
BANNED = (
    "exec",
    "compile",
    "import",
    "pickle.find_class",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "ctypes.dlopen",
)
MOST_GROWTH_BYTES = 200 << 20


def to_json(value: Any) -> bytes:
    """Return JSON in the format of checkpoints, but also with NaN and infinities."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


# Mutations, with a manifest that matches, so that the mutated files are read


def _of_bytes(content: bytes, rng: random.Random) -> bytes:
    """Flip bits, or cut, repeat or insert bytes."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(4)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[at : at + rng.choice((1, 7, 1000))]
        elif kind == 2:
            changed[at:at] = changed[at : at + rng.choice((1, 8, 100))]
        else:
            changed[at:at] = rng.randbytes(rng.choice((1, 8)))
    return bytes(changed)


def _of_json(value: Any, rng: random.Random) -> Any:
    """Replace a value by a nasty one, or remove or add one."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.9:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        kind = rng.random()
        if kind < 0.1:
            del value[key]
        elif kind < 0.2 and isinstance(value, dict):
            value[rng.choice(("__class__", "x", "update"))] = rng.choice(NASTY)
        else:
            value[key] = _of_json(value[key], rng)
        return value
    return rng.choice(NASTY)


def _of_header(content: bytes, rng: random.Random) -> bytes:
    """Change the header of a file of tensors: names, types, shapes, offsets."""
    size = struct.unpack("<Q", content[:8])[0]
    header = json.dumps(_of_json(json.loads(content[8 : 8 + size]), rng)).encode()
    size = rng.choice((len(header), len(header), len(header), 0, 2**62, len(header) + 1))
    return struct.pack("<Q", size) + header + content[8 + size :]


def _mutate(good: dict[str, bytes], rng: random.Random) -> dict[str, bytes]:
    files = dict(good)
    name = rng.choice([n for n in files if n != MANIFEST])
    kind = rng.randrange(4)
    if name.endswith(".json"):
        objects = b"[" + b"{}," * 1_300_000 + b"{}]"
        bombs = (b"[" * 200_000, b'{"a":' * 100_000, b"1" * 5000, objects)
        changed = to_json(_of_json(json.loads(files[name]), rng))
        files[name] = rng.choice(bombs) if rng.random() < 0.02 else changed
    elif kind:
        files[name] = _of_header(files[name], rng)
    if kind == 0:
        files[name] = _of_bytes(files[name], rng)
    entries = {
        n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()}
        for n, c in files.items()
        if n != MANIFEST
    }
    listing = {"format": FORMAT, "files": entries}
    own = hashlib.sha256(to_json(listing)).hexdigest()
    files[MANIFEST] = to_json({**listing, "sha256": own})
    if rng.random() < 0.1:
        files[MANIFEST] = _of_bytes(files[MANIFEST], rng)
    if rng.random() < 0.05:
        manifest = _of_json(json.loads(good[MANIFEST]), rng)
        files[MANIFEST] = to_json(manifest)
    return files


def load_mutants(source: Path, folder: Path, count: int, seed: int) -> dict[str, int]:
    """Load `count` mutants of a checkpoint in every possible way, and count the results.

    Runs in a separate process, which ends at an event in `BANNED`.
    """
    from conftest import tiny

    from ppo37 import load_agent, train
    from ppo37.algorithm.rollout import allocate
    from ppo37.algorithm.update import make_optimizer
    from ppo37.backends.executables import make_act
    from ppo37.backends.threads import RolloutThreads
    from ppo37.envs import env_factory
    from ppo37.errors import UsageError

    assert callable(train)
    start = sys.modules["ppo37.session.start"]
    config = tiny()
    good = {path.name: path.read_bytes() for path in source.iterdir()}
    folder.mkdir()

    def load() -> None:
        saved = checkpoint.load(folder)
        checkpoint.fingerprint(saved)
        load_agent(folder)
        envs = env_factory("catch")(config.num_envs, config.seed)
        spaces = spaces_of(envs)
        agent = start.make_agent(config, spaces)
        optimizer = make_optimizer(agent, config.learning_rate, config.adam_eps)
        extras = {"bonus": torch.nn.Linear(3, 2)}
        start.restore(start.RunState(agent, optimizer, spaces, extras=extras), saved, config)
        buffers = allocate(1, config.num_envs, envs.obs_shape, torch.device("cpu"))
        env_states = start.saved_env_states(saved, config)
        RolloutThreads(
            [envs], [make_act(make_network(agent))], buffers, env_states=env_states
        ).close()

    def write(files: dict[str, bytes]) -> None:
        for name, content in files.items():
            (folder / name).write_bytes(content)

    write(good)
    load()
    warnings.simplefilter("error")
    loading: list[bool] = []
    sys.addaudithook(_guard(loading, folder))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = {"accepted": 0, "refused": 0, "of the manifest": 0}
    rng = random.Random(seed)
    for _ in range(count):
        write(_mutate(good, rng))
        loading.append(True)
        try:
            load()
            counts["accepted"] += 1
        except UsageError as error:
            counts["refused"] += 1
            counts["of the manifest"] += MANIFEST in str(error)
        finally:
            loading.clear()
    growth = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    return {**counts, "growth_bytes": growth}


def _guard(loading: list[bool], folder: Path) -> Callable[[str, tuple[Any, ...]], None]:
    """Return an audit hook that ends the process at a banned event during loading."""

    def check(event: str, arguments: tuple[Any, ...]) -> None:
        if not loading:
            return
        outside = event == "open" and not str(arguments[0]).startswith(str(folder))
        if event in BANNED or outside:
            os.write(2, f"{event} {arguments}\n".encode())
            os._exit(3)

    return check


@pytest.mark.parametrize("count", [100, pytest.param(20_000, marks=pytest.mark.slow)])
def test_mutated_checkpoints_are_read_or_refused(
    count: int, finished_run: Path, tmp_path: Path
) -> None:
    saved = checkpoint.load(checkpoint.numbered(finished_run / "checkpoints")[0])
    extras = {f"bonus/{key}": t for key, t in torch.nn.Linear(3, 2).state_dict().items()}
    source = checkpoint.save(tmp_path / saved.path.name, *saved[1:5], extras)
    code = (
        "import json, sys; from pathlib import Path; from test_untrusted import load_mutants; "
        f"print(json.dumps(load_mutants(Path({str(source)!r}), Path({str(tmp_path / 'x')!r}), "
        f"{count}, 0)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=child_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    print(counts)
    assert counts["accepted"] > 0.02 * count
    assert counts["refused"] - counts["of the manifest"] > 0.5 * count
    assert counts["growth_bytes"] < MOST_GROWTH_BYTES


def test_the_guard_notices_banned_events(tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing."""
    acts = (
        "eval('1 + 1')",
        "pickle.loads(pickle.dumps(print))",
        "os.system('true')",
        "open('/etc/hostname')",
        "None",
    )
    listed = ", ".join(f"lambda: {act}" for act in acts)
    code = f"""if True:
        import os, pickle, sys
        from pathlib import Path
        from test_untrusted import _guard
        for act in ({listed}):
            if not (child := os.fork()):
                sys.addaudithook(_guard([True], Path({str(tmp_path)!r})))
                act()
                os._exit(0)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=child_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["3"] * 4 + ["0"], done


def test_a_manifest_can_only_name_files_of_a_checkpoint(finished_run: Path, tmp_path: Path) -> None:
    """Also if its own checksum is right."""
    folder = tmp_path / "00000007"
    shutil.copytree(checkpoint.numbered(finished_run / "checkpoints")[0], folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("../../elsewhere", "/etc/hostname", "extra.safetensors"):
        entries = {**manifest["files"], name: manifest["files"]["model.safetensors"]}
        listing = {"format": FORMAT, "files": entries}
        own = hashlib.sha256(to_json(listing)).hexdigest()
        (folder / "manifest.json").write_bytes(to_json({**listing, "sha256": own}))
        with pytest.raises(Damaged, match="does not list"):
            checkpoint.load(folder)
