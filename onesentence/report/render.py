"""The report as one HTML file that needs no network and shows any text as text.

Three things keep an article from becoming markup or script: Jinja2 escapes what the template inserts, the
script inserts by `textContent` only, and a content security policy, which names the two assets by their
hashes, lets nothing else run.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

ASSETS = Path(__file__).parent / "assets"
# Parts of the page that the script reads; the template shows the others, which thus need no script.
FOR_SCRIPT = ("groups", "systems", "sorts", "facets", "facet_values", "items", "rating")


def data_block(value: Any) -> str:
    """`value` as JSON inside a <script>: ASCII, without a character that could end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":  # JSON has them only inside strings, where \uXXXX means the same
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def data_uri(svg: str) -> str:
    """An SVG file as a data: address. As an image it is its own document: ids of two plots cannot clash."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def source_hash(text: str) -> str:
    """The name of an inline script or style in a content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def without_lone_surrogates(text: str) -> str:
    """`text` as UTF-8 can encode it: U+FFFD, the replacement character, for each lone surrogate."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def render(page: dict[str, Any]) -> str:
    """The HTML of a page (`onesentence.report.page.page_data`). Equal pages give equal text."""
    unknown = set(page["rating"]["items"]) - {item["id"] for item in page["items"]}
    if unknown:
        raise ValueError(f"rating.items: not among the items of the page: {sorted(unknown)[:3]}")
    script, style = (
        (ASSETS / name).read_text(encoding="utf-8").strip() for name in ("report.js", "report.css")
    )
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html").render(
        page=page,
        plots=[{**plot, "address": data_uri(plot["svg"])} for plot in page["plots"]],
        script=Markup(script),
        style=Markup(style),
        script_hash=source_hash(script),
        style_hash=source_hash(style),
        data=Markup(data_block({key: page[key] for key in FOR_SCRIPT})),
    )
    return without_lone_surrogates(html) + "\n"
