"""`python -m docs.website.build OUT`: the documentation site; any warning fails.

The pages of docs/ are copied to a folder of their own, together with what lies outside of docs/:
the change log, pages made of the notebooks, and the syntax of every statement. Links to these are
changed on the way, so that the pages read well on GitHub too.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path

from docs.website.notebook_pages import write_page
from docs.website.syntax_page import syntax_page

DOCS = Path(__file__).parent.parent
ROOT = DOCS.parent
_NOTEBOOK = re.compile(r"\]\((?:\.\./)+notebooks/(\w+)\.ipynb\)")
_CHANGES = re.compile(r"\]\((?:\.\./)+CHANGELOG\.md\)")
_GRAMMAR = re.compile(r"\]\((?:\.\./)+sommelier/grammar/query\.lark\)")
_CODE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?:sommelier|benchmarks|tests|notebooks)[^)]*\)")


def main(arguments: list[str] | None = None) -> int:
    """The exit code of Sphinx: 0 only if it had nothing to complain of."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=ROOT / "site")
    out = parser.parse_args(arguments).out
    from sphinx.cmd.build import build_main

    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder) / "pages"
        stage(pages)
        fresh = Path(folder) / "html"
        settings = ["-c", str(DOCS / "website"), "-d", str(Path(folder) / "doctrees")]
        code = build_main(
            ["-q", "-W", "--keep-going", "-b", "html", *settings, str(pages), str(fresh)]
        )
        if code == 0:
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(fresh, out)
            print(f"{len(list(out.rglob('*.html')))} pages in {out}")
    return int(code)


def stage(pages: Path) -> None:
    """Fills a new folder with everything that the site shows."""
    shutil.copytree(DOCS, pages, ignore=shutil.ignore_patterns("website", "__pycache__"))
    changes = (ROOT / "CHANGELOG.md").read_text()
    (pages / "changelog.md").write_text(changes.replace("](docs/", "]("))
    (pages / "statements.md").write_text(syntax_page())
    notebooks = pages / "notebooks"
    notebooks.mkdir()
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        write_page(notebook, notebooks)
    for page in pages.rglob("*.md"):
        depth = len(page.relative_to(pages).parts) - 1
        page.write_text(inside(page.read_text(), "../" * depth))


def inside(text: str, up: str) -> str:
    """A page whose links to notebooks and changes stay in the site; files of code are names only.

    up : what leads from the page to the top of the site.

    >>> inside("[one](../notebooks/01_a.ipynb), [file](../sommelier/units.py)", "")
    '[one](notebooks/01_a.md), file'
    """
    text = _NOTEBOOK.sub(rf"]({up}notebooks/\1.md)", text)
    text = _CHANGES.sub(f"]({up}changelog.md)", text)
    text = _GRAMMAR.sub(f"]({up}statements.md)", text)
    return _CODE.sub(r"\1", text)


if __name__ == "__main__":
    sys.exit(main())
