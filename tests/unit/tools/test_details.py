"""The table of details is complete and agrees with the code.

tests/mutants.py shows that the tests it names fail where a detail is removed.
"""

import ast
import dataclasses
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mutants
import pytest
from conftest import ROOT, same_tensors, tiny
from torch import Tensor

from ppo37 import train
from ppo37.cli import main
from ppo37.config import from_dict
from ppo37.presets import from_preset
from ppo37.session.checkpoint import load_newest
from ppo37.tools import details
from ppo37.tools.details import Detail, Edit, Mark

TABLE = details.load()
MARKS = details.marks()
TAGS = [*(f"D{n:02d}" for n in range(1, 38)), "A1", "A2", "A3", "A4"]
GROUPS = {"core": 13, "atari": 9, "continuous": 9, "lstm": 5, "multidiscrete": 1, "auxiliary": 4}
each = pytest.mark.parametrize("detail", TABLE, ids=lambda detail: detail.tag)


def test_every_detail_has_one_entry() -> None:
    assert [detail.tag for detail in TABLE] == TAGS
    assert Counter(detail.group for detail in TABLE) == GROUPS
    assert len({detail.name for detail in TABLE}) == len(TABLE)


@each
def test_every_entry_is_complete(detail: Detail) -> None:
    for text in (detail.statement, detail.why):
        assert text[0].isupper()
        assert text.endswith(".")
    assert detail.name
    assert detail.source
    assert detail.equation != ""
    repository = r"(openai/baselines|vwxyzjn/ppo-implementation-details)"
    link = re.fullmatch(
        rf"https://github\.com/{repository}/blob/[0-9a-f]{{40}}/([\w/]+\.py)#L(\d+)(?:-L(\d+))?",
        detail.permalink,
    )
    assert link, detail.permalink
    assert detail.source.startswith(link[1])
    assert int(link[3]) < int(link[4] or sys.maxsize)


@each
def test_every_detail_is_marked_where_it_happens(detail: Detail) -> None:
    own = details.marks_of(detail, MARKS)
    assert own
    assert detail.main is None or own[0].file == detail.main
    if "D14" <= detail.tag <= "D20":  # the training environment and its oracle
        assert {mark.file for mark in own} >= {"envs/atari/env.py", "envs/atari/reference.py"}


def test_every_mark_has_an_entry() -> None:
    assert MARKS.keys() <= set(TAGS)
    # Everything that looks like a mark is one, except in tools/details.py, which explains them.
    like = re.compile(r"^\s*[^\s#].*# .*\b([DA]\d\d?)\b")
    for path in {*details.SOURCE.rglob("*.py")} - {details.SOURCE / "tools/details.py"}:
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if match := like.search(line):
                mark = Mark(path.relative_to(details.SOURCE).as_posix(), number)
                assert mark in MARKS.get(match[1], []), f"{mark}: {line.strip()}"


@each
def test_its_settings_are_settings_and_change_something(detail: Detail) -> None:
    plain, with_it, switched = (
        from_preset("classic", "pong", "cpu", **settings)
        for settings in ({}, detail.needs, {**detail.needs, **detail.switch})
    )
    assert (with_it != plain) == bool(detail.needs)
    assert (with_it != switched) == bool(detail.switch)


LIVELY = {"learning_rate": 1e-2, "total_timesteps": 3 * 64}
"""Large steps: ratios, values and gradients are clipped, and the KL exceeds its target."""
EAGER = {"clip_obs": 0.5, "clip_reward": 1e-3}
"""Bounds that clip within a few steps; the switches in the table would change nothing."""
SWITCHED = [detail for detail in TABLE if detail.switch]


def learned(run: Path, settings: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights after a few updates of a game that uses the settings."""
    of_the_game = settings.keys() & {"frame_stack", "action_space", "observation"}
    game = "breakout" if of_the_game else "catch"
    chosen = {**dataclasses.asdict(tiny(**LIVELY)), **settings}
    if settings.get("observation") == "ram":
        chosen["network"] = settings.get("network", "mlp")
    train(from_dict({**chosen, "game": game}), run)
    return load_newest(run / "checkpoints")[0].model


@pytest.fixture(scope="module")
def learned_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Detail], dict[str, Tensor]]:
    """Return a function that trains with what a detail needs, once for equal needs."""
    known: dict[str, dict[str, Tensor]] = {}

    def learn(detail: Detail) -> dict[str, Tensor]:
        key = str(detail.needs)
        if key not in known:
            known[key] = learned(tmp_path_factory.mktemp("with") / "run", detail.needs)
        return known[key]

    return learn


@pytest.mark.parametrize("detail", SWITCHED, ids=lambda detail: detail.tag)
def test_a_switch_changes_what_is_learned(
    detail: Detail, tmp_path: Path, learned_with: Callable[[Detail], dict[str, Tensor]]
) -> None:
    """Compared with the same run without the switch."""
    base = learned_with(detail)
    switch = {name: EAGER.get(name, value) for name, value in detail.switch.items()}
    assert not same_tensors(base, learned(tmp_path / "switched", {**detail.needs, **switch}))


@pytest.mark.parametrize("needs", [{}, {"network": "lstm"}])
def test_the_same_settings_learn_the_same(needs: dict[str, Any], tmp_path: Path) -> None:
    assert same_tensors(learned(tmp_path / "a", needs), learned(tmp_path / "b", needs))


def test_the_rules_of_play_reach_the_game(tmp_path: Path) -> None:
    """Settings that catch does not use; see also tests/system/test_variants.py."""
    game = {"game": "breakout", "num_envs": 2, "num_steps": 8, "total_timesteps": 16}
    train(tiny(**game, protocol="machado", frame_stack=1), tmp_path / "run")
    state = load_newest(tmp_path / "run" / "checkpoints")[0].state
    assert state["obs_shape"] == [1, 84, 84]
    assert len(state["action_names"]) == 18


def functions(file: str) -> dict[str, list[ast.expr]]:
    """Return the tests of a file, with their decorators."""
    tree = ast.parse((ROOT / file).read_text())
    return {n.name: n.decorator_list for n in tree.body if isinstance(n, ast.FunctionDef)}


@each
def test_its_tests_exist_and_are_not_slow(detail: Detail) -> None:
    assert detail.tests
    for test in detail.tests:
        file, _, name = test.partition("::")
        plain, bracket, _ = name.partition("[")
        decorators = [ast.unparse(part) for part in functions(file)[plain]]
        assert plain.startswith("test_")
        assert "pytest.mark.slow" not in decorators
        assert not bracket or any("parametrize" in part for part in decorators)


@each
def test_its_mutant_is_another_program(detail: Detail) -> None:
    """Each edit applies exactly once; the result parses and differs."""
    assert detail.mutant
    for file, (before, after) in details.mutated(detail.mutant).items():
        assert ast.dump(ast.parse(before)) != ast.dump(ast.parse(after)), file


def test_an_edit_that_does_not_fit_is_refused() -> None:
    twice = Edit("algorithm/losses.py", "torch.min", "torch.max")
    never = Edit("algorithm/losses.py", "torch.maximum", "torch.max")
    assert "a/algorithm/losses.py" in details.diff(TABLE[0]._replace(mutant=(twice,)))
    with pytest.raises(ValueError, match="0 times"):
        details.mutated((twice, twice))
    with pytest.raises(ValueError, match="0 times"):
        details.mutated((never,))
    with pytest.raises(ValueError, match="times, not once"):
        details.mutated((Edit("algorithm/losses.py", "torch", "numpy"),))


# The command `ppo37 details`


def test_marks_are_found_in_the_order_of_reading(tmp_path: Path) -> None:
    lines = {
        "runtime/x.py": "a = 1  # D05",
        "loop.py": "# D05 alone on a line is no mark\nb = 2  # D06, D05",
        "algorithm/y.py": "c = 3\nd = 4  # D05\n",
        "networks/agent.py": "e = 5  # after D05 nothing happens",
    }
    for name, text in lines.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    expected = [Mark("algorithm/y.py", 2), Mark("loop.py", 2), Mark("runtime/x.py", 1)]
    assert details.marks(tmp_path) == {"D05": expected, "D06": [Mark("loop.py", 2)]}
    chosen = TABLE[4]._replace(main="loop.py")
    assert details.marks_of(chosen, {"D05": expected})[0] == Mark("loop.py", 2)


def test_the_excerpt_is_the_innermost_function_or_the_lines_around(tmp_path: Path) -> None:
    inner = ["    def f():", "        return 1"]
    code = ["x = 0", "class C:", "    y = 1", "    @property", *inner, "", "def g():", "    a = 0"]
    (tmp_path / "m.py").write_text("\n".join([*code, *("    a += 1" for _ in range(99))]))
    assert details.excerpt(Mark("m.py", 6), tmp_path) == (4, ["    @property", *inner])
    assert details.excerpt(Mark("m.py", 3), tmp_path) == (2, code[1:6])
    first, lines = details.excerpt(Mark("m.py", 50), tmp_path)
    assert first < 50 < first + len(lines) <= first + details.LONGEST_EXCERPT


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["details", *args])
    return int(exit_.value.code or 0), *capsys.readouterr()


def test_the_command_lists_every_detail(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1 : 1 + len(TAGS)]] == TAGS
    assert "switch  options that turn the detail off" in out
    row = next(line for line in out.splitlines() if line.startswith("D07"))
    mark = MARKS["D07"][0]
    assert row.split()[-3:] == [f"{mark.file}:{mark.line}", "-", "--no-norm-adv"]


@pytest.mark.parametrize(("name", "tag"), [("16", "D16"), ("d05", "D05"), ("a3", "A3")])
def test_the_command_explains_one(name: str, tag: str, capsys: pytest.CaptureFixture[str]) -> None:
    detail = next(detail for detail in TABLE if detail.tag == tag)
    code, out, _ = run(capsys, name)
    assert code == 0
    assert out.startswith(f"{tag}  {detail.name}")
    mark = MARKS[tag][0]
    marked = (details.SOURCE / mark.file).read_text().splitlines()[mark.line - 1]
    assert f"{mark.line:4} {marked}" in out.splitlines()
    assert {detail.permalink, *detail.tests} <= set(out.split())
    assert f"  +++ b/{detail.mutant[0].file}" in out.splitlines()


def test_json_is_one_object_with_everything(capsys: pytest.CaptureFixture[str]) -> None:
    everything = json.loads(run(capsys, "--json")[1])["details"]
    assert [entry["tag"] for entry in everything] == TAGS
    for detail, entry in zip(TABLE, everything, strict=True):
        plain: dict[str, Any] = json.loads(json.dumps(detail._asdict()))
        edits = [edit._asdict() for edit in detail.mutant]
        assert {**entry, **plain, "mutant": edits} == entry
        assert entry["present"] == (detail.tag in MARKS)
    assert json.loads(run(capsys, "5", "--json")[1]) == everything[4]


@pytest.mark.parametrize("name", ["0", "38", "A5", "D", "learning", "5.0"])
def test_an_unknown_detail_is_one_line_and_exit_2(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, name)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "they are 1 to 37 and A1 to A4" in err


@pytest.mark.parametrize("args", [["details", "5"], ["--help"]])
def test_the_command_needs_no_torch(args: list[str]) -> None:
    script = (
        f"import sys; from ppo37.cli import main\ntry: main({args})\nexcept "
        "SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


# The mutants


@pytest.mark.slow
def test_every_mutant_is_killed(capsys: pytest.CaptureFixture[str]) -> None:
    code = mutants.main()
    out = capsys.readouterr().out
    assert code == 0, out
    assert out.splitlines()[-1] == f"{len(TABLE)} of {len(TABLE)} killed"


SCALE = Edit("algorithm/schedules.py", "return initial * (1.0 - update / num_updates)", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("replacement", "end"),
    [
        ("return initial", "killed"),
        ("return (num_updates - update) * initial / num_updates", "lives: all"),
        ("return initial.nothing", "lives: only crashes"),
        ("return (", "lives: cannot be imported"),
    ],
    ids=["killed", "equivalent", "crash", "no Python"],
)
def test_only_an_assertion_kills(replacement: str, end: str) -> None:
    """A mutant that crashes or is not valid Python would fail under any test."""
    tests = ("tests/unit/algorithm/test_update.py::test_schedule",)
    edit = SCALE._replace(replace=replacement)
    line = mutants.verdict_line(TABLE[3]._replace(tests=tests), mutants.run(tests, [edit]))
    assert end in line.replace("LIVES", "lives"), line
