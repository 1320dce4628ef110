"""The sentences of a study, against numbers written by hand."""

from samples import study_result

from onesentence.study.sentences import settings_sentence, summarize_study


def test_no_significant_difference_gives_the_mde():
    sentences = summarize_study(study_result(0.3, 0.6))
    assert sentences[0] == "No variant differs significantly from a in ROUGE-1 (MDE up to 1.40 points)."
    assert sentences[-1] == (
        "Scores of one variant's 3 seeds have a standard deviation of 0.20 points (median over variants, "
        "at most 0.20). The sample of 2,000 articles alone gives a score a standard error of up to 0.40 "
        "points."
    )


def test_a_significant_difference_is_named_with_its_interval():
    assert summarize_study(study_result(2.0, 0.01))[0] == (
        "Significantly different from a in ROUGE-1: b (+2.00 [+1.00, +3.00])."
    )


def test_many_that_do_not_differ_are_counted_and_few_are_named():
    few = study_result(2.0, 0.01)
    few["variants"] |= {name: study_result(0.3, 0.6)["variants"]["b"] for name in "cd"}
    assert "No significant difference: c, d (MDE up to 1.40 points)." in summarize_study(few)[0]
    few["variants"] |= {f"v{i}": few["variants"]["c"] for i in range(9)}
    assert "No significant difference: the other 11 (MDE" in summarize_study(few)[0]


def test_equal_outputs_are_named_apart():
    same = study_result(0.0, 1.0)
    same["variants"]["b"]["difference"]["rouge1"] |= {"low": 0.0, "high": 0.0, "se": 0.0, "mde": None}
    # In the file, a difference of one article among thousands is rounded to this, too.
    assert summarize_study(same)[0] == (
        "No variant differs significantly from a in ROUGE-1 (no MDE: nothing varies)."
    )
    same["variants"]["b"]["difference"]["rouge1"]["df"] = None
    assert summarize_study(same)[0] == "Same score as a on every article: b."


def test_one_seed_is_named_with_the_source_of_its_seed_variance():
    one = {**study_result(2.0, 0.01), "seeds": [0]}
    assert summarize_study(one)[-1].startswith(
        "One seed for each variant, with no allowance for other seeds: the results hold for"
    )
    one |= {"spread_from": "rank", "spread_sd": 0.31}
    assert (
        "Intervals allow for other seeds with the seed variance of the study rank, where scores of one "
        "variant's seeds have a standard deviation of 0.31 points." in summarize_study(one)[-1]
    )


def test_variants_that_change_several_settings_are_named():
    made = study_result(2.0, 0.01)
    assert not any("more than one setting" in sentence for sentence in summarize_study(made))
    made["variants"]["b"]["values"]["train.epochs"] = 2
    assert summarize_study(made)[1] == (
        "Variants that differ from a in more than one setting: b (lora.rank, train.epochs)."
    )
    # A folder that follows the model's name, and how often a loss is printed, explain no difference.
    for key in ("model.watch", "train.log_every"):
        made["variants"]["a"]["values"][key], made["variants"]["b"]["values"][key] = 1, 2
    assert "b (lora.rank, train.epochs)." in summarize_study(made)[1]
    made["variants"] |= {f"v{i}": made["variants"]["b"] for i in range(9)}
    assert summarize_study(made)[1].endswith("more than one setting: 10 of 10.")


def test_the_untuned_model_s_score_comes_with_how_often_it_writes_a_summary():
    made = study_result(2.0, 0.01)
    for variant in made["variants"].values():
        variant["base"]["success_rate"] = 0.454
    assert (
        "The untuned model scores 9.00 (45% of the outputs succeed). A failed output scores 0."
        in summarize_study(made)
    )
    made["variants"]["b"]["base"] = {"rouge1": {"value": 15.0}, "success_rate": 0.94}
    assert (
        "The untuned model scores 9.00 in a (45% of the outputs succeed); 15.00 in b (94% of the outputs "
        "succeed). A failed output scores 0."
    ) in summarize_study(made)
    for name, variant in made["variants"].items():
        variant["values"]["model.name"] = f"models/{name}"
    assert any(
        sentence.startswith("The untuned models score 9.00 in a") for sentence in summarize_study(made)
    )
    del made["variants"]["a"]["base"]["success_rate"]  # compared before it was kept
    assert not any("untuned" in sentence for sentence in summarize_study(made))


def test_a_note_is_shown_with_the_numbers():
    note = "The base was rounded before."
    assert note in summarize_study({**study_result(2.0, 0.01), "note": note})


def test_settings_are_those_that_the_variants_ran_with():
    made = {**study_result(0.0, 1.0), "scale": "tiny", "split": "validation"}
    made["settings"] = {"data.train_size": 1000, "train.epochs": 2, "generate.max_batch_tokens": 64}
    for size, variant in zip((10, 20), made["variants"].values(), strict=True):
        variant["sets"] = {"data.train_size": size}
    made["variants"]["b"]["sets"]["train.epochs"] = 1
    conditions = "tiny, 2,000 validation articles, 3 seeds, train.epochs 2 (1 in b)"
    assert settings_sentence(made, {}) == conditions
    # A default that has changed since is part of what the numbers hang on.
    made["defaults"] = {"train.method": "lora", "lora.alpha": None, "lora.rank": 16, "train.log_every": 25}
    now = {"train": {"method": "rslora", "log_every": 5}, "lora": {"alpha": None}}
    changed = "defaults changed since: train.method lora (now rslora), lora.rank 16 (now removed)"
    assert settings_sentence(made, now) == f"{conditions}; {changed}"
