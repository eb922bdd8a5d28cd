"""How Sphinx builds the site: `make docs`, into build/docs."""

import sys
from pathlib import Path

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


def setup(app: Sphinx) -> None:
    """Write the pages of the API before Sphinx looks for pages."""
    app.connect("builder-inited", lambda _: write_pages(HERE / "api"))
