"""Learning curves: the lines show the numbers of the log, and the file is a PNG."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppo37.config import Config
from ppo37.errors import UsageError
from ppo37.tools import figures, plots
from ppo37.tools.stats import published_curve

pytest.importorskip("matplotlib")


def fake_run(path: Path, games: list[list[float]], sps: float = 400.0, **settings: Any) -> Path:
    """Write a run directory with a log in which these games ended in each update."""
    config = Config(**{"game": "pong", **settings})
    (path / "checkpoints").mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"config": dataclasses.asdict(config)}))
    with (path / "metrics.jsonl").open("w") as log:
        for update, scores in enumerate(games, start=1):
            steps = update * config.batch_size
            episodes = [{"env": 0, "return": score, "length": 9} for score in scores]
            line = {
                "update": update,
                "frames": 4 * steps,
                "wall_s": steps / sps,
                "episodes": episodes,
            }
            log.write(json.dumps(line) + "\n")
    return path


def learning(rng: np.random.Generator, updates: int = 60) -> list[list[float]]:
    """Return rising scores, from none to three games per update."""
    return [
        (rng.normal(u / 2 - 20, 2, size=rng.integers(4)).round()).tolist() for u in range(updates)
    ]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def read(*runs: Path) -> list[plots.History]:
    return [plots.read_history(run) for run in runs]


def drawn(panel: Any, gid: str) -> list[Any]:
    """Return the parts of a panel with this id."""
    return [part for part in (*panel.lines, *panel.collections) if part.get_gid() == gid]


def texts(figure: Any) -> str:
    """Return the texts of the legends and panels."""
    legends = [t.get_text() for legend in figure.legends for t in legend.get_texts()]
    return "\n".join([*legends, *(t.get_text() for panel in figure.axes for t in panel.texts)])


def test_a_run_is_plotted_to_a_png_in_its_directory(finished_run: Path, tmp_path: Path) -> None:
    from PIL import Image

    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    path = plots.plot(run)
    assert path == run / "plots" / "return.png"
    assert [file.name for file in path.parent.iterdir()] == ["return.png"]
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size == (1650, 750)
        colors = image.convert("RGB").getcolors(1 << 20)
    blue = tuple(int(figures.COLORS[0][i : i + 2], 16) for i in (1, 3, 5))
    assert blue in {color for _, color in colors}


def test_dots_are_games_and_the_line_is_their_running_mean(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    run = fake_run(tmp_path / "run", learning(rng))
    figure = plots.figure(read(run))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    games = [(line, game["return"]) for line in lines for game in line["episodes"]]
    means, scores = {}, []
    for line, score in games:
        scores.append(score)
        means[line["frames"]] = sum(scores[-100:]) / len(scores[-100:])
    minutes = {line["frames"]: line["wall_s"] / 60 for line in lines}

    left, right = figure.axes
    (dots,), (line,) = drawn(left, figures.DOTS), drawn(left, figures.MEANS)
    np.testing.assert_allclose(dots.get_xdata(), [line["frames"] / 1e6 for line, _ in games])
    np.testing.assert_allclose(dots.get_ydata(), [score for _, score in games])
    np.testing.assert_allclose(line.get_xdata(), np.array(list(means)) / 1e6)
    np.testing.assert_allclose(line.get_ydata(), list(means.values()), atol=1e-9)
    (line,) = drawn(right, figures.MEANS)
    np.testing.assert_allclose(line.get_xdata(), [minutes[frames] for frames in means])
    np.testing.assert_allclose(line.get_ydata(), list(means.values()), atol=1e-9)
    assert len(scores) > 100, "fewer games do not test the window"


def test_seeds_are_averaged_where_all_have_games(tmp_path: Path) -> None:
    rising = fake_run(tmp_path / "a", [[float(u)] for u in range(50)], seed=1)
    flat = fake_run(tmp_path / "b", [[], [10.0]] + [[10.0]] * 28, seed=2)
    figure = plots.figure(read(rising, flat), group=True)
    left = figure.axes[0]
    (line,), (band,) = drawn(left, figures.MEANS), drawn(left, figures.BAND)
    update = line.get_xdata() * 1e6 / (4 * 1024)
    assert (update[0], update[-1]) == pytest.approx((2, 30))
    rising_mean = (update - 1) / 2  # mean of 0, 1, ..., update - 1
    np.testing.assert_allclose(line.get_ydata(), (rising_mean + 10) / 2, atol=1e-9)
    low, high = band.get_datalim(left.transData).intervaly
    assert (low, high) == pytest.approx((0.5, 14.5))
    assert not drawn(left, figures.DOTS)
    assert "2 seeds" in left.get_title("left")


def test_seeds_without_a_common_range_are_refused(tmp_path: Path) -> None:
    early = fake_run(tmp_path / "a", [[1.0], [], []], seed=1)
    late = fake_run(tmp_path / "b", [[], [], [1.0]], seed=2)
    with pytest.raises(UsageError, match="have no frames in common"):
        plots.figure(read(early, late), group=True)


def test_a_group_contains_runs_that_differ_only_in_the_seed(tmp_path: Path) -> None:
    settings = [{"seed": 1}, {"seed": 2}, {"seed": 3, "learning_rate": 1e-3}]
    runs = [fake_run(tmp_path / str(i), [[1.0]], **s) for i, s in enumerate(settings)]
    lines = plots.arrange(read(*runs), group=True)
    assert [len(line.histories) for line in lines] == [2, 1]
    assert [line.label for line in lines] == ["classic, 2 seeds", "classic, 1 seed"]


def test_each_line_has_its_own_label_and_color(tmp_path: Path) -> None:
    settings = [{"seed": 1}, {"seed": 1, "network": "nature_half"}, {"seed": 2}, {"seed": 2}]
    runs = [fake_run(tmp_path / f"r{i}", [[1.0]], **s) for i, s in enumerate(settings)]
    lines = plots.arrange(read(*runs), group=False)
    assert [line.label for line in lines] == [
        "classic, seed 1",
        "classic, seed 1, network nature_half",
        "classic, seed 2, r2",
        "classic, seed 2, r3",
    ]
    assert len({line.color for line in lines}) == 4
    legend = texts(plots.figure(read(*runs)))
    assert all(line.label in legend for line in lines)


def test_more_lines_than_colors_still_differ(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path / str(seed), [[1.0]], seed=seed) for seed in range(9)]
    lines = plots.arrange(read(*runs), group=False)
    assert len({(line.color, line.dashes) for line in lines}) == 9


def test_each_game_has_a_row_and_equal_settings_have_one_color(tmp_path: Path) -> None:
    pong = fake_run(tmp_path / "p", [[1.0], [2.0]])
    breakout = fake_run(tmp_path / "b", [[300.0], [301.0]], game="breakout")
    figure = plots.figure(read(pong, breakout))
    assert [panel.get_title("left") for panel in figure.axes[::2]] == ["Breakout", "Pong"]
    assert len(figure.axes) == 4
    assert len({drawn(panel, figures.MEANS)[0].get_color() for panel in figure.axes}) == 1
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["classic, seed 1"]


@pytest.mark.parametrize(
    ("scores", "protocol", "named", "not_named"),
    [
        ([-21, 21], "classic", {"random", "human", "PPO paper", "CleanRL"}, set()),
        ([-21, -15], "classic", {"random"}, {"human", "PPO paper", "CleanRL"}),
        ([-21, 21], "machado", {"random", "human", "SLM-Lab"}, {"PPO paper", "CleanRL"}),
    ],
)
def test_published_scores_near_the_data_are_named(
    tmp_path: Path, scores: list[float], protocol: str, named: set[str], not_named: set[str]
) -> None:
    run = fake_run(tmp_path / "run", [[score] for score in scores], protocol=protocol)
    figure = plots.figure(read(run))
    labels = texts(figure)
    assert {name for name in named | not_named if name in labels} == named
    assert len(drawn(figure.axes[0], plots.DASHED)) == len(named)


@pytest.mark.parametrize(
    ("changes", "is_drawn"),
    [
        ({"game": "breakout"}, True),
        ({"game": "breakout", "protocol": "machado"}, False),
        ({"game": "boxing"}, False),
    ],
)
def test_the_published_curve_is_drawn_as_far_as_the_run_goes(
    tmp_path: Path, changes: dict[str, Any], is_drawn: bool
) -> None:
    run = fake_run(tmp_path / "run", [[2.0]] * 400, **changes)
    left, right = plots.figure(read(run)).axes
    assert not drawn(right, plots.CURVE)
    curves = drawn(left, plots.CURVE)
    assert len(curves) == is_drawn
    if is_drawn:
        found = published_curve("breakout")
        assert found is not None
        steps, scores = found
        end = read(run)[0].frames[-1]
        x, y = curves[0].get_data()
        assert x[-1] == pytest.approx(end / 1e6)
        # The curve has its points at agent steps, of four frames each.
        assert y[-1] == pytest.approx(np.interp(end / 4, steps, scores))


def test_published_curves_are_those_of_the_source() -> None:
    """Scores after 10 million agent steps in benchmarks_atari10M.htm of openai/baselines."""
    ends = {"breakout": 240, "pong": 20.7, "qbert": 14_780, "seaquest": 1502, "beam_rider": 2279}
    for game, score in ends.items():
        found = published_curve(game)
        assert found is not None
        steps, scores = found
        assert len(steps) == 100
        assert steps[-1] == pytest.approx(1e7, rel=1e-3)
        assert scores[-1] == pytest.approx(score, rel=5e-3)
    assert published_curve("boxing") is None


def test_an_incomplete_last_line_is_ignored(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", [[1.0], [3.0]])
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"frames": 9, "wall')
    assert plots.read_history(run).means.tolist() == [1.0, 2.0]


def test_a_run_without_a_finished_game_is_refused(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", [[], []])
    with pytest.raises(UsageError, match="has ended yet"):
        plots.plot(run)
    assert not (run / "plots").exists()


def test_several_runs_are_plotted_to_comparison_png(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [fake_run(tmp_path / str(seed), [[1.0]], seed=seed) for seed in (1, 2)]
    monkeypatch.chdir(tmp_path)
    assert plots.plot(runs) == tmp_path / "comparison.png"
    assert Path("comparison.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("curves.jpg", "must end in .png"),
        ("nowhere/curves.png", "cannot write"),
        ("file/curves.png", "cannot write"),
    ],
)
def test_impossible_outputs_are_refused(tmp_path: Path, out: str, message: str) -> None:
    (tmp_path / "file").touch()
    run = fake_run(tmp_path / "run", [[1.0]])
    with pytest.raises(UsageError, match=message):
        plots.plot(run, tmp_path / out)
    assert {file.name for file in tmp_path.iterdir()} == {"file", "run"}


def test_a_missing_matplotlib_gives_one_line_with_the_command_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run = fake_run(tmp_path / "run", [[1.0]])
    with pytest.raises(UsageError, match="pip install matplotlib"):
        plots.plot(run)
