"""The comparison of a study's variants: the content of metrics/studies/NAME.json."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.files import _json_text, read_json, rounded, write_text
from onesentence.evaluation.metrics import HEADLINE, Scores, require_comparable
from onesentence.study import variance
from onesentence.study.analyses import ANALYSES
from onesentence.study.declaration import QUICK, Studies
from onesentence.study.equivalence import equivalences
from onesentence.study.experiments import (
    flat,
    git,
    lookup,
    scores_at,
    with_values,
)
from onesentence.study.measured import Measured
from onesentence.study.variance import Floats, SeedVariance
from onesentence.study.variants import Study, experiment

STUDIES = Path("metrics/studies")
TESTED_METRICS = ("rouge1", "rouge2", "rougeL", "bertscore")
# Sections of params.yaml that are no defaults of a study: it has its own seeds, and makes no base and no
# report.
NOT_COMPARED = ("seed", "pretrain", "report")
DESCRIBED = ("verbatim", "coverage", "novel_2", "words")  # given beside them, not tested
ONE_LINE = 4  # depth in the JSON from which a score takes one line


def read_experiment(name: str, ref: str) -> dict[str, Any]:
    """The measurements of an experiment: its JSON files, and the scores of base and tuned by article."""
    scores = scores_at(ref, ("base", "tuned"))
    if scores is None:
        raise UserError(
            f"compare: {name}: DVC's cache lacks its scores; fetch them with `dvc exp pull REMOTE {name}`, "
            f"or run the variant again: `git update-ref -d {ref}`, then `make study`"
        )
    run: dict[str, Any] = dict(scores)
    for file in ("evaluation", "train", "prompt"):
        run[file] = json.loads(git("show", f"{ref}:./metrics/{file}.json"))
    return run


def require_same_test_set(runs: dict[str, dict[str, Any]]) -> None:
    """Raise a UserError unless every experiment scored the same articles with the same settings."""
    first = next(iter(runs))
    for name, run in runs.items():
        for key in ("split", "n", "test"):
            if run["evaluation"][key] != runs[first]["evaluation"][key]:
                raise UserError(
                    f"compare: {key} is {run['evaluation'][key]} in {name} and "
                    f"{runs[first]['evaluation'][key]} in {first}, so they scored different articles; give "
                    "both the same data and evaluate settings in studies.yaml"
                )
        require_comparable(run["tuned"], runs[first]["tuned"], name, first)
        if "resampling" not in run["evaluation"]:
            raise UserError(
                f"compare: {name}: its evaluation is older than the resampling of clusters; run `make study` "
                "again"
            )


def matrix(scores: list[Scores], metric: str) -> Floats:
    """Scores [seeds, articles] of one metric."""
    return np.stack([seed.columns[metric] for seed in scores])


def cost_of(run: dict[str, Any]) -> dict[str, int]:
    """The cost of a variant, in numbers that are the same on every machine."""
    train, prompt = run["train"], run["prompt"]
    return {
        "trainable_parameters": train["trainable_parameters"],
        "tuned_bytes": train["tuned_bytes"],
        "base_bytes": train["base_footprint_bytes"],
        "tokens_trained": train["tokens_trained"],
        "prompt_tokens": prompt["template_tokens"],
    }


def borrowed_spread(study: Study, studies: Studies) -> dict[str, SeedVariance]:
    """The spread between seeds by metric, from the study that a study of one seed names; empty where it names
    none. A UserError where that study has no results for its present declaration.
    """
    if study.spread_from is None:
        return {}
    path = STUDIES / f"{study.spread_from}.json"
    if not path.is_file():
        raise UserError(
            f"compare: {path}: not found, and {study.name}, which has one seed, takes the spread "
            f"between seeds from it; run `make study NAME={study.spread_from}` first"
        )
    lender_result = read_json(path)
    if lender_result["scale"] != study.scale:
        raise UserError(
            f"compare: {path}: expected the scale {study.scale}, found {lender_result['scale']}; run "
            f"`make study NAME={study.spread_from}` first"
        )
    lender = studies.study(study.spread_from)
    if (lender_result["settings"], lender_result["seeds"]) != (lender.settings, list(lender.seeds)):
        raise UserError(
            f"compare: {path}: made with other settings or seeds than studies.yaml has, and {study.name} "
            f"takes the spread between seeds from it; run `make study NAME={study.spread_from}` first"
        )
    df = len(lender_result["seeds"]) - 1
    spreads = {}
    for metric in (*TESTED_METRICS, *DESCRIBED):
        scores = [variant["scores"][metric] for variant in lender_result["variants"].values()]
        spreads[metric] = variance.pooled(
            [SeedVariance(score["seed_sd"] ** 2, score["seed_variance"], df) for score in scores]
        )
    return spreads


def measure(
    study: Study, runs: dict[str, dict[str, Any]], resamples: int, spreads: dict[str, SeedVariance]
) -> Measured:
    """Draws of every variant. runs: `read_experiment` by experiment."""
    tuned, base, tuned_rows, base_rows, cost = {}, {}, {}, {}, {}
    sample = next(iter(runs.values()))["tuned"].sample
    # Each variant has a random stream of its own: the luck of its seeds is independent of the others'.
    for stream, variant in enumerate(study.variants):
        of_seeds = [runs[experiment(variant.name, seed)] for seed in study.seeds]
        scores = [run["tuned"] for run in of_seeds]
        tuned[variant.name] = {
            metric: variance.resampled(matrix(scores, metric), resamples, stream, spreads.get(metric), sample)
            for metric in (*TESTED_METRICS, *DESCRIBED)
        }
        tuned_rows[variant.name] = matrix(scores, HEADLINE)
        untuned = matrix([of_seeds[0]["base"]], HEADLINE)  # greedy or beams: no seed affects it
        base[variant.name] = variance.resampled(untuned, resamples, stream, sample=sample)
        base_rows[variant.name] = untuned
        cost[variant.name] = cost_of(of_seeds[0])
    return Measured(tuned, base, tuned_rows, base_rows, cost, spreads.get(HEADLINE), resamples, sample)


def compared_variants(
    study: Study, measured: Measured, whole: dict[str, Any], varied: list[str], confidence: float
) -> dict[str, dict[str, Any]]:
    """The JSON's entry of each variant: what it sets, its cost, its scores, its differences.

    whole: params.yaml; varied: the keys that any variant sets.
    """
    baseline = measured.tuned[study.baseline]
    variants = {}
    for variant in study.variants:
        scores = measured.tuned[variant.name]
        untuned = variance.summary(measured.base[variant.name], confidence)
        variants[variant.name] = {
            "sets": variant.changes,
            "values": {key: lookup(with_values(whole, variant.values), key) for key in varied},
            "cost": measured.cost[variant.name],
            "scores": {name: variance.summary(scores[name], confidence) for name in scores},
            "base": {HEADLINE: {name: untuned[name] for name in ("value", "low", "high")}},
            "difference": {
                name: variance.difference(scores[name], baseline[name], confidence)
                for name in TESTED_METRICS
                if variant.name != study.baseline
            },
        }
    for metric in TESTED_METRICS:
        entries = [v["difference"][metric] for v in variants.values() if v["difference"]]
        variance.adjust_holm(entries, confidence)
    return variants


def compare(
    study: Study,
    runs: dict[str, dict[str, Any]],
    resamples: int,
    confidence: float,
    spreads: dict[str, SeedVariance],
    left_out: list[str],
) -> dict[str, Any]:
    """The content of metrics/studies/NAME.json.

    runs: `read_experiment` by experiment; spreads: `borrowed_spread`; left_out: declared variants whose runs
    are missing.
    """
    require_same_test_set(runs)
    sample = next(iter(runs.values()))["tuned"].sample
    if sample.too_few_for(confidence):
        raise UserError(
            f"compare: the {len(sample.clusters):,} articles are from {sample.count} clusters, too few for a "
            f"{confidence:.0%} interval; evaluate on articles of more clusters"
        )
    whole = params.read_yaml(params.PARAMS_FILE)
    varied = sorted({key for variant in study.variants for key in variant.changes})
    measured = measure(study, runs, resamples, spreads)
    variants = compared_variants(study, measured, whole, varied, confidence)
    first = next(iter(runs.values()))
    analysis = ANALYSES.get(study.analysis)
    return {
        "study": study.name,
        "question": study.question,
        "scale": study.scale,
        "settings": study.settings,
        "defaults": {
            key: value
            for key, value in flat(whole).items()
            if key.partition(".")[0] not in NOT_COMPARED and key not in (*study.settings, *varied)
        },
        "left_out": left_out,
        "split": first["evaluation"]["split"],
        "n": first["evaluation"]["n"],
        "test": first["evaluation"]["test"],
        "resampling": first["evaluation"]["resampling"],
        "seeds": list(study.seeds),
        "spread_from": study.spread_from,
        "spread_sd": np.sqrt(spreads[HEADLINE].total) if spreads else None,
        "confidence": confidence,
        "resamples": resamples,
        "baseline": study.baseline,
        "signatures": {name: first["tuned"].signatures[name] for name in (*TESTED_METRICS, *DESCRIBED)},
        "variants": variants,
        "analysis": analysis.numbers(study, measured, confidence) if analysis else {},
    }


def compared(folder: Path, studies: Studies) -> dict[str, dict[str, Any]]:
    """The results of every compared study of this scale, by name, in the order of studies.yaml."""
    paths = {name: folder / f"{name}.json" for name in studies.names()}
    results = {name: read_json(path) for name, path in paths.items() if path.is_file()}
    return {name: result for name, result in results.items() if result["scale"] == studies.scale}


def write_result(path: Path, result: dict[str, Any], within: float | None) -> None:
    """Write rounded results, and settings unrounded: a rate of 6.25e-05 is not 0.0001.

    within: margin of the tests of equivalence, None for none. They are computed from the rounded differences,
    so a reader of the file can compute them again.
    """
    written = rounded(result) | {key: result[key] for key in ("settings", "defaults")}
    if within is not None:
        tests = equivalences(written["variants"], within, written["confidence"])
        written["equivalence"] = rounded(tests)
    for name, variant in written["variants"].items():
        variant |= {key: result["variants"][name][key] for key in ("sets", "values")}
    write_text(path, _json_text(written, "\n", ONE_LINE) + "\n")


def select_complete(study: Study, available: set[str], partial: bool) -> tuple[Study, list[str]]:
    """The study with its complete variants alone, and the names of the others and of curves through them.

    available: names of experiments. A variant is complete with every seed. A UserError where runs are
    missing; with `partial`, where the baseline or all other variants are incomplete.
    """
    missing = [name for name in study.experiments() if name not in available]
    left_out = [
        variant.name
        for variant in study.variants
        if not {experiment(variant.name, seed) for seed in study.seeds} <= available
    ]
    if missing and (not partial or study.baseline in left_out or len(left_out) == len(study.variants) - 1):
        raise UserError(
            f"compare: {len(missing)} of {len(study.experiments())} runs of {study.name} are missing, such "
            f"as {missing[0]}; run `make study NAME={study.name.removeprefix(QUICK)}"
            f"{' QUICK=1' if study.name.startswith(QUICK) else ''}`, or compare the complete variants with "
            "--partial (it needs the baseline and at least one other)"
        )
    complete = study.without(set(left_out))
    curves = [f"the curve {label}".strip() for label, members in complete.series.items() if not members]
    return complete, left_out + curves
