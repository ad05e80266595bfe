"""Rules of the source: imports, sizes, docstrings, and equations that agree with the docs."""

import ast
import re
from pathlib import Path

import pytest
from conftest import ROOT

import ppo37
from ppo37.course.exercises import EXERCISES

SOURCE = ROOT / "src" / "ppo37"
MODULES = sorted(SOURCE.rglob("*.py"))
EQUATIONS = {
    "E1": "losses.probability_ratio",
    "E2": "losses.policy_loss",
    "E3": "losses.value_loss",
    "E4": "distributions.Categorical.entropy",
    "E5": "losses.ppo_loss",
    "E6": "advantages.gae",
    "E7": "advantages.gae",
    "E8": "advantages.value_targets",
    "E9": "schedules.linear",
}


def _imports(path: Path) -> set[str]:
    """Return the dotted names that a module imports; relative imports as absolute names."""
    package = ["ppo37", *path.relative_to(SOURCE).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            found |= {prefix, *(f"{prefix}.{alias.name}" for alias in node.names)}
    return found


def _top_level_imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {
        name.split(".")[0]
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom)) and not getattr(node, "level", 0)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    }


def test_the_algorithm_imports_only_arrays_and_itself() -> None:
    allowed = re.compile(r"(torch|math|typing|collections\.abc|numpy|ppo37\.algorithm)(\.|$)")
    for path in (SOURCE / "algorithm").glob("*.py"):
        others = {name for name in _imports(path) if not allowed.match(name)}
        assert not others, f"{path.name} imports {others}"


def test_the_loop_is_short_and_in_the_readme() -> None:
    source = (SOURCE / "loop.py").read_text()
    assert len(source.splitlines()) <= 100
    loop = ast.parse(source)
    learn = next(n for n in loop.body if isinstance(n, ast.FunctionDef) and n.name == "learn")
    code = ast.get_source_segment(source, learn)
    assert code is not None
    assert len(code.splitlines()) - 1 <= 29  # its docstring, and at most 25 lines of code
    assert f"```python\n{code}\n```" in (ROOT / "README.md").read_text()


def test_optional_and_large_libraries_are_imported_when_they_are_used() -> None:
    lazy = {"matplotlib", "PIL", "imageio_ffmpeg", "tensorboard", "stable_baselines3"}
    for path in MODULES:
        assert not lazy & _top_level_imports(path), path
    command_line = [str(path.relative_to(SOURCE)) for path in (SOURCE / "cli").glob("*.py")]
    for name in (*command_line, "__init__.py", "config.py", "tools/details.py"):
        assert "torch" not in _top_level_imports(SOURCE / name), name


EXECUTING_MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
    "runpy",
    "code",
    "imp",
    "zipimport",
}
EXECUTING_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "torch.load",
    "np.load",
    "numpy.load",
    "os.system",
    "os.popen",
    "torch.jit.load",
    "torch.hub.load",
    "torch.package",
}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_function_that_could_execute_the_content_of_a_file(path: Path) -> None:
    """Only names in the code itself are imported; see also test_untrusted.py."""
    assert not {name.split(".")[0] for name in _imports(path)} & EXECUTING_MODULES
    for call in [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    ]:
        assert ast.unparse(call.func) not in EXECUTING_CALLS, ast.unparse(call)
        for keyword in call.keywords:
            allowed = keyword.arg not in ("shell", "allow_pickle", "weights_only")
            assert allowed, ast.unparse(call)


def test_sizes() -> None:
    total = 0
    for path in (SOURCE / "algorithm").glob("*.py"):
        lines = path.read_text().splitlines()
        total += len(lines)
        assert len(lines) <= 200, path
    assert total <= 730, "the algorithm is too long"


def _nesting(node: ast.AST, depth: int = 0) -> int:
    """Return the depth of nested blocks inside a function."""
    blocks = (ast.For, ast.While, ast.If, ast.With, ast.Try)
    deepest = depth
    for child in ast.iter_child_nodes(node):
        chained = isinstance(node, ast.If) and isinstance(child, ast.If) and child in node.orelse
        inner = depth + (isinstance(child, blocks) and not chained)
        deepest = max(deepest, _nesting(child, inner))
    return deepest


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nesting(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert _nesting(node) <= 3, f"{path.name}, {node.name}"


NO_VERBS = re.compile(
    r"(A|All|Also|An|And|As|At|Both|By|Each|Every|For|From|How|If|In|Its|Like|Many|Mean|No|Not|"
    r"Nothing|Of|One|Only|Or|Others|So|Some|Statistics|The|These|This|That|Those|To|Two|Until|What|"
    r"When|Where|Whether|Which|Who|With|Without|[a-z].*|`.*)$"
)
"""No verbs; the docstring of a function begins with an imperative: "Return the ..."."""
NO_NOUNS = re.compile(r"(By|For|In|Of|Those|To|Until|What|When|Where|Which|Who)$")
"""No nouns; the docstring of a class begins with a noun phrase."""


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    wrong = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or not ast.get_docstring(node):
                continue
            text = ast.get_docstring(node) or ""
            is_property = any("property" in ast.unparse(each) for each in node.decorator_list)
            needs_verb = isinstance(node, ast.FunctionDef) and not is_property
            if (NO_VERBS if needs_verb else NO_NOUNS).match(text.split()[0]) and not is_property:
                wrong.append(f"{path.relative_to(SOURCE)}, {node.name}: {text.splitlines()[0]}")
    assert not wrong, "\n".join(wrong)


def test_the_readme_links_files_that_exist() -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / "README.md").read_text()):
        assert "://" in link or (ROOT / link).exists(), link


def test_no_module_has_the_name_of_a_public_function() -> None:
    """Importing it would replace the function in the package."""
    assert not {path.stem for path in SOURCE.glob("*")} & set(ppo37.__all__)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 1500


def _docstring(dotted: str) -> str:
    module, *names = dotted.split(".")
    node: ast.AST = ast.parse((SOURCE / "algorithm" / f"{module}.py").read_text())
    for name in names:
        node = next(n for n in ast.iter_child_nodes(node) if getattr(n, "name", None) == name)
    return ast.get_docstring(node) or ""  # type: ignore[arg-type]


def _formula(text: str) -> str:
    """Return an equation without its layout, for comparisons."""
    return re.sub(r"[\s`\\]+", "", text)


@pytest.mark.parametrize("tag", EQUATIONS)
def test_readme_and_code_have_the_same_equation(tag: str) -> None:
    function = EQUATIONS[tag]
    stated = re.search(rf"^\s*{tag}: (.*)$", _docstring(function), re.MULTILINE)
    assert stated, f"{function} has no equation {tag}"
    rows = (ROOT / "README.md").read_text().splitlines()
    cells = next(re.split(r"(?<!\\)\|", row) for row in rows if row.startswith(f"| {tag} |"))
    assert _formula(cells[2]) == _formula(stated[1])
    assert cells[3].strip() == f"`{function}`"
    others = [path.name for path in MODULES if re.search(rf"\b{tag}: ", path.read_text())]
    assert others == [f"{function.split('.')[0]}.py"]


def test_the_exercises_have_the_same_equations() -> None:
    """All but three, which an exercise asks for in other words or symbols."""
    texts = _formula(" ".join(exercise.text for exercise in EXERCISES.values()))
    for tag in EQUATIONS.keys() - {"E1", "E5", "E9"}:
        stated = re.search(rf"^\s*{tag}: (.*)$", _docstring(EQUATIONS[tag]), re.MULTILINE)
        assert stated is not None
        assert _formula(stated[1]) in texts, tag
