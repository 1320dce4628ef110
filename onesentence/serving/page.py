"""The page on which to try the service. It works without a network, and shows any text as text."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from onesentence.report.render import ASSETS as REPORT_ASSETS

if TYPE_CHECKING:
    from onesentence.serving.limits import Limits

OWN = Path(__file__).parent / "assets"
CSS, SCRIPT = "text/css", "text/javascript"
# Files of the page by the name in their address. It looks like the report, whose style sheet it shares.
ASSETS = {
    "report.css": (REPORT_ASSETS / "report.css", CSS),
    "try.css": (OWN / "try.css", CSS),
    "try.js": (OWN / "try.js", SCRIPT),
}


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(OWN),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("try.html")


def render(state: str, languages: dict[str, str], limits: Limits, needs_key: bool) -> str:
    """The HTML. languages: of each model's articles, by the model's name; empty while models are loaded."""
    return _template().render(state=state, languages=languages, limits=limits, needs_key=needs_key)
