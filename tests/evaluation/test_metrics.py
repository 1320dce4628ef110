"""Declarations of metrics, stored scores, which scores may be compared, and the sentences of real outputs."""

import json
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sacrebleu
from scipy import stats

from onesentence.core.errors import UserError
from onesentence.core.text import first_sentence
from onesentence.evaluation import comparison, metrics, scoring
from onesentence.evaluation.comparison import (
    comparisons,
    definitions,
    failure_bias,
    is_significant,
    resampled,
    summaries,
)
from onesentence.evaluation.extraction import Article
from onesentence.evaluation.metrics import (
    CORPUS,
    HEADLINE,
    KINDS,
    METRICS,
    QUALITY,
    Scores,
    read_scores,
    require_comparable,
    require_equal_signatures,
    write_scores,
)
from onesentence.evaluation.overlap.workers import OPTIONAL
from onesentence.evaluation.resampling import difference_of, wilson_interval
from onesentence.evaluation.scoring import score_references, score_systems, signed
from onesentence.report.sentences import summarize_evaluation

SETTINGS = SimpleNamespace(language="en", meteor_synonyms=False)
N = 40
RESAMPLES = 400


@pytest.fixture(scope="module")
def articles(pairs) -> dict:
    """40 docstrings: ids, references, documents, and the outputs of three systems, some of them failed."""
    rows = pairs[:N]
    bodies = [row["document"].partition("\n\n")[2] for row in rows]
    references = [row["summary"] for row in rows]
    halves = [" ".join(text.split()[: max(1, len(text.split()) // 2)]) for text in references]
    failed = [*references[:4], "", " \n", "...", *halves[7:]]  # the text of a failed output must not count
    return {
        "ids": [row["id"] for row in rows],
        "references": references,
        "documents": [Article(body, row["document"]) for body, row in zip(bodies, rows, strict=True)],
        "outputs": {
            "lead": [first_sentence(body, "en") for body in bodies],
            "halves": halves,
            "failing": failed,
        },
        "succeeded": {"lead": [True] * N, "halves": [True] * N, "failing": [k >= 4 for k in range(N)]},
    }


@pytest.fixture(scope="module")
def scores(articles) -> dict[str, Scores]:
    keys = ("ids", "references", "outputs", "succeeded", "documents")
    stopped = {"stopped": np.array([100.0, 0.0] * (N // 2)), "echo": np.zeros(N)}
    return score_systems(
        *(articles[key] for key in keys), SETTINGS, bertscore=False, behaviour={"failing": stopped}
    )


@pytest.fixture(scope="module")
def sums(scores) -> dict:
    return resampled(scores, RESAMPLES)


@pytest.fixture(scope="module")
def compared(scores, sums) -> dict:
    return comparisons(scores, [("lead", "failing"), ("halves", "lead")], sums, RESAMPLES, 0.95)


def message_of(call, *arguments) -> str:
    with pytest.raises(UserError) as raised:
        call(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# Declarations.


def test_every_metric_declares_title_unit_direction_and_range():
    for metric in METRICS.values():
        assert metric.title and metric.unit and metric.kind in KINDS
        assert metric.direction in ("higher", "lower", "none")
        assert metric.low is not None and (metric.high is None or metric.low < metric.high)
    assert len({metric.title for metric in METRICS.values()}) == len(METRICS)
    assert set(QUALITY) == {name for name, metric in METRICS.items() if metric.kind == "quality"}
    assert HEADLINE in QUALITY and {METRICS[name].direction for name in QUALITY} == {"higher"}
    assert {name for name, metric in METRICS.items() if metric.corpus} == set(CORPUS)


def test_every_score_is_declared_and_within_its_range(scores, articles):
    of_references = score_references(*(articles[key] for key in ("ids", "references", "documents")))
    seen = set()
    for system in [*scores.values(), of_references]:
        assert {*system.columns, *system.corpus} == set(system.metrics()) == set(system.signatures)
        seen |= set(system.metrics())
        for name, values in system.columns.items():
            metric = METRICS[name]
            defined = values[~np.isnan(values)]
            assert len(values) == N
            assert len(defined) > 0 or name == "number_precision"  # no number in 40 short texts
            assert (defined >= metric.low - 1e-9).all()
            assert metric.high is None or (defined <= metric.high + 1e-9).all()
        for name in system.corpus:
            value = metrics.aggregate(name)(system.statistics(name).sum(axis=0))
            assert METRICS[name].low <= value <= METRICS[name].high
    assert seen == set(METRICS) - OPTIONAL - {"bertscore", "entailment"}


def test_definitions_have_the_declaration_and_the_signature(scores):
    declared = definitions(scores)
    assert tuple(declared) == KINDS
    flat = {name: entry for kind in declared.values() for name, entry in kind.items()}
    assert set(flat) == set(METRICS) - OPTIONAL - {"bertscore", "entailment"}  # only one system has "stopped"
    for name, entry in flat.items():
        metric = METRICS[name]
        assert (entry["title"], entry["unit"]) == (metric.title, metric.unit)
        assert (entry["direction"], entry["range"]) == (metric.direction, [metric.low, metric.high])
        assert entry["signature"].startswith(f"{name}|") and f"|n:{N}|unit:row|test:" in entry["signature"]
    json.dumps(declared, allow_nan=False)


# Failures.


def test_a_failed_or_empty_output_scores_0_and_stays_in_every_mean(scores, articles, sums):
    system = scores["failing"]
    failed = [0, 1, 2, 3, 4, 5]  # four copies of their reference, "", blanks
    for name in set(QUALITY) - OPTIONAL:
        if name in system.columns:
            values = system.columns[name]
            assert not values[failed].any() and values[7:].any()
        elif name in system.corpus:
            by_article = metrics.aggregate(name)(system.statistics(name))
            assert not by_article[failed].any() and by_article[7:].any()
    assert system.columns["success_rate"].tolist() == [0] * 6 + [1] * (N - 6)
    assert np.flatnonzero(system.columns["empty"]).tolist() == [4, 5]
    summary = summaries(scores, sums, 0.95)["failing"]
    assert summary["success_rate"]["value"] == (N - 6) / N
    low, high = wilson_interval(N - 6, N, 0.95)
    assert (summary["success_rate"]["low"], summary["success_rate"]["high"]) == (low, high)
    assert summary["rouge1"]["value"] == pytest.approx(system.columns["rouge1"][6:].sum() / N, abs=1e-6)
    judged = [""] * 6 + articles["outputs"]["failing"][6:]
    assert summary["bleu"]["value"] == pytest.approx(
        sacrebleu.corpus_bleu(judged, [articles["references"]]).score
    )
    assert summary["chrf"]["value"] == pytest.approx(
        sacrebleu.corpus_chrf(judged, [articles["references"]]).score
    )


def test_the_text_of_a_failed_output_is_still_described(scores):
    words = scores["failing"].columns["words"]
    assert words[:4].all() and words[4:7].tolist() == [0, 0, 0]
    assert np.isnan(scores["failing"].columns["coverage"][4:7]).all()


def test_the_bias_of_failures_is_scipys():
    lengths = np.array([100, 200, 300, 400, 500, 600, 700, 800])
    succeeded = np.array([True, True, True, False, True, False, True, False])
    bias = failure_bias(succeeded, lengths)
    failed, ok = lengths[~succeeded], lengths[succeeded]
    # Of 3 x 5 pairs the failed one is longer in 3 + 4 + 5.
    assert bias["longer"] == 12 / 15
    assert (bias["failed"], bias["median_words_failed"], bias["median_words_ok"]) == (3, 600, 300)
    # The exact two-sided p: how many choices of 3 of 8 are as biased, either way.
    leans = [sum(a > b for a in pick for b in set(lengths) - set(pick)) for pick in combinations(lengths, 3)]
    assert bias["p"] == pytest.approx(np.mean([abs(lean - 7.5) >= 12 - 7.5 for lean in leans]))
    assert bias["p"] == pytest.approx(stats.mannwhitneyu(failed, ok).pvalue)


def test_a_bias_to_short_articles_is_detected_too():
    lengths = np.arange(60)
    bias = failure_bias(lengths >= 10, lengths)
    assert bias["longer"] == 0 and bias["p"] < 0.001
    assert failure_bias(lengths < 50, lengths)["longer"] == 1
    assert failure_bias(lengths % 2 == 0, np.full(60, 7)) == {
        "failed": 30,
        "median_words_failed": 7,
        "median_words_ok": 7,
        "longer": 0.5,
        "p": 1,
    }


@pytest.mark.parametrize(("succeeded", "failed"), [(True, 0), (False, 9)])
def test_the_bias_is_undefined_if_all_or_none_failed(succeeded, failed):
    bias = failure_bias(np.full(9, succeeded), np.arange(9))
    assert bias.pop("failed") == failed
    assert set(bias.values()) == {None}


# Stored scores.


def test_scores_are_read_as_they_were_written(scores, tmp_path):
    for name, system in scores.items():
        path = tmp_path / f"{name}.parquet"
        write_scores(path, system, {"text": pa.array(["x"] * N, pa.string())})
        back = read_scores(path)
        assert (back.ids, back.signatures) == (system.ids, system.signatures)
        assert list(back.metrics()) == list(system.metrics())
        for metric, values in system.columns.items():
            assert np.isnan(back.columns[metric]).tolist() == np.isnan(values).tolist()
            assert back.columns[metric] == pytest.approx(values, abs=1e-6, nan_ok=True)
            # Numbers computed from them do not change when they are written and read.
            assert np.array_equal(back.statistics(metric), system.statistics(metric))
        for metric, counts in system.corpus.items():
            assert np.array_equal(back.corpus[metric], counts)
        assert pq.read_table(path)["text"].to_pylist() == ["x"] * N
    assert np.isnan(read_scores(tmp_path / "failing.parquet").columns["novel_4"]).any()


def test_equal_scores_are_equal_bytes(scores, tmp_path):
    for name in ("a", "b"):
        write_scores(tmp_path / name, scores["failing"], {})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "kind", ["text", "empty", "bare parquet", "other notes", "no id", "missing", "folder"]
)
def test_a_file_without_scores_is_refused(kind, tmp_path):
    path = tmp_path / "scores.parquet"
    table = pa.table({"rouge1": [1.0]})
    if kind == "text":
        path.write_text("id,rouge1\na,1\n")
    elif kind == "empty":
        path.touch()
    elif kind == "bare parquet":
        pq.write_table(table, path)
    elif kind == "other notes":
        pq.write_table(table.replace_schema_metadata({"signatures": "{broken"}), path)
    elif kind == "no id":
        pq.write_table(table.replace_schema_metadata({"signatures": "{}"}), path)
    elif kind == "folder":
        path.mkdir()
    assert message_of(read_scores, path).startswith(f"{path}: ")


# Signatures.

SIGNED = "rouge1|F1|stemmer:yes|tokens:rouge_score|rouge_score:0.1.2|n:10|test:0123456789abcdef"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("stemmer:yes", "stemmer:no", "stemmer is yes in A and no in B"),
        ("rouge_score:0.1.2", "rouge_score:0.2", "rouge_score is 0.1.2 in A and 0.2 in B"),
        ("n:10", "n:12", "number of articles is 10 in A and 12 in B"),
        ("0123456789abcdef", "ff", "test set (ids and references) is 0123456789abcdef in A and ff in B"),
        ("|stemmer:yes", "", "stemmer is yes in A and missing in B"),
        ("F1|", "F1|split:yes|", "split is missing in A and yes in B"),
        ("|F1", "|recall", "F1 is yes in A and missing in B, recall is missing in A and yes in B"),
    ],
)
def test_a_difference_in_settings_is_refused_and_named(old, new, expected):
    message = message_of(require_equal_signatures, SIGNED, SIGNED.replace(old, new, 1), "A", "B")
    assert message.startswith("rouge1: ") and f": {expected}; " in message
    require_equal_signatures(SIGNED, SIGNED, "A", "B")


def test_the_test_sets_hash_depends_on_ids_references_and_order():
    ids, references = ["a", "b"], ["one", "two"]
    usual = metrics.test_hash(ids, references)
    assert usual == metrics.test_hash(list(ids), list(references)) and len(usual) == 16
    others = [(["a", "c"], references), (ids, ["one", "too"]), (ids[::-1], references[::-1])]
    assert len({usual, *(metrics.test_hash(*other) for other in others)}) == 4
    assert metrics.test_hash(["a"], ["b\ud83d"]) != metrics.test_hash(["a"], ["b"])  # a lone surrogate
    with pytest.raises(ValueError, match="zip"):
        metrics.test_hash(["a"], references)


def scored(articles: dict, **changes) -> Scores:
    """The scores of the system "halves" on changed test data."""
    used = {key: articles[key] for key in ("ids", "references")} | changes
    return score_systems(
        used["ids"],
        used["references"],
        {"halves": articles["outputs"]["halves"][: len(used["ids"])]},
        {"halves": [True] * len(used["ids"])},
        None,
        SETTINGS,
        bertscore=False,
        behaviour={},
    )["halves"]


def test_scores_of_other_articles_are_refused(articles, scores):
    usual = scored(articles)
    shared = require_comparable(usual, scores["lead"], "A", "B")
    assert set(shared) == set(usual.metrics()) < set(scores["lead"].metrics())  # without documents: fewer
    other = [*articles["references"][:-1], "Another."]
    assert "test set (ids and references) is" in message_of(
        require_comparable, usual, scored(articles, references=other), "A", "B"
    )
    fewer = scored(articles, ids=articles["ids"][:-1], references=articles["references"][:-1])
    message = message_of(require_comparable, usual, fewer, "A", "B")
    assert f"number of articles is {N} in A and {N - 1} in B" in message
    turned = scored(articles, ids=articles["ids"][::-1], references=articles["references"][::-1])
    assert "test set" in message_of(require_comparable, usual, turned, "A", "B")
    with pytest.raises(UserError, match="different orders"):
        require_comparable(usual, Scores(usual.ids[::-1], usual.columns, {}, usual.signatures), "A", "B")


def test_systems_without_a_common_metric_are_refused(articles, scores):
    nothing = Scores(articles["ids"], {}, {}, {})
    assert "A and B have no metric" in message_of(require_comparable, scores["lead"], nothing, "A", "B")
    of_references = score_references(*(articles[key] for key in ("ids", "references", "documents")))
    two = {"lead": scores["lead"], "reference": of_references}
    message = message_of(comparisons, two, [("lead", "reference")], resampled(two, 100), 100, 0.95)
    assert "lead and reference have no quality metric" in message


# Comparisons.


def test_a_comparison_is_the_paired_test_of_each_metric(scores, compared):
    for pair, entries in compared.items():
        left, right = (scores[name] for name in pair.split("-"))
        assert set(entries) == set(QUALITY) - OPTIONAL - {"bertscore"}
        for name, entry in entries.items():
            if name in CORPUS:
                values = [metrics.aggregate(name)(s.statistics(name).sum(axis=0)) for s in (left, right)]
                assert entry["value"] == pytest.approx(values[0] - values[1])
                continue
            # The numbers of the metric by itself: no metric changes another's resamples or exchanges.
            alone = difference_of(left.columns[name], right.columns[name], RESAMPLES, 0.95)
            assert {key: value for key, value in entry.items() if key != "p_holm"} == alone


def test_holms_correction_is_over_every_pair_and_metric(compared):
    entries = [entry for pair in compared.values() for entry in pair.values()]
    tests = len(entries)
    assert tests == 2 * (len(QUALITY) - len(OPTIONAL) - 1)
    ranked = sorted(entries, key=lambda entry: entry["p_randomization"])
    highest = 0.0
    for left, entry in zip(range(tests, 0, -1), ranked, strict=True):
        highest = max(highest, min(1.0, left * entry["p_randomization"]))
        assert entry["p_holm"] == pytest.approx(highest)
    assert ranked[-1]["p_holm"] > 0.05
    assert ranked[0]["p_holm"] == pytest.approx(min(1, tests * ranked[0]["p_randomization"]))


def test_intervals_of_a_system_do_not_depend_on_who_else_is_scored(scores, sums):
    together = summaries(scores, sums, 0.95)
    alone = {"halves": scores["halves"]}
    assert summaries(alone, resampled(alone, RESAMPLES), 0.95)["halves"] == together["halves"]
    json.dumps(together, allow_nan=False)


def test_an_undefined_metric_is_null(articles):
    nothing = Scores(articles["ids"], {"number_precision": np.full(N, np.nan)}, {}, {})
    system = {"x": signed(nothing, {}, "0")}
    entry = summaries(system, resampled(system, 100), 0.95)["x"]["number_precision"]
    assert entry == dict.fromkeys(("value", "low", "high", "bca_low", "bca_high", "design_effect"))


def test_significance_is_decided_at_the_confidence_itself():
    assert is_significant({"p_holm": 0.05}, 0.95) and not is_significant({"p_holm": 0.0501}, 0.95)
    assert is_significant({"p_holm": 0.1}, 0.9) and not is_significant({"p_holm": None}, 0.9)


def test_the_verdict_says_what_the_numbers_of_real_outputs_say(articles, scores):
    """From outputs to sentences: halves of the references against leads; none failed."""
    renamed = {"tuned": scores["halves"], "lead": scores["lead"], "base": scores["failing"]}
    renamed["reference"] = score_references(*(articles[k] for k in ("ids", "references", "documents")))
    drawn = resampled(renamed, 2_000)
    lengths = np.array([len(document.words) for document in articles["documents"]])
    succeeded = {name: renamed[name].columns["success_rate"] > 0 for name in ("base", "tuned")}
    found = {
        "n": N,
        "confidence": 0.95,
        "resamples": 2_000,
        "resampling": comparison.described_sample(renamed),
        "systems": summaries(renamed, drawn, 0.95),
        "comparisons": comparisons(renamed, [("tuned", "lead")], drawn, 2_000, 0.95),
        "failure_bias": {
            "document_words": {name: failure_bias(ok, lengths) for name, ok in succeeded.items()}
        },
    }
    gain = found["comparisons"]["tuned-lead"]["rouge1"]
    assert gain["value"] > 30 and gain["p_holm"] < 0.05  # half of a reference against a first sentence
    said = summarize_evaluation(found)
    assert said[0].startswith(
        f"The fine-tuned model gains {gain['value']:.2f} points of ROUGE-1 over the first sentence (lead)"
    )
    assert said[1] == "Intervals and tests resample single articles and treat them as independent."
    assert said[2] == "Holm's correction covers all 9 tests (1 comparison)."
    assert "copy a span of their article word for word" in said[3]
    assert said[4].startswith("The untuned base: 6 of 40 outputs failed (15.0%) and score 0; ")
    assert said[5] == "The fine-tuned model: no output failed."
    assert scoring.TEXT_SIGNATURE in renamed["reference"].signatures["novel_2"]
