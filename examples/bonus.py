"""Add an exploration bonus, between two lines of the training loop.

    python examples/bonus.py --out runs/bonus       # Ctrl-C stops it
    python examples/bonus.py --resume runs/bonus    # the same result as without the stop

A frozen lake of 8 x 8 cells gives one reward: 1 at the far end, which random actions do not reach.
So the reward of an observation seen n times grows by `0.1 / sqrt(n)` (Tang et al. 2017).
"""

import argparse
import zlib

import torch

from ppo37 import from_preset
from ppo37.algorithm.update import update
from ppo37.build import Brought
from ppo37.session.observer import SessionOptions
from ppo37.session.start import new_session, resumed_session


class CountBonus(torch.nn.Module):
    """Visits of observations, counted by hashes; one object for all environments."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("visits", torch.zeros(1 << 16, dtype=torch.int64))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Count observations [T, N, ...]. Returns their bonus [T, N]."""
        cells = torch.tensor([zlib.crc32(o) % (1 << 16) for o in obs.cpu().flatten(0, 1).numpy()])
        self.visits += torch.bincount(cells, minlength=1 << 16)
        return 0.1 * self.visits[cells].rsqrt().unflatten(0, obs.shape[:2])


parser = argparse.ArgumentParser(description="Cross a frozen lake.")
parser.add_argument("--total-timesteps", type=int, default=100_000)
parser.add_argument("--out", help="new run directory (default: under runs/)")
parser.add_argument("--resume", metavar="RUN", help="a stopped run of this program")
options = parser.parse_args()
bonus = CountBonus()
start = (SessionOptions(), Brought(extras={"bonus": bonus}))
if options.resume:
    entered = resumed_session(options.resume, *start, new_games=False, changes={})
else:
    changes = {"total_timesteps": options.total_timesteps, "threads": 1}
    changes["env_kwargs"] = '{"map_name": "8x8", "is_slippery": false}'
    config = from_preset("auto", "FrozenLake-v1", "cpu", **changes)
    entered = new_session(config, options.out, *start)
with entered as session:
    for k in session.updates():
        session.anneal()
        rollout, episodes = session.collect(k)
        rollout.rewards.add_(bonus(rollout.obs))  # the only new line of this loop
        with session.timed("update"):
            batch, shuffled = session.advantages(rollout), session.permutations(k)
            number = session.config.num_minibatches
            losses = update(session.train_step, batch, shuffled, number, session.config.target_kl)
        session.end_update(k, batch, losses, episodes)
print(session.end())
