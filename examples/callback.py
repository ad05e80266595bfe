"""Stop training when the agent is good enough: a callback of your own.

    python examples/callback.py

A callback is an `Observer`: it sees the agent, the settings and the record of each update, and may
stop the run. `ppo37 resume RUN` continues where it stopped, with the same result.
"""

import argparse

from ppo37 import KeepBest, Observer, from_preset, train


class StopAtScore(Observer):
    """Stops when the mean score of the last 100 training games reaches `score`."""

    def __init__(self, score: float) -> None:
        self.score = score

    def start(self, run) -> None:
        run.note(f"training until the mean of 100 games is {self.score}")

    def update(self, progress) -> str | None:
        mean = progress.record["charts/episodic_return_last_100"]
        if progress.games < 100 or mean < self.score:
            return None
        return f"a mean score of {mean:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Train catch until it is good enough.")
    parser.add_argument("--score", type=float, default=4.0, help="of at most 10; default 4")
    parser.add_argument("--total-timesteps", type=int, default=200_000, help="at most")
    parser.add_argument("--out", help="new run directory (default: under runs/)")
    options = parser.parse_args()
    config = from_preset("fast", "catch", "cpu", total_timesteps=options.total_timesteps)
    # KeepBest plays 10 games every 10,240 steps, and keeps the best agent in the folder `best`.
    callbacks = [StopAtScore(options.score), KeepBest(10_240)]
    summary = train(config, options.out, callbacks=callbacks)
    print(f"stopped by {summary.stopped_by} after {summary.agent_steps} steps: {summary.run}")


if __name__ == "__main__":
    main()
