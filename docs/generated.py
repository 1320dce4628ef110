"""Reference pages in Markdown, read from the program: parameters, metrics, stages and commands.

Nothing here is typed by hand, so a page cannot lag behind the code. `docs/conf.py` makes a directive of each
function; `tests/test_site.py` calls them without Sphinx.
"""

import ast
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from onesentence.cli import COMMANDS
from onesentence.core.params import PARAMS_FILE, SCHEMA, Params, read_yaml
from onesentence.core.rules import Key
from onesentence.evaluation.metric import KINDS, Metric
from onesentence.evaluation.metrics import METRICS
from onesentence.evaluation.overlap.workers import CORPUS, OPTIONAL, OVERLAP_METRICS

ROOT = Path(__file__).resolve().parent.parent
EVALUATION = ROOT / "onesentence/evaluation"
# Where a metric that no class of overlap declares is computed.
MODULES = {"abstractiveness": "extraction.py", "faithfulness": "extraction.py", "behaviour": "scoring.py"}
MARKUP = re.compile(r"([\\|<>*_\[\]$])")


def escape(text: str) -> str:
    """The text in Markdown, where nothing in it is markup but `code`."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else MARKUP.sub(r"\\\1", part) for part in parts)


def code(text: str) -> str:
    """The text as code in a table's cell, where a vertical bar would end the cell."""
    return f"`{text}`".replace("|", "\\|")


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def summary_of(path: Path) -> str:
    """The first sentence of a module's docstring, read without an import."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def _comment(lines: list[str], key: yaml.Node, value: yaml.Node) -> str:
    """What a file says about a key: the lines of comment above it, then the comment behind its value.

    A block (a section, a text of several lines) ends below its key, and has no comment behind it.
    """
    above: list[str] = []
    margin, row = " " * key.start_mark.column + "#", key.start_mark.line - 1
    while row >= 0 and lines[row].startswith(margin):
        above.insert(0, lines[row].strip())
        row -= 1
    on_one_line = value.end_mark.line == key.start_mark.line
    behind = lines[key.start_mark.line][value.end_mark.column :].strip() if on_one_line else ""
    parts = [*above, behind] if behind.startswith("#") else above
    return " ".join(part.lstrip("# ") for part in parts)


def comments(path: Path) -> dict[str, str]:
    """The comment on each section and key ("lora", "lora.rank") of a YAML file of sections."""
    text = path.read_text(encoding="utf-8")
    lines, found = text.splitlines(), {}
    for key, value in yaml.compose(text, yaml.SafeLoader).value:
        found[key.value] = _comment(lines, key, value)
        if isinstance(value, yaml.MappingNode):
            for inner, inner_value in value.value:
                found[f"{key.value}.{inner.value}"] = _comment(lines, inner, inner_value)
    return found


def stages() -> dict[str, dict[str, Any]]:
    """Each stage of dvc.yaml and of the export by name; one that runs for several systems is one entry."""
    declared = {
        name: stage
        for path in ("dvc.yaml", "onesentence/export/pipeline.yaml")
        for name, stage in yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))["stages"].items()
    }
    return {
        name: {**stage.get("do", stage), "systems": list(stage.get("foreach", {}))}
        for name, stage in declared.items()
    }


def _readers(name: str) -> list[str]:
    """The stages that read a parameter."""
    section = name.partition(".")[0]
    return [stage for stage, entry in stages().items() if {name, section} & {*entry["params"]}]


def _parameter(name: str, key: Key, value: object, comment: str) -> tuple[str, ...]:
    """A row of the table of parameters."""
    default = yaml.safe_dump(value, default_flow_style=True, width=1_000, allow_unicode=True)
    default = default.removesuffix("\n").removesuffix("\n...")
    stages_of = ", ".join(f"[{stage}](#stage-{stage})" for stage in _readers(name))
    return code(name), code(default), escape(key.expected), stages_of, escape(comment)


def parameters() -> str:
    """Every parameter of params.yaml: its default, what it may hold, which stages read it, its comment."""
    path = ROOT / PARAMS_FILE
    values, notes, types = read_yaml(path), comments(path), get_type_hints(Params)
    header = ("parameter", "default", "may be", "read by", "unit or reason")
    pages = []
    for section, rules in SCHEMA.items():
        keys = {section: rules} if isinstance(rules, Key) else rules
        rows = []
        for key, rule in keys.items():
            name = section if isinstance(rules, Key) else f"{section}.{key}"
            value = values[section] if isinstance(rules, Key) else values[section][key]
            rows.append(_parameter(name, rule, value, notes[name]))
        intro = "" if isinstance(rules, Key) else f"{types[section].__doc__} {escape(notes[section])}\n"
        pages.append(f"(param-{section})=\n## {section}\n\n{intro}\n{table(header, rows)}")
    return "\n".join(pages)


def _source(name: str, metric: Metric) -> str:
    """What a metric is computed with, in the words of its module."""
    for entry in OVERLAP_METRICS:
        if name in entry.declared:
            module = entry.__module__.removeprefix("onesentence.evaluation.").replace(".", "/")
            return summary_of(EVALUATION / f"{module}.py")
    own = EVALUATION / f"{name}.py"
    return summary_of(own if own.is_file() else EVALUATION / MODULES[metric.kind])


def _range(metric: Metric) -> str:
    """The range of a metric's values."""
    low = "" if metric.low is None else f"{metric.low:g}"
    return f"from {low}" if metric.high is None else f"{low} to {metric.high:g}"


def metrics() -> str:
    """Every metric by kind and source: title, unit, which direction is better, range, how articles add up."""
    header = ("key", "title", "unit", "better", "range", "of a test set")
    pages = []
    for kind in KINDS:
        pages.append(f"(metrics-{kind})=\n## {kind.capitalize()}\n")
        names = [name for name, metric in METRICS.items() if metric.kind == kind]
        for source, group in groupby(names, lambda name: _source(name, METRICS[name])):
            pages += [f"{escape(source)}\n", table(header, [_metric(name, METRICS[name]) for name in group])]
    return "\n".join(pages)


def _metric(name: str, metric: Metric) -> tuple[str, ...]:
    """A row of the table of metrics."""
    title = escape(metric.title) + (" (optional)" if name in OPTIONAL else "")
    direction = "no direction" if metric.direction == "none" else metric.direction
    total = "computed from its sums" if name in CORPUS else "mean of its articles"
    return code(name), title, escape(metric.unit), direction, _range(metric), total


def commands() -> str:
    """Every command: a directive of sphinx-click, which reads its help and its options."""
    directives = [
        f".. click:: onesentence.commands.{name}:command\n   :prog: onesentence {name}\n" for name in COMMANDS
    ]
    return "```{eval-rst}\n" + "\n".join(directives) + "```\n"


def _listed(title: str, items: list[str]) -> str:
    return f"**{title}**\n\n" + "".join(f"- {item}\n" for item in items) + "\n"


def _outputs(stage: dict[str, Any]) -> Iterator[str]:
    """The files that a stage writes, each with where it is kept."""
    for entry in [*stage.get("outs", ()), *stage.get("metrics", ())]:
        path, options = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
        yield f"`{path}` ({'DVC caches it' if options.get('cache', True) else 'in git'})"


def stage_pages() -> str:
    """Every stage of both pipelines: what it does, its command, what it depends on and what it writes."""
    pages = []
    for name, stage in stages().items():
        systems = ", ".join(f"`{name}@{system}`" for system in stage["systems"])
        pages.append(
            f"(stage-{name})=\n## {name}\n\n{escape(stage['desc'])}."
            + (f" It runs as {systems}." if systems else "")
            + (" A stage of `make export`." if "wdir" in stage else "")
            + (" Frozen: `dvc repro` leaves it as it is." if stage.get("frozen") else "")
            + f"\n\n    {stage['cmd']}\n\n"
            + _listed("Depends on", [f"`{path}`" for path in stage["deps"]])
            + _listed("Parameters", [f"[{p}](#param-{p.partition('.')[0]})" for p in stage["params"]])
            + _listed("Writes", list(_outputs(stage)))
        )
    return "\n".join(pages)
