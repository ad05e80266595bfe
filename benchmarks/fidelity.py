"""Measure how the C++ engine differs from the wrappers of baselines, for docs/fidelity.md.

    python benchmarks/fidelity.py [--games breakout pong ...] [--measures lives ...]

`ReferenceAtari` plays both, in its variants `reference` and `engine`; the second equals the engine
bit for bit (tests/unit/envs/test_parity.py). Actions are uniformly random. Prints a Markdown table;
with all games and 200 steps that takes about ten minutes on one core.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from ale_py import Action, ALEInterface, LoggerMode, roms
from numpy.typing import NDArray

from ppo37.envs.atari.protocols import FRAME_SKIP
from ppo37.envs.atari.reference import GAME_VARIANTS, GameVariant, ReferenceAtari, grayscale, shrink
from ppo37.envs.games import atari_games

Pixels = NDArray[np.uint8]
OPENINGS = 300
FROZEN_FRAMES = 240
SCORED = ("breakout", "ms_pacman", "space_invaders")
SCORED_GAMES = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--games", nargs="+", default=atari_games())
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--steps", type=int, default=200, help="agent steps a game")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    ALEInterface.setLoggerMode(LoggerMode.Error)
    print("| measure | figure |\n|---|---|")
    for measure in options.measures:
        for name, figure in MEASURES[measure](options.games, options.steps, options.seed):
            print(f"| {name} | {figure} |", flush=True)


Rows = Iterator[tuple[str, str]]


def random_play(envs: ReferenceAtari, steps: int, seed: int) -> Iterator:  # type: ignore[type-arg]
    rng = np.random.default_rng(seed)
    envs.reset()
    for _ in range(steps):
        yield envs.step(rng.integers(len(envs.action_names), size=envs.num_envs))


# The start of a game: no-ops and FIRE


def openings(games: list[str], steps: int, seed: int) -> Rows:
    """Count the frames before the first observation."""
    for game, kind in (("breakout", "with FIRE"), ("ms_pacman", "without FIRE")):
        for variant in GAME_VARIANTS:
            played = opening_frames(game, variant, seed)
            yield (
                f"frames before the first observation, {kind} (`{game}`), {variant}",
                f"{min(played)} to {max(played)}, mean {statistics.mean(played):.1f}",
            )


def opening_frames(game: str, variant: str, seed: int) -> list[int]:
    envs = ReferenceAtari(game, 1, seed, variant=variant)
    envs.reset()
    lengths = []
    for _ in range(OPENINGS):
        envs._games[0].start_game()
        lengths.append(len(envs._games[0].screens))
    return lengths


def serving(games: list[str], steps: int, seed: int) -> Rows:
    """List the games in which nothing moves until a button is pressed."""
    waiting = {
        name: [game for game in games if is_frozen(game, fire_frames, noops_first)]
        for name, fire_frames, noops_first in (
            ("none", 0, 0),
            ("engine", 1, 0),
            ("reference", 4, 15),
        )
    }
    yield (
        "games that stand still for four seconds of no-ops, if FIRE is not pressed",
        names(waiting["none"]),
    )
    yield "the same after FIRE for one frame at once (engine)", names(waiting["engine"])
    yield (
        "the same after 15 no-ops and FIRE for four frames (reference)",
        names(waiting["reference"]),
    )


def is_frozen(game: str, fire_frames: int, noops_first: int) -> bool:
    """Return whether the screen stands still: it may blink, so few different ones are allowed."""
    ale = ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setInt("random_seed", 1)
    ale.loadROM(roms.get_rom_path(game))
    ale.reset_game()
    if Action.FIRE not in ale.getMinimalActionSet():
        return False
    for action, frames in ((Action.NOOP, noops_first), (Action.FIRE, fire_frames)):
        for _ in range(frames):
            ale.act(action)
    for _ in range(60):
        ale.act(Action.NOOP)
    screens = set()
    for _ in range(FROZEN_FRAMES):
        ale.act(Action.NOOP)
        screens.add(ale.getScreen().tobytes())
    return len(screens) <= 4


# Pixels: the maximum of colors or of gray values


class Difference(NamedTuple):
    """The share of pixels that differ, the mean and the largest difference of two screens."""

    share: float
    mean: float
    largest: int


def difference(a: Pixels, b: Pixels) -> Difference:
    apart = np.abs(a.astype(int) - b.astype(int))
    return Difference(float((apart > 0).mean()), float(apart.mean()), int(apart.max()))


def colours(games: list[str], steps: int, seed: int) -> Rows:
    """Compare the maximum of two screens in color with that in gray."""
    orders, moved = {}, {}
    for game in games:
        pairs = list(frame_pairs(game, steps, seed))
        seen = [shrink(grayscale(np.maximum(a, b))) for a, b in pairs]
        pooled_gray = [shrink(np.maximum(grayscale(a), grayscale(b))) for a, b in pairs]
        orders[game] = average(map(difference, seen, pooled_gray))
        moved[game] = average(map(difference, seen[1:], seen[:-1]))
    worst = sorted(orders, key=lambda game: orders[game].mean, reverse=True)[:5]
    yield (
        "maximum before or after gray: games in which no pixel ever differs",
        f"{sum(d.largest == 0 for d in orders.values())} of {len(games)}",
    )
    yield (
        "the same: pixels of an observed frame that differ, mean of the games",
        f"{100 * statistics.mean(d.share for d in orders.values()):.3f} %",
    )
    yield (
        "the same: mean difference of a pixel, of 255",
        f"{statistics.mean(d.mean for d in orders.values()):.4f}",
    )
    yield (
        "for scale: mean difference from one observed frame to the next, of 255",
        f"{statistics.mean(d.mean for d in moved.values()):.4f}",
    )
    yield (
        "the same as above: the games with most of it",
        "; ".join(show(game, orders[game]) for game in worst),
    )


def frame_pairs(game: str, steps: int, seed: int) -> Iterator[tuple[Pixels, Pixels]]:
    """Yield the last two color screens of every step of at least two frames."""
    envs = ReferenceAtari(game, 1, seed, variant="engine")
    for _ in random_play(envs, steps, seed):
        screens = envs.screens[0]
        if len(screens) >= 2:
            yield screens[-2], screens[-1]


def average(differences: Iterator[Difference]) -> Difference:
    shares, means, largest = zip(*differences, strict=True)
    return Difference(statistics.mean(shares), statistics.mean(means), max(largest))


def greys(games: list[str], steps: int, seed: int) -> Rows:
    """Compare ALE's gray screens with gray by BT.601 in 15 bits."""
    found = {game: palette_difference(game) for game in games}
    off = [game for game in games if found[game].largest > 1]
    fine = [game for game in games if found[game].largest <= 1]
    yield (
        "ALE's gray or BT.601: games in which a pixel differs by 1 at most",
        f"{len(fine)} of {len(games)}",
    )
    if fine:
        share = 100 * statistics.mean(found[game].share for game in fine)
        yield "the same: pixels of a screen that differ in these, mean", f"{share:.4f} %"
    if off:
        yield "the same: the other games", "; ".join(show(game, found[game]) for game in off)


def show(game: str, found: Difference) -> str:
    return (
        f"{game} {100 * found.share:.2f} % of pixels, mean {found.mean:.3f}, "
        f"largest {found.largest}"
    )


def palette_difference(game: str) -> Difference:
    """Compare the two kinds of gray over ten seconds of no-ops."""
    ale = ALEInterface()
    ale.setInt("random_seed", 1)
    ale.loadROM(roms.get_rom_path(game))
    ale.reset_game()
    found = []
    for _ in range(10):
        for _ in range(60):
            ale.act(Action.NOOP)
        found.append(difference(grayscale(ale.getScreenRGB()), ale.getScreenGrayscale()))
    return average(iter(found))


# Lives


def lives(games: list[str], steps: int, seed: int) -> Rows:
    """Count lost lives; only there frame stack, FIRE and no-ops differ."""
    lost, replaced, total = {}, 0, 0
    for game in games:
        envs = ReferenceAtari(game, 1, seed, variant="engine")
        lost[game] = 0
        for step in random_play(envs, 5 * steps, seed):
            lost[game] += int(step.dones[0] and not step.episodes)
        total += 5 * steps
        replaced += lost[game] if "FIRE" in envs.action_names else 0
    everywhere = sum(lost.values())
    most = sorted(lost, key=lambda game: lost[game], reverse=True)[:5]
    yield (
        "agent steps with a lost life that does not end the game",
        f"{100 * everywhere / total:.2f} %",
    )
    yield (
        "games with most of it",
        "; ".join(f"{game} {100 * lost[game] / (5 * steps):.1f} %" for game in most),
    )
    yield "agent steps whose action FIRE replaces", f"{100 * replaced / total:.2f} %"
    yield (
        "agent steps whose stack shows frames of the life before",
        f"{100 * 3 * everywhere / total:.2f} %",
    )


# The last frame


def last_frames(games: list[str], steps: int, seed: int) -> Rows:
    """Compare the last frame before a time limit: the engine's, or a new one."""
    fresh_variant = GAME_VARIANTS["engine"]._replace(see_last_frame=True)
    found = []
    for game in games:
        stale = last_frame(game, GAME_VARIANTS["engine"], seed)
        fresh = last_frame(game, fresh_variant, seed)
        if stale is not None and fresh is not None:
            found.append(difference(stale, fresh))
    mean = average(iter(found))
    yield (
        "last frame before a time limit, engine or fresh: pixels that differ",
        f"{100 * mean.share:.2f} %",
    )
    yield "the same: mean difference of a pixel, of 255", f"{mean.mean:.3f}"


def last_frame(game: str, variant: GameVariant, seed: int) -> Pixels | None:
    """Return the last frame before a limit of 60 steps; None if the game ends earlier."""
    envs = ReferenceAtari(game, 1, seed, "machado", variant="engine", max_frames=60 * FRAME_SKIP)
    envs._games[0]._variant = variant
    *_, last = random_play(envs, 60, seed)
    return last.final_obs[0, -1] if last.truncated[0] else None


# Scores


def random_scores(games: list[str], steps: int, seed: int) -> Rows:
    """Compare scores and lengths of whole games of random play in both variants."""
    for game in SCORED:
        for variant in GAME_VARIANTS:
            envs = ReferenceAtari(game, 1, seed, variant=variant)
            play = (episode for step in random_play(envs, 10**9, seed) for episode in step.episodes)
            episodes = list(itertools.islice(play, SCORED_GAMES))
            yield (
                f"random play, `{game}`, {variant}: score, agent steps ({SCORED_GAMES} games)",
                (
                    f"{with_error([e.score for e in episodes])}, "
                    f"{with_error([e.length for e in episodes])}"
                ),
            )


def with_error(values: list[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.1f} ± {error:.1f}"


def names(games: list[str]) -> str:
    return f"{len(games)}: {', '.join(games)}" if games else "none"


MEASURES: dict[str, Callable[[list[str], int, int], Rows]] = {
    measure.__name__: measure
    for measure in (openings, serving, colours, greys, lives, last_frames, random_scores)
}


if __name__ == "__main__":
    main()
