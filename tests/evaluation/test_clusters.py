"""Resampling of clusters, against simulations with a known correlation within clusters, and by hand."""

import json
from itertools import product

import numpy as np
import pytest
from scipy.stats import bootstrap

from onesentence.core.errors import UserError
from onesentence.evaluation import comparison
from onesentence.evaluation.metrics import Scores, require_comparable, unit_of
from onesentence.evaluation.overlap.bleu import corpus_bleu
from onesentence.evaluation.power import holm_factor, needed
from onesentence.evaluation.resampling import (
    BOOTSTRAP,
    ENOUGH,
    FEW,
    SUBSETS,
    Sample,
    design_effect,
    detectable_effect,
    difference_of,
    mean_of,
    mean_statistics,
    percentile_interval,
    resampled_sums,
    subset_sums,
    summary_of,
)
from onesentence.report.sentences import clusters_phrase, difference_sentence
from onesentence.study.variance import adjust_holm, difference, resampled, seed_variance_of, summary


def groups_of(sizes: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)


# A sample.


def test_clusters_are_numbered_by_first_appearance_and_add_up():
    sample = Sample.of(["b", "a", "b", "c", "a", "b"])
    assert sample.clusters.tolist() == [0, 1, 0, 2, 1, 0] and sample.sizes.tolist() == [3, 2, 1]
    assert sample.count == 3 and sample.effective == pytest.approx(36 / 14) and not sample.single
    statistics = np.array([[1, 10], [2, 20], [4, 40], [8, 80], [16, 160], [32, 320]])
    assert sample.sums(statistics).tolist() == [[37, 370], [18, 180], [8, 80]]
    assert sample.subset(np.array([3, 4, 5])).clusters.tolist() == [0, 1, 2]
    equal = Sample.of([str(k // 4) for k in range(4 * ENOUGH)])
    assert equal.effective == ENOUGH and not equal.few
    assert Sample.of([str(k // 4) for k in range(4 * ENOUGH - 4)]).few
    assert not Sample.independent(8).few  # articles drawn one by one keep the bootstrap


# Recorded from the code before it had clusters. Clusters of one article must give the same numbers.
RECORDED_SUMMARY = {
    "value": 20.759173412060303,
    "low": 18.866605107913315,
    "high": 22.639378899580812,
    "bca_low": 18.86585473740155,
    "bca_high": 22.632793873678633,
}
RECORDED_DIFFERENCE = {
    "value": -1.5639398320603064,
    "low": -2.3120700150370577,
    "high": -0.8782294376351617,
    "bca_low": -2.3146233454922958,
    "bca_high": -0.8861526593858825,
    "p_bootstrap": 0.000999000999000999,
    "p_randomization": 0.000999000999000999,
    "mde": 1.0207632668955282,
}


def recorded_case() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(21)
    left = rng.gamma(2, 10, 200).round(6)
    right = (left + rng.normal(1, 5, 200)).round(6)
    right[3] = np.nan
    return left, right


@pytest.mark.parametrize("sample", [None, Sample.of([f"article {k}" for k in range(200)])])
def test_clusters_of_one_article_give_the_numbers_of_articles_to_the_digit(sample):
    left, right = recorded_case()
    entry = summary_of(right, 1_000, 0.95, sample)
    assert {key: entry[key] for key in RECORDED_SUMMARY} == RECORDED_SUMMARY
    entry = difference_of(left, right, 1_000, 0.95, sample)
    assert {key: entry[key] for key in RECORDED_DIFFERENCE} == RECORDED_DIFFERENCE
    assert entry["design_effect"] == 1.0


def test_clusters_are_drawn_exchanged_and_left_out_whole():
    """The two articles of a cluster have equal counts in every draw and every exchange."""
    sample = Sample.of([str(k // 2) for k in range(2 * ENOUGH)])
    statistics = np.eye(2 * ENOUGH, dtype=np.int64)
    drawn = sample.draws(statistics, 300)
    assert np.array_equal(drawn[:, 0::2], drawn[:, 1::2])  # how often both articles of a cluster were drawn
    assert (drawn.sum(axis=1) == 2 * ENOUGH).all() and drawn.max() > 1
    left, right = sample.exchanges(np.zeros_like(statistics), statistics, 300)
    assert np.array_equal(left[:, 0::2], left[:, 1::2]) and (left + right == 1).all()
    assert set(np.unique(left)) == {0, 1}


def test_random_subsets_include_every_subset_equally_often():
    units = np.array([[1, 1], [10, 1], [100, 1], [1000, 1]])
    drawn = subset_sums(units, 4_000)
    subsets = [np.flatnonzero(picked) for picked in product((0, 1), repeat=4)][1:]
    every = {tuple(units[picked].sum(axis=0)) for picked in subsets}
    assert {tuple(row) for row in drawn.astype(int)} == every
    # The whole replaces the empty subset, so it is drawn twice as often as any other: 2 of 16.
    whole = (drawn[:, 1] == 4).mean()
    assert abs(whole - 2 / 16) < 4 * (2 / 16 * 14 / 16 / 4_000) ** 0.5


def test_an_interval_of_random_subsets_contains_what_the_sign_test_does_not_reject():
    """By enumeration: a mean is rejected if at most 5% of all changes of sign are as far from it."""
    values = np.random.default_rng(5).normal(3, 2, 12)
    subsets = np.array(list(product((0.0, 1.0), repeat=12)))[1:]
    ends = np.quantile(subsets @ values / subsets.sum(axis=1), [0.025, 0.975])
    signs = np.array(list(product((-1.0, 1.0), repeat=12)))

    def p(mean: float) -> float:
        return float((np.abs(signs @ (values - mean)) >= abs((values - mean).sum()) - 1e-9).mean())

    for end, inwards in zip(ends, (1, -1), strict=True):
        assert p(end + inwards * 0.02) > 0.05 > p(end - inwards * 0.02)
    drawn = subset_sums(mean_statistics(values), 20_000)
    assert percentile_interval(mean_of(drawn), 0.95) == pytest.approx(tuple(ends), abs=0.05)


@pytest.mark.parametrize("count", [6, 7, 8])
def test_of_few_clusters_the_interval_ends_at_typical_values(count):
    """The means of subsets cut the line into 2^G equally likely parts: at most 2.5 % lie beyond each end."""
    values = np.random.default_rng(count).normal(3, 2, count)
    subsets = np.array(list(product((0.0, 1.0), repeat=count)))[1:]
    means = np.sort(subsets @ values / subsets.sum(axis=1))
    outside = int(0.025 * 2**count)  # the true mean is below the k-th smallest with the chance k / 2^G
    # Two articles of each cluster: without that, articles are taken as drawn one by one.
    sample = Sample(np.repeat(np.arange(count), 2))
    draws = mean_of(sample.draws(mean_statistics(np.repeat(values, 2)), 200_000))
    ends = percentile_interval(draws, 0.95, sample)
    # The draws' own chance may move an end by one value.
    assert ends[0] in (pytest.approx(means[k], abs=1e-5) for k in range(max(outside - 2, 0), outside))
    assert -ends[1] in (pytest.approx(-means[-k - 1], abs=1e-5) for k in range(max(outside - 2, 0), outside))
    assert ends[0] < percentile_interval(draws, 0.95)[0] and ends[1] > percentile_interval(draws, 0.95)[1]


def test_a_subset_counts_as_many_articles_as_there_are():
    """BLEU's smoothing makes a weak score higher the fewer n-grams there are."""
    groups = groups_of(np.full(20, 4))
    sample = Sample.of([str(group) for group in groups])
    assert sample.few
    one = np.array(
        [12, 12, 3, 1, 0, 0, 12, 11, 10, 9]
    )  # a text with one 2-gram of its reference, and no 3-gram
    texts = np.tile(one, (len(groups), 1))
    texts[::5, 3] = 0
    scores = corpus_bleu(sample.draws(texts, 2_000))
    low, high = percentile_interval(scores, 0.95)
    assert low < corpus_bleu(texts.sum(axis=0)) < high
    # A mean does not depend on how much of the articles a subset holds.
    values = np.random.default_rng(0).normal(3, 2, len(groups))
    drawn = mean_of(sample.draws(mean_statistics(values), 500))
    assert drawn == pytest.approx(mean_of(subset_sums(sample.sums(mean_statistics(values)), 500)), rel=1e-12)


def test_one_article_has_no_bootstrap_test():
    """Every resample of one article is that article: each difference would be the surest of all."""
    entry = difference_of(np.array([40.0]), np.array([20.0]), 200, 0.95)
    assert entry["value"] == 20 and entry["low"] is None and entry["p_bootstrap"] is None


# Coverage and size over simulated test sets.

RUNS = 2_000


def spread_sizes(clusters: int, spread: float) -> np.ndarray:
    """Log-normal cluster sizes. With a spread of 1.5 a tenth of the clusters has half of the articles."""
    return np.round(np.exp(np.random.default_rng(8).normal(1.0, spread, clusters))).astype(int).clip(1)


SIZES = {  # articles of each cluster, intra-cluster correlation, resamples
    "equal": (np.full(40, 10), 0.3, 300),
    "very unequal": (spread_sizes(40, 1.5), 0.3, 300),
    "one holds half": (np.array([60, *[5] * 12]), 0.2, 300),
    "ten": (np.full(10, 6), 0.2, 300),
    # The two below have enough clusters for the bootstrap.
    "enough": (np.full(ENOUGH, 4), 0.3, 500),
    "many unequal": (spread_sizes(250, 0.8), 0.1, 1_000),
}


def simulated(sizes: np.ndarray, likeness: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scores [articles] of two systems whose true means are 30.

    The articles' difficulty is shared. The difference has the intra-cluster correlation `likeness`.
    """
    groups, n = groups_of(sizes), int(sizes.sum())
    shared = rng.normal(size=len(sizes))[groups] + rng.normal(size=n)
    apart = likeness**0.5 * rng.normal(size=len(sizes))[groups] + (1 - likeness) ** 0.5 * rng.normal(size=n)
    return 30 + 5 * shared + apart, 30 + 5 * shared - apart


@pytest.mark.parametrize("name", SIZES)
def test_intervals_cover_in_95_percent_of_runs_and_a_true_null_is_rejected_in_5(name):
    sizes, likeness, resamples = SIZES[name]
    sample, rng = Sample(groups_of(sizes)), np.random.default_rng(3)
    assert sample.few == (name not in ("enough", "many unequal"))
    covered, rejected, ignored = 0, 0, 0
    for _ in range(RUNS):
        left, right = simulated(sizes, likeness, rng)
        entry = difference_of(left, right, resamples, 0.95, sample)
        covered += entry["low"] <= 0 <= entry["high"]
        rejected += entry["p_randomization"] <= 0.05
        difference = left - right
        ignored += abs(difference.mean()) <= 1.96 * difference.std(ddof=1) / len(left) ** 0.5
    assert 0.93 <= covered / RUNS <= 0.97
    assert rejected / RUNS <= 0.06
    # Articles resampled one by one: the error that clusters correct.
    assert ignored / RUNS < 0.92


def test_the_percentile_interval_of_eight_clusters_covers_in_less_than_90_percent():
    rng, covered = np.random.default_rng(7), 0
    for _ in range(RUNS):
        drawn = resampled_sums(mean_statistics(rng.normal(size=8)), 300)
        low, high = percentile_interval(mean_of(drawn), 0.95)
        covered += low <= 0 <= high
    assert covered / RUNS < 0.9


def test_the_interval_of_one_systems_score_covers_in_95_percent_of_runs():
    sizes, sample, rng, covered = (
        SIZES["equal"][0],
        Sample(groups_of(SIZES["equal"][0])),
        np.random.default_rng(4),
        0,
    )
    for _ in range(RUNS):
        values = simulated(sizes, 0.0, rng)[0]
        entry = summary_of(values, 300, 0.95, sample)
        covered += entry["low"] <= 30 <= entry["high"]
    assert 0.93 <= covered / RUNS <= 0.97


# Few clusters.


def test_too_few_clusters_have_no_interval():
    values = np.arange(20.0)
    for clusters, has_interval in ((1, False), (5, False), (6, True)):
        sample = Sample.of([str(k % clusters) for k in range(20)])
        summary_entry = summary_of(values, 500, 0.95, sample)
        assert (summary_entry["low"] is not None) == has_interval  # 2 of 2^5 exchanges are 6.25%, of 2^6 3.1%
        assert summary_entry["value"] == 9.5 and summary_entry["bca_low"] is None
        entry = difference_of(values, values[::-1] + 1.0, 500, 0.95, sample)
        assert (entry["low"] is not None) == (entry["mde"] is not None) == has_interval
        assert 0 < entry["p_randomization"] <= 1
        json.dumps([summary_entry, entry], allow_nan=False)


@pytest.mark.parametrize(("clusters", "has_bca"), [(20, False), (50, True), (150, True)])
def test_bca_and_the_bootstraps_p_are_those_of_clusters(clusters, has_bca):
    """scipy's bootstrap of the sums and sizes of clusters, in pairs, is the bootstrap of clusters."""
    rng = np.random.default_rng(clusters)
    sizes = rng.integers(1, 9, clusters)
    sample, values = Sample(groups_of(sizes)), rng.gamma(2, 10, int(sizes.sum())).round(6)
    summary_entry = summary_of(values, 4_000, 0.95, sample)
    entry = difference_of(values, values - rng.normal(1, 5, len(values)), 4_000, 0.95, sample)
    assert (summary_entry["bca_low"] is not None) == (entry["p_bootstrap"] is not None) == has_bca
    if has_bca:
        other = bootstrap(
            (np.bincount(sample.clusters, values), sizes),
            lambda sums, counts, axis=-1: sums.sum(axis=axis) / counts.sum(axis=axis),
            paired=True,
            n_resamples=4_000,
            method="BCa",
            rng=1,
        )
        assert summary_entry["bca_low"] == pytest.approx(
            other.confidence_interval.low, abs=0.1 * other.standard_error
        )
        assert summary_entry["bca_high"] == pytest.approx(
            other.confidence_interval.high, abs=0.1 * other.standard_error
        )


def test_few_clusters_give_a_warning_however_many_articles_they_have():
    assert comparison.cluster_warning(Sample.independent(FEW), "row") is None
    assert "29 articles are few" in comparison.cluster_warning(Sample.independent(29), "row")
    warning = comparison.cluster_warning(Sample(groups_of(SIZES["one holds half"][0])), "author")
    assert "13 clusters (unit: author) are few, equivalent to 3.7 of equal size" in warning  # 120^2 / 3900
    assert comparison.cluster_warning(Sample(groups_of(np.full(40, 10))), "file") is None


@pytest.mark.parametrize("n", [1, 7])
def test_without_variation_there_is_no_mde(n):
    sample = Sample.independent(n)
    for shift in (0.0, 2.0):
        entry = difference_of(np.full(n, 40.0) + shift, np.full(n, 40.0), 300, 0.95, sample)
        entry["p_holm"] = entry["p_randomization"]
        assert entry["mde"] is None and (entry["low"] is None) == (n == 1)
        said = difference_sentence("a", "b", entry, "rouge1", f"{n} articles", 0.95)
        assert "power: 0.00 points" not in said
        assert "too few" in said if n == 1 else "no MDE can be given" in said


# The design effect.


@pytest.mark.parametrize(("size", "likeness"), [(5, 0.0), (5, 0.4), (20, 0.2)])
def test_the_design_effect_of_equal_clusters_is_kishs(size, likeness):
    """1 + (size - 1) x intra-cluster correlation (Kish 1965), here over many clusters."""
    rng, clusters = np.random.default_rng(1), 3_000
    groups = groups_of(np.full(clusters, size))
    values = likeness**0.5 * rng.normal(size=clusters)[groups] + (1 - likeness) ** 0.5 * rng.normal(
        size=len(groups)
    )
    effect = design_effect(mean_statistics(values), mean_of, Sample(groups))
    assert effect == pytest.approx(1 + (size - 1) * likeness, rel=0.06)


def test_the_design_effect_is_the_ratio_of_the_bootstraps_variances():
    """Of a corpus score, whose variance has no formula here."""
    rng = np.random.default_rng(6)
    groups = groups_of(rng.integers(2, 8, 120))
    hard = rng.normal(size=120)[groups]
    matched = rng.binomial(12, 1 / (1 + np.exp(-0.8 * hard)))
    statistics = np.stack([np.full(len(groups), 12)] * 2 + [matched, matched // 2, matched // 3, matched // 4]
                          + [np.full(len(groups), k) for k in (12, 11, 10, 9)], axis=1)  # fmt: skip
    sample = Sample(groups)
    clustered = corpus_bleu(resampled_sums(sample.sums(statistics), 4_000)).var()
    independent = corpus_bleu(resampled_sums(statistics, 4_000)).var()
    assert clustered / independent > 1.5
    assert design_effect(statistics, corpus_bleu, sample) == pytest.approx(clustered / independent, rel=0.1)


def test_a_share_has_wilsons_interval_of_its_effective_articles():
    ids = [str(k) for k in range(60)]
    groups = [str(k // 6) for k in range(60)]
    rate = np.array([float(k // 6 < 5) for k in range(60)])  # all of a cluster fail, or none
    scores = Scores(
        ids, {"success_rate": rate}, {}, {"success_rate": "success_rate|n:60|test:y|unit:x"}, groups
    )
    sums = comparison.resampled({"a": scores}, 200)
    rate_entry = comparison.summaries({"a": scores}, sums, 0.95)["a"]["success_rate"]
    # Ten such clusters are worth ten articles: 5 of 10 is [0.24, 0.76], 30 of 60 would be [0.38, 0.62].
    assert rate_entry["value"] == 0.5 and rate_entry["low"] < 0.27 and rate_entry["high"] > 0.73
    scores.columns["success_rate"] = np.ones(60)
    rate_entry = comparison.summaries({"a": scores}, sums, 0.95)["a"]["success_rate"]
    t = 2.262  # of Student's t with 9 degrees of freedom, since ten clusters are few
    assert rate_entry["low"] == pytest.approx(10 / (10 + t**2), abs=1e-3)  # of 10 of 10, not of 60 of 60
    scores.groups = [str(k // 15) for k in range(60)]
    rate_entry = comparison.summaries({"a": scores}, sums, 0.95)["a"]["success_rate"]
    assert rate_entry == {"value": 1.0, "low": None, "high": None}  # four clusters have no interval


@pytest.mark.parametrize("failures", [2, 4, 10])
def test_a_few_random_failures_are_not_biased_by_length(failures):
    rng, sample, leaning = np.random.default_rng(failures), Sample(groups_of(np.full(40, 5))), 0
    for _ in range(120):
        succeeded = np.ones(200, dtype=bool)
        succeeded[rng.choice(200, failures, replace=False)] = False
        p = comparison.failure_bias(succeeded, rng.normal(size=200), sample)["p"]
        leaning += p is not None and p <= 0.05
    assert leaning / 120 < 0.05 + 3 * (0.05 * 0.95 / 120) ** 0.5


def test_failures_in_one_cluster_are_weaker_evidence():
    rng = np.random.default_rng(2)
    groups = groups_of(np.full(40, 10))
    lengths = rng.normal(size=40)[groups] * 50 + 300 + rng.normal(size=400)
    succeeded = np.isin(
        groups, np.argsort([lengths[groups == g].mean() for g in range(40)])[[25, 36, 39]], invert=True
    )
    alone = comparison.failure_bias(succeeded, lengths)
    together = comparison.failure_bias(succeeded, lengths, Sample(groups))
    assert alone["longer"] == together["longer"] and alone["failed"] == together["failed"] == 30
    assert together["p"] > 3 * alone["p"]


# Seeds and articles.


def test_noise_of_clusters_is_not_taken_for_variance_between_seeds():
    """Noise shared by a cluster is no variance of seeds: what is left between seeds is 0 on average."""
    rng, sample = np.random.default_rng(0), Sample(groups_of(np.full(60, 10)))
    between, taken_alone = [], []
    for _ in range(300):
        scores = 30 + rng.normal(size=(3, 60))[:, sample.clusters] + rng.normal(size=(3, 600))
        between.append(seed_variance_of(scores, sample).between)
        taken_alone.append(seed_variance_of(scores).between)
    assert abs(np.mean(between)) < 0.002 < 0.01 < np.mean(taken_alone)
    draws = resampled(scores, 500, 0, sample=sample)
    assert draws.df == pytest.approx(59) and summary(draws, 0.95)["sampling_se"] > 0


def test_noise_of_unequal_clusters_is_not_taken_for_variance_between_seeds():
    rng, sample = np.random.default_rng(1), Sample(groups_of(SIZES["one holds half"][0]))
    variances = [seed_variance_of(rng.normal(size=(3, 120)), sample) for _ in range(1_000)]
    error = np.std([variance.between for variance in variances]) / 1_000**0.5
    assert abs(np.mean([variance.between for variance in variances])) < 3 * error


@pytest.mark.parametrize("sizes", [np.full(8, 5), np.array([40, *[5] * 12])])
def test_a_true_null_between_two_variants_is_rejected_in_at_most_6_percent(sizes):
    """A study with three seeds, few clusters and no difference: Student's t on the effective clusters."""
    rng, sample, rejected, runs = np.random.default_rng(3), Sample(groups_of(sizes)), 0, 600
    for _ in range(runs):
        hard = 5 * rng.normal(size=len(sizes))[sample.clusters]
        one, other = (
            resampled(
                hard + rng.normal(size=(3, len(sizes)))[:, sample.clusters] + rng.normal(size=(3, len(hard))),
                200,
                stream,
                sample=sample,
            )
            for stream in (0, 1)
        )
        rejected += difference(one, other, 0.95)["p"] <= 0.05
    assert rejected / runs <= 0.06


def test_equal_differences_on_two_articles_are_not_significant():
    one, other = (resampled(np.array([[level, level + 9.0]]), 100, 0) for level in (30.0, 32.0))
    entry = difference(other, one, 0.95)
    adjust_holm([entry], 0.95)
    assert (entry["value"], entry["p"], entry["mde"]) == (2.0, 0.5, None)


# Which scores may be compared.


def scores_like(groups: list[str], unit: str) -> Scores:
    signature = f"rouge1|F1|n:{len(groups)}|unit:{unit}|test:ab"
    return Scores(
        [str(k) for k in range(len(groups))],
        {"rouge1": np.arange(float(len(groups)))},
        {},
        {"rouge1": signature},
        groups,
    )


def test_scores_with_different_units_or_clusters_are_not_compared():
    one = scores_like(["a", "a", "b"], "file")
    assert require_comparable(one, scores_like(["a", "a", "b"], "file"), "x", "y") == ["rouge1"]
    with pytest.raises(UserError, match="unit of resampling is file in x and author in y"):
        require_comparable(one, scores_like(["a", "a", "b"], "author"), "x", "y")
    with pytest.raises(UserError, match="the same articles into different clusters"):
        require_comparable(one, scores_like(["a", "b", "b"], "file"), "x", "y")


def test_the_unit_is_the_file_the_column_or_the_row():
    class Data:
        source, group_column = "docstrings", None

    assert unit_of(Data) == "file"
    Data.source = "local"
    assert unit_of(Data) == "row"
    Data.group_column = "author"
    assert unit_of(Data) == "author"


def test_the_number_of_clusters_is_named_with_that_of_articles():
    evaluation = {"n": 500, "resampling": {"clusters": 203, "unit": "file"}}
    assert clusters_phrase(evaluation) == "500 articles in 203 clusters (unit: file)"
    assert clusters_phrase({"n": 1, "resampling": {"clusters": 1, "unit": "row"}}) == "1 article"


# How many articles a test needs.


def test_after_a_correction_a_difference_needs_more_articles():
    assert holm_factor(1, 0.95) == 1.0
    # Normal quantiles of 1 - 0.05 / 60 and of 80 %: (3.1440 + 0.8416)^2 / (1.9600 + 0.8416)^2.
    assert holm_factor(30, 0.95) == pytest.approx((3.1440 + 0.8416) ** 2 / (1.9600 + 0.8416) ** 2, abs=1e-3)


def test_the_articles_that_an_mde_needs_give_that_mde():
    """By simulation: the number of articles that `needed` returns has the wanted MDE."""
    rng = np.random.default_rng(12)

    def entry(sizes: np.ndarray) -> dict:
        left, right = simulated(sizes, 0.3, rng)
        return difference_of(left, right, 2_000, 0.95, Sample(groups_of(sizes)))

    now = entry(np.full(200, 6))
    resampling = {"clusters": 200, "effective_clusters": 200.0, "interval": BOOTSTRAP}
    row = needed(
        {
            "n": 1_200,
            "confidence": 0.95,
            "resampling": resampling,
            "comparisons": {"a-b": {"rouge1": now}},
        },
        now["mde"] / 2,
    )[0]
    assert (row.articles, row.clusters) == (4_800, 800)
    assert entry(np.full(row.clusters, 6))["mde"] == pytest.approx(now["mde"] / 2, rel=0.1)
    assert row.one_each == pytest.approx(4_800 / 2.5, rel=0.25)  # Kish: 1 + 5 x 0.3
    assert entry(np.ones(row.one_each, dtype=int))["mde"] == pytest.approx(now["mde"] / 2, rel=0.15)


@pytest.mark.parametrize("clusters", [(6, 6.0), (40, 40.0), (100, 10.0), (238, 20.0), (238, 90.0)])
def test_the_mde_of_today_needs_the_articles_of_today(clusters):
    """With few clusters, Student's t is part of an MDE, and stays so until clusters are many."""
    count, effective = clusters
    resampling = {"clusters": count, "effective_clusters": effective, "interval": SUBSETS}
    entry = {"mde": 2.0, "design_effect": 1.5}
    evaluation = {"n": 1_000, "confidence": 0.95, "resampling": resampling}
    evaluation["comparisons"] = {"a-b": {"rouge1": entry}}

    def articles(wanted: float) -> int:
        return needed(evaluation, wanted)[0].articles

    assert articles(2.0) in (1_000, 1_001)  # rounded up
    assert articles(2.2) < 1_000 < articles(1.9)
    factor = articles(1.0) / 1_000
    normal, now = detectable_effect(0.05, np.inf), detectable_effect(0.05, effective - 1)
    then = detectable_effect(0.05, factor * effective - 1) if factor * effective < ENOUGH else normal
    assert 2.0 * then / now / factor**0.5 == pytest.approx(1.0, rel=0.01)


def test_an_evaluation_without_an_mde_is_refused():
    resampling = {"clusters": 3, "effective_clusters": 3.0, "interval": BOOTSTRAP}
    with pytest.raises(UserError, match="no minimum detectable effect"):
        needed(
            {
                "n": 3,
                "confidence": 0.95,
                "resampling": resampling,
                "comparisons": {"a-b": {"rouge1": {"mde": None}}},
            },
            1.0,
        )
