"""Put the ratings of the report's blind mode together: who wins how often, and do the raters agree.

Reads   the files that "Download ratings" in the report gave, one for each rater and pair.
Writes  metrics/ratings.json.
No stage of the graph: people's judgement is not made again by `dvc repro`, and nothing depends on it.

Run     onesentence rate ratings-anna.json ratings-ben.json
"""

import json
import re
from pathlib import Path

import click
import numpy as np

from onesentence.commands import documented
from onesentence.core.errors import UserError
from onesentence.core.files import output_file, require_other_file, write_json
from onesentence.evaluation.resampling import summary_of
from onesentence.report.tables import interval

OUTPUT = Path("metrics/ratings.json")
FORMAT = "one-sentence ratings 1"  # onesentence/report/assets/report.js writes it
CRITERIA = ("overall", "fluency", "faithfulness", "coherence", "coverage")
# Constants, since params.yaml holds what the stages of the graph read.
CONFIDENCE = 0.95
RESAMPLES = 2_000  # an end's standard error: sqrt(0.025 x 0.975 / 2,000) / 0.058 / 3.92 = 1.5% of the width


def check_file(value, path: Path) -> dict:
    """The content of one file, or a UserError that names what is wrong with it."""
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        found = value.get("format") if isinstance(value, dict) else value
        raise UserError(f"{path}: format: found {found!r:.80}, expected {FORMAT!r}")
    for key, pattern, expected in (
        ("rater", r".*\S.*", "a name"),
        ("test", r"[0-9a-f]+", "a hash in hexadecimal"),
    ):
        if not isinstance(value.get(key), str) or not re.fullmatch(pattern, value[key]):
            raise UserError(f"{path}: {key}: found {value.get(key)!r:.80}, expected {expected}")
    pair, ratings = value.get("pair"), value.get("ratings")
    if not is_pair(pair):
        raise UserError(f"{path}: pair: found {pair!r:.80}, expected the names of two different systems")
    if not isinstance(ratings, list) or not ratings:
        raise UserError(f"{path}: ratings: found {ratings!r:.80}, expected a list with ratings in it")
    seen = set()
    for place, rating in enumerate(ratings, start=1):
        check_rating(rating, pair, f"{path}: rating {place}")
        if rating["id"] in seen:
            raise UserError(f"{path}: item {rating['id']!r}: rated twice, expected each item once")
        seen.add(rating["id"])
    return value


def is_pair(value) -> bool:
    """Whether `value` names two systems, in letters, digits and _: the result names a pair left-right."""
    if not isinstance(value, list) or len(value) != 2 or "equal" in value:
        return False
    return value[0] != value[1] and all(
        isinstance(name, str) and re.fullmatch(r"\w+", name) for name in value
    )


def check_rating(rating, pair: list[str], where: str) -> None:
    """Refuse a rating that is not one item's id and at least one criterion's winner."""
    if not isinstance(rating, dict) or not isinstance(rating.get("id"), str):
        raise UserError(f"{where}: found {rating!r:.80}, expected an item's `id` and its criteria")
    where, known = f"{where}, item {rating['id']!r}", ", ".join(CRITERIA)
    if len(rating) == 1:
        raise UserError(f"{where}: no criterion is rated, expected one or more of {known}")
    for criterion, winner in rating.items():
        if criterion == "id":
            continue
        if criterion not in CRITERIA:
            raise UserError(f"{where}: unknown criterion {criterion!r}, expected one of {known}")
        if winner not in (*pair, "equal"):
            expected = f"{pair[0]!r}, {pair[1]!r} or 'equal'"
            raise UserError(f"{where}: {criterion}: found {winner!r:.80}, expected {expected}")


def read_ratings(path: Path) -> dict:
    """One rater's file, checked."""
    try:
        return check_file(json.loads(path.read_text(encoding="utf-8")), path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}, expected a file of ratings") from error
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ones
        raise UserError(f"{path}: not JSON ({error}), expected a file of ratings") from error


def read_all(paths: list[Path]) -> dict[tuple[str, str], list[dict]]:
    """Files by pair; a pair has the direction of the first file that holds it."""
    pairs: dict[tuple[str, str], list[dict]] = {}
    seen: dict[tuple, Path] = {}
    test, first = None, None
    for path in paths:
        file = read_ratings(path)
        if test is None:
            test, first = file["test"], path
        if file["test"] != test:
            raise UserError(f"{path}: test: found {file['test']!r}, expected {test!r} as in {first}")
        left, right = file["pair"]
        key = (file["rater"], frozenset(file["pair"]))
        if key in seen:
            raise UserError(
                f"{path}: rater {file['rater']!r} rated {left} and {right} in {seen[key]} too, expected one "
                "file for each rater and pair"
            )
        seen[key] = path
        pairs.setdefault((right, left) if (right, left) in pairs else (left, right), []).append(file)
    return pairs


def outcomes(files: list[dict], left: str, criterion: str) -> np.ndarray:
    """[raters, items]: 1 where `left` wins, 0.5 at a tie, 0 where it loses, NaN where nothing was said.

    Items are sorted by id, so that the order of the files moves no interval.
    """
    items = sorted({rating["id"] for file in files for rating in file["ratings"] if criterion in rating})
    values = np.full((len(files), len(items)), np.nan)
    for row, file in zip(values, files, strict=True):
        for rating in file["ratings"]:
            if criterion in rating:
                winner = rating[criterion]
                row[items.index(rating["id"])] = 0.5 if winner == "equal" else float(winner == left)
    return values


def agreement(values: np.ndarray) -> float | None:
    """Krippendorff's alpha of outcomes [raters, items], ordinal: a loss is nearer to a tie than to a win.

    1 is agreement, 0 what chance gives, below 0 systematic disagreement (Krippendorff 2011, "Computing
    Krippendorff's Alpha-Reliability"; 2018, "Content Analysis", chapter 12). None where it is undefined:
    no item has two raters, so nothing can be compared; or all their values are equal, so that chance would
    agree as well and alpha is 0 / 0.
    """
    import krippendorff

    shared = values[:, (~np.isnan(values)).sum(axis=0) >= 2]
    if len(np.unique(shared[~np.isnan(shared)])) < 2:
        return None
    return float(krippendorff.alpha(reliability_data=shared, level_of_measurement="ordinal"))


def criterion_summary(values: np.ndarray) -> dict:
    """Counts, win rate (%) with its intervals, and agreement, of outcomes [raters, items].

    The win rate is the mean over items of the mean over raters: an item with more raters weighs no more,
    and the intervals resample items, since it is other items that the rate is to hold for.
    """
    given = values[~np.isnan(values)]
    rate = summary_of(100 * np.nanmean(values, axis=0), RESAMPLES, CONFIDENCE)
    return {
        "n": values.shape[1],
        "ratings": len(given),
        "wins": int((given == 1).sum()),
        "losses": int((given == 0).sum()),
        "ties": int((given == 0.5).sum()),
        "win_rate": rate["value"],
        **{key: rate[key] for key in ("low", "high", "bca_low", "bca_high")},
        "alpha": agreement(values),
    }


def summary(pairs: dict[tuple[str, str], list[dict]]) -> dict:
    """What metrics/ratings.json holds. A criterion that nobody rated is left out."""
    files = [file for group in pairs.values() for file in group]
    result = {
        "test": files[0]["test"],
        "raters": len({file["rater"] for file in files}),
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "pairs": {},
    }
    for (left, right), group in pairs.items():
        found = {criterion: outcomes(group, left, criterion) for criterion in CRITERIA}
        result["pairs"][f"{left}-{right}"] = {
            "items": len({rating["id"] for file in group for rating in file["ratings"]}),
            "raters": len(group),
            "criteria": {
                criterion: criterion_summary(values) for criterion, values in found.items() if values.size
            },
        }
    return result


def lines(result: dict) -> list[str]:
    """One line for each pair and criterion, with units."""
    found = []
    for pair, entry in result["pairs"].items():
        for criterion, row in entry["criteria"].items():
            alpha = "undefined" if row["alpha"] is None else f"{row['alpha']:.2f}"
            found.append(
                f"{pair} {criterion}: win rate {row['win_rate']:.1f}% {interval(row, '.1f')}, "
                f"{row['wins']} wins, {row['ties']} ties, {row['losses']} losses on {row['n']} items by "
                f"{entry['raters']} raters, alpha {alpha}"
            )
    return found


@documented(__doc__)
@click.argument("files", nargs=-1, required=True, type=Path, metavar="FILE...")
@click.option("--output", type=Path, default=OUTPUT, show_default=True, help="Where to write.")
def command(files: tuple[Path, ...], output: Path) -> None:
    output = output_file(str(output))  # before the work
    require_other_file(output, files)
    result = summary(read_all(files))
    write_json(output, result)
    print("\n".join(lines(result)))
    print(f"rate: {output}, {result['raters']} raters, {CONFIDENCE:.0%} intervals over items")
