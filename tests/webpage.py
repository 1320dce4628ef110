"""What tests of pages in a browser share: hostile texts, contrast, and names for screen readers."""

NASTY = [
    "<script>window.hacked=1</script>",
    "</script><script>window.hacked=1</script>",
    "<!--<script>",
    "<img src=x onerror=window.hacked=1>",
    '"><svg onload=window.hacked=1>',
    "' autofocus onfocus=window.hacked=1 '",
    "{{ 7 * 7 }} &lt;b&gt; \\u003c ${1}",
    "line\u2028separator\u2029end",
    "lone \ud83d surrogate",
    "javascript:window.hacked=1",
]


def contrast(first: str, second: str) -> float:
    """WCAG 2's contrast ratio of two colours #rrggbb."""

    def luminance(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def nameless(tab, least: int = 9) -> list[str]:
    """Roles of focusable elements without a name, from the browser's accessibility tree.

    least: how many elements take the focus at least.
    """
    session = tab.context.new_cdp_session(tab)
    roles, focusable = [], 0
    for node in session.send("Accessibility.getFullAXTree")["nodes"]:
        properties = {entry["name"]: entry["value"].get("value") for entry in node.get("properties", [])}
        role = node.get("role", {}).get("value")
        if properties.get("focusable") and role not in (
            "RootWebArea",
            "main",
        ):  # main: the skip link's target
            focusable += 1
            if not node.get("name", {}).get("value"):
                roles.append(role)
    assert focusable >= least  # the tree is not empty
    return roles
