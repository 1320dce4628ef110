"""The comparison of a study's variants: what metrics/studies/NAME.json holds."""

import json
from pathlib import Path

import numpy as np

from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.files import _json_text, read_json, rounded, write_text
from onesentence.evaluation.metrics import HEADLINE, Scores, require_comparable
from onesentence.study import variance
from onesentence.study.analyses import ANALYSES
from onesentence.study.declaration import QUICK, Studies
from onesentence.study.experiments import (
    flat,
    git,
    lookup,
    scores_at,
    with_values,
)
from onesentence.study.measured import Measured
from onesentence.study.variance import SeedVariance
from onesentence.study.variants import Study, experiment

STUDIES = Path("metrics/studies")
TESTED_METRICS = ("rouge1", "rouge2", "rougeL", "bertscore")  # tested
# Sections of params.yaml that are not among what a study was made with: it has its own seeds.
NOT_COMPARED = ("seed", "pretrain", "report")
DESCRIBED = ("verbatim", "coverage", "novel_2", "words")  # told beside them
ONE_LINE = 4  # depth in the JSON from which a score stands on one line


def read_experiment(name: str, ref: str) -> dict:
    """What an experiment measured: its own JSON files, and the scores of base and tuned by article."""
    found = scores_at(ref, ("base", "tuned"))
    if found is None:
        raise UserError(
            f"compare: DVC's cache lacks the scores of {name}; fetch them with `dvc exp pull REMOTE "
            f"{name}`, or run the variant again: `git update-ref -d {ref}`, then `make study`"
        )
    for file in ("evaluation", "train", "prompt"):
        found[file] = json.loads(git("show", f"{ref}:./metrics/{file}.json"))
    return found


def require_same_test_set(runs: dict[str, dict]) -> None:
    """Raise a UserError unless every experiment scored the same articles with the same settings."""
    first = next(iter(runs))
    for name, run in runs.items():
        for key in ("split", "n", "test"):
            if run["evaluation"][key] != runs[first]["evaluation"][key]:
                raise UserError(
                    f"compare: {key} is {run['evaluation'][key]} in {name} and "
                    f"{runs[first]['evaluation'][key]} in {first}; they scored other articles. Give both the "
                    "same data and evaluate settings in studies.yaml"
                )
        require_comparable(run["tuned"], runs[first]["tuned"], name, first)
        if "resampling" not in run["evaluation"]:
            raise UserError(
                f"compare: {name} was evaluated before clusters of articles were resampled together; run "
                "`make study` again"
            )


def matrix(scores: list[Scores], metric: str) -> np.ndarray:
    """Scores [seeds, articles] of one metric."""
    return np.stack([each.columns[metric] for each in scores])


def cost_of(run: dict) -> dict[str, int]:
    """What a variant cost, in numbers that are the same on every machine."""
    train, prompt = run["train"], run["prompt"]
    return {
        "trainable_parameters": train["trainable_parameters"],
        "tuned_bytes": train["tuned_bytes"],
        "base_bytes": train["base_footprint_bytes"],
        "tokens_trained": train["tokens_trained"],
        "prompt_tokens": prompt["template_tokens"],
    }


def borrowed_spread(study: Study, studies: Studies) -> dict[str, SeedVariance]:
    """How far seeds are apart, by metric, from the study that a study of one seed names; empty where none
    is. A UserError where that one is not there as it is declared now.
    """
    if study.spread_from is None:
        return {}
    path = STUDIES / f"{study.spread_from}.json"
    if not path.is_file():
        raise UserError(
            f"compare: {study.name} has one seed and takes the spread between seeds from {path}, which is "
            f"not there; run `make study NAME={study.spread_from}` first"
        )
    found = read_json(path)
    if found["scale"] != study.scale:
        raise UserError(
            f"compare: {path} is of {found['scale']}, whose seeds say nothing about {study.scale}; run "
            f"`make study NAME={study.spread_from}` first"
        )
    lender = studies.study(study.spread_from)
    if (found["settings"], found["seeds"]) != (lender.settings, list(lender.seeds)):
        raise UserError(
            f"compare: {path} was made with other settings or seeds than studies.yaml has, and {study.name} "
            f"takes the spread between seeds from it; run `make study NAME={study.spread_from}` first"
        )
    df = len(found["seeds"]) - 1
    spreads = {}
    for metric in (*TESTED_METRICS, *DESCRIBED):
        scores = [variant["scores"][metric] for variant in found["variants"].values()]
        spreads[metric] = variance.pooled(
            [SeedVariance(each["seed_sd"] ** 2, each["seed_variance"], df) for each in scores]
        )
    return spreads


def measure(
    study: Study, runs: dict[str, dict], resamples: int, spreads: dict[str, SeedVariance]
) -> Measured:
    """Draws of every variant. runs: `read_experiment` by experiment."""
    tuned, base, tuned_rows, base_rows, cost = {}, {}, {}, {}, {}
    sample = next(iter(runs.values()))["tuned"].sample
    for stream, variant in enumerate(study.variants):
        of_seeds = [runs[experiment(variant.name, seed)] for seed in study.seeds]
        scores = [run["tuned"] for run in of_seeds]
        tuned[variant.name] = {
            metric: variance.resampled(matrix(scores, metric), resamples, stream, spreads.get(metric), sample)
            for metric in (*TESTED_METRICS, *DESCRIBED)
        }
        tuned_rows[variant.name] = matrix(scores, HEADLINE)
        untuned = matrix([of_seeds[0]["base"]], HEADLINE)  # greedy or beams: no seed in it
        base[variant.name] = variance.resampled(untuned, resamples, stream, sample=sample)
        base_rows[variant.name] = untuned
        cost[variant.name] = cost_of(of_seeds[0])
    return Measured(tuned, base, tuned_rows, base_rows, cost, spreads.get(HEADLINE), resamples, sample)


def compared_variants(
    study: Study, measured: Measured, whole: dict, varied: list[str], confidence: float
) -> dict[str, dict]:
    """What the JSON holds of each variant: what it sets, its cost, its scores, its differences.

    whole: params.yaml; varied: the keys that any variant sets.
    """
    baseline = measured.tuned[study.baseline]
    variants = {}
    for variant in study.variants:
        found = measured.tuned[variant.name]
        untuned = variance.summary(measured.base[variant.name], confidence)
        variants[variant.name] = {
            "sets": variant.changes,
            "values": {key: lookup(with_values(whole, variant.values), key) for key in varied},
            "cost": measured.cost[variant.name],
            "scores": {name: variance.summary(found[name], confidence) for name in found},
            "base": {HEADLINE: {name: untuned[name] for name in ("value", "low", "high")}},
            "difference": {
                name: variance.difference(found[name], baseline[name], confidence)
                for name in TESTED_METRICS
                if variant.name != study.baseline
            },
        }
    for metric in TESTED_METRICS:
        entries = [each["difference"][metric] for each in variants.values() if each["difference"]]
        variance.adjust_holm(entries, confidence)
    return variants


def compare(
    study: Study,
    runs: dict[str, dict],
    resamples: int,
    confidence: float,
    spreads: dict[str, SeedVariance],
    left_out: list[str],
) -> dict:
    """metrics/studies/NAME.json. runs: `read_experiment` by experiment; spreads: `borrowed_spread`; left_out:
    variants that are declared and not there.
    """
    require_same_test_set(runs)
    sample = next(iter(runs.values()))["tuned"].sample
    if sample.too_few_for(confidence):
        raise UserError(
            f"compare: the {len(sample.clusters):,} articles are from {sample.count} clusters, too few for a "
            f"{confidence:.0%} interval; evaluate on articles of more"
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


def compared(folder: Path, studies: Studies) -> dict[str, dict]:
    """What was found in every study of this scale, by name, in the order of studies.yaml."""
    paths = {name: folder / f"{name}.json" for name in studies.names()}
    found = {name: read_json(path) for name, path in paths.items() if path.is_file()}
    return {name: each for name, each in found.items() if each["scale"] == studies.scale}


def write_found(path: Path, found: dict) -> None:
    """Results rounded as in every tracked file, settings as they are: a rate of 6.25e-05 is not 0.0001."""
    written = rounded(found) | {key: found[key] for key in ("settings", "defaults")}
    for name, variant in written["variants"].items():
        variant |= {key: found["variants"][name][key] for key in ("sets", "values")}
    write_text(path, _json_text(written, "\n", ONE_LINE) + "\n")


def select_complete(study: Study, there: set[str], partial: bool) -> tuple[Study, list[str]]:
    """The study of the variants whose every seed is there, and the names of the others and of curves through
    them.

    there: names of experiments. A UserError where some are missing, with `partial` where the baseline is.
    """
    missing = [name for name in study.experiments() if name not in there]
    left_out = [
        variant.name
        for variant in study.variants
        if not {experiment(variant.name, seed) for seed in study.seeds} <= there
    ]
    if missing and (not partial or study.baseline in left_out or len(left_out) == len(study.variants) - 1):
        raise UserError(
            f"compare: {len(missing)} of {len(study.experiments())} runs of {study.name} are missing, such "
            f"as {missing[0]}; run `make study NAME={study.name.removeprefix(QUICK)}"
            f"{' QUICK=1' if study.name.startswith(QUICK) else ''}`. With --partial what is there is "
            "compared, the baseline with one other at the least"
        )
    kept = study.without(set(left_out))
    curves = [f"the curve {label}".strip() for label, members in kept.series.items() if not members]
    return kept, left_out + curves
