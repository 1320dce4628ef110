"""The sentences of a study, against numbers written by hand."""

from samples import found

from onesentence.study.sentences import settings_sentence, summarize_study


def test_no_difference_says_what_could_have_been_missed():
    said = summarize_study(found(0.3, 0.6))
    assert said[0] == (
        "No variant was shown to differ from a in ROUGE-1; a true difference of 1.40 points would have been "
        "called real in 80% of cases, a smaller one could have been missed."
    )
    assert said[-1] == (
        "Scores of one variant's 3 seeds have a standard deviation of 0.20 points (median over variants, "
        "at most 0.20); the draw of 2,000 articles alone moves a score by 0.40 points (standard error)."
    )


def test_a_real_difference_is_called_one():
    assert summarize_study(found(2.0, 0.01))[0] == (
        "Real differences in ROUGE-1 from a: b +2.00 [+1.00, +3.00]."
    )


def test_many_that_do_not_differ_are_counted_and_few_are_named():
    few = found(2.0, 0.01)
    few["variants"] |= {name: found(0.3, 0.6)["variants"]["b"] for name in "cd"}
    assert "Not distinguishable from a: c, d; a true" in summarize_study(few)[0]
    few["variants"] |= {f"v{i}": few["variants"]["c"] for i in range(9)}
    assert "Not distinguishable from a: the other 11; a true" in summarize_study(few)[0]


def test_outputs_that_are_the_same_are_no_test_of_anything():
    same = found(0.0, 1.0)
    same["variants"]["b"]["difference"]["rouge1"] |= {"low": 0.0, "high": 0.0, "se": 0.0, "mde": 0.0}
    assert summarize_study(same)[0] == "Scores of every article are those of a: b."


def test_one_seed_is_said_to_be_one():
    one = {**found(2.0, 0.01), "seeds": [0]}
    assert summarize_study(one)[-1].startswith(
        "One seed each, and no allowance for another: what is said holds for these"
    )
    one |= {"spread_from": "rank", "spread_sd": 0.31}
    assert (
        "as far apart as in the study rank (a standard deviation of 0.31 points)" in summarize_study(one)[-1]
    )


def test_settings_are_those_that_the_variants_ran_with():
    made = {**found(0.0, 1.0), "scale": "tiny", "split": "validation"}
    made["settings"] = {"data.train_size": 1000, "train.epochs": 2, "generate.max_batch_tokens": 64}
    for size, variant in zip((10, 20), made["variants"].values(), strict=True):
        variant["sets"] = {"data.train_size": size}
    made["variants"]["b"]["sets"]["train.epochs"] = 1
    said = "tiny, 2,000 validation articles, 3 seeds, train.epochs 2"
    assert settings_sentence(made, {}) == said
    # A default that has changed since is part of what the numbers hang on.
    made["defaults"] = {"train.method": "lora", "lora.alpha": None, "lora.rank": 16, "train.log_every": 25}
    now = {"train": {"method": "rslora", "log_every": 5}, "lora": {"alpha": None}}
    changed = "made with train.method lora, now rslora; lora.rank 16, now gone"
    assert settings_sentence(made, now) == f"{said}; {changed}"
