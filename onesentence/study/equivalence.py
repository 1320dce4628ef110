"""Is a variant as good as the baseline? The tests of equivalence of a study that declares `within`.

Two one-sided tests (TOST, see evaluation.equivalence) with the standard error and the degrees of freedom of
the study's differences, in which the chance of articles and of seeds is.
"""

from typing import Any

from onesentence.evaluation.equivalence import DIFFERENT, EQUIVALENT, UNDECIDED, tost_confidence, verdict_of
from onesentence.evaluation.metrics import HEADLINE
from onesentence.evaluation.resampling import holm


def one_sided(entry: dict[str, Any], margin: float, confidence: float, effective: float) -> dict[str, Any]:
    """Return the 1 - 2 alpha interval of a difference, low and high, and two p-values.

    p: of the hypothesis that the distance is at least the margin, the larger of the one-sided ones; p_beyond:
    of the hypothesis that it is at most the margin. entry: value, se and df of `variance.contrast`. All four
    are None if the difference is undefined. effective: clusters of the test set, which must agree by
    chance where the difference is the same on all of them.
    """
    from scipy.stats import t as student  # not at the top: it takes half a second to load

    value, se, df = entry["value"], entry["se"], entry["df"]
    if value is None:
        return dict.fromkeys(("low", "high", "p", "p_beyond"))
    if not se:  # nothing varies: the same difference on every article
        chance = 0.5 ** (effective - 1)  # of coins that agree, as in evaluation.equivalence
        p, p_beyond = (1.0, chance) if abs(value) >= margin else (chance, 1.0)
        return {"low": value, "high": value, "p": p, "p_beyond": p_beyond}
    half = float(student.ppf(confidence, df) * se)
    # The smaller distance to an end of the margin has the larger p.
    within, beyond = (float(student.sf(side * (margin - abs(value)) / se, df)) for side in (1, -1))
    return {"low": value - half, "high": value + half, "p": within, "p_beyond": beyond}


def equivalences(
    variants: dict[str, dict[str, Any]], margin: float, confidence: float, effective: float
) -> dict[str, Any]:
    """Return the tests of a study: margin, confidence of the intervals, and each variant's test by name.

    variants: of metrics/studies/NAME.json; the baseline has no difference and no test. effective: as in
    `one_sided`. A variant's test has low, high, p and p_beyond (`one_sided`), p_holm, p_beyond_holm and the
    verdict. It is "equivalent" if p_holm is at most alpha, and "different" if p_beyond_holm is: the tests are
    made together, so their intervals alone would find too much.
    """
    tests = {
        name: one_sided(variant["difference"][HEADLINE], margin, confidence, effective)
        for name, variant in variants.items()
        if variant["difference"]
    }
    for key in ("p", "p_beyond"):
        for test, p in zip(tests.values(), holm([test[key] for test in tests.values()]), strict=True):
            test[f"{key}_holm"] = p
    for test in tests.values():
        test["verdict"] = verdict_of(test["low"], test["high"], margin)
        p = {EQUIVALENT: test["p_holm"], DIFFERENT: test["p_beyond_holm"]}.get(test["verdict"])
        if p is None or p > 1 - confidence:
            test["verdict"] = UNDECIDED
    return {"margin": margin, "confidence": tost_confidence(confidence), "variants": tests}
