"""Use a trained agent in a loop of your own.

    ppo37 train catch --out runs/catch
    python examples/play.py runs/catch --games 3

`make_env` gives the environment that the agent was trained in, and `agent.act` chooses the actions.
Replace either of them, or do something with the observations on the way.
"""

import argparse

from ppo37 import UsageError, load_agent, make_env


def main() -> None:
    parser = argparse.ArgumentParser(description="Play whole games with a trained agent.")
    parser.add_argument("run", help="a run directory, a checkpoint or a published agent")
    parser.add_argument("--games", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the games and of the actions")
    parser.add_argument("--greedy", action="store_true", help="take the most likely actions")
    options = parser.parse_args()
    try:
        agent = load_agent(options.run, "cpu", seed=options.seed)
        env = make_env(options.run)
    except UsageError as error:
        raise SystemExit(str(error)) from error

    obs, _ = env.reset(seed=options.seed)
    games, rewards = 0, 0.0
    while games < options.games:
        action = agent.act(obs, greedy=options.greedy)
        obs, reward, terminated, truncated, info = env.step(action)
        rewards += reward
        if terminated or truncated:  # in protocol classic also when a life is lost
            agent.reset()  # the state of its LSTM, if it has one
            obs, _ = env.reset()  # the next life or game
        if "episode" in info:
            games += 1
            score, length = info["episode"]["r"], info["episode"]["l"]
            print(f"game {games}: score {score:g}, sum of rewards {rewards:g}, {length:,} steps")
            rewards = 0.0
    env.close()


if __name__ == "__main__":
    main()
