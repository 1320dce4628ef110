"""Are the differences between systems real? Paired tests on what any systems wrote for the same articles.

Run     python -m onesentence.commands.significance --references FILE --system A=FILE --system B=FILE ...
        python -m onesentence.commands.significance --scores A=FILE --scores B=FILE ... [--output FILE]

The first form scores files of outputs (a text a line, or JSONL) with the stage `evaluate`'s code; the
second takes scores that it wrote (a file of data/scores, of two runs say), and refuses scores of other
articles or settings. Every system is compared with every one named after it; Holm's correction is over
all of these tests.
"""

import argparse
from itertools import combinations
from pathlib import Path

from onesentence.core import errors, params
from onesentence.core.errors import UserError
from onesentence.core.files import require_other_file
from onesentence.evaluation import comparison
from onesentence.evaluation.metrics import HEADLINE, Scores, read_scores, require_comparable
from onesentence.report.commandline import (
    add_options,
    print_comparisons,
    print_scores,
    score_files,
    with_options,
)
from onesentence.report.sentences import clusters_phrase, difference_sentence, family_sentence


def named_files(values: list[str], option: str) -> dict[str, Path]:
    """Paths by name of NAME=FILE values: at least two, no name twice."""
    found: dict[str, Path] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not (name and equals and path) or "-" in name:
            raise UserError(f"{option}: expected NAME=FILE, the name without '-', found {value!r}")
        if not name.isprintable():  # bytes that the terminal's encoding does not have arrive as surrogates
            raise UserError(f"{option}: expected a name of printable characters, found {name!r}")
        if name in found:
            raise UserError(f"{option}: the name {name!r} stands twice")
        found[name] = Path(path)
    if len(found) < 2:
        raise UserError(f"{option}: give at least two systems, found {len(found)}")
    return found


def scores_of_outputs(arguments: argparse.Namespace, settings) -> dict[str, Scores]:
    """Scores of files of outputs."""
    if arguments.references is None:
        raise UserError("--system needs --references FILE, what the systems are scored against")
    files = named_files(arguments.system, "--system")
    return score_files(arguments, files, settings)[0]


def stored_scores(arguments: argparse.Namespace) -> dict[str, Scores]:
    """Scores that `evaluate` wrote; all must be comparable with the first."""
    if arguments.references or arguments.documents or arguments.groups:
        raise UserError("--scores holds scores already: leave --references, --documents and --groups out")
    files = named_files(arguments.scores, "--scores")
    require_other_file(arguments.output, files.values())
    found = {name: read_scores(path) for name, path in files.items()}
    for name, path in files.items():
        if not all("|unit:" in signature for signature in found[name].signatures.values()):
            print(f"significance: warning: {path} names no unit: rows are taken as independent; score again")
    first = next(iter(found))
    for name in list(found)[1:]:
        require_comparable(found[first], found[name], first, name)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m onesentence.commands.significance", description=__doc__.split("\n")[0]
    )
    add_options(parser)
    parser.add_argument("--system", action="append", default=[], metavar="NAME=FILE", help="outputs")
    parser.add_argument("--scores", action="append", default=[], metavar="NAME=FILE", help="stored scores")
    arguments = parser.parse_args()
    if bool(arguments.system) == bool(arguments.scores):
        raise UserError("give systems either as --system NAME=FILE or as --scores NAME=FILE")
    settings = with_options(params.load(("evaluate",)).evaluate, arguments)
    scores = scores_of_outputs(arguments, settings) if arguments.system else stored_scores(arguments)

    pairs = list(combinations(scores, 2))
    sums = comparison.resampled(scores, settings.resamples)
    found = {
        "n": len(next(iter(scores.values())).ids),
        "confidence": settings.confidence,
        "resamples": settings.resamples,
        "resampling": comparison.described_sample(scores),
        "metrics": comparison.definitions(scores),
        "systems": comparison.summaries(scores, sums, settings.confidence),
        "comparisons": comparison.comparisons(scores, pairs, sums, settings.resamples, settings.confidence),
    }
    print_scores(found)
    print_comparisons(found)
    warning = comparison.cluster_warning(comparison.sample_of(scores), found["resampling"]["unit"])
    if warning:
        print(f"significance: warning: {warning}")
    for left, right in pairs:
        entry = found["comparisons"][f"{left}-{right}"][HEADLINE]
        print(difference_sentence(left, right, entry, HEADLINE, clusters_phrase(found), settings.confidence))
    print(family_sentence(found["comparisons"], settings.resamples, settings.confidence))
    if arguments.output:
        comparison.write_evaluation(arguments.output, found)


if __name__ == "__main__":
    errors.run(main)
