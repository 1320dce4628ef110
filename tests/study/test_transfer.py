"""Two scales' answers side by side, from scores whose levels are known."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import run
from samples import SCORED, N, declared, sample_run

from onesentence.core.errors import UserError
from onesentence.evaluation.metrics import Scores
from onesentence.study.comparison import borrowed_seed_variance, compare, write_result
from onesentence.study.declaration import Studies
from onesentence.study.equivalence import equivalences
from onesentence.study.results import STUDIES
from onesentence.study.scores import recorded, scores_file_of, write_runs
from onesentence.study.transfer import (
    ALIKE,
    BOTH_UNDECIDED,
    SAME,
    WORSE,
    Answer,
    Choice,
    answers,
    choice_of,
    smallest_choice,
    transfer_text,
)

PIPELINE = "presets/large"
NOISE = np.random.default_rng(0).normal(0, 4, N)
SCALES = {
    "small": {"model": "s", "settings": {}, "quick": {}},
    "large": {"model": "b", "settings": {}, "quick": {}, "pipeline": PIPELINE},
}
RATES = [0.001, 0.002, 0.004]
STUDY = {"question": "Best?", "seeds": [0, 1]}
DECLARED = {
    "rank": {**STUDY, "baseline": "rank-8", "axes": {"lora.rank": [8, 16, 32]}},
    "rate": {
        **STUDY,
        "baseline": {"small": "learning-rate-0.002", "large": "learning-rate-0.001"},
        "axes": {"train.learning_rate": RATES},
        "series": {"rank 8": [f"learning-rate-{rate}" for rate in RATES]},
        "along": "train.learning_rate",
    },
}


def level_run(variant: str, seed: int, level: float):
    """A run whose articles score around a level, with noise that all variants share, and some of its own."""
    made = sample_run(8, seed)
    own = np.random.default_rng([seed, *variant.encode()]).normal(0, 0.3, N)
    columns = dict.fromkeys(SCORED, level + NOISE + own)
    tuned = Scores(made.tuned.ids, columns, {}, made.tuned.signatures, made.tuned.groups)
    return sample_run(8, seed, variant=variant, tuned=tuned, base=made.base)


@pytest.fixture
def scales(tmp_path, monkeypatch) -> tuple[Studies, Studies]:
    """A repository with the declarations, and a folder for the larger scale's pipeline."""
    monkeypatch.chdir(tmp_path)
    run(tmp_path, "git", "init", "--quiet")
    content = {"scales": SCALES, "studies": DECLARED}
    Path("studies.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    Path(PIPELINE).mkdir(parents=True)
    return Studies("s"), Studies("b", pipeline=PIPELINE)


def compared(studies: Studies, name: str, levels: dict[str, float]) -> None:
    """Write the result of a study on a scale. levels: of variants that do not score 30."""
    with contextlib.chdir(studies.pipeline or "."):
        study = studies.study(name)
        runs = {
            study.experiment(variant.name, seed): level_run(
                variant.name, seed, levels.get(variant.name, 30.0)
            )
            for seed in study.seeds
            for variant in study.variants
        }
        write_runs(scores_file_of(study), runs)
        result = compare(study, recorded(study), borrowed_seed_variance(study, studies), [])
        write_result(STUDIES / f"{name}.json", result, None)


def test_without_a_study_of_both_scales_nothing_is_said(scales):
    small, large = scales
    assert transfer_text(small) == ""
    compared(small, "rank", {"rank-32": 33.0})
    assert transfer_text(small) == "" and answers(small, large) == []


@pytest.mark.parametrize(
    ("of_small", "of_large", "choices", "loss", "outcome"),
    [
        ({}, {}, ("rank-8", "rank-8"), None, BOTH_UNDECIDED),
        ({}, {"rank-16": 28.0}, ("rank-8", "rank-8"), None, BOTH_UNDECIDED),  # rank-32 may be as good
        ({}, {"rank-16": 28.0, "rank-32": 28.0}, ("rank-8", "rank-8"), None, SAME),
        ({"rank-32": 33.0}, {"rank-32": 34.0}, ("rank-32", "rank-32"), None, SAME),
        ({"rank-32": 33.0}, {"rank-32": 28.0}, ("rank-32", "rank-8"), 2.0, WORSE),
        ({}, {"rank-32": 32.0}, ("rank-8", "rank-32"), 2.0, WORSE),
        ({"rank-16": 33.0}, {"rank-16": 31.0, "rank-32": 33.0}, ("rank-16", "rank-32"), 2.0, WORSE),
        ({"rank-16": 33.0}, {}, ("rank-16", "rank-8"), 0.0, ALIKE),
    ],
)
def test_a_choice_of_the_small_scale_is_compared_with_that_of_the_large_one(
    scales, of_small, of_large, choices, loss, outcome
):
    small, large = scales
    compared(small, "rank", of_small)
    compared(large, "rank", of_large)
    (answer,) = answers(small, large)
    assert (answer.small.variant, answer.large.variant) == choices and answer.outcome == outcome
    assert (answer.loss is None) == (loss is None)
    if answer.loss:
        assert answer.loss["value"] == pytest.approx(loss, abs=0.2)
        assert answer.loss["low"] < answer.loss["value"] < answer.loss["high"]


def of_formats(small: float, large: float, sizes: dict[str, int]) -> dict:
    """A result with a margin: scores of two formats below the baseline's, and what a base takes."""
    result = {"baseline": "none", "confidence": 0.95, "variants": {"none": {"cost": {"base_bytes": 100}}}}
    result |= {"seeds": [0], "spread_from": None}
    for name, lost in (("int8", small), ("nf4", large)):
        entry = {"value": -lost, "low": -lost - 0.2, "high": -lost + 0.2, "se": 0.1, "df": 500.0}
        entry |= {"p_holm": 0.001 if lost > 0.2 else 0.9}
        result["variants"][name] = {"cost": {"base_bytes": sizes[name]}, "difference": {"rouge1": entry}}
    named = {name: {"difference": {}, **variant} for name, variant in result["variants"].items()}
    return {**result, "variants": named, "equivalence": equivalences(named, 0.5, 0.95, 500)}


@pytest.mark.parametrize(
    ("lost", "choice", "words"),
    [
        ((0.0, 0.1), "nf4", "`nf4`: -0.10 [-0.30, +0.10], equivalent within 0.5 points"),
        ((0.1, 0.7), "int8", "`int8`: -0.10 [-0.30, +0.10], equivalent within 0.5 points"),
        (
            (0.9, 0.7),
            "none",
            "`none`; the smallest, `nf4`: -0.70 [-0.90, -0.50], significantly worse, not within 0.5 points",
        ),
        (
            (0.45, 0.45),
            "none",
            "`none`; the smallest, `nf4`: -0.45 [-0.65, -0.25], significantly worse, undecided whether",
        ),
        (
            (-0.9, -0.7),
            "none",
            "`none`; the smallest, `nf4`: +0.70 [+0.50, +0.90], not within 0.5 points (1 seed, no",
        ),
    ],
)
def test_of_formats_the_smallest_is_chosen_that_is_as_good(lost, choice, words):
    result = of_formats(*lost, {"int8": 50, "nf4": 30})
    names = list(result["variants"])
    made = smallest_choice(result, names)
    assert made.variant == choice and made.evidence.startswith(words) and made.decided
    assert choice_of(result, result) is smallest_choice
    # A format that is equivalent and larger than the baseline is no reason to change.
    larger = of_formats(0.0, 0.9, {"int8": 120, "nf4": 30})
    assert smallest_choice(larger, names).variant == "none"
    no_smaller = smallest_choice(of_formats(0.0, 0.0, {"int8": 120, "nf4": 100}), names)
    assert (no_smaller.variant, no_smaller.decided) == ("none", True)
    assert no_smaller.evidence == "`none`: no other is smaller (1 seed, no allowance for others)"
    # The smallest may be as good, too: too little is known.
    skipped = smallest_choice(of_formats(0.0, 0.45, {"int8": 50, "nf4": 30}), names)
    assert skipped.variant == "int8" and "; smaller and undecided: `nf4` (1 seed" in skipped.evidence
    # Undecided: the only smaller format may be as good.
    wide = of_formats(0.0, 0.45, {"int8": 120, "nf4": 30})
    wide["variants"]["nf4"]["difference"]["rouge1"]["p_holm"] = 0.9
    assert not smallest_choice(wide, names).decided


def test_seeds_that_were_declared_since_are_no_part_of_a_loss(scales):
    small, large = scales
    compared(small, "rank", {"rank-16": 33.0})
    compared(large, "rank", {"rank-16": 31.0, "rank-32": 33.0})
    before = answers(small, large)
    more = {**DECLARED, "rank": {**DECLARED["rank"], "seeds": [0, 1, 2]}}
    Path("studies.yaml").write_text(yaml.safe_dump({"scales": SCALES, "studies": more}, sort_keys=False))
    assert answers(Studies("s"), Studies("b", pipeline=PIPELINE)) == before


def test_scores_without_a_compared_run_are_named(scales):
    """As where scores of a newer study were copied in and it was not compared yet."""
    small, large = scales
    compared(small, "rank", {"rank-16": 33.0})
    compared(large, "rank", {"rank-16": 31.0, "rank-32": 33.0})
    with contextlib.chdir(PIPELINE):
        study = large.study("rank")
        runs = recorded(study)
        write_runs(scores_file_of(study), {name: run for name, run in runs.items() if "32" not in name})
    with pytest.raises(UserError, match=r"presets/large/.*rank.parquet: lacks .*rank-32-seed0, which rank"):
        answers(small, large)


def test_a_baseline_that_all_others_are_significantly_worse_than_is_said_to_be(scales):
    small, large = scales
    worse = {"rank-16": 28.0, "rank-32": 27.0}
    compared(small, "rank", worse)
    compared(large, "rank", {})
    (answer,) = answers(small, large)
    assert answer.small.evidence.startswith("`rank-8`; the best other, `rank-16`: -")
    assert answer.small.evidence.endswith(", significantly worse (2 seeds)")
    assert answer.large.evidence.endswith(", not significant (2 seeds)")
    assert answer.small.decided and not answer.large.decided and answer.outcome == SAME


def test_a_test_that_the_study_has_not_made_is_corrected_for_the_choice(scales):
    """Of two candidates beside the small scale's, the best leads it by luck twice as often as one would."""
    small, large = scales
    compared(small, "rank", {"rank-16": 33.0})
    compared(large, "rank", {"rank-16": 31.0, "rank-32": 31.1})
    (answer,) = answers(small, large)
    assert (answer.small.variant, answer.large.variant) == ("rank-16", "rank-32")
    assert 0 < answer.loss["p"] < 0.5
    assert answer.loss["p_holm"] == pytest.approx(2 * answer.loss["p"])


def test_a_loss_that_holm_does_not_confirm_is_no_worse_choice():
    loss = {"value": 0.7, "low": 0.1, "high": 1.3, "p_holm": 0.12}
    fields = ("rank", "?", "", Choice("a", "", True), Choice("b", "", True))
    assert Answer(*fields, loss, 0.95).outcome == ALIKE
    assert Answer(*fields, {**loss, "p_holm": 0.02}, 0.95).outcome == WORSE


def test_rates_are_compared_by_series_where_the_baselines_differ(scales):
    small, large = scales
    compared(small, "rate", {"learning-rate-0.004": 33.0})
    compared(large, "rate", {"learning-rate-0.001": 28.0, "learning-rate-0.002": 33.0})
    (answer,) = answers(small, large)
    choices = (answer.part, answer.small.variant, answer.large.variant)
    assert choices == ("rank 8", "learning-rate-0.004", "learning-rate-0.002")
    assert answer.outcome == WORSE and answer.loss["value"] == pytest.approx(3, abs=0.2)
    text = transfer_text(small)
    assert text.startswith("## Would small have led to the wrong choice for large?\n")
    assert "Questions: 1. Same choice on both scales: 0." in text and "A worse choice: 1." in text
    assert text.endswith(" |\n")  # without notes
    declared = {"scales": {**SCALES, "large": {**SCALES["large"], "note": "It was rounded."}}}
    Path("studies.yaml").write_text(yaml.safe_dump({**declared, "studies": DECLARED}, sort_keys=False))
    assert transfer_text(Studies("s")) == f"{text}\n- It was rounded.\n"
    file = Path(PIPELINE) / STUDIES / "rate.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "note": "One rate was left out."}))
    assert transfer_text(Studies("s")).endswith("\n- It was rounded.\n- `rate`: One rate was left out.\n")
    assert "no test decides among them" in text and "rule for formats was written" not in text
    assert "| Best? (rank 8) | `learning-rate-0.004`: 32.87" in text and text.count("\n|") == 3


def test_the_present_scales_have_a_text(tmp_path, monkeypatch):
    """A scale without a pipeline of its own, such as phi-2, shares its folder with the present one."""
    monkeypatch.chdir(tmp_path)
    assert transfer_text(declared(tmp_path, rank=DECLARED["rank"])) == ""
