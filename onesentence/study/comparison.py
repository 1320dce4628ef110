"""The comparison of a study's variants: the content of metrics/studies/NAME.json."""

from pathlib import Path
from typing import Any

import numpy as np

from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.files import _json_text, rounded, write_text
from onesentence.core.text import percent
from onesentence.evaluation.metrics import HEADLINE, Scores, require_comparable
from onesentence.study import variance
from onesentence.study.analyses import ANALYSES
from onesentence.study.declaration import Studies
from onesentence.study.equivalence import equivalences
from onesentence.study.experiments import flat, lookup, study_command
from onesentence.study.measured import Measured
from onesentence.study.results import STUDIES, read_result
from onesentence.study.scores import EVALUATION, UNREAD, Run
from onesentence.study.variance import Floats, SeedVariance
from onesentence.study.variants import Study

TESTED_METRICS = ("rouge1", "rouge2", "rougeL", "bertscore")
# Sections of params.yaml that are no defaults of a study: it has its own seeds, and makes no base and no
# report.
NOT_COMPARED = ("seed", *UNREAD)
DESCRIBED = ("verbatim", "coverage", "novel_2", "words")  # given beside them, not tested
SUCCESS = "success_rate"  # of the untuned model, which may score low because it writes nothing
ONE_LINE = 4  # depth in the JSON from which a score takes one line


def require_same_test_set(runs: dict[str, Run]) -> None:
    """Raise a UserError unless every experiment scored the same articles with the same settings."""
    first = next(iter(runs))
    for name, run in runs.items():
        for key in ("split", "n", "test"):
            if run.evaluation[key] != runs[first].evaluation[key]:
                raise UserError(
                    f"compare: {key} is {run.evaluation[key]} in {name} and "
                    f"{runs[first].evaluation[key]} in {first}, so they scored different articles; give "
                    "both the same data and evaluate settings in studies.yaml"
                )
        require_comparable(run.tuned, runs[first].tuned, name, first)
        if "resampling" not in run.evaluation:
            raise UserError(
                f"compare: {name}: its evaluation is older than the resampling of clusters; run `make study` "
                "again"
            )


def matrix(scores: list[Scores], metric: str) -> Floats:
    """Scores [seeds, articles] of one metric."""
    return np.stack([seed.columns[metric] for seed in scores])


def borrowed_seed_variance(study: Study, studies: Studies) -> dict[str, SeedVariance]:
    """The seed variance by metric, from the study that a study of one seed names; empty where it names
    none. A UserError where that study has no results for its present declaration.
    """
    if study.spread_from is None:
        return {}
    path = STUDIES / f"{study.spread_from}.json"
    if not path.is_file():
        raise UserError(
            f"compare: {path}: not found, and {study.name}, which has one seed, takes the seed "
            f"variance from it; run {study_command(study.spread_from)} first"
        )
    lender_result = read_result(path)
    if lender_result["scale"] != study.scale:
        raise UserError(
            f"compare: {path}: expected the scale {study.scale}, found {lender_result['scale']}; run "
            f"{study_command(study.spread_from)} first"
        )
    lender = studies.study(study.spread_from)
    if (lender_result["settings"], lender_result["seeds"]) != (lender.settings, list(lender.seeds)):
        raise UserError(
            f"compare: {path}: made with other settings or seeds than studies.yaml has, and {study.name} "
            f"takes the seed variance from it; run {study_command(study.spread_from)} first"
        )
    df = len(lender_result["seeds"]) - 1
    seed_variances = {}
    # The scores of a variant whose outputs all failed are 0 with every seed, or undefined.
    alive = [v["scores"] for v in lender_result["variants"].values() if v["scores"][HEADLINE]["value"]]
    if not alive:
        raise UserError(
            f"compare: {path}: every output of every variant failed, and {study.name} takes the seed "
            "variance from it; name another study in its spread_from, or run "
            f"{study_command(study.spread_from)}"
        )
    for metric in (*TESTED_METRICS, *DESCRIBED):
        own = [
            SeedVariance(scores[metric]["seed_sd"] ** 2, scores[metric]["seed_variance"], df)
            for scores in alive
            if scores[metric]["seed_sd"] is not None
        ]
        if own:
            seed_variances[metric] = variance.pooled(own)
    return seed_variances


def measure(
    study: Study, runs: dict[str, Run], resamples: int, seed_variances: dict[str, SeedVariance]
) -> Measured:
    """Draws of every variant. runs: by experiment."""
    tuned, base, tuned_rows, base_rows, cost = {}, {}, {}, {}, {}
    sample = next(iter(runs.values())).tuned.sample
    # Each variant has a random stream of its own: the luck of its seeds is independent of the others'.
    for stream, variant in enumerate(study.variants):
        of_seeds = [runs[study.experiment(variant.name, seed)] for seed in study.seeds]
        scores = [run.tuned for run in of_seeds]
        tuned[variant.name] = {
            metric: variance.resampled(
                matrix(scores, metric), resamples, stream, seed_variances.get(metric), sample
            )
            for metric in (*TESTED_METRICS, *DESCRIBED)
        }
        tuned_rows[variant.name] = matrix(scores, HEADLINE)
        untuned = matrix([of_seeds[0].base], HEADLINE)  # greedy or beams: no seed affects it
        base[variant.name] = variance.resampled(untuned, resamples, stream, sample=sample)
        base_rows[variant.name] = untuned
        cost[variant.name] = of_seeds[0].cost
    return Measured(tuned, base, tuned_rows, base_rows, cost, seed_variances.get(HEADLINE), resamples, sample)


def difference(
    study: Study, measured: Measured, runs: dict[str, Run], name: str, metric: str, confidence: float
) -> dict[str, Any]:
    """A variant minus the baseline, as `variance.difference`. runs: by experiment.

    Two variants that write with the same trained models share the chance of training: it cancels in the
    difference of each seed, and so the variance between seeds is estimated from these differences.
    """
    sides = [[runs[study.experiment(side, seed)] for seed in study.seeds] for side in (name, study.baseline)]
    rows = [matrix([run.tuned for run in side], metric) for side in sides]
    keys = {key for variant in study.variants for key in variant.changes}
    values = [{key: lookup(side[0].params, key) for key in keys} for side in sides]
    trained_alike = all(key.startswith("generate.") or values[0][key] == values[1][key] for key in keys)
    if trained_alike and len(study.seeds) > 1 and not any(np.isnan(side).any() for side in rows):
        # Its number of a random stream is no variant's.
        stream = len(study.variants) + 1
        paired = variance.resampled(rows[0] - rows[1], measured.resamples, stream, sample=measured.sample)
        return variance.contrast(np.array([1.0]), [paired], confidence)
    left, right = (measured.tuned[side][metric] for side in (name, study.baseline))
    return variance.difference(left, right, confidence)


def compared_variants(
    study: Study, measured: Measured, runs: dict[str, Run], varied: list[str], confidence: float
) -> dict[str, dict[str, Any]]:
    """The JSON's entry of each variant: what it sets, its cost, its scores, its differences.

    runs: by experiment; varied: the keys that any variant sets.
    """
    variants = {}
    for variant in study.variants:
        scores = measured.tuned[variant.name]
        untuned = variance.summary(measured.base[variant.name], confidence)
        run = runs[study.experiment(variant.name, study.seeds[0])]
        variants[variant.name] = {
            "sets": variant.changes,
            "values": {key: lookup(run.params, key) for key in varied},
            "cost": measured.cost[variant.name],
            "scores": {name: variance.summary(scores[name], confidence) for name in scores},
            "base": {
                HEADLINE: {name: untuned[name] for name in ("value", "low", "high")},
                SUCCESS: float(run.base.columns[SUCCESS].mean()),
            },
            "difference": {
                metric: difference(study, measured, runs, variant.name, metric, confidence)
                for metric in TESTED_METRICS
                if variant.name != study.baseline
            },
        }
    for metric in TESTED_METRICS:
        entries = [v["difference"][metric] for v in variants.values() if v["difference"]]
        variance.adjust_holm(entries, confidence)
    return variants


def code_of_runs(runs: dict[str, Run]) -> dict[str, str | list[str]]:
    """The identity of the code that runs were made with, and their commits. A UserError where they differ."""
    identities = sorted({run.code["identity"] for run in runs.values()})
    if len(identities) > 1:
        raise UserError(
            f"compare: the runs were made with {len(identities)} versions of the code; run `make study` again"
        )
    return {"identity": identities[0], "commits": sorted({run.code["commit"] for run in runs.values()})}


def compare(
    study: Study, runs: dict[str, Run], seed_variances: dict[str, SeedVariance], left_out: list[str]
) -> dict[str, Any]:
    """The content of metrics/studies/NAME.json.

    runs: by experiment, as the study's file of scores has them; seed_variances: `borrowed_seed_variance`;
    left_out: declared variants whose runs are missing.
    """
    require_same_test_set(runs)
    # What no variant sets is the same for all; params.yaml may have changed since they ran.
    first = runs[study.experiment(study.baseline, study.seeds[0])]
    resamples, confidence = (first.params["evaluate"][key] for key in ("resamples", "confidence"))
    sample = first.tuned.sample
    if sample.too_few_for(confidence):
        raise UserError(
            f"compare: the {len(sample.clusters):,} articles are from {sample.count} clusters, too few for a "
            f"{percent(confidence)} interval; evaluate on articles of more clusters"
        )
    varied = sorted({key for variant in study.variants for key in variant.changes})
    measured = measure(study, runs, resamples, seed_variances)
    variants = compared_variants(study, measured, runs, varied, confidence)
    analysis = ANALYSES.get(study.analysis)
    return {
        "study": study.name,
        "question": study.question,
        "scale": study.scale,
        "settings": study.settings,
        "defaults": {
            key: value
            for key, value in flat(first.params).items()
            if key.partition(".")[0] not in NOT_COMPARED
            and key not in (*study.settings, *varied, *params.NO_EFFECT)
        },
        "left_out": left_out,
        **{key: first.evaluation[key] for key in EVALUATION},
        "seeds": list(study.seeds),
        "spread_from": study.spread_from,
        "spread_sd": np.sqrt(seed_variances[HEADLINE].total) if seed_variances else None,
        "confidence": confidence,
        "resamples": resamples,
        "baseline": study.baseline,
        "signatures": {name: first.tuned.signatures[name] for name in (*TESTED_METRICS, *DESCRIBED)},
        "variants": variants,
        "analysis": analysis.numbers(study, measured, confidence) if analysis else {},
        "code": code_of_runs(runs),
        **({"note": study.note} if study.note else {}),
    }


def compared(folder: Path, studies: Studies) -> dict[str, dict[str, Any]]:
    """The results of every compared study of this scale, by name, in the order of studies.yaml."""
    paths = {name: folder / f"{name}.json" for name in studies.names()}
    results = {name: read_result(path) for name, path in paths.items() if path.is_file()}
    return {name: result for name, result in results.items() if result["scale"] == studies.scale}


def write_result(path: Path, result: dict[str, Any], within: float | None) -> None:
    """Write rounded results, and settings unrounded: a rate of 6.25e-05 is not 0.0001.

    within: margin of the tests of equivalence, None for none. They are computed from the rounded differences,
    so a reader of the file can compute them again.
    """
    written = rounded(result) | {key: result[key] for key in ("settings", "defaults")}
    if within is not None:
        effective = written.get("resampling", {}).get("effective_clusters", written["n"])
        tests = equivalences(written["variants"], within, written["confidence"], effective)
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
        if not {study.experiment(variant.name, seed) for seed in study.seeds} <= available
    ]
    if missing and (not partial or study.baseline in left_out or len(left_out) == len(study.variants) - 1):
        raise UserError(
            f"compare: {len(missing)} of {len(study.experiments())} runs of {study.name} are missing, such "
            f"as {missing[0]}; run {study_command(study.name)}, or compare the complete variants with "
            "--partial (it needs the baseline and at least one other)"
        )
    complete = study.without(set(left_out))
    curves = [f"the curve {label}".strip() for label, members in complete.series.items() if not members]
    return complete, left_out + curves
