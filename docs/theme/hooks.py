"""Hooks of MkDocs: the navigation, generated pages, and links to files outside docs/.

A page may link to any file of the repository by its relative path. Text files become pages under
files/, other files are copied there, and a line of a text file is linked to as `file.py#L12`.
"""

import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import generated
import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from plotly.offline import get_plotlyjs
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
KATEX = ROOT / "build" / "katex" / "package" / "dist"
FENCE = re.compile(r"^(```.*?^```\s*?$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=[)\s])")
LISTING = re.compile(r"^(## .+\n\n)<!-- pages: ([\w-]+) -->$", re.MULTILINE)
OBJECT = re.compile(r"^::: ([\w.]+)((?:\n    .*)*)", re.MULTILINE)
PAGES = {".py", ".c", ".h", ".toml", ".sh", ".txt", ".md", ".cff", ".patch"}
ASSETS = {".csv", ".json", ".gz", ".png", ".gif", ".svg"}

log = logging.getLogger("mkdocs.hooks.site")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replace `folder/*` in the navigation with the pages of the folder."""
    config.nav = list(_expanded(config.nav))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, the equations' renderer, and every file that a page links to."""
    for uri, text in generated.pages().items():
        files.append(File.generated(config, uri, content=text))
    for path in (ROOT / generated.LESSONS / "figures").iterdir():
        uri = f"{generated.COURSE}/figures/{path.name}"
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    for uri, text in generated.chart_scripts().items():
        files.append(File.generated(config, uri, content=text))
    files.append(File.generated(config, "theme/plotly.min.js", content=get_plotlyjs()))
    _add_katex(files, config)
    waiting = [file for file in files.documentation_pages() if not file.inclusion.is_excluded()]
    while waiting:
        page = waiting.pop()
        for uri, path in _linked_files(page.content_string, _home(page.src_uri)):
            if files.get_file_from_path(uri) is None:
                new = _file(config, uri, path)
                files.append(new)
                waiting += [new] if uri.endswith(".md") else []
    _require_docstrings(files)
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Point links that leave docs/ to the pages and files under files/; list folders of pages."""
    home = _home(page.file.src_uri)
    folder = posixpath.dirname(page.file.src_uri) or "."

    def target(link: re.Match[str]) -> str:
        found = _resolved(link[1], home)
        if found is None:
            return link[1]
        uri, anchor = found
        return posixpath.relpath(uri, folder) + re.sub(r"^#L(\d+)", r"#L-\1", anchor)

    def listing(marker: re.Match[str]) -> str:
        lines = [
            f"- [{_title(_source(uri))}]({posixpath.relpath(uri, folder)})"
            for uri in _pages_of(marker[2])
        ]
        return marker[1] + "\n".join(lines) if lines else ""

    parts = FENCE.split(LISTING.sub(listing, markdown))
    return "".join(part if part.startswith("```") else LINK.sub(target, part) for part in parts)


def on_page_content(html: str, page: Page, **_: Any) -> str:
    """Add the code to the page of a source file, and make its lines known as anchors."""
    uri = page.file.src_uri
    path = ROOT / uri.removeprefix("files/").removesuffix(".md")
    if uri.startswith("files/") and path.suffix != ".md" and path.is_file():
        html += _code(path)
        page.present_anchor_ids = set(re.findall(r'\bid="([^"]+)"', html))
    return html


def _expanded(items: list[Any]) -> Iterator[Any]:
    for item in items:
        ((title, value),) = item.items()
        if isinstance(value, list):
            yield {title: list(_expanded(value))}
        elif value == generated.DETAILS:
            yield {title: generated.details_nav()}
        elif not value.endswith("/*"):
            yield item
        elif pages := _pages_of(value.removesuffix("/*")):
            yield {title: pages}


def _pages_of(folder: str) -> list[str]:
    """Return the pages of a folder by name, index.md first; the lessons in their order."""
    if folder == generated.COURSE:
        return generated.course()
    found = sorted((DOCS / folder).glob("*.md"), key=lambda path: (path.stem != "index", path.stem))
    return [path.relative_to(DOCS).as_posix() for path in found]


def _source(uri: str) -> Path:
    """Return the file of a page in docs/ or of a lesson."""
    if uri.startswith(f"{generated.COURSE}/"):
        return ROOT / generated.LESSONS / posixpath.basename(uri)
    return DOCS / uri


def _title(path: Path) -> str:
    return next(line[2:] for line in path.read_text("utf-8").splitlines() if line.startswith("# "))


def _add_katex(files: Files, config: MkDocsConfig) -> None:
    if not KATEX.exists():
        raise PluginError(f"{KATEX} does not exist; build the site with `make docs`, which gets it")
    names = ["katex-swap.min.css", "katex.min.js", "contrib/auto-render.min.js"]
    names += [f"fonts/{path.name}" for path in (KATEX / "fonts").glob("*.woff2")]
    for name in names:
        uri = f"theme/katex/{name.removeprefix('contrib/')}"
        files.append(File.generated(config, uri, abs_src_path=str(KATEX / name)))


def _home(uri: str) -> str:
    """Return the folder of the repository that the links of a page are relative to."""
    if uri.startswith(f"{generated.COURSE}/"):
        return generated.LESSONS
    outside = uri.startswith("files/")
    return posixpath.dirname(uri.removeprefix("files/") if outside else f"docs/{uri}")


def _resolved(link: str, home: str) -> tuple[str, str] | None:
    """Return the page or file for a link that leaves docs/, and its anchor; None for others."""
    path, hash_sign, anchor = link.partition("#")
    if not path or re.match(r"[a-z]+:", path):
        return None
    target = posixpath.normpath(posixpath.join(home, path))
    if target.startswith("..") or not (ROOT / target).exists():
        return None  # a broken link, or one to a generated page: MkDocs decides
    if target.startswith(f"{generated.LESSONS}/"):
        return target.replace(generated.LESSONS, generated.COURSE, 1), hash_sign + anchor
    if target.startswith("docs/") and not target.endswith(".py"):
        inside = home == "docs" or home.startswith("docs/")
        return None if inside else (target.removeprefix("docs/"), hash_sign + anchor)
    return _uri(ROOT / target), hash_sign + anchor


def _uri(path: Path) -> str:
    if path.is_dir():
        name = "README.md" if (path / "README.md").exists() else "index.md"
        path /= name
    uri = f"files/{path.relative_to(ROOT).as_posix()}"
    return f"{uri}.md" if path.suffix in PAGES - {".md"} else uri


def _linked_files(markdown: str, home: str) -> Iterator[tuple[str, Path]]:
    text = "".join(part for part in FENCE.split(markdown) if not part.startswith("```"))
    for link in {match[1] for match in LINK.finditer(text)}:
        found = _resolved(link, home)
        if found and found[0].startswith("files/"):
            yield found[0], ROOT / posixpath.normpath(posixpath.join(home, link.partition("#")[0]))


def _file(config: MkDocsConfig, uri: str, path: Path) -> File:
    """Make the page or the copy of a file outside docs/."""
    hidden = InclusionLevel.NOT_IN_NAV
    if path.is_dir() and (path / "README.md").exists():
        path /= "README.md"
    name = path.relative_to(ROOT).as_posix()
    front = f"---\ntitle: {path.name}\nsearch:\n  exclude: true\n---\n"
    if path.is_dir():
        text = f"{front}# `{name}/`\n\n" + "\n".join(
            f"- [{child.name}]({child.name})" for child in sorted(path.glob("[!._]*"))
        )
    elif path.suffix == ".md":
        text = front.replace(f"title: {path.name}\n", "") + path.read_text("utf-8")
    elif path.suffix in PAGES:
        text = f"{front}# `{name}`\n"
    elif path.suffix in ASSETS:
        return File.generated(config, uri, abs_src_path=str(path), inclusion=hidden)
    else:
        raise PluginError(f"a page links to {name}: say in {__file__} how to show such a file")
    return File.generated(config, uri, content=text, inclusion=hidden)


def _code(path: Path) -> str:
    text = path.read_text("utf-8")
    try:
        lexer = get_lexer_for_filename(path.name)
    except ClassNotFound:
        lexer = TextLexer()
    numbered = HtmlFormatter(
        cssclass="highlight",
        linenos="inline",
        lineanchors="L",
        anchorlinenos=True,
        wrapcode=True,
    )
    return highlight(text, lexer, numbered)


def _require_docstrings(files: Files) -> None:
    """Warn, which ends a strict build, of every public name on the pages without a docstring."""
    package = griffe.load("ppo37", search_paths=[str(ROOT / "src")])
    for file in files.documentation_pages():
        for name, options in OBJECT.findall(file.content_string):
            members = "members: false" not in options
            for missing in _undocumented(package[name.removeprefix("ppo37.")], members):
                log.warning(f"{file.src_uri}: {missing} has no docstring")


def _undocumented(found: Any, members: bool) -> Iterator[str]:
    if not found.docstring:
        yield found.path
    if not members or found.is_function or found.is_attribute:
        return
    for child in found.members.values():
        if child.is_alias or child.name.startswith("_") or child.is_attribute:
            continue
        protocol = found.is_class and any("Protocol" in str(base) for base in found.bases)
        if not protocol:
            yield from _undocumented(child, members)
