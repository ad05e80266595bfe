"""The texts of the course: examples, quotes, pictures, sections, and words in their order."""

import contextlib
import io
import re
from pathlib import Path

import pytest
from conftest import ROOT, run_command

from ppo37.course import lessons
from ppo37.course.exercises import EXERCISES
from ppo37.course.lessons import FOLDER, LESSONS, for_terminal, read

BLOCK = re.compile(
    r'^```python(?: title="([^"\n]+)")?\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?', re.S | re.M
)
PAGES = [lessons.INDEX, *LESSONS, lessons.WORDS]
EACH = pytest.mark.parametrize("name", LESSONS)


def blocks(name: str) -> list[tuple[str, str, str]]:
    """Return the title, the code and the output of each Python block of a page."""
    return BLOCK.findall(read(name))


def without_indent(code: str) -> str:
    return "\n".join(line.strip() for line in code.strip().splitlines())


EXAMPLES = [
    pytest.param(code, output, id=f"{name}-{i}", marks=pytest.mark.slow if "envs" in code else ())
    for name in PAGES
    for i, (title, code, output) in enumerate(blocks(name))
    if not title
]


@pytest.mark.parametrize(("code", "output"), EXAMPLES)
def test_an_example_prints_what_the_lesson_shows(code: str, output: str) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "example", "exec"), {"__name__": "example"})
    assert printed.getvalue() == output


@pytest.mark.parametrize("name", PAGES)
def test_quotes_pictures_and_links_exist(name: str) -> None:
    for title, code, _ in blocks(name):
        if title:
            assert without_indent(code) in without_indent((ROOT / title).read_text()), title
    text = read(name)
    for alt, picture in lessons.PICTURE.findall(text):
        assert len(alt.split()) > 4, "a text for those who do not see the picture"
        assert (FOLDER / picture).exists()
    for link in re.findall(r"(?<!!)\]\(([^)#]+)\)", text):
        assert "://" in link or (FOLDER / link).exists(), link


@EACH
def test_a_lesson_has_a_picture_an_exercise_and_the_sections_to_read(name: str) -> None:
    text = read(name)
    assert text.startswith(f"# {LESSONS[name].title}\n")
    assert lessons.PICTURE.search(text)
    assert "## Exercise" in text
    assert "[Words](glossary.md)" in text
    for exercise in LESSONS[name].exercises:
        assert re.search(rf"^ppo37 learn {exercise}\b", text, re.MULTILINE), exercise
        for mistake in EXERCISES[exercise].mistakes.values():
            where = lessons.section_of(mistake.section, name)
            assert list(LESSONS).index(where) <= list(LESSONS).index(name)
    assert len(prose(name).split()) < 1000, "a lesson is short"


def words() -> list[tuple[list[str], str]]:
    """Return the words of each row of the glossary, and the lesson that explains them."""
    rows = re.findall(
        r"^\| ([a-zA-Z0-9%, -]+?) \| .*\| \[(\w+)\]\(\w+\.md\) \|$", read("glossary"), re.M
    )
    return [(row.split(", "), lesson) for row, lesson in rows]


def test_no_word_is_used_before_it_is_explained() -> None:
    """Each word of the glossary is bold where its lesson explains it, and not in an earlier one."""
    order, early = list(LESSONS), []
    assert len(words()) > 50
    assert [lesson for _, lesson in words()] == sorted(
        (lesson for _, lesson in words()), key=order.index
    )
    for names, lesson in words():
        assert lesson in order
        for word in names:
            text = read(lesson)
            assert re.search(rf"\*\*{re.escape(word)}(e?s)?\b[^*]*\*\*", text, re.I), (word, lesson)
            used = re.compile(rf"\b{re.escape(word)}(e?s)?\b", re.I)
            for earlier in order[: order.index(lesson)]:
                found = used.search(prose(earlier))
                if found:
                    early.append(f"{word} ({lesson}) in {earlier}")
            first = used.search(prose(lesson))
            bold = re.search(rf"\*\*{re.escape(word)}", prose(lesson), re.I)
            assert first is not None
            assert bold is not None
            if first.start() < bold.start():
                early.append(f"{word} in its own lesson, {lesson}, before it is explained")
    assert not early, "\n".join(early)


def prose(name: str) -> str:
    """Return the text of a lesson without headings, code, links and formulas."""
    text = re.sub(r"^```.*?^```$|^#+ [^\n]*$", "", read(name), flags=re.S | re.M)
    return re.sub(r"\]\([^)]*\)|`[^`]*`|\$[^$\n]*\$", "", text)


def test_the_terminal_shows_no_tex(capsys: pytest.CaptureFixture[str]) -> None:
    for name in LESSONS:
        text = for_terminal(read(name))
        assert "$" not in re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M), name
        assert "\\" not in re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M), name
    code, out, _ = run_command(capsys, "learn", "clip")
    assert (code, out.strip()) == (0, for_terminal(read("clip")).strip())


def test_the_texts_are_in_the_package() -> None:
    assert Path(lessons.__file__).parent / "lessons" == FOLDER
