"""What each kind of study computes, from scores whose levels are known, and says."""

import numpy as np
import pytest
from conftest import ROOT
from samples import STUDY_FILE, study_result

from onesentence.evaluation.resampling import Sample
from onesentence.study.analyses import ANALYSES
from onesentence.study.analyses.copying import COPYING
from onesentence.study.declaration import Studies
from onesentence.study.measured import Measured
from onesentence.study.phrases import trend_sentence
from onesentence.study.sentences import summarize_study
from onesentence.study.variance import SeedVariance, adjust_holm, resampled, slope


def test_a_trend_in_words():
    entry = {"value": 0.5, "low": 0.1, "high": 0.9, "p": 0.01, "p_holm": 0.02, "mde": 0.6}
    sentence = summarize_study(study_result(2.0, 0.01, for_each_doubling={"": entry}))[1]
    assert (
        sentence
        == "+0.50 [+0.10, +0.90] points of ROUGE-1 for each doubling (p = 0.0200): a significant gain."
    )
    flat = {**entry, "p_holm": 0.4}
    sentence = summarize_study(study_result(2.0, 0.01, for_each_doubling={"shared": flat}))[1]
    assert sentence.startswith("shared: ")
    assert sentence.endswith("no significant trend (MDE 0.60).")


def test_an_exchange_in_words():
    entry = {"smaller": "s-4", "larger": "l-1", "value": 1.5, "low": 1.0, "high": 2.0, "p_holm": 0.01}
    entry |= {"p": 0.01, "mde": 0.6}
    sentence = summarize_study(
        study_result(2.0, 0.01, exchanges=[entry, {**entry, "value": -1.5}, {**entry, "p_holm": 0.3}])
    )
    assert sentence[1] == (
        "Comparisons of a model with more data and the next larger model with less: 3. Significantly "
        "better: the larger model in 1, the smaller model in 1. Not significant: 1."
    )
    assert sentence[2] == "s-4 against l-1: +1.50 [+1.00, +2.00], the smaller model with more data is better."
    assert sentence[3].endswith("the larger model is better.")
    assert sentence[4].endswith("not significant (MDE 0.60).")


def test_a_law_in_words():
    ends = {"low": 28.0, "high": 35.0}
    law = {
        "asymptote": {"value": 30.0, **ends},
        "factor": {"value": 120.0, **ends},
        "exponent": {"value": 0.4, **ends},
        "predicted": {"value": 29.0, **ends},
        "saturates": True,
        "miss": {"value": 0.3, "low": -1, "high": 1, "p_holm": 0.5, "mde": 0.9},
        "within_one_point": {"value": 2_000, "low": 1_000, "high": 4_000},
        "growth": {"value": 6.0, "low": 5.0, "high": 7.0, "p_holm": 0.001, "mde": 1.1},
        "curve": [[250.0, 23.0, 22.0, 24.0], [8_000.0, 29.0, 28.0, 35.0]],
    }
    sentence = summarize_study(study_result(2.0, 0.01, laws={"": law}))[1]
    assert sentence.startswith(
        "ROUGE-1 = 30.00 - 120 x pairs^-0.40; the asymptote [28.00, 35.00] is an extrapolation. Fitted "
        "without the largest size, the law predicts 29.00 [28.00, 35.00] there; the measured score is 0.30 "
        "higher [-1.00, +1.00], not a significant deviation (MDE 0.90)."
    )
    assert sentence.endswith(
        "Scores are within one point of the largest size's from 2,000 pairs on (interval 1,000 to 4,000)."
    )
    only = {**law, "within_one_point": {"value": 8_000, "low": 4_000, "high": 8_000}}
    assert summarize_study(study_result(2.0, 0.01, laws={"": only}))[1].endswith(
        "No smaller size scores within one point of the largest (interval 4,000 to 8,000)."
    )
    straight = {**law, "saturates": False, "miss": {**law["miss"], "p_holm": 0.01}}
    sentence = summarize_study(study_result(2.0, 0.01, laws={"same steps": straight}))[1]
    assert sentence.startswith("same steps: the fitted power law does not show whether scores saturate")
    assert "0.30 higher [-1.00, +1.00], a significant deviation." in sentence and "30.00" not in sentence
    for growth in ({"value": 0.4, "p_holm": 0.3}, {"value": -3.0, "p_holm": 0.001}):
        flat = {**law, "saturates": False, "growth": {**law["growth"], **growth}}
        sentence = summarize_study(study_result(2.0, 0.01, laws={"same steps": flat}))[1]
        assert "points: no significant growth (MDE 1.10), so no law" in sentence
        assert "saturate" not in sentence and "predicts" not in sentence
    for (value, low, high), words in (
        ((6_421, 4_019, 21_900), "would take about 6,400 pairs [4,000, 22,000]."),
        ((6_421, 4_019, None), "would take about 6,400 pairs [4,000, more than 1,000,000,000]."),
        ((None, 9_990, None), "is out of reach (interval from 10,000 pairs on)."),
        ((None, None, None), "is out of reach."),
    ):
        needed = {"value": value, "low": low, "high": high}
        alone = {**law, "further": {"predicted": [], "one_more_point": needed}}
        assert summarize_study(study_result(2.0, 0.01, laws={"": alone}))[1].endswith(
            f"The law through all sizes, an extrapolation: one point more than the largest size's {words}"
        )
        goal = {"score": 35.0, **needed}
        at = {"pairs": 10_000, "value": 28.0, "low": 27.0, "high": 30.0}
        further = {"predicted": [at], "one_more_point": {**needed, "low": None}, "goal": goal}
        assert summarize_study(study_result(2.0, 0.01, laws={"": {**law, "further": further}}))[1].endswith(
            "an extrapolation: 28.00 [27.00, 30.00] with 10,000 pairs, one point more than the largest "
            f"size's is out of reach, and ROUGE-1 35 {words}"
        )


def test_the_best_in_words():
    over = {"value": 0.8, "low": 0.2, "high": 1.4, "p_holm": 0.01, "mde": 0.7}
    entry = {"best": "b", "at_the_end": None, "not_distinguishable": ["c"], "over_baseline": over}
    assert summarize_study(study_result(2.0, 0.01, best={"rank 8": entry}))[1] == (
        "rank 8: the best is b; not significantly worse: c. Chosen on one half of the articles and measured "
        "on the other, the best differs from a by +0.80 [+0.20, +1.40] points. The interval allows for the "
        "choice of a lucky seed."
    )
    alone = study_result(2.0, 0.01, best={"": entry}) | {"seeds": [0]}
    assert summarize_study(alone)[1].endswith("makes no allowance for the choice of a lucky seed.")
    lent = alone | {"spread_from": "rank", "spread_sd": 0.3}
    assert summarize_study(lent)[1].endswith("The interval allows for the choice of a lucky seed.")
    entry = {**entry, "over_baseline": {**over, "p_holm": 0.5}}
    sentence = summarize_study(study_result(2.0, 0.01, best={"": entry}))[1]
    assert "points, not a significant gain (MDE 0.70). The" in sentence
    sentence = summarize_study(
        study_result(2.0, 0.01, best={"": {**entry, "best": "a", "not_distinguishable": []}})
    )[1]
    assert sentence == "The best is a, the baseline; all others are significantly worse."
    searched = study_result(
        2.0, 0.01, best={"": {**entry, "not_distinguishable": [f"s{i}" for i in range(9)]}}
    )
    searched["variants"]["b"]["sets"] = {"lora.alpha": 8, "train.epochs": 3}
    sentence = summarize_study(searched)[1]
    assert sentence.startswith(
        "The best is b (lora.alpha 8, train.epochs 3); not significantly worse: 9 others."
    )
    entry |= {"best": "a", "at_the_end": "lowest train.learning_rate", "not_distinguishable": []}
    assert summarize_study(study_result(2.0, 0.01, best={"": entry}))[1] == (
        "The best is a (the lowest train.learning_rate that was tried: a better one may lie beyond it), the "
        "baseline; all others are significantly worse."
    )


def test_how_far_from_full_in_words():
    for value, low, high, words in (
        (2.0, 1.0, 3.0, "2.0% below full fine-tuning [+1.0, +3.0]: within the 5% margin."),
        (-1.0, -2.0, 0.5, "1.0% above full fine-tuning [-0.5, +2.0]: within the 5% margin."),
        (-20.0, -25.0, -15.0, "20.0% above full fine-tuning [+15.0, +25.0]: not more than 5% below."),
        (0.5, 0.0, 1.0, "0.5% below full fine-tuning [+0.0, +1.0]: within the 5% margin."),
        (-1.0, -2.0, 0.0, "1.0% above full fine-tuning [+0.0, +2.0]: within the 5% margin."),
        (-0.01, -1.0, 0.9, "0.0% below full fine-tuning [-1.0, +0.9]: within the 5% margin."),
        (7.0, 6.0, 8.0, "7.0% below full fine-tuning [+6.0, +8.0]: outside the 5% margin."),
        (
            4.0,
            1.0,
            7.0,
            "4.0% below full fine-tuning [+1.0, +7.0]: the interval does not decide on the 5% margin.",
        ),
    ):
        entry = {"value": value, "low": low, "high": high}
        assert (
            summarize_study(study_result(2.0, 0.01, percent_below_full={"b": entry}))[1]
            == f"b scores {words}"
        )


NOISE = np.random.default_rng(0).normal(0, 1, 300)


NOISE -= NOISE.mean()


def analysed(
    monkeypatch,
    name: str,
    levels: dict,
    bases: dict | None = None,
    seed_variance: SeedVariance | None = None,
    without: set | frozenset = frozenset(),
    scale: tuple[str, str] = ("models/phi-tiny", ""),
    **cost,
) -> dict:
    """The analysis of a shipped study whose variants score around given levels in every metric.

    without: names of variants that are left out; scale: its model and its pipeline.
    """
    monkeypatch.chdir(ROOT)
    model, pipeline = scale
    study = Studies(model, pipeline=pipeline).study(name).without(without)
    names = [variant.name for variant in study.variants]
    rows = {
        kind: {variant: (NOISE + given.get(variant, level))[None] for variant in names}
        for kind, given, level in (("tuned", levels, 20.0), ("base", bases or {}, 10.0))
    }
    drawn = {
        kind: {variant: resampled(numbers[variant], 400, k, seed_variance) for k, variant in enumerate(names)}
        for kind, numbers in rows.items()
    }
    measured = Measured(
        {variant: dict.fromkeys(("rouge1", *COPYING), drawn["tuned"][variant]) for variant in names},
        drawn["base"],
        rows["tuned"],
        rows["base"],
        {
            variant: {"base_bytes": cost.get(variant, 100), "prompt_tokens": 10 * k}
            for k, variant in enumerate(names)
        },
        seed_variance,
        400,
        Sample.independent(NOISE.shape[-1]),
    )
    return ANALYSES[study.analysis].numbers(study, measured, 0.95)


def test_every_module_of_an_analysis_is_registered_and_declared_by_a_study():
    files = {path.stem for path in (ROOT / "onesentence/study/analyses").glob("*.py")}
    assert set(ANALYSES) == files - {"__init__", "analysis"}
    assert {analysis for each in STUDY_FILE["studies"].values() if (analysis := each.get("analysis"))} == set(
        ANALYSES
    )


def test_exchanges_set_more_data_against_the_next_larger_model(monkeypatch):
    level = {"64": 20.0, "128": 24.0, "256": 30.0}
    rng, levels = np.random.default_rng(1), {}
    for width, start in level.items():  # 4 points from a size to the next, 2 for four times the data
        for pairs in (1_000, 4_000, 16_000):
            noise = rng.normal(0, 2, 300)
            levels[f"width-{width}-pairs-{pairs}"] = start + np.log2(pairs / 1_000) + noise - noise.mean()
    entries = {
        (entry["smaller"], entry["larger"]): entry
        for entry in analysed(monkeypatch, "model_size", levels)["exchanges"]
    }
    assert set(entries) == {
        (f"width-{small}-pairs-{more}", f"width-{large}-pairs-{less}")
        for small, large in ((64, 128), (128, 256))
        for less, more in ((1000, 4000), (1000, 16000), (4000, 16000))
    }
    near = entries["width-64-pairs-16000", "width-128-pairs-1000"]
    assert near["value"] == pytest.approx(0, abs=1e-5) and near["p_holm"] >= near["p"] > 0.5
    far = entries["width-128-pairs-4000", "width-256-pairs-1000"]
    assert far["value"] == pytest.approx(-4, abs=1e-5) and far["p_holm"] <= 0.05


def test_a_larger_model_is_set_against_every_larger_size_that_only_the_smaller_one_has(monkeypatch):
    scale = ("models/smollm2-135m", "presets/smollm2-docstrings")
    assert [
        (entry["smaller"], entry["larger"])
        for entry in analysed(monkeypatch, "base", {}, scale=scale)["exchanges"]
    ] == [
        ("phi-tiny-pairs-1000", "smollm2-pairs-250"),
        ("phi-tiny-pairs-4000", "smollm2-pairs-250"),
        ("phi-tiny-pairs-4000", "smollm2-pairs-1000"),
    ]


def test_a_curve_with_a_missing_run_is_skipped(monkeypatch):
    """Its neighbours are not compared with each other instead, and the rest of it is no curve."""
    numbers = analysed(monkeypatch, "model_size", {}, without={"width-128-pairs-4000"})
    assert numbers["exchanges"] == []
    gone = {"rank-8-learning-rate-0.001", "full-learning-rate-0.004"}
    numbers = analysed(monkeypatch, "learning_rate", {}, without=gone)["best"]
    assert list(numbers) == ["rank 16", "rank 64"]
    every = [variant.name for variant in Studies("models/phi-tiny").study("learning_rate").variants]
    kept = {"rank-16-learning-rate-0.002", "rank-16-learning-rate-0.001"}
    assert analysed(monkeypatch, "learning_rate", {}, without=set(every) - kept)["best"] == {}
    assert list(analysed(monkeypatch, "rank", {}, without={"rank-128"})["for_each_doubling"]) == [
        "each rank's best rate"
    ]
    assert analysed(monkeypatch, "data_size", {}, without={"pairs-1000"})["laws"] == {}


def test_the_front_of_memory_and_score(monkeypatch):
    numbers = analysed(monkeypatch, "quantization", {"int8": 19.0, "nf4": 19.5}, int8=50, nf4=25)
    assert numbers["pareto_front"] == ["none", "bfloat16", "nf4"]  # int8: larger and worse than nf4
    assert numbers["percent_of_draws_on_it"] == {"none": 100, "bfloat16": 100, "int8": 0, "nf4": 100}


def test_a_variant_that_writes_with_another_format_is_not_on_the_front(monkeypatch):
    scale = ("models/smollm2-135m", "presets/smollm2-docstrings")
    numbers = analysed(monkeypatch, "quantization", {"nf4-to-write": 30.0}, scale=scale, int8=50, nf4=25)
    assert numbers["pareto_front"] == ["nf4"] and "nf4-to-write" not in numbers["percent_of_draws_on_it"]
    variants = {
        name: {"cost": {"base_bytes": 25e6}, "scores": {"rouge1": {"value": 20.0}}}
        for name in ("none", "int8", "nf4", "nf4-to-write")
    }
    first, second = ANALYSES["pareto"].sentences({"analysis": numbers, "variants": variants})
    assert first.startswith("Pareto front of memory and ROUGE-1: nf4 (25.0 MB")
    assert second.endswith("the base has another format when it writes: nf4-to-write.")


def test_formats_that_all_write_with_another_one_are_on_the_front(monkeypatch):
    """`generate.quantization` in a study's settings, or in every variant, is no difference between them."""
    study = Studies("models/phi-tiny").study("quantization")
    for variant in study.variants:
        monkeypatch.setitem(variant.values, "generate.quantization", "nf4")
    monkeypatch.setattr(Studies, "study", lambda self, name: study)
    monkeypatch.setattr(type(study), "without", lambda self, names: self)
    numbers = analysed(monkeypatch, "quantization", {"int8": 19.0, "nf4": 19.5}, int8=50, nf4=25)
    assert numbers["pareto_front"] == ["none", "bfloat16", "nf4"]


def test_prompts_that_an_untuned_base_does_not_tell_apart(monkeypatch):
    numbers = analysed(monkeypatch, "prompt", {})
    variants = {name: {"base": {"rouge1": {"value": 0.0}}} for name in ("a", "b")}
    result = {"analysis": numbers, "variants": variants, "baseline": "a", "confidence": 0.95}
    said = ANALYSES["prompt"].sentences(result)[0]
    assert said.startswith("The untuned base scores the same with each prompt. With a,")
    variants["b"]["base"]["rouge1"]["value"] = 1.0
    assert ANALYSES["prompt"].sentences(result)[0].startswith("The untuned base scores best with ")


def test_prompts_of_one_length_or_two_have_no_chance_of_their_own(monkeypatch):
    names = [variant.name for variant in Studies("models/phi-tiny").study("prompt").variants]
    left = {"template-direct", "template-qa"}
    two = analysed(monkeypatch, "prompt", {"template-qa": 25.0}, without={*names} - left)
    assert two["for_each_10_tokens_of_prompt"]["tuned"]["value"] == pytest.approx(5)
    score = resampled(NOISE[None], 100, 0)
    same = slope(np.array([1.0, 1.0, 1.0]), [score] * 3, 0.95, sampled=True)
    adjust_holm([same], 0.95)
    assert same["value"] is None and same["p_holm"] is None
    assert trend_sentence("tuned", same, "10 more tokens of prompt", 0.95) == (
        "tuned: no trend over 10 more tokens of prompt: all variants have the same, or no score."
    )


def test_how_much_of_the_gap_a_prompt_closes_and_what_its_length_is_worth(monkeypatch):
    prompts = Studies("models/phi-tiny").study("prompt").variants
    levels = {variant.name: 25.0 + 0.1 * k for k, variant in enumerate(prompts)}  # 0.1 for 10 tokens
    levels["template-direct"] = 30.0
    numbers = analysed(monkeypatch, "prompt", levels, {"template-qa": 15.0})
    assert numbers["best_prompt_of_the_base"] == "template-qa" and numbers["gap"]["value"] == pytest.approx(
        20
    )
    closed = numbers["percent_of_the_gap_closed_by_prompting"]
    assert closed["value"] == pytest.approx(25, abs=1e-4)  # 15 of 10 to 30
    x = np.arange(len(prompts))
    slope = np.polyfit(x, list(levels.values()), 1)[0]
    assert numbers["for_each_10_tokens_of_prompt"]["tuned"]["value"] == pytest.approx(slope, abs=1e-5)
    # The tuned model is no better than the base, so there is no gap to close.
    none = analysed(monkeypatch, "prompt", {"template-direct": 10.0})
    assert none["percent_of_the_gap_closed_by_prompting"] == {"value": None, "low": None, "high": None}


def test_the_best_of_many_equal_variants_leads_only_where_it_was_chosen(monkeypatch):
    """Sixteen settings that differ by chance alone: the best of them leads on the articles that chose it, and
    not on the others."""
    rng, gains, leads = np.random.default_rng(9), [], []
    names = [v.name for v in Studies("models/phi-tiny").study("search").variants]
    for _ in range(20):
        levels = {name: rng.normal(0, 5, 300) for name in names}
        numbers = analysed(monkeypatch, "search", levels)["best"][""]
        gains.append(numbers["over_baseline"]["value"])
        leads.append(levels[numbers["best"]].mean() - levels["as-set"].mean())
    assert np.mean(leads) > 0.3 and abs(np.mean(gains)) < np.mean(leads) / 2


def test_the_choice_of_a_lucky_seed_is_no_gain(monkeypatch):
    """All settings are equally good, and each has one seed. Its luck is the same on both halves of the
    articles, so the best setting beats the baseline too often, unless the test counts how many it was chosen
    from.
    """
    rng, wrong = np.random.default_rng(12), {"p": 0, "p_holm": 0}
    names = [v.name for v in Studies("models/phi-tiny").study("search").variants]
    for _ in range(60):
        levels = {name: 20.0 + rng.normal(0, 0.25) for name in names}
        entry = analysed(monkeypatch, "search", levels, seed_variance=SeedVariance(0.0625, 0.0625, 10))[
            "best"
        ][""]
        for p in wrong:
            wrong[p] += entry["over_baseline"][p] < 0.05
    assert wrong["p"] >= 3 and wrong["p_holm"] <= 1


def test_the_best_rate_of_each_rank(monkeypatch):
    levels = {"rank-8-learning-rate-0.004": 22.0, "rank-64-learning-rate-0.001": 21.0}
    levels["full-learning-rate-0.004"] = 20.5
    numbers = analysed(monkeypatch, "learning_rate", levels)["best"]
    assert numbers["rank 8"]["best"] == "rank-8-learning-rate-0.004" and not numbers["rank 8"]["at_the_end"]
    assert numbers["every weight"]["at_the_end"] == "highest train.learning_rate"
    assert numbers["rank 64"]["over_baseline"]["value"] == pytest.approx(-20 + 21, abs=1e-5)
    assert (
        numbers["rank 8"]["not_distinguishable"] == [] and len(numbers["rank 16"]["not_distinguishable"]) == 4
    )


def test_the_best_of_equal_variants_is_the_baseline_and_no_end(monkeypatch):
    studies = Studies("models/phi-tiny").study("learning_rate")
    failed = {variant.name: -NOISE for variant in studies.variants}  # every score is 0
    numbers = analysed(monkeypatch, "learning_rate", failed)["best"]
    assert numbers["rank 16"]["best"] == studies.baseline
    assert not any(entry["at_the_end"] for entry in numbers.values())


def test_full_fine_tuning_whose_outputs_all_failed_has_no_percentage(monkeypatch):
    numbers = analysed(monkeypatch, "method", {"full": -NOISE})["percent_below_full"]
    assert all(entry == dict.fromkeys(("value", "low", "high")) for entry in numbers.values())
    said = summarize_study(study_result(2.0, 0.01, percent_below_full=numbers))[1]
    assert said.endswith(": no percentage, since full fine-tuning scores 0.")


def test_how_far_below_full_fine_tuning(monkeypatch):
    numbers = analysed(monkeypatch, "method", {"full": 40.0, "lora-qkv": 38.0})["percent_below_full"]
    assert set(numbers) == {v.name for v in Studies("models/phi-tiny").study("method").variants} - {"full"}
    assert numbers["lora-qkv"]["value"] == pytest.approx(5.0, abs=1e-6)
    assert numbers["lora-qkv"]["low"] < 5.0 < numbers["lora-qkv"]["high"]


def test_how_much_less_is_copied(monkeypatch):
    numbers = analysed(monkeypatch, "novelty", {"novel-half": 17.0})["copying"]
    assert numbers["novel-half"]["verbatim"]["value"] == pytest.approx(-3.0, abs=1e-6)
    assert numbers["novel-half"]["verbatim"]["p"] < 0.01 and numbers["curriculum"]["novel_2"]["p"] > 0.9
