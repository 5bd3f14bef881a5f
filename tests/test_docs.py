"""The documentation as a reader meets it: links that lead somewhere, pages that can be found, code that parses."""

import ast
import re
from pathlib import Path

import pytest
import yaml

import cus
from tests.conftest import ROOT

DOCS = sorted((ROOT / "docs").rglob("*.md"))
API = [page for page in DOCS if page.parent.name == "api" and page.stem != "index"]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_CODE_FILE = re.compile(r"`((?:cus|procedural|tests|train|data|configs|benchmarks|examples)/[\w./-]*)`")


def prose(page: Path) -> str:
    """A page without its blocks and spans of code."""
    return re.sub(r"`[^`\n]*`", "", _FENCED.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    """What links to the page's headings may say."""
    headings = re.findall(r"^#+ +(.+?) *$", _FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Links to files of the repository, or to headings, that are not there."""
    found = []
    for link in _LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


def navigation(entries: list) -> list[str]:
    """The pages of MkDocs' navigation, in order."""
    pages = []
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        pages += navigation(value) if isinstance(value, list) else [value]
    return pages


def exported(tree: ast.Module) -> list[str]:
    """The names in `__all__`."""
    values = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    return ast.literal_eval(values[0])


def documents(module: Path, name: str) -> bool:
    """Whether a module defines a class, a function, or a constant with a docstring, of that name."""
    file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
    body = ast.parse(file.read_text()).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return True
        targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    return False


def test_a_broken_link_and_a_missing_heading_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b`, c\n[1](page.md#a-b-c) [2](#a-b-c) [3](https://x.org/y) `[4](none)`\n[5](no.md) [6](#no)\n"
    )
    assert broken_links(page) == ["no.md", "#no"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    assert not broken_links(page)


def test_every_page_is_in_the_navigation_once_and_nothing_else_is() -> None:
    pages = navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert len(pages) == len(set(pages))
    inside = {page.relative_to(ROOT / "docs").as_posix() for page in DOCS}
    assert inside <= set(pages)
    assert [page for page in pages if page not in inside and not (ROOT / page).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_in_the_documentation_parses(page: Path) -> None:
    for language, code in _FENCED.findall(page.read_text()):
        if language == "python":
            ast.parse(code)


@pytest.mark.parametrize("name", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_files_that_the_guide_to_the_code_names_exist(name: str) -> None:
    named = _CODE_FILE.findall((ROOT / name).read_text())
    assert named and [file for file in named if not (ROOT / file).exists()] == []


def test_every_package_has_its_line_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    packages = sorted(path.parent.name for path in Path(cus.__file__).parent.glob("*/__init__.py"))
    assert [name for name in packages if f"| `cus/{name}/` |" not in text] == []


@pytest.mark.parametrize("page", API, ids=lambda page: page.stem)
def test_the_reference_shows_all_that_a_public_module_exports(page: Path) -> None:
    """MkDocs leaves out, without a word, constants and what a submodule of the same name hides: they stand by name."""
    module, *others = re.findall(r"^::: ([\w.]+)$", page.read_text(), re.MULTILINE)
    folder = ROOT / module.replace(".", "/")
    if not folder.is_dir():
        assert folder.with_suffix(".py").is_file()
        return
    tree = ast.parse((folder / "__init__.py").read_text())
    homes = {
        alias.name: ROOT / (node.module or "").replace(".", "/")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    hidden = [name for name in exported(tree) if (folder / f"{name}.py").is_file() or not documents(homes[name], name)]
    assert set(hidden) <= {other.rsplit(".", 1)[-1] for other in others}


def test_the_citation_is_complete_and_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= citation.keys()
    assert str(citation["version"]) == cus.__version__
    for work in (citation, *citation["references"]):
        assert work["title"] and all("family-names" in a or "name" in a for a in work["authors"])
    assert any("2511.13121" in str(work) for work in citation["references"])


@pytest.mark.parametrize("file", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda file: file.name)
def test_forms_and_workflows_parse(file: Path) -> None:
    content = yaml.safe_load(file.read_text())
    fields = [entry["id"] for entry in content.get("body", [])]
    assert content and len(fields) == len(set(fields))
