"""The book: `make book` builds it into build/book, offline. The repository is the source folder, so that links in
README, docs and notebooks mean the same file here, in an editor and on a web page of the repository."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs/extensions")]

import nvfp4viz  # noqa: E402

project, author = "nvfp4viz", "The nvfp4viz authors"
copyright = author
version = release = nvfp4viz.__version__
language = "en"

extensions = ["myst_nb", "formulas", "links", "live_explorers", "public_names", "words"]
root_doc = "docs/index"
include_patterns = ["docs/**.md", "notebooks/*.ipynb", "*.md", "data/*.md", "nvfp4viz/data/*.md"]
exclude_patterns = [".*", "build", "dist", "tests", "scripts", "README.md"]

nb_execution_mode = "off"  # the stored outputs are those that `make test` compares
nb_ipywidgets_js = {}  # would be fetched; live_explorers puts explorers in place of widgets
nb_merge_streams = True
nb_code_prompt_show, nb_code_prompt_hide = "Show the solution", "Hide the solution"  # nothing else is folded
myst_enable_extensions = ["dollarmath", "deflist", "attrs_block"]
myst_heading_anchors = 3

toc_object_entries = False

html_theme = "furo"
html_title = f"nvfp4viz {release}"
html_static_path = ["static"]
html_css_files = ["book.css"]
html_extra_path = ["front"]
html_copy_source = False
html_show_sphinx = False
html_permalinks_icon = "#"
templates_path = []
