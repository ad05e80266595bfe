"""Plans of suites: games, seeds, variants, and what is wrong with them."""

from pathlib import Path
from typing import Any

import pytest

from ppo37.config import Config
from ppo37.envs.games import resolve_game
from ppo37.errors import UsageError
from ppo37.presets import from_preset
from ppo37.suites.plan import GAME_SETS, Plan, games_of, make_plan, read_plan
from ppo37.suites.seeds import named, seeds_from


def make_config(preset: str | None, game: str | None, changes: dict[str, Any]) -> Config:
    return from_preset(preset or "auto", game, "cpu", **changes)


def plan_of(**values: Any) -> Plan:
    return make_plan({"games": ["catch"], **values}, make_config)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        (3, [7, 8, 9]),
        ("3", [7, 8, 9]),
        ("1-3", [1, 2, 3]),
        ("4-4", [4]),
        ("1,4,7", [1, 4, 7]),
        ("5-6, 1", [5, 6, 1]),
        ([2, 9], [2, 9]),
    ],
)
def test_seeds_are_counted_or_named(text: Any, seeds: list[int]) -> None:
    assert seeds_from(text, 7) == seeds


@pytest.mark.parametrize("text", ["1-3", "1,4,7", "5-6,1", "3-4,9"])
def test_the_name_of_seeds_means_them(text: str) -> None:
    assert named(seeds_from(text, 1)) == text
    assert named([4]) == "4"


@pytest.mark.parametrize(
    "text",
    [
        1.5,
        {},
        "",
        "0",
        "-1",
        "3-1",
        "1,,2",
        "a",
        "1-2-3",
        "1,1",
        "0-9999,1-2",
        "9" * 5000,
        list(range(10_001)),
        0,
        [],
        True,
    ],
)
def test_wrong_seeds_are_refused(text: Any) -> None:
    with pytest.raises(UsageError, match="seeds"):
        seeds_from(text, 1)


@pytest.mark.parametrize(("name", "count"), [("atari5", 5), ("classic7", 7), ("atari26", 26)])
def test_sets_of_games_are_games(name: str, count: int) -> None:
    games = GAME_SETS[name].split()
    assert [resolve_game(game) for game in games] == games
    assert len(set(games)) == count
    assert games_of(name, {}) == games


def test_names_on_a_disk_that_ignores_case_differ() -> None:
    with pytest.raises(UsageError, match="variants Fast and fast have the same name"):
        plan_of(variants={"Fast": {}, "fast": {"gamma": 0.9}})
    with pytest.raises(UsageError, match="games and env exclude each other"):
        plan_of(settings={"env": "CartPole-v1"})
    with pytest.raises(UsageError, match="a variant needs a name"):
        plan_of(variants={"": {}})
    with pytest.raises(UsageError, match="preset has to be a text, not ''"):
        plan_of(preset="")


def test_atari57_are_the_games_with_published_scores() -> None:
    games = [resolve_game(str(game)) for game in games_of(["atari57"], {})]
    assert len(set(games)) == 57
    assert {game for games in GAME_SETS.values() for game in games.split()} <= set(games)


def test_a_file_and_its_variants(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(
        'games = "pong, catch"\nseeds = "2-3"\npreset = "classic"\n[settings]\nnum_envs = 4\n'
        "[variants.base]\n[variants.other]\nlearning_rate = 1e-3\nnum_envs = 2\n"
        '[variants.quick]\npreset = "debug"\n'
    )
    plan = make_plan(read_plan(path), make_config)
    assert plan.seeds == [2, 3]
    assert list(plan.arms) == [
        f"{variant}__{game}" for variant in ("base", "other", "quick") for game in ("pong", "catch")
    ]
    settings = {name: (a.variant, a.config.num_envs) for name, a in plan.arms.items()}
    assert settings["base__pong"] == ("base", 4)
    assert settings["other__catch"] == ("other", 2)
    assert plan.arms["other__catch"].config.learning_rate == 1e-3
    assert plan.arms["quick__pong"].config.preset == "debug"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"games": []}, "games has to be a list"),
        ({"games": ["pong", ""]}, "an empty name"),
        ({"games": ["pongg"]}, "did you mean pong"),
        ({"games": ["catch", "Catch"]}, "catch twice"),
        ({"preset": "fats"}, "unknown preset 'fats'"),
        ({"preset": 3}, "preset has to be a text"),
        ({"budget": "3 weeks"}, "--budget takes a time"),
        ({"budget": "1h", "settings": {"total_timesteps": 100}}, "exclude each other"),
        ({"settings": {"learning_rte": 1}}, "did you mean learning_rate"),
        ({"settings": {"gamma": "high"}}, "settings: gamma"),
        ({"settings": {"seed": 3}}, "names seeds by `seeds`"),
        ({"settings": {"game": "pong"}}, "names games by `games`"),
        ({"variants": {"a" * 300: {}}}, "has at most 40 letters"),
        ({"variants": {"a": {"gamma": 2.0}}}, "variant a: gamma"),
        ({"variants": {"a": {}, "b": {}}}, "a__catch and b__catch have the same settings"),
        ({"variants": {"a b": {}}}, "variant 'a b': a name has at most"),
        ({"variants": {"a": 3}}, "variant a has to be a table"),
        ({"seeds": "1,1"}, "seed 1 twice"),
    ],
)
def test_a_wrong_plan_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_of(**values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("games = [", "is not TOML"),
        ("game = 'pong'", "no key 'game', only games, .*; did you mean games"),
        ("learning_rate = 1e-3", r"settings belong in \[settings\]"),
        ("settings = 3", "settings has to be a table"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_plan(tmp_path / "plan.toml")
