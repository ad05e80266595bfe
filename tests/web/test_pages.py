"""The pages of the documentation, checked without the tools that build the site."""

import gzip
import importlib
import inspect
import json
import re
import statistics
from pathlib import Path

import pytest
from conftest import ROOT

import ppo37
import ppo37.envs
from ppo37 import loop
from ppo37.algorithm.losses import LossTerms
from ppo37.session import metrics

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
RUNS = ROOT / "benchmarks" / "results" / "runs"
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
GENERATED = re.compile(r"reference/(settings|details/(index|D\d\d|A\d))\.md$")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))


@each_page
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s#]+)", FENCE.sub("", page.read_text())):
        if not re.match(r"[a-z]+:", target):
            path = (page.parent / target).resolve()
            assert path.exists() or GENERATED.search(path.as_posix()), target


@each_page
def test_a_page_begins_with_one_title(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1


def test_the_loop_is_on_the_start_page() -> None:
    code = inspect.getsource(loop.learn)
    assert f"```python\n{code}```" in (DOCS / "index.md").read_text()


def names_on(page: str) -> list[str]:
    """Return the names of the Python objects on a page of the reference."""
    text = (DOCS / "reference" / "api" / page).read_text()
    return re.findall(r"^::: ([\w.]+)", text, re.MULTILINE)


def test_the_reference_has_every_public_name() -> None:
    assert {f"ppo37.{name}" for name in ppo37.__all__} <= set(names_on("ppo37.md"))
    names = set(ppo37.envs.__all__) - {"Moment"}  # the old name of EnvState
    assert {f"ppo37.envs.{name}" for name in names} <= set(names_on("envs.md"))
    modules = {path.stem for path in (ROOT / "src/ppo37/algorithm").glob("[!_]*.py")}
    assert {f"ppo37.algorithm.{name}" for name in modules} == set(names_on("algorithm.md"))


def records(*names: str) -> list[dict[str, float | None]]:
    """Return all records of some committed runs."""
    files = sorted(file for name in names for file in RUNS.glob(name))
    return [json.loads(line) for file in files for line in gzip.open(file)]


def rows(heading: str) -> dict[str, list[str]]:
    """Return the cells of the first table after a heading of the page of metrics, by tag."""
    text = (DOCS / "reference" / "metrics.md").read_text().split(f"# {heading}\n")[1]
    table = text[text.index("\n|") :].split("\n\n")[0]
    found = [re.split(r" *\| *", row.strip("| ")) for row in table.splitlines() if "`" in row]
    return {re.search(r"`([^`]+)`", row[0])[1]: row[1:] for row in found}  # type: ignore[index]


def test_the_page_of_metrics_lists_every_tag() -> None:
    tags = [tag for tag in records("gpu_pong/seed_1*")[0] if "/" in tag]
    assert {f"losses/{name}" for name in LossTerms._fields} < set(tags)
    assert {metrics.EPISODIC_RETURN, metrics.EPISODIC_LENGTH, metrics.LAST_100} < set(tags)
    assert set(rows("Metrics")) == set(tags)
    assert list(rows("Measured ranges")) == tags


def test_the_ranges_of_the_metrics_are_those_of_the_runs() -> None:
    columns = [records("contrast_bias/bias_0__s*"), records("gpu_pong/seed_*")]
    for tag, cells in rows("Measured ranges").items():
        expected = []
        for column in columns:
            quantiles = statistics.quantiles([r[tag] for r in column if r[tag] is not None], n=20)
            expected += [quantiles[0], quantiles[9], quantiles[18]]
        written = [float(cell.replace(",", "")) for cell in cells]
        assert written == [float(f"{value:.2g}") for value in expected], tag


@pytest.mark.parametrize(
    ("plain", "tex"),
    [
        ("x_k = x_0 * (1 - k / K)", r"x_{k} = x_0 \, (1 - k / K)"),
        (
            "r <- r / sqrt(var(g) + 1e-8)",
            r"r \leftarrow r / \sqrt{\operatorname{var}(g) + 10^{-8}}",
        ),
        (
            "log pi(a|s) = sum_d log N(a_d; mu_d, 1)",
            r"\log \pi (a \mid s) = \sum_{d} \log \mathcal{N}(a_{d};\ \ \mu _{d},\ 1)",
        ),
        ("stop if approx_kl > 1", r"\text{ stop if } \mathrm{approx\_kl} > 1"),
    ],
)
def test_plain_equations_as_tex(plain: str, tex: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS / "theme")
    assert importlib.import_module("tex").tex(plain) == tex
