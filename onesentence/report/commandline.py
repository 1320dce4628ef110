"""What the commands that score given files share: options, and tables on the terminal."""

import argparse
from pathlib import Path
from types import SimpleNamespace

from onesentence.core.errors import UserError
from onesentence.core.files import output_file, require_other_file
from onesentence.core.language import ENGLISH, require_language
from onesentence.core.params import LANGUAGE
from onesentence.evaluation.external import Texts, aligned, read_references, read_texts
from onesentence.evaluation.extraction import Article
from onesentence.evaluation.metrics import ROW, Scores, test_hash
from onesentence.evaluation.scoring import score_systems
from onesentence.report.sentences import clusters_phrase
from onesentence.report.tables import comparison_rows, score_rows


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command that scores given files."""
    parser.add_argument("--references", type=Path, help="a text a line, or .jsonl with `summary`")
    parser.add_argument("--documents", type=Path, help="for copying, new n-grams, numbers and names")
    parser.add_argument(
        "--groups",
        type=Path,
        help="the cluster of each article, which is resampled as a whole: a label a line",
    )
    parser.add_argument("--output", type=output_file, help="write the numbers there as JSON")
    parser.add_argument("--language", help="instead of evaluate.language")
    parser.add_argument("--resamples", type=int, help="instead of evaluate.resamples")
    parser.add_argument(
        "--bertscore",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="BERTScore takes minutes for thousands of articles",
    )


def with_options(settings: SimpleNamespace, arguments: argparse.Namespace) -> SimpleNamespace:
    """The `evaluate` section with what the command line says instead."""
    said = {
        name: value
        for name, value in (("language", arguments.language), ("resamples", arguments.resamples))
        if value is not None
    }
    if said.get("resamples", 100) < 100:
        raise UserError(f"--resamples: expected at least 100, found {arguments.resamples}")
    if "language" in said and not LANGUAGE.accepts(said["language"]):
        raise UserError(f"--language: expected {LANGUAGE.expected}, found {arguments.language!r}")
    found = SimpleNamespace(**{**vars(settings), **said})
    if found.meteor_synonyms and found.language != ENGLISH:
        raise UserError(
            "--language: evaluate.meteor_synonyms must be false unless it is en: WordNet is English"
        )
    return found


def score_files(
    arguments: argparse.Namespace, files: dict[str, Path], settings: SimpleNamespace
) -> tuple[dict[str, Scores], str]:
    """(scores of files of outputs by system, hash of the test set), as the options say."""
    inputs = (arguments.references, arguments.documents, arguments.groups, *files.values())
    require_other_file(arguments.output, inputs)
    references = read_references(arguments.references)
    require_language(references.texts, settings.language)  # before the work
    outputs = {name: aligned(references, read_texts(path, "predictions")) for name, path in files.items()}
    documents = None
    if arguments.documents:
        texts = aligned(references, read_texts(arguments.documents, "documents")).texts
        documents = [Article(text) for text in texts]
    ids = references.ids or [str(line) for line in range(1, len(references.texts) + 1)]
    groups = read_groups(arguments.groups, references) if arguments.groups else ids
    scores = score_systems(
        ids,
        references.texts,
        {name: found.texts for name, found in outputs.items()},
        {name: found.succeeded for name, found in outputs.items()},
        documents,
        settings,
        bertscore=arguments.bertscore,
        behaviour={},
        groups=groups,
        unit="group" if arguments.groups else ROW,
    )
    return scores, test_hash(ids, references.texts)


def read_groups(path: Path, references: Texts) -> list[str]:
    """The label of each article's cluster, in the order of the references; none may be empty."""
    found = read_texts(path, "groups")
    for number, label in enumerate(found.texts, start=1):
        if not label.strip():
            raise UserError(f"{path}, line {number}: an empty group; give every article the cluster it is in")
    return aligned(references, found).texts


def print_table(title: str, columns: list[str], rows: list[list[str]], narrow: str = "") -> None:
    """A table on the terminal; the column named `narrow` may wrap. No text is taken for markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title))
    for column in columns:
        table.add_column(
            Text(column), justify="left" if column == columns[0] else "right", no_wrap=column != narrow
        )
    for row in rows:
        table.add_row(*map(Text, row))
    Console(width=118).print(table)


def print_scores(found: dict) -> None:
    """A table of metrics by system, with intervals and units. found: as metrics/evaluation.json."""
    title = f"{clusters_phrase(found)}, value [{found['confidence']:.0%} interval of {found['resamples']:,} "
    print_table(title + "resamples], a failed output scores 0", **score_rows(found, {}), narrow="unit")


def print_comparisons(found: dict) -> None:
    """A table of every paired difference. found: as metrics/evaluation.json."""
    for pair in found["comparisons"]:
        shown = comparison_rows(found, pair)
        kept = [k for k, column in enumerate(shown["columns"]) if column != "BCa interval"]  # 118 columns
        print_table(
            f"{pair.replace('-', ' - ')}, the same {clusters_phrase(found)}",
            [shown["columns"][k] for k in kept],
            [[row[k] for k in kept] for row in shown["rows"]],
            narrow="metric",
        )
