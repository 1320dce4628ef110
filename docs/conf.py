"""Sphinx's settings: `make docs` builds the site from this folder into docs/_build."""

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.chdir(ROOT)  # the program reads params.yaml from where it runs

import click  # noqa: E402
from docutils import nodes  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402
from sphinx.util.docutils import SphinxDirective  # noqa: E402

from docs import generated  # noqa: E402

project = "One Sentence"
author = "The One Sentence authors"
copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_show_copyright = False
html_show_sphinx = False

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(np|numpy|click)\..*")]  # their documentation is on the network
smartquotes = False  # they would turn the hyphens of --option into a dash
default_role = "literal"  # docstrings and help set names in `single` backticks
autodoc_member_order = "bysource"

KEEPS_LAYOUT = re.compile(r"^(Run|Reads|Writes|Usage|  )", re.MULTILINE)

DIRECTIVES = {
    "parameters": generated.parameters,
    "metrics": generated.metrics,
    "stages": generated.stage_pages,
    "commands": generated.commands,
}


class Generated(SphinxDirective):
    """A directive without content: the Markdown that the function of its name returns."""

    def run(self) -> list[nodes.Node]:
        """The nodes of that Markdown."""
        return self.parse_text_to_nodes(DIRECTIVES[self.name](), allow_section_headings=True)


def format_help(app: Sphinx, context: click.Context, lines: list[str]) -> None:
    """Set a command's help as prose, and its examples and lists of files as they are laid out."""
    lines.clear()
    for paragraph in (context.command.help or "").replace("\b\n", "").split("\n\n"):
        if KEEPS_LAYOUT.search(paragraph):
            lines += [".. code-block:: text", "", *(f"   {line}" for line in paragraph.splitlines()), ""]
        else:
            # Nothing in it is markup but names in backticks.
            parts = re.split(r"(`[^`]*`)", " ".join(paragraph.split()))
            lines += [
                "".join(p if p.startswith("`") else re.sub(r"([*_|\\])", r"\\\1", p) for p in parts),
                "",
            ]


OUTSIDE = re.compile(r"\[([^\]]+)\]\((\.\./[^)#\s]+)(?:#[^)\s]*)?\)")


def link_outside(app: Sphinx, page: str, source: list[str]) -> None:
    """Make links out of this folder work: to a page such as the README as a download, to a folder as text.

    Links to other files work without help. A file that does not exist stays a broken link, which is an error.
    """

    def replaced(link: re.Match) -> str:
        target = (Path(app.srcdir, page).parent / link[2]).resolve()
        if target.is_relative_to(app.srcdir) or not target.is_relative_to(ROOT):
            return link[0]
        if target.is_dir():
            return link[1]
        if target.suffix == ".md" and target.is_file():
            return f"{{download}}`{link[1].replace('`', '')} <{link[2]}>`"
        return link[0]

    source[0] = OUTSIDE.sub(replaced, source[0])


def setup(app: Sphinx) -> None:
    """Add the directives."""
    for name in DIRECTIVES:
        app.add_directive(name, Generated)
    app.connect("sphinx-click-process-description", format_help)
    app.connect("source-read", link_outside)
