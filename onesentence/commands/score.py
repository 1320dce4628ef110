"""Score the outputs of any systems for the same articles, and test their differences.

Each SYSTEM is a file of outputs, or NAME=FILE: one text a line, or .jsonl with `prediction`. Metrics,
settings and tests are those of the stage `evaluate`; a failed or empty output scores 0. Each system is
compared with every system after it, and Holm's correction is over all of these tests. --scores takes files of
stored scores instead (such as data/scores of two runs), and refuses scores of other articles or settings.
In Python: `from onesentence.evaluation.api import score, compare` (docs/evaluation.md).

Run     onesentence score --references refs.txt outputs.txt
        onesentence score --references refs.jsonl --documents articles.jsonl lead=a.txt ours=b.txt
        onesentence score --scores run1/data/scores/tuned/tuned.parquet second=run2/tuned.parquet
        onesentence score --references refs.txt --no-bertscore --output found.json outputs.txt
        onesentence score --references refs.txt --documents articles.txt --nli-model models/nli outputs.txt
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from onesentence.commands import documented
from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.escaping import visible
from onesentence.core.files import output_file, require_other_file
from onesentence.core.language import ENGLISH
from onesentence.core.rules import LANGUAGE
from onesentence.evaluation import comparison
from onesentence.evaluation.api import compare
from onesentence.evaluation.external import score_files
from onesentence.evaluation.metrics import HEADLINE, Scores, read_scores, require_comparable
from onesentence.evaluation.overlap.workers import OPTIONAL
from onesentence.evaluation.pinned_model import weights_sha256
from onesentence.report.sentences import clusters_phrase, difference_sentence, family_sentence
from onesentence.report.terminal import print_comparisons, print_scores


def named_files(values: tuple[str, ...]) -> dict[str, Path]:
    """Files by the system's name, from FILE or NAME=FILE; without a name, a file has its stem."""
    files: dict[str, Path] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not equals:
            name, path = Path(value).stem.replace("-", "_"), value
        if not (name and path) or "-" in name:
            raise UserError(f"SYSTEM: expected FILE or NAME=FILE, the name without '-', found {value!r}")
        if not name.isprintable():  # bytes outside the terminal's encoding arrive as surrogates
            raise UserError(f"SYSTEM: expected a name of printable characters, found {name!r}")
        if name in files:
            raise UserError(f"SYSTEM: {name!r} names two systems; give one of them another name: NAME=FILE")
        files[name] = Path(path)
    return files


NO_MODEL = "none"  # of --nli-model


def with_nli_model(settings: params.Evaluate, name: str) -> params.Evaluate:
    """The settings with the model in a folder, whatever its weights; without one if the name is `none`."""
    if name == NO_MODEL:
        return replace(settings, nli_model=None, nli_revision=None, nli_sha256=None)
    folder = Path(name)
    if not folder.is_dir():
        raise UserError(
            f"--nli-model: {name}: no such folder; name a model's folder, or {NO_MODEL}; for a model of the "
            f"hub, set evaluate.nli_model, nli_revision and nli_sha256 in {params.PARAMS_FILE}"
        )
    sha256 = weights_sha256(folder, name, "--nli-model")
    return replace(settings, nli_model=name, nli_revision=None, nli_sha256=sha256)


def settings_with(language: str | None, resamples: int | None, nli_model: str | None) -> params.Evaluate:
    """The `evaluate` section of params.yaml with the values of the options."""
    settings = params.load(("evaluate",)).evaluate
    if resamples is not None:
        if resamples < 100:
            raise UserError(f"--resamples: expected at least 100, found {resamples}")
        settings = replace(settings, resamples=resamples)
    if language is not None:
        if not LANGUAGE.accepts(language):
            raise UserError(f"--language: expected {LANGUAGE.expected}, found {language!r}")
        settings = replace(settings, language=language)
    if nli_model is not None:
        settings = with_nli_model(settings, nli_model)
    if settings.meteor_synonyms and settings.language != ENGLISH:
        raise UserError(
            "--language: evaluate.meteor_synonyms needs the language en, since WordNet is English; set it to "
            "false"
        )
    return settings


def stored_scores(files: dict[str, Path]) -> dict[str, Scores]:
    """Scores that `evaluate` or this command wrote; a UserError where one is not comparable with the
    first.
    """
    scores = {name: read_scores(path) for name, path in files.items()}
    for name, path in files.items():
        if not all("|unit:" in signature for signature in scores[name].signatures.values()):
            print(f"score: warning: {path}: no unit, so rows are taken as independent; score again")
    first = next(iter(scores))
    for name in list(scores)[1:]:
        require_comparable(scores[first], scores[name], first, name)
    return scores


@documented(__doc__)
@click.argument("systems", nargs=-1, required=True, metavar="SYSTEM...")
@click.option("--references", type=Path, help="One text a line, or .jsonl with `summary`.")
@click.option("--documents", type=Path, help="The articles: for copying, new n-grams, numbers and names.")
@click.option(
    "--groups", type=Path, help="The cluster of each article, one label a line; clusters are resampled whole."
)
@click.option("--scores", "stored", is_flag=True, help="The systems' files are stored scores.")
@click.option("--language", help="Replaces evaluate.language.")
@click.option("--resamples", type=int, help="Replaces evaluate.resamples.")
@click.option("--metric", "more", multiple=True, type=click.Choice(sorted(OPTIONAL)), help="One more metric.")
@click.option("--bertscore/--no-bertscore", default=True, help="Takes minutes for thousands of articles.")
@click.option(
    "--nli-model",
    metavar=f"FOLDER|{NO_MODEL}",
    help="Replaces evaluate.nli_model: what judges entailment by --documents; none leaves it out.",
)
@click.option("--output", help="Write the numbers to this file as JSON.")
def command(  # noqa: PLR0913 (click gives each option as an argument)
    systems: tuple[str, ...],
    references: Path | None,
    documents: Path | None,
    groups: Path | None,
    stored: bool,
    language: str | None,
    resamples: int | None,
    more: tuple[str, ...],
    bertscore: bool,
    nli_model: str | None,
    output: str | None,
) -> None:
    target = None if output is None else output_file(output)  # an error must come before the work
    files = named_files(systems)
    settings, test = settings_with(language, resamples, nli_model), None
    if stored:
        if references or documents or groups or more or nli_model or language or not bertscore:
            raise UserError(
                "--scores: the files have scores already; remove --references, --documents, --groups, "
                "--metric, --language, --no-bertscore and --nli-model"
            )
        if len(files) < 2:
            raise UserError("--scores: expected at least two systems, found one; name another file of scores")
        require_other_file(target, files.values())
        scores = stored_scores(files)
    else:
        if references is None:
            raise UserError("--references: missing; name the file that the systems are scored against")
        if nli_model not in (None, NO_MODEL) and documents is None:
            raise UserError("--nli-model: needs the articles; name their file with --documents")
        require_other_file(target, (references, documents, groups, *files.values()))
        scores, test = score_files(references, files, documents, groups, settings, bertscore, more)
    result = compare(scores, settings.resamples, settings.confidence)
    if test:
        result = {"n": result["n"], "test": test, **result}
    print_found(result, scores)
    if target:
        comparison.write_evaluation(target, result)


def print_found(result: dict[str, Any], scores: dict[str, Scores]) -> None:
    """Print tables of scores and differences, and sentences on the differences."""
    print_scores(result)
    warning = comparison.cluster_warning(comparison.sample_of(scores), result["resampling"]["unit"])
    if warning:
        print(f"score: warning: {visible(warning)}")
    if not result["comparisons"]:
        return
    print_comparisons(result)
    articles, confidence = visible(clusters_phrase(result)), result["confidence"]  # a file names its clusters
    for pair, entries in result["comparisons"].items():
        if HEADLINE in entries:  # else the two share other metrics alone, such as entailment
            left, _, right = pair.partition("-")
            print(difference_sentence(left, right, entries[HEADLINE], HEADLINE, articles, confidence))
    clusters = result["resampling"]["clusters"]
    print(family_sentence(result["comparisons"], result["resamples"], result["confidence"], clusters))
