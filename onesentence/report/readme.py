"""The generated parts of the README and of docs/: text between two markers of a file."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.escaping import markdown_code, markdown_text, visible
from onesentence.core.files import read_as_written_now, read_json, read_jsonl, read_parquet, write_text
from onesentence.core.text import percent
from onesentence.evaluation.comparison import is_significant
from onesentence.evaluation.metrics import HEADLINE, METRICS
from onesentence.report.sentences import NAMES
from onesentence.report.tables import SYSTEMS, cell

README = Path("README.md")
EVALUATION = Path("metrics/evaluation.json")
DIFFERENCES = ("tuned-base", "tuned-lead", "tuned-oracle")
EXCERPT = 59  # words of an article that the README quotes
WIDTH, INDENT = 100, 12  # characters of the example's lines, and of the column of its labels
TOLERANCE = 0.001  # points between a mean of data/scores and metrics/evaluation.json, which rounds


def write_between(file: Path, start: str, end: str, text: str) -> None:
    """Replace the lines between the markers `start` and `end` of a file by `text`."""
    write_text(file, with_between(file, read_page(file), start, end, text))


def read_page(file: Path) -> str:
    """The text of a file that holds generated text."""
    if not file.is_file():
        raise UserError(f"{file}: not found; it holds generated text: `git checkout {file}` brings it back")
    return file.read_text(encoding="utf-8")


def with_between(file: Path, page: str, start: str, end: str, text: str) -> str:
    """The text `page` of a file with `text` between the markers `start` and `end`."""
    before, _, rest = page.partition(start)
    _, marker, after = rest.partition(end)
    if not marker:
        raise UserError(
            f"{file}: a marker is missing (expected {start.strip()} and, below it, {end.strip()}); "
            "put both back"
        )
    return before + start + text + end + after


def results_block(folders: Sequence[Path]) -> str:
    """Markdown table: ROUGE-1 and its paired differences, a column for each pipeline.

    folders: of pipelines that were run: the default's is Path(), a preset's presets/NAME.
    """
    labels = [
        f"{METRICS[HEADLINE].title} [{percent(read_json(folders[0] / EVALUATION)['confidence'])} interval]",
        *("---", "base model", "articles"),
        *(NAMES[name] for name in SYSTEMS),
        *(pair.replace("-", " - ") for pair in DIFFERENCES),
    ]
    columns = [labels, *map(_column, folders)]
    return "".join(f"| {' | '.join(row)} |\n" for row in zip(*columns, strict=True))


def _column(folder: Path) -> list[str]:
    """Cells of one pipeline: its title, what it was run on, its scores and their differences."""
    values, path = params.read_yaml(folder / params.PARAMS_FILE), folder / EVALUATION
    evaluation = read_json(path)
    remake = f"make repro PRESET={folder.name}" if folder.name else "dvc repro"
    with read_as_written_now(path, f"run `{remake}`"):
        articles = f"{evaluation['split']}, {evaluation['n']:,}"
        scores = [cell(evaluation["systems"][name][HEADLINE]) for name in SYSTEMS]
        differences = [_difference(evaluation, pair) for pair in DIFFERENCES]
    own = f"[`{folder.name}`]({folder.as_posix()}/plots/results.md)"
    return [
        "default" if folder == Path() else own,
        "---",
        markdown_code(values["model"]["name"]),
        f"{markdown_text(values['data']['source'])}, {articles}",
        *scores,
        *differences,
    ]


def _difference(evaluation: dict[str, Any], pair: str) -> str:
    """A paired difference with its interval and its significance."""
    entry = evaluation["comparisons"][pair][HEADLINE]
    significance = "significant" if is_significant(entry, evaluation["confidence"]) else "not significant"
    return f"{cell(entry, '+.2f')}, {significance}"


def example_block(data: Path, evaluation: dict[str, Any]) -> str:
    """Markdown: the article in the middle by the tuned model's ROUGE-1, its reference and both outputs.

    data: the folder `data/` of the pipeline that wrote `evaluation`. Ties in ROUGE-1 are ordered by id.
    """
    scores, predictions = data / "scores", data / "predictions"
    tuned, base = _scores(scores / "tuned/tuned.parquet"), _scores(scores / "baselines/base.parquet")
    mean, expected = sum(tuned.values()) / len(tuned), evaluation["systems"]["tuned"][HEADLINE]["value"]
    if abs(mean - expected) > TOLERANCE:
        raise UserError(
            f"{scores}: these scores are not those of {EVALUATION} (mean {METRICS[HEADLINE].title} of the "
            f"fine-tuned model: expected {expected:.4f}, found {mean:.4f}); run `dvc repro` or `dvc checkout`"
        )
    middle = sorted(tuned, key=lambda id_: (tuned[id_], id_))[(len(tuned) - 1) // 2]
    prepared = data / "prepared" / f"{evaluation['split']}.parquet"
    article = _row(prepared, read_parquet(prepared).to_pylist(), middle, ("heading", "document", "summary"))
    words = f"{article['heading'] or ''} {article['document']}".split()
    outputs = {}
    for name in ("base", "tuned"):
        path = predictions / f"{name}.jsonl"
        outputs[name] = _row(path, read_jsonl(path), middle, ("prediction",))["prediction"]
    excerpt = " ".join(words[:EXCERPT]) + (" ..." if len(words) > EXCERPT else "")
    parts = (
        ("Article", excerpt),
        ("Reference", article["summary"]),
        ("Untuned", f"{outputs['base']} ({base[middle]:.2f})"),
        ("Fine-tuned", f"{outputs['tuned']} ({tuned[middle]:.2f})"),
    )
    return "\n".join(["```text", *(_paragraph(label, text) for label, text in parts), "```\n"])


def _scores(path: Path) -> dict[str, float]:
    """ROUGE-1 of each article by id."""
    rows = read_parquet(path, ["id", HEADLINE]).to_pylist()
    with read_as_written_now(path):
        return {row["id"]: row[HEADLINE] for row in rows}


def _row(path: Path, rows: list[dict[str, Any]], id_: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """These keys of the row of an article, as a stage wrote it to `path`."""
    with read_as_written_now(path):
        for row in rows:
            if row["id"] == id_:
                return {key: row[key] for key in keys}
    raise UserError(f"{path}: has no article {id_!r} of data/scores; run `dvc repro` or `dvc checkout`")


def _paragraph(label: str, text: str) -> str:
    """Lines of the example: a label, then the text beside it. A fence in the text must not end the block."""
    return textwrap.fill(
        visible(" ".join(text.replace("```", "'''").split())),
        WIDTH,
        initial_indent=label.ljust(INDENT),
        subsequent_indent=" " * INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
