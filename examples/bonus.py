"""Add an exploration bonus, between two lines of the training loop.

    python examples/bonus.py --out runs/bonus       # Ctrl-C stops it
    python examples/bonus.py --resume runs/bonus    # the same result as without the stop

The reward of an observation that was seen n times grows by `scale / sqrt(n)` (Tang et al. 2017).
"""

import argparse
import zlib

import torch
from torch import Tensor, nn

from ppo37 import from_preset
LAKE = """{"map_name": "8x8", "is_slippery": false}"""
from ppo37.algorithm.update import update
from ppo37.build import Brought
from ppo37.session.observer import SessionOptions
from ppo37.session.start import new_session, resumed_session


class CountBonus(nn.Module):
    """Visits of observations, counted by hashes; one object for all environments."""

    def __init__(self, scale: float = 1.0, cells: int = 1 << 16) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("visits", torch.zeros(cells, dtype=torch.int64))  # saved and resumed

    def forward(self, obs: Tensor) -> Tensor:
        """Count observations [T, N, ...]. Returns their bonus [T, N]."""
        rounded = (obs.cpu() * 100).round().long().flatten(0, 1).numpy()
        cells = torch.tensor([zlib.crc32(row) % len(self.visits) for row in rounded])
        self.visits += torch.bincount(cells, minlength=len(self.visits))
        return self.scale * self.visits[cells].rsqrt().unflatten(0, obs.shape[:2])


parser = argparse.ArgumentParser(description="Climb a hill that random actions never reach.")
parser.add_argument("--total-timesteps", type=int, default=200_000)
parser.add_argument("--out", help="new run directory (default: under runs/)")
parser.add_argument("--resume", metavar="RUN", help="a run of this program that has stopped")
options = parser.parse_args()
bonus = CountBonus()
session_of = (SessionOptions(), Brought(extras={"bonus": bonus}))
if options.resume:
    entered = resumed_session(options.resume, *session_of, new_games=False, changes={})
else:
    steps = options.total_timesteps
    config = from_preset("auto", "FrozenLake-v1", "cpu", env_kwargs=LAKE, total_timesteps=steps, threads=1)
    entered = new_session(config, options.out, *session_of)
with entered as session:  # the loop of ppo37.loop.learn, with one line more
    for k in session.updates():
        session.anneal()
        rollout, episodes = session.collect(k)
        rollout.rewards.add_(bonus(rollout.obs))  # the line
        with session.timed("update"):
            batch, shuffled = session.advantages(rollout), session.permutations(k)
            minibatches, target_kl = session.config.num_minibatches, session.config.target_kl
            losses = update(session.train_step, batch, shuffled, minibatches, target_kl)
        session.end_update(k, batch, losses, episodes)
print(session.end())
