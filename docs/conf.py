"""How Sphinx builds the site: `make docs`, into build/docs."""

import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from write_api import write_pages  # noqa: E402

import bhlm  # noqa: E402

project = "bhlm"
author = copyright = "The bhlm developers"
version = release = bhlm.__version__

extensions = ["myst_nb"]
exclude_patterns = ["__pycache__"]

html_theme = "furo"
html_title = "bhlm"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
# The type and the colours of the pages that bhlm writes, `reports/dashboard/assets/style.css`.
SANS = (
    '-apple-system, BlinkMacSystemFont, "Segoe UI", Roboto, "Noto Sans", "Helvetica Neue", '
    '"Nimbus Sans", "Liberation Sans", Arial, sans-serif'
)
SERIF = (
    'Charter, "Bitstream Charter", "Iowan Old Style", "Palatino Linotype", Palatino, '
    '"URW Palladio L", P052, Cambria, Georgia, serif'
)
MONO = 'ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace'
html_theme_options = {
    "light_css_variables": {
        "font-stack": SANS,
        "font-stack--headings": SERIF,
        "font-stack--monospace": MONO,
        "color-foreground-primary": "#16191d",
        "color-foreground-secondary": "#4d545d",
        "color-brand-primary": "#00548a",
        "color-brand-content": "#00548a",
        "color-brand-visited": "#00548a",
        "color-api-name": "#00548a",
        "color-api-pre-name": "#4d545d",
        "color-code-background": "#f5f6f8",
    },
    "dark_css_variables": {
        "color-foreground-primary": "#f0f0f0",
        "color-foreground-secondary": "#bcc1c9",
        "color-background-primary": "#16181d",
        "color-background-secondary": "#1b1e24",
        "color-brand-primary": "#7cc4f5",
        "color-brand-content": "#7cc4f5",
        "color-brand-visited": "#7cc4f5",
        "color-api-name": "#7cc4f5",
        "color-api-pre-name": "#bcc1c9",
        "color-code-background": "#1f232a",
    },
}
html_copy_source = False
html_show_sphinx = False
maximum_signature_line_length = 72
smartquotes_action = "D"  # dashes alone: quotes in a docstring are code
highlight_language = "none"
add_module_names = False
toc_object_entries_show_parents = "hide"
python_use_unqualified_type_names = True

myst_enable_extensions = ["colon_fence", "fieldlist"]
myst_heading_anchors = 4

# A notebook runs in a folder of its own, anew at each build, and an error ends the build.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True


def mend_markup(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Rewrite what readers of HTML aloud stumble over: lists without terms, headers without text.

    Sphinx writes a signature of several lines as a list of definitions without a term, and the
    corner of a table as a header.
    """
    body = context.get("body", "")
    lines = re.compile(r"<dl>\s*((?:<dd>(?:(?!</?d[ld]>).)*</dd>\s*)+)</dl>", re.DOTALL)
    body = lines.sub(
        lambda found: '<ul class="sig-lines">' + re.sub(r"<(/?)dd>", r"<\1li>", found[1]) + "</ul>",
        body,
    )
    corner = re.compile(r"<th((?:\s[^>]*)?)>((?:\s|</?p>)*)</th>")
    context["body"] = corner.sub(r"<td\1>\2</td>", body)


def setup(app: Sphinx) -> None:
    """Write the pages of the API before Sphinx looks for pages, and mend each page's markup."""
    app.connect("builder-inited", lambda _: write_pages(HERE / "api"))
    app.connect("html-page-context", mend_markup)
