"""Settings of Sphinx; `make docs` stages the pages (see build.py) and builds them by these.

Sphinx with MyST, because it reads the pages as they are, checks links to headings as the
repository's browser makes them, and has a theme that fetches nothing from other machines.
"""

from __future__ import annotations

from typing import Any

from docs.website.docstrings import restructured, skip_constructor
from sommelier import __version__
from sommelier.shell.highlighting import StatementLexer

project = "Sommelier"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
root_doc = "index"
smartquotes_action = "D"  # dashes only: 'cpu' is what one types
suppress_warnings = ["ref.python"]  # `Connection` in a signature is ours or the DB-API's

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # as GitHub makes them, so that links work in both places

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "separated"  # and left out by skip_constructor
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "furo"
html_title = "Sommelier"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {
    # The theme's fonts are those of the reader's machine; nothing is fetched from elsewhere.
    "top_of_page_buttons": [],
    "footer_icons": [],
    "light_css_variables": {"color-brand-primary": "#7b1e3a", "color-brand-content": "#7b1e3a"},
    "dark_css_variables": {"color-brand-primary": "#f2a7bb", "color-brand-content": "#f2a7bb"},
}
pygments_style = "friendly"
pygments_dark_style = "monokai"


def setup(app: Any) -> dict[str, bool]:
    """Colours for the query language, and docstrings as reStructuredText."""
    app.add_lexer("sql", StatementLexer)
    app.connect("autodoc-process-docstring", restructured)
    app.connect("autodoc-skip-member", skip_constructor)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
