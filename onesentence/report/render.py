"""The report as one HTML file that asks the network for nothing and shows any text as text.

Three things keep an article from becoming markup or script: what the template places is escaped by Jinja2,
what the script places goes in by `textContent`, and a content security policy lets nothing run but the two
assets, which it names by their hashes.
"""

import base64
import hashlib
import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

ASSETS = Path(__file__).parent / "assets"
FOR_SCRIPT = ("groups", "systems", "sorts", "facets", "facet_values", "items", "rating")


def data_block(value) -> str:
    """`value` as JSON to stand inside a <script>: ASCII, and no character that could end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":  # JSON has them in strings alone, where \uXXXX means the same
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def data_uri(svg: str) -> str:
    """An SVG file as an image's address: in a document of its own, where ids of two plots cannot clash."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def source_hash(text: str) -> str:
    """What a content security policy calls an inline script or style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def without_lone_surrogates(text: str) -> str:
    """`text` that UTF-8 can hold: a lone surrogate is U+FFFD, the replacement character."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def render(page: dict) -> str:
    """The HTML of a page. Equal pages give equal text."""
    unknown = set(page["rating"]["items"]) - {item["id"] for item in page["items"]}
    if unknown:
        raise ValueError(f"items to rate that are not on the page: {sorted(unknown)[:3]}")
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
