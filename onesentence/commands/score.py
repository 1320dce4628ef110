"""Score what any systems wrote for the same articles, and test their differences.

Each SYSTEM is a file of outputs, or NAME=FILE: a text a line, or .jsonl with `prediction`. Metrics, settings
and tests are those of the stage `evaluate`; a failed or empty output scores 0. Of several systems, each is
compared with every one named after it, and Holm's correction is over all of these tests. --scores takes files
of stored scores instead (data/scores of two runs, say) and refuses scores of other articles or settings.
In Python: `from onesentence.evaluation.api import score, compare` (docs/evaluation.md).

Run     onesentence score --references refs.txt outputs.txt
        onesentence score --references refs.jsonl --documents articles.jsonl lead=a.txt ours=b.txt
        onesentence score --scores run1/data/scores/tuned/tuned.parquet second=run2/tuned.parquet
        onesentence score --references refs.txt --no-bertscore --output found.json outputs.txt
"""

from dataclasses import replace
from pathlib import Path

import click

from onesentence.commands import documented
from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.files import output_file, require_other_file
from onesentence.core.language import ENGLISH
from onesentence.core.rules import LANGUAGE
from onesentence.evaluation import comparison
from onesentence.evaluation.api import compare
from onesentence.evaluation.external import score_files
from onesentence.evaluation.metrics import HEADLINE, Scores, read_scores, require_comparable
from onesentence.evaluation.overlap.workers import OPTIONAL
from onesentence.report.sentences import clusters_phrase, difference_sentence, family_sentence
from onesentence.report.terminal import print_comparisons, print_scores


def named_files(values: tuple[str, ...]) -> dict[str, Path]:
    """Files by the system's name, of FILE or NAME=FILE; a file without a name has that of its stem."""
    files: dict[str, Path] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not equals:
            name, path = Path(value).stem.replace("-", "_"), value
        if not (name and path) or "-" in name:
            raise UserError(f"SYSTEM: expected FILE or NAME=FILE, the name without '-', found {value!r}")
        if not name.isprintable():  # bytes that the terminal's encoding does not have arrive as surrogates
            raise UserError(f"SYSTEM: expected a name of printable characters, found {name!r}")
        if name in files:
            raise UserError(f"SYSTEM: two systems are named {name!r}; give one another name: NAME=FILE")
        files[name] = Path(path)
    return files


def settings_with(language: str | None, resamples: int | None) -> params.Evaluate:
    """The `evaluate` section of params.yaml with what the options say instead."""
    given = {"language": language, "resamples": resamples}
    given = {name: value for name, value in given.items() if value is not None}
    if given.get("resamples", 100) < 100:
        raise UserError(f"--resamples: expected at least 100, found {resamples}")
    if "language" in given and not LANGUAGE.accepts(language):
        raise UserError(f"--language: expected {LANGUAGE.expected}, found {language!r}")
    settings = replace(params.load(("evaluate",)).evaluate, **given)
    if settings.meteor_synonyms and settings.language != ENGLISH:
        raise UserError(
            "--language: evaluate.meteor_synonyms must be false unless it is en: WordNet is English"
        )
    return settings


def stored_scores(files: dict[str, Path]) -> dict[str, Scores]:
    """Scores that `evaluate` or this command wrote; all must be comparable with the first."""
    scores = {name: read_scores(path) for name, path in files.items()}
    for name, path in files.items():
        if not all("|unit:" in signature for signature in scores[name].signatures.values()):
            print(f"score: warning: {path} names no unit: rows are taken as independent; score again")
    first = next(iter(scores))
    for name in list(scores)[1:]:
        require_comparable(scores[first], scores[name], first, name)
    return scores


@documented(__doc__)
@click.argument("systems", nargs=-1, required=True, metavar="SYSTEM...")
@click.option("--references", type=Path, help="A text a line, or .jsonl with `summary`.")
@click.option("--documents", type=Path, help="For copying, new n-grams, numbers and names.")
@click.option(
    "--groups", type=Path, help="The cluster of each article, a label a line; resampled as a whole."
)
@click.option("--scores", "stored", is_flag=True, help="The systems' files are stored scores.")
@click.option("--language", help="Instead of evaluate.language.")
@click.option("--resamples", type=int, help="Instead of evaluate.resamples.")
@click.option("--metric", "more", multiple=True, type=click.Choice(sorted(OPTIONAL)), help="Also this one.")
@click.option("--bertscore/--no-bertscore", default=True, help="Minutes for thousands of articles.")
@click.option("--output", help="Write the numbers there as JSON.")
def command(
    systems: tuple[str, ...],
    references: Path | None,
    documents: Path | None,
    groups: Path | None,
    stored: bool,
    language: str | None,
    resamples: int | None,
    more: tuple[str, ...],
    bertscore: bool,
    output: str | None,
) -> None:
    output = None if output is None else output_file(output)  # before the work
    files = named_files(systems)
    settings, test = settings_with(language, resamples), None
    if stored:
        if references or documents or groups or more:
            raise UserError(
                "--scores: the files hold scores; leave --references, --documents, --groups and --metric out"
            )
        if len(files) < 2:
            raise UserError("--scores: give at least two systems; a stored score is compared with another")
        require_other_file(output, files.values())
        scores = stored_scores(files)
    else:
        if references is None:
            raise UserError("--references: missing; give the file that the systems are scored against")
        require_other_file(output, (references, documents, groups, *files.values()))
        scores, test = score_files(references, files, documents, groups, settings, bertscore, more)
    found = compare(scores, settings.resamples, settings.confidence)
    if test:
        found = {"n": found["n"], "test": test, **found}
    print_found(found, scores)
    if output:
        comparison.write_evaluation(output, found)


def print_found(found: dict, scores: dict[str, Scores]) -> None:
    """Tables of scores and differences, and what the differences mean."""
    print_scores(found)
    warning = comparison.cluster_warning(comparison.sample_of(scores), found["resampling"]["unit"])
    if warning:
        print(f"score: warning: {warning}")
    if not found["comparisons"]:
        return
    print_comparisons(found)
    for pair, entries in found["comparisons"].items():
        left, _, right = pair.partition("-")
        said = (left, right, entries[HEADLINE], HEADLINE, clusters_phrase(found), found["confidence"])
        print(difference_sentence(*said))
    print(family_sentence(found["comparisons"], found["resamples"], found["confidence"]))
