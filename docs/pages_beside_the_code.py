"""MkDocs hook: pages that live beside the code join the site, and links between them and docs/ hold in both places.

GitHub and editors follow links through the repository's folders; the site has `docs/` as its root. So `../` goes from
the links of pages in `docs/`, and `docs/` from those of pages outside it.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md", "benchmarks/*.md", "benchmarks/*.json")
_OUT_OF_DOCS = re.compile(r"(\]\((?:\.\./)*?)\.\./(?=benchmarks/|examples/|CONTRIBUTING\.md|CHANGELOG\.md)")
_INTO_DOCS = re.compile(r"(\]\((?:\.\./)*)docs/")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside `docs/` under their places in the repository."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as the site's root wants them."""
    inside = (ROOT / "docs" / page.file.src_uri).is_file()
    return (_OUT_OF_DOCS if inside else _INTO_DOCS).sub(r"\1", markdown)
