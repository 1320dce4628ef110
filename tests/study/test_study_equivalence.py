import pytest
from conftest import ROOT
from samples import RANKS, declared, study_result
from scipy import stats

from onesentence.core.errors import UserError
from onesentence.core.files import read_json, rounded
from onesentence.study.comparison import write_result
from onesentence.study.declaration import STUDIES_FILE, Studies
from onesentence.study.equivalence import equivalences, one_sided
from onesentence.study.sentences import equivalence_sentences, summarize_study


def entry(value, se=0.2, df=12.0):
    return {"value": value, "se": se, "df": df}


def variants(*entries):
    named = {f"v{k}": {"difference": {"rouge1": each}} for k, each in enumerate(entries)}
    return {"base": {"difference": {}}, **named}


def verdicts(*entries, margin=0.5):
    tests = equivalences(variants(*entries), margin, 0.95, 500)["variants"]
    return [test["verdict"] for test in tests.values()]


@pytest.mark.parametrize("value", [0.3, -0.3, 0.0, 0.7])
def test_p_is_the_larger_of_two_one_sample_t_tests(value):
    # Thirteen numbers with this mean and standard error: SciPy's one-sided tests against both ends.
    numbers = stats.zscore([1.0, 4, 2, 8, 5, 7, 1, 4, 2, 8, 5, 7, 3], ddof=1) * 0.2 * 13**0.5 + value
    below = stats.ttest_1samp(numbers, -0.5, alternative="greater")
    above = stats.ttest_1samp(numbers, 0.5, alternative="less")
    result = one_sided(entry(value), 0.5, 0.95, 500)
    assert result["p"] == pytest.approx(max(below.pvalue, above.pvalue))
    interval = stats.ttest_1samp(numbers, 0).confidence_interval(0.9)
    assert (result["low"], result["high"]) == pytest.approx(tuple(interval))


def test_verdicts():
    assert verdicts(entry(0.05, se=0.1), entry(0.4), entry(2.0)) == ["equivalent", "undecided", "different"]
    assert verdicts(entry(-2.0)) == ["different"]


def test_tests_made_together_are_corrected():
    alone = entry(0.12)  # p is 0.04 alone
    assert verdicts(alone) == ["equivalent"]
    assert verdicts(alone, entry(0.4), entry(0.45)) == ["undecided"] * 3
    farther = entry(0.88)  # p of being beyond the margin is 0.04 alone
    assert verdicts(farther) == ["different"]
    assert verdicts(farther, entry(0.4), entry(0.45)) == ["undecided"] * 3


def test_what_never_varies_is_decided_and_what_is_undefined_is_not():
    assert verdicts(entry(0.0, se=0.0, df=None)) == ["equivalent"]
    same = variants(entry(0.0, se=0.0, df=None))
    for effective, verdict in ((2, "undecided"), (5, "undecided"), (6, "equivalent"), (979, "equivalent")):
        tests = equivalences(same, 0.5, 0.95, effective)["variants"]
        assert [test["verdict"] for test in tests.values()] == [verdict]
    assert verdicts(entry(0.6, se=0.0, df=None)) == ["different"]
    assert verdicts(entry(0.5, se=0.0, df=None)) == ["undecided"]
    assert verdicts({"value": None, "se": None, "df": None}) == ["undecided"]


def test_sentence_names_each_verdict_and_only_where_a_margin_is_declared(tmp_path):
    result = study_result(0.0, 0.9) | {"settings": {}}
    assert equivalence_sentences(result) == []
    tested = variants(entry(0.05, se=0.1), entry(0.4), entry(2.0))
    result["equivalence"] = equivalences(tested, 0.5, 0.95, 500)
    assert equivalence_sentences(result) == [
        "Within 0.5 points of ROUGE-1 of a (test of equivalence): v0. "
        "More than 0.5 points of ROUGE-1 from a: v2. "
        "Too few articles or seeds to decide whether within 0.5 points of ROUGE-1 of the baseline a: v1."
    ]
    assert equivalence_sentences(result)[0] in summarize_study(result)
    result["equivalence"]["margin"] = 1
    assert equivalence_sentences(result)[0].startswith("Within 1 point of ROUGE-1 of a ")


def test_written_tests_follow_from_the_written_numbers(tmp_path):
    result = study_result(0.123456789, 0.9) | {"settings": {}}
    result["variants"]["b"]["difference"]["rouge1"] |= {"se": 0.0987654321, "df": 7.7777777777}
    for variant in result["variants"].values():
        variant["values"] = {}
    path = tmp_path / "s.json"
    write_result(path, result, 0.5)
    written = read_json(path)
    again = equivalences(written["variants"], 0.5, written["confidence"], written["n"])
    assert written["equivalence"] == rounded(again)
    write_result(path, result, None)
    assert "equivalence" not in read_json(path)


def test_committed_tests_follow_from_the_committed_numbers():
    study = Studies("models/phi-tiny", ROOT / STUDIES_FILE).study("quantization")
    result = read_json(ROOT / "metrics/studies/quantization.json")
    assert result["equivalence"] == rounded(
        equivalences(result["variants"], study.within, result["confidence"], result["n"])
    )


@pytest.mark.parametrize("margin", [0, -1, "0.5", True])
def test_margin_must_be_a_number_above_zero(tmp_path, margin):
    with pytest.raises(UserError, match="within: expected a number above 0"):
        declared(tmp_path, rank={**RANKS, "within": margin})


def test_margin_is_read_and_is_none_without_one(tmp_path):
    assert declared(tmp_path, rank={**RANKS, "within": 0.5}).study("rank").within == 0.5
    assert declared(tmp_path, rank=RANKS).study("rank").within is None
