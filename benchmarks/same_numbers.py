"""Train one short run of every preset and variant, and print a hash of each.

    python benchmarks/same_numbers.py src > after.txt
    python benchmarks/same_numbers.py ../before/src > before.txt      # an older checkout
    diff before.txt after.txt

Two versions of the code compute the same numbers if the lines are equal. A line has the SHA-256 of
the weights and Adam's state, and that of `metrics.jsonl` without its clocks. The tensors are sorted
by their contents, because a version may rename them. Run both versions on the same machine; each
takes about five minutes on two cores.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file

RUNS = {
    "catch debug, annealed clip": "catch --preset debug --anneal-clip",
    "classic": "breakout --preset classic --total-timesteps 3072 --checkpoint-every 1",
    "classic, PyTorch fp32": "breakout --preset classic --total-timesteps 2048 --precision fp32 "
    "--kernels torch",
    "fast": "seaquest --preset fast --device cpu --total-timesteps 4096",
    "fast of a GPU": "seaquest --preset fast --device cpu --total-timesteps 8192 --num-envs 64 "
    "--num-minibatches 8 --learning-rate 5e-4 --clip-coef 0.2 --no-contrast-init",
    "LSTM": "breakout --preset classic --network lstm --total-timesteps 2048",
    "continuous": "breakout --preset classic --action-space continuous --total-timesteps 2048",
    "joystick, masked": "breakout --preset classic --action-space joystick --mask-actions "
    "--total-timesteps 2048",
    "ram, continuous": "breakout --preset classic --observation ram --action-space continuous "
    "--total-timesteps 3072",
    "machado": "assault --preset classic --protocol machado --total-timesteps 2048",
}
CLOCKS = ("wall_s", "cpu_s", "charts/SPS")


def hash_of_run(path: Path) -> str:
    """Return the hashes of the last checkpoint of a run, and of its log."""
    checkpoint = max((path / "checkpoints").iterdir())
    tensors = hashlib.sha256()
    for name in ("model.safetensors", "optimizer.safetensors"):
        contents = load_file(checkpoint / name).values()
        for content in sorted(tensor.numpy().tobytes() for tensor in contents):
            tensors.update(content)
    lines = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    logged = [{name: v for name, v in line.items() if name not in CLOCKS} for line in lines]
    log = hashlib.sha256(json.dumps(logged).encode())
    return f"{tensors.hexdigest()[:16]} {log.hexdigest()[:16]}"


def main(source: Path) -> None:
    """Train with the package in the directory `source`."""
    environment = {**os.environ, "PYTHONPATH": str(source.resolve())}
    ppo37 = (sys.executable, "-m", "ppo37")
    with tempfile.TemporaryDirectory() as folder:
        for name, command in RUNS.items():
            path = Path(folder, name.replace(" ", "_").replace(",", ""))
            train = (*ppo37, "train", *command.split(), "--threads", "2", "--out", str(path))
            subprocess.run(train, env=environment, check=True, capture_output=True)
            print(f"{name:28} {hash_of_run(path)}", flush=True)
        classic = Path(folder, "classic")
        resume = (*ppo37, "resume", str(classic / "checkpoints" / "00000001"))
        subprocess.run(resume, env=environment, check=True, capture_output=True)
        print(f"{'classic, resumed':28} {hash_of_run(classic)}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
