"""Compare the variants of a study: intervals, paired tests, what could have been missed, what each cost.

Reads   studies.yaml, params.yaml, and the study's DVC experiments (their scores of every article by id).
Writes  metrics/studies/NAME.json, plots/studies/NAME.svg and .csv, docs/decisions.md, and the README between
        its markers.
Run     python -m onesentence.commands.compare [NAME] [--quick]    (`make study` ends with it)

Nothing is run. Experiments that scored other articles, or with other settings, are refused, and so is a study
of which some are missing; with --partial the variants that are there are compared, and the others named.
Without NAME nothing is compared either: plots, README and docs/decisions.md are written from metrics/studies/
again, as after a change of a default.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from onesentence.commands.results import put_into_readme
from onesentence.core import errors, params, plots
from onesentence.core.errors import UserError
from onesentence.core.files import _json_text, read_json, rounded, write_text
from onesentence.evaluation.metrics import HEADLINE, Scores, require_comparable
from onesentence.report.commandline import print_table
from onesentence.report.results import number
from onesentence.study import hierarchy
from onesentence.study.decisions import DECISIONS_FILE, current_decisions
from onesentence.study.experiments import (
    code_of,
    finished,
    flat,
    git,
    lookup,
    require_distinct,
    scores_at,
    with_values,
)
from onesentence.study.hierarchy import Spread
from onesentence.study.studies import QUICK, Studies, Study, experiment
from onesentence.study.study_analyses import ANALYSES, Measured
from onesentence.study.study_words import between, settings_sentence, verdict

STUDIES = Path("metrics/studies")
PLOTS = Path("plots/studies")
SHOWN = ("rouge1", "rouge2", "rougeL", "bertscore")  # tested
TITLES = dict(zip(SHOWN, ("ROUGE-1", "R-2", "R-L", "BERTS"), strict=True))  # on the terminal
# Sections of params.yaml that are not among what a study was made with: it has its own seeds.
NOT_COMPARED = ("seed", "pretrain", "report")
LONG = 16  # characters of a name beside which every metric has room in 120 columns
DESCRIBED = ("verbatim", "coverage", "novel_2", "words")  # told beside them
START, END = "<!-- studies: written by make study -->\n", "<!-- end of studies -->\n"
# Okabe and Ito's, as the others; none is the reference's.
CURVE_COLOURS = (plots.COLOURS["tuned"], "#CC79A7", plots.COLOURS["lead"], "#009E73")
APART = 1.06  # factor between curves along a logarithmic axis
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


def borrowed_spread(study: Study, studies: Studies) -> dict[str, Spread]:
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
    for metric in (*SHOWN, *DESCRIBED):
        scores = [variant["scores"][metric] for variant in found["variants"].values()]
        spreads[metric] = hierarchy.pooled(
            [Spread(each["seed_sd"] ** 2, each["seed_variance"], df) for each in scores]
        )
    return spreads


def measure(study: Study, runs: dict[str, dict], resamples: int, spreads: dict[str, Spread]) -> Measured:
    """Draws of every variant. runs: `read_experiment` by experiment."""
    tuned, base, tuned_rows, base_rows, cost = {}, {}, {}, {}, {}
    sample = next(iter(runs.values()))["tuned"].sample
    for stream, variant in enumerate(study.variants):
        of_seeds = [runs[experiment(variant.name, seed)] for seed in study.seeds]
        scores = [run["tuned"] for run in of_seeds]
        tuned[variant.name] = {
            metric: hierarchy.resampled(
                matrix(scores, metric), resamples, stream, spreads.get(metric), sample
            )
            for metric in (*SHOWN, *DESCRIBED)
        }
        tuned_rows[variant.name] = matrix(scores, HEADLINE)
        untuned = matrix([of_seeds[0]["base"]], HEADLINE)  # greedy or beams: no seed in it
        base[variant.name] = hierarchy.resampled(untuned, resamples, stream, sample=sample)
        base_rows[variant.name] = untuned
        cost[variant.name] = cost_of(of_seeds[0])
    return Measured(tuned, base, tuned_rows, base_rows, cost, spreads.get(HEADLINE), resamples, sample)


def compare(
    study: Study,
    runs: dict[str, dict],
    resamples: int,
    confidence: float,
    spreads: dict[str, Spread],
    left_out: list[str],
) -> dict:
    """metrics/studies/NAME.json. runs: `read_experiment` by experiment; spreads: `borrowed_spread`; left_out:
    variants that are declared and not there.
    """
    require_like(runs)
    sample = next(iter(runs.values()))["tuned"].sample
    if sample.too_few_for(confidence):
        raise UserError(
            f"compare: the {len(sample.clusters):,} articles are from {sample.count} clusters, too few for a "
            f"{confidence:.0%} interval; evaluate on articles of more"
        )
    whole = params.read_yaml(params.PARAMS_FILE)
    varied = sorted({key for variant in study.variants for key in variant.changes})
    measured = measure(study, runs, resamples, spreads)
    reference = measured.tuned[study.reference]
    variants = {}
    for variant in study.variants:
        found = measured.tuned[variant.name]
        untuned = hierarchy.summary(measured.base[variant.name], confidence)
        variants[variant.name] = {
            "sets": variant.changes,
            "values": {key: lookup(with_values(whole, variant.values), key) for key in varied},
            "cost": measured.cost[variant.name],
            "scores": {name: hierarchy.summary(found[name], confidence) for name in found},
            "base": {HEADLINE: {name: untuned[name] for name in ("value", "low", "high")}},
            "difference": {
                name: hierarchy.difference(found[name], reference[name], confidence)
                for name in SHOWN
                if variant.name != study.reference
            },
        }
    for metric in SHOWN:
        entries = [each["difference"][metric] for each in variants.values() if each["difference"]]
        hierarchy.family(entries, confidence)
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
        "reference": study.reference,
        "signatures": {name: first["tuned"].signatures[name] for name in (*SHOWN, *DESCRIBED)},
        "variants": variants,
        "analysis": analysis(study, measured, confidence) if analysis else {},
    }


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
    beside = bool(study.series) or study.analysis in ("pareto", "prompt")
    height = max(2.8, 0.28 * len(names) + 1.3)
    drawn, axes = plots.figure(width=10.0 if beside else 7.0, height=height, columns=2 if beside else 1)
    draw_variants(axes[0] if beside else axes, study, found)
    if study.series:
        draw_series(axes[1], study, found)
    elif study.analysis == "pareto":
        draw_memory(axes[1], found)
    elif study.analysis == "prompt":
        draw_lengths(axes[1], found)
    plots.save(drawn, PLOTS / f"{study.name}.svg")


def bar_of(score: dict) -> list[list[float]]:
    """Lengths of an error bar around a score."""
    return plots.error_bars([score])


def draw_variants(axis, study: Study, found: dict) -> None:
    """ROUGE-1 of every variant with its interval, and thick the interval of its paired difference to the
    reference: two scores are compared by that, not by whether their own intervals overlap.
    """
    # Curve by curve, as beside it: what was added to a curve later stands with it.
    ordered = [member.name for members in study.series.values() for member in members]
    names = list(dict.fromkeys([*ordered, *found["variants"]]))
    start = found["variants"][found["reference"]]["scores"][HEADLINE]["value"]
    for place, name in enumerate(reversed(names)):
        variant = found["variants"][name]
        score = variant["scores"][HEADLINE]
        colour = plots.COLOURS["base"] if name == found["reference"] else plots.COLOURS["tuned"]
        axis.errorbar([score["value"]], [place], xerr=bar_of(score), fmt="o", color=colour, capsize=2, lw=0.8)
        if name != found["reference"]:
            entry = variant["difference"][HEADLINE]
            axis.plot(
                [start + entry["low"], start + entry["high"]], [place, place], color=colour, lw=4, alpha=0.5
            )
        if study.analysis == "prompt":
            axis.plot([variant["base"][HEADLINE]["value"]], [place], "o", color=plots.COLOURS["lead"])
    axis.axvline(start, color="black", lw=0.6)
    axis.set_yticks(range(len(names)), list(reversed(names)))
    axis.set_ylim(-0.6, len(names) - 0.4)
    seeds = len(found["seeds"])
    grey = "; grey: untuned" if study.analysis == "prompt" else ""
    borrowed = f"articles and seeds (as in {found['spread_from']})" if found["spread_from"] else "articles"
    over = "seeds and articles" if seeds > 1 else borrowed
    seeds = f"{seeds} seed{'s' * (seeds > 1)}"
    axis.set(
        title=f"{study.name}: {found['n']:,} {found['split']} articles, {seeds}{grey}",
        xlabel=f"ROUGE-1 (F1 x 100), {found['confidence']:.0%} interval over {over};\n"
        "thick: of the paired difference to the reference (orange, line)",
    )


def draw_series(axis, study: Study, found: dict) -> None:
    """ROUGE-1 along the key that the study follows; a law dashed beyond what it was fitted to, and the point
    that it was held against hollow. Where there is no law, curves stand a little apart, so that no error bar
    hides another.
    """
    apart = 1 if found["analysis"].get("laws") else APART
    for place, ((label, members), colour) in enumerate(
        zip(study.series.items(), CURVE_COLOURS, strict=False)
    ):
        if not members:  # not every run is there
            continue
        shift = apart ** (place - (len(study.series) - 1) / 2)
        x = [member.values[study.along] * shift for member in members]
        scores = [found["variants"][member.name]["scores"][HEADLINE] for member in members]
        bars = np.array([bar_of(score) for score in scores])[:, :, 0].T
        y = [score["value"] for score in scores]
        law = found["analysis"].get("laws", {}).get(label)
        line = "o" if law else "o-"
        axis.errorbar(x, y, yerr=bars, fmt=line, color=colour, capsize=2, label=label)
        if law:
            at, fit, low, high = np.array(law["curve"]).T
            inside, outside = at <= x[-2], at >= at[at <= x[-2]][-1]
            axis.plot(at[inside], fit[inside], color=colour, lw=1)
            axis.plot(at[outside], fit[outside], "--", color=colour, lw=1)
            axis.fill_between(at, low, high, color=colour, alpha=0.15, lw=0)
            axis.plot(x[-1], y[-1], "o", color=colour, markerfacecolor="white", zorder=3)
    if any(label for label, members in study.series.items() if members):
        axis.legend(frameon=False)
    if found["analysis"].get("laws"):
        axis.set_title("dashed, hollow: held out of the fit")
    axis.set_xscale("log", base=2)
    axis.set_xticks(
        sorted({member.values[study.along] for members in study.series.values() for member in members})
    )
    axis.xaxis.set_major_formatter("{x:g}")
    axis.tick_params(axis="x", rotation=45)
    axis.set(xlabel=f"{study.along} (log scale)", ylabel="ROUGE-1 (F1 x 100)")


def draw_lengths(axis, found: dict) -> None:
    """ROUGE-1 against the tokens that a prompt adds, tuned and untuned."""
    for name, variant in found["variants"].items():
        tokens = variant["cost"]["prompt_tokens"]
        for kind, score in (("tuned", variant["scores"][HEADLINE]), ("lead", variant["base"][HEADLINE])):
            colour = plots.COLOURS["base" if kind == "tuned" and name == found["reference"] else kind]
            axis.errorbar([tokens], [score["value"]], yerr=bar_of(score), fmt="o", color=colour, capsize=2)
    axis.set(
        title="blue: tuned, grey: untuned", xlabel="tokens that the prompt adds", ylabel="ROUGE-1 (F1 x 100)"
    )


def draw_memory(axis, found: dict) -> None:
    """Quality against the base's size; names in turn above and below their bars, since sizes may be close."""
    ordered = sorted(found["variants"].items(), key=lambda item: item[1]["cost"]["base_bytes"])
    for place, (name, variant) in enumerate(ordered):
        score, size = variant["scores"][HEADLINE], variant["cost"]["base_bytes"] / 1e6
        on_front = name in found["analysis"]["pareto_front"]
        colour = plots.COLOURS["tuned" if on_front else "lead"]
        axis.errorbar([size], [score["value"]], yerr=bar_of(score), fmt="o", color=colour, capsize=2)
        end, shift, side = ("low", -4, "top") if place % 2 else ("high", 4, "bottom")
        axis.annotate(
            name, (size, score[end]), (0, shift), textcoords="offset points", ha="center", va=side, fontsize=8
        )
    axis.margins(0.1, 0.12)
    axis.set(
        title="blue: none is both smaller and better",
        xlabel="base in memory (MB)",
        ylabel="ROUGE-1 (F1 x 100)",
    )


def compared(folder: Path, studies: Studies) -> dict[str, dict]:
    """What was found in every study of this scale, by name, in the order of studies.yaml."""
    paths = {name: folder / f"{name}.json" for name in studies.names()}
    found = {name: read_json(path) for name, path in paths.items() if path.is_file()}
    return {name: each for name, each in found.items() if each["scale"] == studies.scale}


def section(folder: Path, studies: Studies, values: dict) -> str:
    """Markdown of every study of this scale that was compared. values: params.yaml."""
    parts = []
    for name, found in compared(folder, studies).items():
        said = "\n".join(f"- {sentence}" for sentence in verdict(found))
        parts.append(
            f"**{name}**: {found['question']} ({settings_sentence(found, values)})\n\n{said}\n\n"
            f"![Study {name}: ROUGE-1 of its variants](plots/studies/{name}.svg)\n"
        )
    return "\n".join(parts)


def write_again(studies: Studies) -> None:
    """The plots of every study of this scale that was compared, from metrics/studies/."""
    for name, found in compared(STUDIES, studies).items():
        study = studies.study(name)
        left_out = {variant.name for variant in study.variants} - set(found["variants"])
        write_plots(study.without(left_out), found)


def write_pages() -> None:
    """README between its markers and docs/decisions.md, from metrics/studies/."""
    values = params.read_yaml(params.PARAMS_FILE)
    put_into_readme(START, END, section(STUDIES, Studies(values["model"]["name"]), values))
    write_text(DECISIONS_FILE, current_decisions(STUDIES))


def print_study(found: dict) -> None:
    """The comparison on the terminal: where names are long, other metrics give way."""
    rows, others = [], SHOWN[1:] if max(map(len, found["variants"])) <= LONG else ()
    for name, variant in found["variants"].items():
        score, entry = variant["scores"][HEADLINE], variant["difference"].get(HEADLINE)
        cells = [name, between(score, ".2f")]
        cells += [f"{variant['scores'][metric]['value']:.2f}" for metric in others]
        if entry:
            p = "<0.001" if entry["p_holm"] < 0.001 else f"{entry['p_holm']:.3f}"
            cells += [between(entry), p, number(entry["detectable"])]
        else:
            cells += ["reference", "", ""]
        rows.append(cells)
    seeds = f"{len(found['seeds'])} seed{'s' * (len(found['seeds']) > 1)}"
    print_table(
        f"{found['study']}: {found['n']:,} {found['split']} articles, {seeds}",
        [
            "variant",
            *(TITLES[metric] for metric in (HEADLINE, *others)),
            "difference",
            "p (Holm)",
            "detectable",
        ],
        rows,
    )
    print("\n".join(f"- {sentence}" for sentence in verdict(found)))


def write_found(path: Path, found: dict) -> None:
    """Results rounded as in every tracked file, settings as they are: a rate of 6.25e-05 is not 0.0001."""
    written = rounded(found) | {key: found[key] for key in ("settings", "defaults")}
    for name, variant in written["variants"].items():
        variant |= {key: found["variants"][name][key] for key in ("sets", "values")}
    write_text(path, _json_text(written, "\n", ONE_LINE) + "\n")


def what_is_there(study: Study, there: set[str], partial: bool) -> tuple[Study, list[str]]:
    """The study of the variants whose every seed is there, and the names of the others and of curves through
    them.

    there: names of experiments. A UserError where some are missing, with `partial` where the reference is.
    """
    missing = [name for name in study.experiments() if name not in there]
    left_out = [
        variant.name
        for variant in study.variants
        if not {experiment(variant.name, seed) for seed in study.seeds} <= there
    ]
    if missing and (not partial or study.reference in left_out or len(left_out) == len(study.variants) - 1):
        raise UserError(
            f"compare: {len(missing)} of {len(study.experiments())} runs of {study.name} are missing, such "
            f"as {missing[0]}; run `make study NAME={study.name.removeprefix(QUICK)}"
            f"{' QUICK=1' if study.name.startswith(QUICK) else ''}`. With --partial what is there is "
            "compared, the reference with one other at the least"
        )
    kept = study.without(set(left_out))
    curves = [f"the curve {label}".strip() for label, members in kept.series.items() if not members]
    return kept, left_out + curves


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m onesentence.commands.compare", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "name", nargs="?", help="of a study in studies.yaml; without one plots and pages are written again"
    )
    parser.add_argument("--quick", action="store_true", help="the study's quick version")
    parser.add_argument("--partial", action="store_true", help="leave out variants that are not there")
    arguments = parser.parse_args()
    if arguments.name is None:
        write_again(Studies(params.load(("model",)).model.name))
        write_pages()
        return
    p = params.load(("model", "evaluate"))
    studies = Studies(p.model.name)
    study = studies.study(arguments.name, arguments.quick)
    require_distinct(study, params.read_yaml(params.PARAMS_FILE))
    refs = finished(study)
    study, left_out = what_is_there(study, set(refs), arguments.partial)
    runs = {name: read_experiment(name, refs[name]) for name in study.experiments()}
    found = compare(
        study, runs, p.evaluate.resamples, p.evaluate.confidence, borrowed_spread(study, studies), left_out
    )
    found["code"] = code_of([refs[name] for name in study.experiments()])
    path = STUDIES / f"{study.name}.json"
    write_found(path, found)
    written = read_json(path)  # rounded, so that plots can be drawn and verdicts said again to the byte
    write_plots(study, written)
    if not arguments.quick:
        write_pages()
    print_study(written)


if __name__ == "__main__":
    errors.run(main)
