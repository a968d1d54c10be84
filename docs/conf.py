"""Configure the site: `make docs` builds it into build/docs, and a warning is an error."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the modules of this tree, whatever is installed

project = "tfos_fast"
copyright = "the authors of tfos_fast"
release = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"tfos_fast {release}"
html_static_path: list[str] = []
exclude_patterns = ["_build"]

myst_heading_anchors = 4  # pages link to headings, as they do where the repository is read
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the sections of a docstring name the types
numpydoc_show_class_members = False


def point_out_of_docs(app, docname, source):
    """Put the README on the first page, and turn links to files outside docs/ into the files' names."""
    text = source[0].replace("{README}", (ROOT / "README.md").read_text().replace("](docs/", "]("))
    text = re.sub(r"\[([^]]+)\]\((?:\.\./)+README\.md\)", r"[\1](/index.md)", text)
    source[0] = re.sub(r"\[([^]]+)\]\((?:(?:\.\./)+|(?=examples/))([^)]+)\)", r"\1 (`\2`)", text)


def setup(app):
    app.connect("source-read", point_out_of_docs)
