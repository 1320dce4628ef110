"""Summarize the ratings of the report's blind mode: who wins how often, and whether the raters agree.

Reads   the files from "Download ratings" in the report, one for each rater and pair.
Writes  metrics/ratings.json.
This is no stage of the graph: `dvc repro` cannot repeat people's judgement, and nothing depends on it.

Run     onesentence rate ratings-anna.json ratings-ben.json
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

import click
import numpy as np
from numpy.typing import NDArray

from onesentence.commands import documented
from onesentence.core.errors import UserError
from onesentence.core.files import output_file, parse_json, require_other_file, write_json
from onesentence.evaluation.comparison import wilson_of
from onesentence.evaluation.resampling import Sample, summary_of
from onesentence.report.tables import interval

OUTPUT = Path("metrics/ratings.json")
FORMAT = "one-sentence ratings 1"  # onesentence/report/assets/report.js writes it
CRITERIA = ("overall", "fluency", "faithfulness", "coherence", "coverage")
# Constants here, because params.yaml has only what the stages of the graph read.
CONFIDENCE = 0.95
RESAMPLES = 2_000  # an end's standard error: sqrt(0.025 x 0.975 / 2,000) / 0.058 / 3.92 = 1.5% of the width


def check_file(value: Any, path: Path) -> dict[str, Any]:
    """The content of one file, or a UserError that names what is wrong with it."""
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        form = value.get("format") if isinstance(value, dict) else value
        raise UserError(f"{path}: format: expected {FORMAT!r}, found {form!r:.80}")
    for key, pattern, expected in (
        ("rater", r".*\S.*", "a name"),
        ("test", r"[0-9a-f]+", "a hash in hexadecimal"),
    ):
        if not isinstance(value.get(key), str) or not re.fullmatch(pattern, value[key]):
            raise UserError(f"{path}: {key}: expected {expected}, found {value.get(key)!r:.80}")
    pair, ratings = value.get("pair"), value.get("ratings")
    if not is_pair(pair):
        raise UserError(f"{path}: pair: expected the names of two different systems, found {pair!r:.80}")
    if not isinstance(ratings, list) or not ratings:
        raise UserError(f"{path}: ratings: expected a list of at least one rating, found {ratings!r:.80}")
    seen = set()
    for place, rating in enumerate(ratings, start=1):
        check_rating(rating, pair, f"{path}: rating {place}")
        if rating["id"] in seen:
            raise UserError(f"{path}: item {rating['id']!r}: expected one rating, found two")
        seen.add(rating["id"])
    return value


def is_pair(value: Any) -> TypeGuard[list[str]]:
    """Whether `value` names two systems, in letters, digits and _, since the result names a pair
    `left-right`.
    """
    if not isinstance(value, list) or len(value) != 2 or "equal" in value:
        return False
    return value[0] != value[1] and all(
        isinstance(name, str) and re.fullmatch(r"\w+", name) for name in value
    )


def check_rating(rating: Any, pair: list[str], where: str) -> None:
    """Raise a UserError unless a rating has an item's id and the winner of at least one criterion."""
    if not isinstance(rating, dict) or not isinstance(rating.get("id"), str):
        raise UserError(f"{where}: expected an item's `id` and its criteria, found {rating!r:.80}")
    where, known = f"{where}, item {rating['id']!r}", ", ".join(CRITERIA)
    if len(rating) == 1:
        raise UserError(f"{where}: expected at least one criterion of {known}, found none")
    for criterion, winner in rating.items():
        if criterion == "id":
            continue
        if criterion not in CRITERIA:
            raise UserError(f"{where}: expected a criterion of {known}, found {criterion!r}")
        if winner not in (*pair, "equal"):
            expected = f"{pair[0]!r}, {pair[1]!r} or 'equal'"
            raise UserError(f"{where}: {criterion}: expected {expected}, found {winner!r:.80}")


def read_ratings(path: Path) -> dict[str, Any]:
    """One rater's file, checked."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name a file of ratings") from error
    return check_file(parse_json(content, path, "name a file of ratings"), path)


def read_all(paths: Sequence[Path]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The content of the files by pair; a pair has the direction of its first file."""
    pairs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    seen: dict[tuple[str, frozenset[str]], Path] = {}
    test, first = None, None
    for path in paths:
        file = read_ratings(path)
        if test is None:
            test, first = file["test"], path
        if file["test"] != test:
            raise UserError(f"{path}: test: expected {test!r} as in {first}, found {file['test']!r}")
        left, right = file["pair"]
        key = (file["rater"], frozenset(file["pair"]))
        if key in seen:
            raise UserError(
                f"{path}: rater {file['rater']!r} rated {left} and {right} in {seen[key]} too; give one file "
                "for each rater and pair"
            )
        seen[key] = path
        pairs.setdefault((right, left) if (right, left) in pairs else (left, right), []).append(file)
    return pairs


def outcomes(files: list[dict[str, Any]], left: str, criterion: str) -> NDArray[np.float64]:
    """[raters, items]: 1 where `left` wins, 0.5 for a tie, 0 where it loses, NaN without a rating.

    Items are sorted by id, so that the order of the files changes no interval.
    """
    items = sorted({rating["id"] for file in files for rating in file["ratings"] if criterion in rating})
    values = np.full((len(files), len(items)), np.nan)
    for row, file in zip(values, files, strict=True):
        for rating in file["ratings"]:
            if criterion in rating:
                winner = rating[criterion]
                row[items.index(rating["id"])] = 0.5 if winner == "equal" else float(winner == left)
    return values


def agreement(values: NDArray[np.float64]) -> float | None:
    """Krippendorff's alpha of outcomes [raters, items], ordinal: a loss is closer to a tie than to a win.

    1 is agreement, 0 the agreement of chance, below 0 systematic disagreement (Krippendorff 2011, "Computing
    Krippendorff's Alpha-Reliability"; 2018, "Content Analysis", chapter 12). None where it is undefined:
    no item has two raters, so nothing can be compared; or all values are equal, so chance agrees as well and
    alpha is 0 / 0.
    """
    import krippendorff

    shared = values[:, (~np.isnan(values)).sum(axis=0) >= 2]
    if len(np.unique(shared[~np.isnan(shared)])) < 2:
        return None
    return float(krippendorff.alpha(reliability_data=shared, level_of_measurement="ordinal"))


def criterion_summary(values: NDArray[np.float64]) -> dict[str, Any]:
    """Counts, win rate (%) with its intervals, and agreement, of outcomes [raters, items].

    The win rate is the mean over items of the mean over raters, so that an item with more raters has no more
    weight. The intervals resample items, since the rate is meant for other items; where all items agree, they
    are Wilson's.
    """
    rated = values[~np.isnan(values)]
    means = 100 * np.nanmean(values, axis=0)
    rate = summary_of(means, RESAMPLES, CONFIDENCE)
    if np.ptp(means) == 0:  # every resample is equal: Wilson's interval is not a point
        rate |= wilson_of(means, 100.0, CONFIDENCE, Sample.independent(len(means)))
    return {
        "n": values.shape[1],
        "ratings": len(rated),
        "wins": int((rated == 1).sum()),
        "losses": int((rated == 0).sum()),
        "ties": int((rated == 0.5).sum()),
        "win_rate": rate["value"],
        **{key: rate[key] for key in ("low", "high", "bca_low", "bca_high")},
        "alpha": agreement(values),
    }


def summary(pairs: dict[tuple[str, str], list[dict[str, Any]]]) -> dict[str, Any]:
    """The content of metrics/ratings.json. A criterion that nobody rated is left out."""
    files = [file for group in pairs.values() for file in group]
    result: dict[str, Any] = {
        "test": files[0]["test"],
        "raters": len({file["rater"] for file in files}),
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "pairs": {},
    }
    for (left, right), group in pairs.items():
        ratings = {criterion: outcomes(group, left, criterion) for criterion in CRITERIA}
        result["pairs"][f"{left}-{right}"] = {
            "items": len({rating["id"] for file in group for rating in file["ratings"]}),
            "raters": len(group),
            "criteria": {
                criterion: criterion_summary(values) for criterion, values in ratings.items() if values.size
            },
        }
    return result


def lines(result: dict[str, Any]) -> list[str]:
    """One line for each pair and criterion, with units."""
    texts = []
    for pair, entry in result["pairs"].items():
        for criterion, row in entry["criteria"].items():
            alpha = "undefined" if row["alpha"] is None else f"{row['alpha']:.2f}"
            texts.append(
                f"{pair} {criterion}: win rate {row['win_rate']:.1f}% {interval(row, '.1f')}, "
                f"{row['wins']} wins, {row['ties']} ties, {row['losses']} losses on {row['n']} items by "
                f"{entry['raters']} raters, alpha {alpha}"
            )
    return texts


@documented(__doc__)
@click.argument("files", nargs=-1, required=True, type=Path, metavar="FILE...")
@click.option("--output", type=Path, default=OUTPUT, show_default=True, help="Where to write.")
def command(files: tuple[Path, ...], output: Path) -> None:
    target = output_file(str(output))  # an error must come before the work
    require_other_file(target, files)
    result = summary(read_all(files))
    write_json(target, result)
    print("\n".join(lines(result)))
    print(f"rate: {target}, {result['raters']} raters, {CONFIDENCE:.0%} intervals over items")
