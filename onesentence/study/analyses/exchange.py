"""What is a larger model worth in data?"""

import itertools

from onesentence.core.errors import UserError
from onesentence.evaluation.comparison import is_real
from onesentence.study import variance
from onesentence.study.analyses.analysis import Analysis
from onesentence.study.measured import Measured
from onesentence.study.phrases import between, would_show
from onesentence.study.variants import Study


def numbers(study: Study, measured: Measured, confidence: float) -> dict:
    """Each series with more data against the next one with less: from one size to the next, and to the last.

    Series are declared from the smallest model to the largest, with the same sizes of data. An empty series
    has no partner.
    """
    found = []
    for smaller, larger in itertools.pairwise(study.series.values()):
        if not smaller:
            continue
        for less in range(len(larger) - 1):
            for more in sorted({less + 1, len(smaller) - 1}):
                names = smaller[more].name, larger[less].name
                entry = variance.difference(*(measured.headline(name) for name in names), confidence)
                found.append({"smaller": names[0], "larger": names[1], **entry})
    variance.adjust_holm(found, confidence)
    return {"exchanges": found}


def sentences(found: dict) -> list[str]:
    """How many pairs are decided, and each of them."""
    exchanges, confidence = found["analysis"].get("exchanges", []), found["confidence"]
    if not exchanges:
        return []
    real = [entry["value"] > 0 for entry in exchanges if is_real(entry, confidence)]
    said = [
        f"Of {len(exchanges)} pairs of a model with more data and the next larger one with less, the "
        f"smaller is better in {real.count(True)}, the larger in {real.count(False)}, and neither was "
        f"shown to be in {len(exchanges) - len(real)}."
    ]
    for entry in exchanges:
        if is_real(entry, confidence):
            better = "smaller model with more data" if entry["value"] > 0 else "larger model"
            end = f"the {better} is better"
        else:
            end = f"not distinguishable, {would_show(entry)}"
        said.append(f"{entry['smaller']} against {entry['larger']}: {between(entry)}: {end}.")
    return said


def check(where: str, study: Study) -> None:
    """Raise a UserError unless every series has the same sizes."""
    sizes = {tuple(member.values[study.along] for member in members) for members in study.series.values()}
    if len(sizes) > 1:
        raise UserError(f"{where}.series: exchange compares series of the same {study.along}, found others")


ANALYSIS = Analysis(numbers, sentences, follows_a_key=True, check=check)
