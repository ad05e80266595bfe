"""Interactive charts and notebooks of the course."""

import json
import math
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT, child_environment, run_command

from ppo37.course import charts, oracle
from ppo37.course.charts import CHARTS, Chart, clip_figure, entropy_figure, gae_figure
from ppo37.course.lessons import LESSONS, read

NOTEBOOKS = ROOT / "src/ppo37/course/notebooks"
EACH = pytest.mark.parametrize("chart", CHARTS.values(), ids=CHARTS)


@EACH
def test_a_chart_has_a_lesson_a_notebook_and_a_first_figure(chart: Chart) -> None:
    assert f"<!-- chart: {chart.name} -->" in read(chart.lesson)
    assert (NOTEBOOKS / f"{chart.name}.py").exists()
    assert chart.controls.keys() == chart.start.keys()
    assert all(chart.start[name] in values for name, values in chart.controls.items())
    if chart.name != "pixels":  # needs an emulator; the browser tests draw it
        figure = chart.figure(**chart.start)
        assert json.loads(json.dumps(figure)) == figure, "plain values"
        assert figure["layout"]["title"]["text"]


def test_every_mark_in_a_lesson_is_a_chart() -> None:
    marks = re.findall(r"<!-- chart: (\w+) -->", "".join(map(read, LESSONS)))
    assert sorted(marks) == sorted(CHARTS)


@pytest.mark.parametrize(
    ("advantage", "ratio", "flows"),
    [(1.0, 1.1, True), (1.0, 1.5, False), (1.0, 0.5, True), (-1.0, 0.5, False), (-1.0, 1.5, True)],
)
def test_the_chart_of_the_clip_shows_where_a_gradient_flows(
    advantage: float, ratio: float, flows: bool
) -> None:
    figure = clip_figure(advantage, ratio, 0.2)
    slope = oracle.surrogate_slope(ratio, advantage, 0.2)
    assert (slope != 0.0) == flows
    assert ("no gradient" not in figure["layout"]["title"]["text"]) == flows
    (value,) = figure["data"][3]["y"]
    assert value == pytest.approx(oracle.surrogate(ratio, advantage, 0.2), abs=1e-4)


def test_the_chart_of_advantages_shows_two_computations_that_agree() -> None:
    bars, crosses = gae_figure(0.9, 0.8)["data"]
    assert bars["y"] == pytest.approx(crosses["y"], abs=1e-4)
    assert bars["y"][0] == pytest.approx((0.9 * 0.8) ** 9, abs=1e-4)
    assert bars["y"][10:] == [0.0] * 4, "the next episode"


def test_the_chart_of_the_entropy_agrees_with_the_oracle() -> None:
    title = entropy_figure(2.0)["layout"]["title"]["text"]
    new = [logit / 2.0 for logit in charts.LOGITS]
    assert f"entropy {oracle.entropy(new):.3f}" in title
    old, other = oracle.log_softmax(list(charts.LOGITS)), oracle.log_softmax(new)
    kl = sum(math.exp(a) * (a - b) for a, b in zip(old, other, strict=True))
    assert f"KL divergence {kl:.3f}" in title


def test_the_small_update_is_that_of_the_equations() -> None:
    tables = charts.small_update()
    assert list(tables) == list(charts.UPDATE_STAGES)
    last = tables[charts.UPDATE_STAGES[-1]]
    for env in (0, 1):
        delta, done = (list(map(float, last[name][env::2])) for name in ("delta", "done"))
        advantage = 0.0
        for t in reversed(range(4)):
            advantage = delta[t] + 0.99 * 0.95 * (1 - done[t]) * advantage
            assert advantage == pytest.approx(float(last["A"][env::2][t]), abs=3e-3)
    for a, v, r in zip(last["A"], last["V"], last["R"], strict=True):
        assert float(r) == pytest.approx(float(a) + float(v), abs=2e-3)
    assert set(last["reward"]) == {"0", "1"}
    assert any(float(ratio) > 1.0 for ratio in last["ratio"])


def test_the_stored_runs_show_what_the_lesson_says() -> None:
    runs = charts.stored_runs()
    assert set(runs) == {"healthy", *charts.BROKEN}
    assert all(len(values) == 24 for run in runs.values() for values in run.values())
    assert runs["healthy"]["score"][-1] > 5.0 > runs["learning_rate 1e-6"]["score"][-1]
    assert runs["targets are the values"]["explained_variance"] == [1.0] * 24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--notebook", "gea"], "no notebook is called 'gea'"),
        (["gae", "--notebook", "gae"], "takes only --out beside it"),
        (["--notebook", "gae", "--out", "gae.html"], "has to end in .ipynb"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if find_spec("marimo") is None and "--out" in arguments:
        message = "notebooks need marimo"
    code, _, err = run_command(capsys, "learn", *arguments)
    assert (code, message in err, err.count("\n")) == (2, True, 1), err
    assert list(tmp_path.iterdir()) == []


needs_marimo = pytest.mark.skipif(find_spec("marimo") is None, reason="ppo37[learn] is missing")


@needs_marimo
@pytest.mark.slow
@EACH
def test_a_notebook_runs_from_top_to_bottom(chart: Chart, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(NOTEBOOKS / f"{chart.name}.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=child_environment(),
    )
    assert done.returncode == 0, done.stderr


@needs_marimo
@pytest.mark.slow
@EACH
def test_a_notebook_is_exported(
    chart: Chart, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"{chart.name}.ipynb"
    code, _, err = run_command(capsys, "learn", "--notebook", chart.name, "--out", str(out))
    assert code == 0, err
    cells = json.loads(out.read_text())["cells"]
    assert any("notebook.draw" in "".join(cell["source"]) for cell in cells)
    code, _, err = run_command(capsys, "learn", "--notebook", chart.name, "--out", str(out))
    assert (code, "exists already" in err) == (2, True)
