"""Compare the variants of a study: intervals, paired tests, what could have been missed, what each cost.

Reads   studies.yaml, params.yaml, and the study's DVC experiments (their scores of every article by id).
Writes  metrics/studies/NAME.json, plots/studies/NAME.svg and .csv, docs/decisions.md, and the README between
        its markers.
Run     python -m stages.compare NAME [--quick]    (`make study` ends with it)

Nothing is run again. Experiments that scored other articles, or with other settings, are refused.
"""

import argparse
import itertools
import json
import tempfile
from pathlib import Path

import numpy as np

from stages.commands.results import put_into_readme
from stages.common import errors, hierarchy, params, plots
from stages.common.commandline import print_table
from stages.common.decisions import DECISIONS_FILE, current_decisions
from stages.common.errors import UserError
from stages.common.experiments import finished
from stages.common.files import read_json, write_json, write_text
from stages.common.metrics import HEADLINE, Scores, read_scores, require_comparable, scores_file
from stages.common.statistics import holm
from stages.common.studies import Studies, Study, experiment
from stages.common.study_words import verdict

STUDIES = Path("metrics/studies")
PLOTS = Path("plots/studies")
SHOWN = ("rouge1", "rouge2", "rougeL", "bertscore")  # tested
DESCRIBED = ("verbatim", "coverage", "novel_2", "words")  # told beside them
COPYING = ("verbatim", "coverage", "novel_2")
START, END = "<!-- studies: written by make study -->\n", "<!-- end of studies -->\n"
CURVE_POINTS = 25  # of a fitted law and its band
ONE_LINE = 4  # depth in the JSON from which a score stands on one line


def read_experiment(ref: str) -> dict:
    """What an experiment measured: its own JSON files, and the scores of base and tuned by article."""
    from dvc.api import DVCFileSystem

    files = DVCFileSystem(rev=ref)
    found = {}
    for name in ("evaluation", "train", "prompt"):
        found[name] = json.loads(files.read_text(f"metrics/{name}.json", encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        for system in ("base", "tuned"):
            path = Path(folder) / f"{system}.parquet"
            files.get_file(scores_file(system).as_posix(), str(path))
            found[system] = read_scores(path)
    return found


def require_like(runs: dict[str, dict]) -> None:
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


def compare(study: Study, runs: dict[str, dict], resamples: int, confidence: float) -> dict:
    """metrics/studies/NAME.json. runs: `read_experiment` by experiment."""
    require_like(runs)
    first = next(iter(runs.values()))["evaluation"]
    drawn: dict[str, dict[str, hierarchy.Resampled]] = {}
    bases: dict[str, hierarchy.Resampled] = {}
    for stream, variant in enumerate(study.variants):
        of_seeds = [runs[experiment(variant.name, seed)] for seed in study.seeds]
        tuned = [run["tuned"] for run in of_seeds]
        drawn[variant.name] = {
            metric: hierarchy.resampled(matrix(tuned, metric), resamples, stream)
            for metric in (*SHOWN, *DESCRIBED)
        }
        base = [of_seeds[0]["base"]]  # greedy or beams: no seed in it
        bases[variant.name] = hierarchy.resampled(matrix(base, HEADLINE), resamples, stream)
    reference = drawn[study.reference]
    variants = {}
    for variant in study.variants:
        found = drawn[variant.name]
        variants[variant.name] = {
            "sets": variant.changes,
            "cost": cost_of(runs[experiment(variant.name, study.seeds[0])]),
            "scores": {name: hierarchy.summary(found[name], confidence) for name in found},
            "base": {HEADLINE: hierarchy.summary(bases[variant.name], confidence)},
            "difference": {
                name: hierarchy.difference(found[name], reference[name], confidence)
                for name in SHOWN
                if variant.name != study.reference
            },
        }
    entries = [entry for each in variants.values() for entry in each["difference"].values()]
    for entry, p in zip(entries, holm([entry["p"] for entry in entries]), strict=True):
        entry["p_holm"] = p
    signatures = next(iter(runs.values()))["tuned"].signatures
    return {
        "study": study.name,
        "question": study.question,
        "scale": study.scale,
        "split": first["split"],
        "n": first["n"],
        "test": first["test"],
        "seeds": list(study.seeds),
        "confidence": confidence,
        "resamples": resamples,
        "hours": study.hours,
        "reference": study.reference,
        "signatures": {name: signatures[name] for name in (*SHOWN, *DESCRIBED)},
        "variants": variants,
        "analysis": analyse(study, variants, drawn, bases, confidence),
    }


def analyse(study: Study, variants: dict, drawn: dict, bases: dict, confidence: float) -> dict:
    """What the kind of study asks beyond its differences."""
    names = [variant.name for variant in study.variants]
    headline = {name: drawn[name][HEADLINE] for name in names}
    if study.analysis == "trend":
        found = {}
        for label, members in study.series.items():
            x = np.log2([variant.values[study.along] for variant in members])
            found[label] = hierarchy.slope(x, [headline[v.name] for v in members], confidence)
        return {"for_each_doubling": found}
    if study.analysis == "scaling":
        found = {}
        for label, members in study.series.items():
            x = np.array([variant.values[study.along] for variant in members])
            drawn_scores = [headline[v.name] for v in members]
            found[label] = hierarchy.scaling(x, drawn_scores, confidence)
            at = np.geomspace(x[0], x[-1], CURVE_POINTS)
            curve = hierarchy.band(x, drawn_scores, at, confidence)
            found[label]["curve"] = np.vstack([at, curve]).T.tolist()
        return {"laws": found}
    if study.analysis == "pareto":
        cost = [variants[name]["cost"]["base_bytes"] for name in names]
        front = hierarchy.pareto_front(cost, [headline[name].value for name in names])
        return {"pareto_front": [names[i] for i in front]}
    if study.analysis == "prompt":
        best = max(names, key=lambda name: bases[name].value)
        start, tuned = bases[study.reference], headline[study.reference]
        gap = tuned.both - start.both
        closed = (bases[best].both - start.both) / gap
        low, high = np.quantile(closed, [(1 - confidence) / 2, (1 + confidence) / 2])
        return {
            "best_prompt_of_the_base": best,
            "gap_closed_by_prompting": {
                "value": (bases[best].value - start.value) / (tuned.value - start.value),
                "low": float(low),
                "high": float(high),
            },
        }
    if study.analysis == "full":
        full = headline[study.reference]
        found = {}
        for name in names:
            if name != study.reference:
                share = 100 * (1 - headline[name].both / full.both)
                value = 100 * (1 - headline[name].value / full.value)
                found[name] = hierarchy.test_of(share, value, confidence)
        return {"percent_below_full": found}
    if study.analysis == "copying":
        return {
            "copying": {
                name: {
                    metric: hierarchy.difference(
                        drawn[name][metric], drawn[study.reference][metric], confidence
                    )
                    for metric in COPYING
                }
                for name in names
                if name != study.reference
            }
        }
    if study.analysis == "exchange":
        return {"exchanges": exchanges(study, headline, confidence)}
    return {}


def exchanges(study: Study, headline: dict, confidence: float) -> list[dict]:
    """Each series with more data against the next one with less: from one size to the next, and to the last.

    Series stand in the order of their models' size.
    """
    series, found = list(study.series.values()), []
    for smaller, larger in itertools.pairwise(series):
        for less in range(len(larger) - 1):
            for more in sorted({less + 1, len(smaller) - 1}):
                entry = hierarchy.difference(
                    headline[smaller[more].name], headline[larger[less].name], confidence
                )
                found.append({"smaller": smaller[more].name, "larger": larger[less].name, **entry})
    for entry, p in zip(found, holm([entry["p"] for entry in found]), strict=True):
        entry["p_holm"] = p
    return found


def write_plots(study: Study, found: dict) -> None:
    """plots/studies/NAME.csv, a row for each variant, and NAME.svg."""
    header = ["variant"]
    for metric in SHOWN:
        header += [metric, f"{metric}_low", f"{metric}_high"]
    header += ["base_rouge1", *DESCRIBED, *next(iter(found["variants"].values()))["cost"]]
    rows = []
    for name, variant in found["variants"].items():
        cells = [name]
        for metric in SHOWN:
            score = variant["scores"][metric]
            cells += [score["value"], score["low"], score["high"]]
        cells.append(variant["base"][HEADLINE]["value"])
        cells += [variant["scores"][metric]["value"] for metric in DESCRIBED]
        rows.append([*cells, *variant["cost"].values()])
    plots.write_csv(PLOTS / f"{study.name}.csv", header, rows)
    names = list(found["variants"])
    beside = bool(study.series) or study.analysis == "pareto"
    height = max(2.6, 0.28 * len(names) + 1.1)
    drawn, axes = plots.figure(width=10.0 if beside else 7.0, height=height, columns=2 if beside else 1)
    draw_variants(axes[0] if beside else axes, study, found)
    if study.series:
        draw_series(axes[1], study, found)
    elif beside:
        draw_memory(axes[1], found)
    plots.save(drawn, PLOTS / f"{study.name}.svg")


def bar_of(score: dict) -> list[list[float]]:
    """Lengths of an error bar around a score."""
    return [[score["value"] - score["low"]], [score["high"] - score["value"]]]


def draw_variants(axis, study: Study, found: dict) -> None:
    """ROUGE-1 of every variant with its interval."""
    names = list(found["variants"])
    for place, name in enumerate(reversed(names)):
        variant = found["variants"][name]
        score = variant["scores"][HEADLINE]
        colour = plots.COLOURS["base"] if name == found["reference"] else plots.COLOURS["tuned"]
        axis.errorbar([score["value"]], [place], xerr=bar_of(score), fmt="o", color=colour, capsize=2)
        if study.analysis == "prompt":
            axis.plot([variant["base"][HEADLINE]["value"]], [place], "o", color=plots.COLOURS["lead"])
    axis.axvline(found["variants"][found["reference"]]["scores"][HEADLINE]["value"], color="black", lw=0.6)
    axis.set_yticks(range(len(names)), list(reversed(names)))
    seeds = len(found["seeds"])
    grey = "; grey: untuned" if study.analysis == "prompt" else ""
    seeds = f"{seeds} seed{'s' * (seeds > 1)}"
    axis.set(
        title=f"{study.name}: {found['n']:,} {found['split']} articles, {seeds}{grey}",
        xlabel=f"ROUGE-1 (F1 x 100), {found['confidence']:.0%} interval over seeds and articles",
    )


def draw_series(axis, study: Study, found: dict) -> None:
    """ROUGE-1 along the key that the study follows, and the fitted law with its band."""
    colours = list(plots.COLOURS.values())[::-1]
    for (label, members), colour in zip(study.series.items(), colours, strict=False):
        x = [member.values[study.along] for member in members]
        scores = [found["variants"][member.name]["scores"][HEADLINE] for member in members]
        bars = np.array([bar_of(score) for score in scores])[:, :, 0].T
        y = [score["value"] for score in scores]
        law = found["analysis"].get("laws", {}).get(label)
        line = "o" if law else "o-"
        axis.errorbar(x, y, yerr=bars, fmt=line, color=colour, capsize=2, label=label)
        if law:
            at, fit, low, high = np.array(law["curve"]).T
            axis.plot(at, fit, color=colour, lw=1)
            axis.fill_between(at, low, high, color=colour, alpha=0.15, lw=0)
    if any(study.series):
        axis.legend(frameon=False)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set(xlabel=f"{study.along} (log scale)", ylabel="ROUGE-1 (F1 x 100)")


def draw_memory(axis, found: dict) -> None:
    """ROUGE-1 against what the base takes in memory."""
    for name, variant in found["variants"].items():
        score, size = variant["scores"][HEADLINE], variant["cost"]["base_bytes"] / 1e6
        on_front = name in found["analysis"]["pareto_front"]
        colour = plots.COLOURS["tuned" if on_front else "lead"]
        axis.errorbar([size], [score["value"]], yerr=bar_of(score), fmt="o", color=colour, capsize=2)
        axis.annotate(name, (size, score["value"]), xytext=(6, 4), textcoords="offset points", fontsize=8)
    axis.set(
        title="blue: none is both smaller and better",
        xlabel="base in memory (MB)",
        ylabel="ROUGE-1 (F1 x 100)",
    )


def section(folder: Path, names: list[str]) -> str:
    """Markdown of every study that was compared, in the order of studies.yaml."""
    parts = []
    for name in names:
        path = folder / f"{name}.json"
        if path.is_file():
            found = read_json(path)
            said = "\n".join(f"- {sentence}" for sentence in verdict(found))
            parts.append(
                f"**{name}**: {found['question']}\n\n{said}\n\n"
                f"![Study {name}: ROUGE-1 of its variants](plots/studies/{name}.svg)\n"
            )
    return "\n".join(parts)


def print_study(found: dict) -> None:
    """The comparison on the terminal."""
    rows = []
    for name, variant in found["variants"].items():
        score, entry = variant["scores"][HEADLINE], variant["difference"].get(HEADLINE)
        cells = [name, f"{score['value']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"]
        cells += [f"{variant['scores'][metric]['value']:.2f}" for metric in SHOWN[1:]]
        if entry:
            cells += [f"{entry['value']:+.2f} [{entry['low']:+.2f}, {entry['high']:+.2f}]"]
            cells += [f"{entry['p_holm']:.3f}", f"{entry['detectable']:.2f}"]
        else:
            cells += ["reference", "", ""]
        rows.append(cells)
    print_table(
        f"{found['study']}: {found['n']:,} {found['split']} articles, {len(found['seeds'])} seeds",
        ["variant", "ROUGE-1", "R-2", "R-L", "BERTS", "difference", "p (Holm)", "detectable"],
        rows,
    )
    print("\n".join(f"- {sentence}" for sentence in verdict(found)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.compare", description=__doc__.split("\n")[0])
    parser.add_argument("name", help="of a study in studies.yaml")
    parser.add_argument("--quick", action="store_true", help="the study's quick version")
    arguments = parser.parse_args()
    p = params.load(("model", "evaluate"))
    study = Studies(p.model.name).study(arguments.name, arguments.quick)
    refs = finished(study)
    missing = [name for name in study.experiments() if name not in refs]
    if missing:
        raise UserError(
            f"compare: {len(missing)} of {len(study.experiments())} runs of {study.name} are missing, such "
            f"as {missing[0]}; run `make study NAME={arguments.name}`"
        )
    runs = {name: read_experiment(ref) for name, ref in refs.items()}
    found = compare(study, runs, p.evaluate.resamples, p.evaluate.confidence)
    write_json(STUDIES / f"{study.name}.json", found, one_line_below=ONE_LINE)
    write_plots(study, found)
    if not arguments.quick:
        put_into_readme(START, END, section(STUDIES, Studies(p.model.name).names()))
        write_text(DECISIONS_FILE, current_decisions(STUDIES))
    print_study(found)


if __name__ == "__main__":
    errors.run(main)
