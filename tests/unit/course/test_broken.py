"""A detail that is removed from a copy of the package."""

import json

import pytest
from conftest import run_command

from ppo37.cli.common import config_of
from ppo37.cli.options import parse
from ppo37.course.broken import command, without
from ppo37.course.tasks import TASKS
from ppo37.tools import details
from ppo37.tools.details import SOURCE


def test_every_detail_says_what_goes_wrong_without_it() -> None:
    for detail in details.load():
        assert detail.without, detail.tag
        assert detail.mutant, detail.tag
        assert detail.tests, detail.tag
        assert detail.task in (None, *TASKS)
        for study in detail.studies:
            assert "(https://" in study, "with its source"


def test_the_copy_lacks_the_detail_and_the_package_keeps_it() -> None:
    detail = details.find("5")
    (edit,) = detail.mutant
    with without(detail) as folder:
        text = (folder / SOURCE.name / edit.file).read_text()
        assert edit.find not in text
        assert edit.replace in text
        assert (folder / SOURCE.name / "__main__.py").exists()
    assert edit.find in (SOURCE / edit.file).read_text()
    assert not folder.exists()


@pytest.mark.parametrize("task", TASKS)
def test_the_command_of_a_task_has_its_settings(task: str) -> None:
    made = TASKS[task].make_config({})
    found = config_of(parse(command(task)))
    differing = {
        name
        for name in vars(made)
        if getattr(made, name) != getattr(found, name) and name not in ("game", "env", "preset")
    }
    assert not differing


def test_details_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_command(capsys, "details", "--break")
    assert (code, "name the detail to remove" in err) == (2, True)
    code, out, _ = run_command(capsys, "details", "9")
    assert (code, "without it:" in out, "Andrychowicz et al. 2020" in out) == (0, True, True)


@pytest.mark.slow
def test_a_test_fails_without_its_detail(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_command(capsys, "details", "7", "--break", "--json")
    assert code == 0
    assert "Obtained: 2.0" in json.loads(out)["says"]


@pytest.mark.slow
@pytest.mark.parametrize("detail", [d.tag for d in details.load() if d.task is not None])
def test_a_training_fails_without_its_detail(
    detail: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_command(capsys, "details", detail, "--break", "--json")
    assert code == 0, err
    found = json.loads(out)
    task = TASKS[found["task"]]
    assert found["with"][-1] - found["without"][-1] > (task.best - task.random) / 25
