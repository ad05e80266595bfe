"""Comparisons: what becomes an entry, what is refused, and what the result says."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import read_files, run_command, tiny

from ppo37 import Config, UsageError, train
from ppo37.config import to_dict
from ppo37.suites import aggregate
from ppo37.suites.compare import compare, compare_entries, entries_of_suite, table
from ppo37.suites.compare_inputs import curve_of, read_entries

UPDATES = 4
STEPS = UPDATES * 1024


def make_run(path: Path, score: float | None, finished: bool = True, **changes: Any) -> Path:
    """Make the files of a run of four updates, which reads like one that was trained.

    In each update but the first a game ends, whose score rises to `score` in equal steps.
    """
    config = Config(**{"game": "pong", "total_timesteps": STEPS, **changes})
    (path / "checkpoints").mkdir(parents=True)
    document = {"config": to_dict(config), "machine": {"cpu": "a CPU"}, "versions": {"ppo37": "1"}}
    document["commit"] = "c0"
    (path / "config.json").write_text(json.dumps(document))
    lines = []
    for update in range(1, config.num_updates + 1):
        steps = update * config.batch_size
        part = (update - 1) / (config.num_updates - 1)
        game = {"env": 0, "return": (score or 0.0) * part, "length": 9}
        ended = [game] if update > 1 else []
        record = {"update": update, "agent_steps": steps, "frames": steps, "wall_s": float(update)}
        lines.append(json.dumps({**record, "episodes": ended}))
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    summary = {"finished": finished, "last_100_mean": score}
    (path / "summary.json").write_text(json.dumps(summary))
    return path


def make_suite(path: Path, scores: dict[str, dict[str, list[float]]], **changes: Any) -> Path:
    """Make a suite.  scores: those of seeds 1, 2, ... by variant and game."""
    runs = []
    for variant, by_game in scores.items():
        for game, values in by_game.items():
            for seed, score in enumerate(values, 1):
                name = f"{game}__{variant}__s{seed}"
                make_run(path / name, score, game=game, seed=seed, **changes)
                runs.append({"run": name, "arm": game, "variant": variant, "seed": seed})
    (path / "suite.json").write_text(json.dumps({"arms": [], "seeds": [], "runs": runs}))
    return path


BASE = {"pong": [1.0, 3.0, 2.0], "breakout": [11.0, 12.0, 16.0]}
NEW = {"pong": [5.0, 7.0, 6.5], "breakout": [30.0, 31.0, 33.5]}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of two variants, which tests must not change."""
    return make_suite(tmp_path_factory.mktemp("s") / "suite", {"base": BASE, "new": NEW})


def normalized(scores: dict[str, list[float]]) -> list[np.ndarray]:
    """Return scores by the constants of random play and the human, as printed in dqn_zoo."""
    bounds = {"pong": (-20.7, 14.6), "breakout": (1.7, 30.5)}
    return [(np.array(v) - bounds[g][0]) / (bounds[g][1] - bounds[g][0]) for g, v in scores.items()]


def test_the_variants_of_a_suite_are_compared(suite: Path, tmp_path: Path) -> None:
    before = read_files(suite)
    folder, document = compare([suite], out=tmp_path / "out")
    assert read_files(suite) == before
    base, new = document["entries"]
    assert [base["name"], new["name"]] == ["base", "new"]
    assert document["games"] == ["pong", "breakout"]
    assert document["scale"] == "human-normalized score"
    for entry, scores in ((base, BASE), (new, NEW)):
        for name, found in aggregate.aggregates(normalized(scores)).items():
            assert entry["aggregates"][name]["value"] == pytest.approx(found.value)
            assert entry["aggregates"][name]["interval"] == pytest.approx(found.interval)
    known = aggregate.differences(normalized(NEW), normalized(BASE), [True, True])
    (gap,) = document["differences"]
    assert gap["paired"]
    assert gap["differences"]["iqm"]["value"] == pytest.approx(known["iqm"].value)
    assert gap["probability_of_improvement"]["value"] == 1.0
    assert "new looks better than base, but intervals of fewer than 20 runs" in gap["verdict"]
    assert json.loads((folder / "compare.json").read_text()) == document
    assert (folder / "table.md").read_text() == f"{table(document)}\n"
    for name in ("aggregates", "profiles", "curves", "games"):
        assert (folder / f"{name}.png").stat().st_size > 10_000
    assert "base and new: fewer than 20 runs in all" in "\n".join(document["notes"])


def test_the_table_has_every_number(suite: Path) -> None:
    text = table(compare_entries(entries_of_suite(suite)))
    for part in ("IQM", "optimality gap", "P(improvement)", "| by seed |", "4,096"):
        assert part in text
    assert "| Pong              | 2.00 (3)  | 6.17 (3)  |" in text
    assert "protocol classic; seeds 1-3; runs: a CPU, ppo37 1, commit c0; " in text


def test_a_curve_is_the_running_mean_at_common_steps(suite: Path) -> None:
    entry = entries_of_suite(suite)[0]
    run = entry.of_game("pong")[2]  # its games score 2/3, 4/3 and 2 after 2, 3 and 4 updates
    steps = np.array([1024, 2047, 2048, 3072, 4096, 4097])
    expected = [np.nan, np.nan, 2 / 3, 1, 4 / 3, np.nan]
    np.testing.assert_allclose(curve_of(run, steps), expected)
    document = compare_entries([entry])
    assert document["differences"] == []
    curve = document["entries"][0]["curve"]["values"]
    assert document["curve_steps"][-1] == STEPS
    assert curve[0] is None
    assert curve[-1] is not None


def test_run_directories_with_equal_settings_are_one_entry(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"a{seed}", seed, seed=seed) for seed in (1, 2, 3)]
    runs += [make_run(tmp_path / f"b{seed}", seed, seed=seed, gamma=0.9) for seed in (1, 2, 4)]
    entries = read_entries(runs, lambda _: None)
    assert [entry.name for entry in entries] == ["preset classic", "preset classic with gamma 0.9"]
    assert [len(entry.runs) for entry in entries] == [3, 3]
    (gap,) = compare_entries(entries)["differences"]
    assert not gap["paired"]
    labels = [f"old={runs[0]}", f"new={runs[3]}", f"old={runs[1]}"]
    assert [e.name for e in read_entries(labels, lambda _: None)] == ["old", "new"]


def test_one_game_is_compared_by_raw_scores_and_students_t(tmp_path: Path) -> None:
    base = make_suite(tmp_path / "base", {"": {"pong": [1.0, 2.0, 4.0]}})
    new = make_suite(tmp_path / "new", {"": {"pong": [2.0, 2.5, 4.5]}})
    document = compare_entries(read_entries([base, f"better={new}"], lambda _: None))
    assert document["scale"] == "raw score"
    assert [entry["name"] for entry in document["entries"]] == ["base", "better"]
    (gap,) = document["differences"]
    # Differences 1, 0.5 and 0.5: mean 2/3, standard error 1/6, t 4.3027.
    mean = gap["differences"]["mean"]
    assert list(gap["differences"]) == ["mean"]
    assert mean["value"] == pytest.approx(2 / 3)
    assert mean["interval"] == pytest.approx([2 / 3 - 4.3027 / 6, 2 / 3 + 4.3027 / 6], abs=1e-4)
    assert gap["seeds_needed"] == aggregate.seeds_needed((2 / 3) / (np.sqrt(3) / 6))
    assert "cannot tell with 3 seeds each" in gap["verdict"]
    assert f"needs about {gap['seeds_needed']} seeds each" in gap["verdict"]


def test_published_scores_have_no_interval(suite: Path) -> None:
    entries = read_entries([suite, "ppo_paper", "human"], lambda _: None)
    document = compare_entries(entries)
    human = document["entries"][3]
    assert {name: found["value"] for name, found in human["aggregates"].items()} == {
        "iqm": 1.0,
        "median": 1.0,
        "mean": 1.0,
        "optimality_gap": 0.0,
    }
    assert human["aggregates"]["iqm"]["interval"] is None
    assert human["scores"]["breakout"]["mean"] == 30.5
    verdict = document["differences"][1]["verdict"]
    assert "no interval: published scores have no seeds" in verdict
    notes = "\n".join(document["notes"])
    assert "agent steps differ" in notes
    assert "ppo_paper 10,000,000" in notes
    assert "left out" not in notes


def test_games_that_one_lacks_are_left_out_with_a_line(suite: Path, tmp_path: Path) -> None:
    other = make_suite(tmp_path / "other", {"": {**BASE, "space_invaders": [500.0, 600.0]}})
    document = compare_entries(read_entries([other, suite], lambda _: None))
    assert document["games"] == ["pong", "breakout"]
    assert "games that not all entries have are left out: Space Invaders" in document["notes"]


def test_pictures_show_any_name_and_every_entry(suite: Path, tmp_path: Path) -> None:
    from ppo37.suites import compare_plot
    from ppo37.tools.figures import DOTS, MEANS

    names = ["_first $x_", "a_rather_long_name_of_an_entry_with_many_underscores"]
    entries = [
        entry._replace(name=name)
        for entry, name in zip(entries_of_suite(suite), names, strict=True)
    ]
    document = compare_entries([*entries, *read_entries(["human"], print)])
    assert len(compare_plot.figures(document, tmp_path)) == 4
    drawing = compare_plot.games_figure(document)
    assert [panel.get_title(loc="left") for panel in drawing.axes] == ["Pong", "Breakout"]
    labels = [label.get_text() for label in drawing.axes[0].get_yticklabels()]
    assert labels[0] == r" _first \$x_"
    assert "\n" in labels[1]
    for panel in drawing.axes:
        dots = [line.get_xdata() for line in panel.lines if line.get_gid() == DOTS]
        assert [len(each) for each in dots] == [3, 3]
        assert len([line for line in panel.lines if line.get_gid() == MEANS]) == 3
    (panel,) = compare_plot.curves_figure(document).axes
    assert panel.get_legend_handles_labels()[1][2] == "human (published)"
    assert len(panel.get_legend_handles_labels()[1]) == 3


def test_pictures_of_one_seed_name_no_interval(tmp_path: Path) -> None:
    from ppo37.suites import compare_plot

    path = make_suite(tmp_path / "s", {"": {"pong": [1.0], "breakout": [2.0]}})
    document = compare_entries(entries_of_suite(path))
    for draw in (
        compare_plot.aggregates_figure,
        compare_plot.profiles_figure,
        compare_plot.curves_figure,
    ):
        title = draw(document).get_suptitle()
        assert "1 seed" in title
        assert "interval" not in title


ANCHORS = "[Acrobot-v1]\nlow = 20\nhigh = 500\n[catch]\nlow = 0\nhigh = 10\n"


def test_games_without_a_human_score_need_anchors(tmp_path: Path) -> None:
    scores = {"a": {"catch": [5.0, 6.0], "Acrobot-v1": [260.0, 500.0]}}
    path, runs = tmp_path / "s", []
    for game, values in scores["a"].items():
        for seed, score in enumerate(values, 1):
            env = None if game == "catch" else game
            make_run(path / f"{game}{seed}", score, game=game, env=env, seed=seed)
            runs.append({"run": f"{game}{seed}", "variant": "a"})
    (path / "suite.json").write_text(json.dumps({"runs": runs}))
    entries = entries_of_suite(path)
    raw = compare_entries(entries)
    assert raw["scale"] == "raw score"
    assert raw["entries"][0]["aggregates"] == {}
    assert "no aggregates over games: Acrobot-v1 has no human score" in raw["notes"][0]
    assert "| Acrobot-v1        | 380.00 (2) |" in table(raw)
    file = tmp_path / "anchors.toml"
    file.write_text(ANCHORS)
    document = compare([path], file, tmp_path / "out")[1]
    assert document["scale"] == "normalized score"
    assert document["anchors"]["catch"] == [0.0, 10.0]  # not those of the package
    assert document["frames_per_step"] == 1
    mean = document["entries"][0]["aggregates"]["mean"]["value"]
    assert mean == pytest.approx((0.55 + 0.75) / 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[pong]\nlow = 5\n", "must have two numbers, low and high"),
        ("[pong]\nlow = 5\nhigh = 5\n", "with low below high"),
        ("[pong]\nlow = true\nhigh = 5\n", "must have two numbers"),
        ("[pong]\nlow = 1\nhigh = inf\n", "must have two numbers"),
        ("pong = 5\n", r"\[pong\] must have two numbers"),
        ("[pong", "is not TOML"),
    ],
)
def test_wrong_anchors_are_refused(suite: Path, tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "anchors.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        compare([suite], file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_runs_that_are_unfinished_or_damaged_are_left_out_by_name(tmp_path: Path) -> None:
    path = make_suite(tmp_path / "s", {"a": BASE, "b": NEW})
    (path / "pong__a__s1" / "summary.json").unlink()
    (path / "pong__a__s2" / "config.json").write_text("{")
    make_run(tmp_path / "stopped", 1.0, finished=False)
    (path / "breakout__a__s3" / "summary.json").write_text('{"finished": true}')
    lines: list[str] = []
    first = entries_of_suite(path, lines.append)[0]
    assert [len(first.of_game(game)) for game in first.games] == [1, 2]
    assert "pong__a__s1: it is not finished" in lines[0]
    assert "pong__a__s2" in lines[1]
    assert "damaged" in lines[1]
    assert "breakout__a__s3: summary.json is damaged" in lines[2]
    document = compare_entries(entries_of_suite(path))
    assert (
        "an interval needs at least 2 seeds in each game" in document["differences"][0]["verdict"]
    )
    with pytest.raises(UsageError, match="stopped has no finished run to compare"):
        read_entries([path, tmp_path / "stopped"], lines.append)
    other = make_run(tmp_path / "other", 1.0, seed=2)
    (entry,) = read_entries([tmp_path / "stopped", other], lines.append)
    assert [run.path for run in entry.runs] == [other]
    shutil.rmtree(path / "pong__b__s1")
    (path / "pong__b__s2" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="there is no finished run"):
        read_entries([path / "pong__b__s2"], lines.append)
    lines.clear()
    with (path / "breakout__b__s1" / "metrics.jsonl").open("a") as file:
        file.write("{}\n" * 2)
    assert len(entries_of_suite(path, lines.append)[1].runs) == 3
    assert "breakout__b__s1/metrics.jsonl, line 5 is not the log" in "\n".join(lines)
    assert "pong__b__s1 has not been started" in "\n".join(lines)
    for run in path.glob("pong__a*"):
        (run / "summary.json").unlink(missing_ok=True)
    for run in path.glob("breakout__a*"):
        (run / "summary.json").unlink()
    with pytest.raises(UsageError, match=r"no run of the variant a in .* is finished"):
        entries_of_suite(path)


def test_what_cannot_be_compared_is_refused(suite: Path, tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", 1.0)
    sticky = make_run(tmp_path / "sticky", 1.0, protocol="machado")
    alien = make_run(tmp_path / "alien", 1.0, game="alien")
    again = make_run(tmp_path / "again", 1.0)
    longer = make_run(tmp_path / "longer", 1.0, seed=2, total_timesteps=2 * STEPS)
    own = make_run(tmp_path / "own", 1.0, env="own:Pong", observation="vector", network="mlp")
    other = make_run(tmp_path / "other", 1.0, seed=2, gamma=0.9)
    (tmp_path / "empty").mkdir()
    for inputs, message in (
        ([one, sticky], "different protocols cannot be compared"),
        ([sticky, "ppo_paper"], "sticky in machado and ppo_paper in classic"),
        ([f"x={one}", f"y={alien}"], "x and y have no game in common"),
        ([one, own], "an agent step of pong has different numbers of frames: 4 in one and 1 in"),
        ([one, again], "preset classic has two runs of pong with seed 1: .*one and .*again"),
        ([suite, one, one], "one is named twice"),
        ([suite, suite / "pong__base__s1"], "is in two entries, base and pong__base__s1"),
        (["ppo_paper", "ppo_paper"], "two entries have the name ppo_paper"),
        ([f"base={one}", suite], "two entries have the name base"),
        ([f"x={one}", f"x={other}"], "x has runs of other settings .gamma 0.99 and 0.9."),
        ([f"x={one}", f"x={longer}"], "runs of pong with 4,096 and 8,192 agent steps"),
        (["mine=human", one], "human is a published column and keeps its name"),
        (
            [one, "ppo_papr"],
            "ppo_papr does not exist, and it is no published column .random, human",
        ),
        ([one, tmp_path / "empty"], "neither a run directory .* nor the directory of a suite"),
    ):
        with pytest.raises(UsageError, match=message):
            compare(inputs, out=tmp_path / "out")
        assert not (tmp_path / "out").exists(), message


@pytest.mark.parametrize("text", ["{", '{"runs": 5}', '{"runs": [{"run": "../x", "variant": ""}]}'])
def test_a_damaged_suite_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "suite.json").write_text(text)
    with pytest.raises(UsageError, match=r"suite\.json is damaged"):
        entries_of_suite(tmp_path)


def test_the_command_compares_trained_runs(
    finished_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train(tiny(seed=4), tmp_path / "four")
    train(tiny(seed=3, gamma=0.9), tmp_path / "three")
    monkeypatch.chdir(tmp_path)
    arguments = ("compare", f"base={finished_run}", "base=four", "three")
    code, out, err = run_command(capsys, *arguments)
    assert code == 0
    assert "an interval needs at least 2 seeds each" in out
    assert out.splitlines()[-1] == "compare"
    assert {path.name for path in Path("compare").iterdir()} == {
        "compare.json",
        "table.md",
        "aggregates.png",
        "profiles.png",
        "curves.png",
        "games.png",
    }
    code, out, err = run_command(capsys, *arguments, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["path"] == str(tmp_path / "compare-2")
    expected = json.loads((finished_run / "summary.json").read_text())["last_100_mean"]
    assert document["entries"][0]["scores"]["catch"]["scores"][0] == expected
    code, out, err = run_command(capsys, "compare", "three", "four", "nothing")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    (tmp_path / "file").write_text("")
    assert run_command(capsys, *arguments, "--out", "file")[0] == 2
