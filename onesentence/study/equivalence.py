"""Is a variant as good as the baseline? The tests of equivalence of a study that declares `within`.

Two one-sided tests (TOST, see evaluation.equivalence) with the standard error and the degrees of freedom of
the study's differences, in which the chance of articles and of seeds is.
"""

from typing import Any

from onesentence.evaluation.equivalence import EQUIVALENT, UNDECIDED, tost_confidence, verdict_of
from onesentence.evaluation.metrics import HEADLINE
from onesentence.evaluation.resampling import holm


def one_sided(entry: dict[str, Any], margin: float, confidence: float) -> dict[str, Any]:
    """Return the 1 - 2 alpha interval of a difference, low and high, and p, the larger of the one-sided ones.

    entry: value, se and df of `variance.contrast`. All three are None if the difference is undefined.
    """
    from scipy.stats import t as student  # not at the top: it takes half a second to load

    value, se, df = entry["value"], entry["se"], entry["df"]
    if value is None:
        return {"low": None, "high": None, "p": None}
    if not se:  # nothing varies: the same difference on every article
        return {"low": value, "high": value, "p": float(abs(value) >= margin)}
    half = float(student.ppf(confidence, df) * se)
    # The smaller distance to an end of the margin has the larger p.
    p = float(student.sf((margin - abs(value)) / se, df))
    return {"low": value - half, "high": value + half, "p": p}


def equivalences(variants: dict[str, dict[str, Any]], margin: float, confidence: float) -> dict[str, Any]:
    """Return the tests of a study: margin, confidence of the intervals, and each variant's test by name.

    variants: of metrics/studies/NAME.json; the baseline has no difference and no test. A variant's test has
    low, high and p (`one_sided`), p_holm and the verdict. It is "equivalent" if p_holm is at most alpha: the
    tests are made together, so their intervals alone would find too much.
    """
    tests = {
        name: one_sided(variant["difference"][HEADLINE], margin, confidence)
        for name, variant in variants.items()
        if variant["difference"]
    }
    for test, p in zip(tests.values(), holm([test["p"] for test in tests.values()]), strict=True):
        test["p_holm"] = p
        test["verdict"] = verdict_of(test["low"], test["high"], margin)
        if test["verdict"] == EQUIVALENT and (p is None or p > 1 - confidence):
            test["verdict"] = UNDECIDED
    return {"margin": margin, "confidence": tost_confidence(confidence), "variants": tests}
