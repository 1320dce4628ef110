"""Would the small model have led to the wrong choice? What two scales answer to the same study, side by side.

A scale's choice among the variants that both scales have is the one that its own results lead to: the best of
those that are significantly better than the baseline, else the baseline. Where the scales have other
baselines, as rates of learning, it is the variant with the highest score of each series that both have. Where
a study declares a margin, as of formats that save memory, it is the variant with the smallest base that is
equivalent to the baseline within the margin, else the baseline. The small scale's choice is then compared
with the large scale's own, on the large scale.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onesentence.core.errors import UserError
from onesentence.evaluation.comparison import is_significant
from onesentence.evaluation.equivalence import DIFFERENT, EQUIVALENT, UNDECIDED
from onesentence.evaluation.metrics import HEADLINE
from onesentence.study import variance
from onesentence.study.comparison import borrowed_seed_variance, compared, measure
from onesentence.study.declaration import Studies
from onesentence.study.phrases import TITLE, between
from onesentence.study.results import STUDIES
from onesentence.study.scores import recorded, scores_file_of

# Of a result and the names of the variants that both scales have.
Choose = Callable[[dict[str, Any], list[str]], "Choice"]
# What a test of equivalence says of a format that is not shown to be equivalent within a margin.
NOT_EQUIVALENT = {DIFFERENT: "not within {}", UNDECIDED: "undecided whether within {}"}
DECIDED_ON = "phi-tiny"  # the scale of studies.yaml whose numbers the decisions were made on
RULE = (
    "Only variants that both scales ran are compared. The choice among them is the best of those that are "
    "significantly better than the baseline, else the baseline. Of learning rates, it is the one with the "
    "highest score; no test decides among them. Of formats of the base, it is the smallest that is "
    f"equivalent to the baseline, else the baseline. Numbers are points of {TITLE}. The same articles "
    "chose the variant and measured its lead, so the lead is a little too large. The scales may also "
    "differ in data, pairs and passes: the pages of the studies give their settings."
)
# Of formats, beside DECIDED_ON: a rule or a margin proves less if it was written with the results in sight.
LATE = (
    f"The rule for formats was written after the results were known, and the margin for {DECIDED_ON} after "
    "its runs."
)
SAME, BOTH_UNDECIDED = "the same choice", "undecided on both"
ALIKE, WORSE = "no significant loss", "**a worse choice**"


@dataclass(frozen=True)
class Choice:
    """What a scale's results lead to: a variant and the evidence in words.

    decided: False where the baseline stays although another variant may be better.
    """

    variant: str
    evidence: str
    decided: bool


@dataclass(frozen=True)
class Answer:
    """What a study answers on two scales.

    part: a series of the study, "" for all of it; small, large: each scale's choice; loss: the score of the
    large scale's own choice minus that of the small scale's, on the large scale, as `variance.difference`
    with p_holm; None where they are one. confidence: of the study; note: of the study on the large scale;
    by_margin: whether the smallest equivalent format was chosen.
    """

    study: str
    question: str
    part: str
    small: Choice
    large: Choice
    loss: dict[str, Any] | None
    confidence: float
    note: str = ""
    by_margin: bool = False

    @property
    def outcome(self) -> str:
        """Whether the small scale's choice is one to follow on the large scale."""
        if self.loss is None:
            return SAME if self.small.decided or self.large.decided else BOTH_UNDECIDED
        worse = is_significant(self.loss, self.confidence) and self.loss["value"] > 0
        return WORSE if worse else ALIKE


def significant_choice(result: dict[str, Any], names: list[str]) -> Choice:
    """The best of the variants that are significantly better than the baseline, else the baseline. That is
    decided where every other one is significantly worse.
    """
    baseline, seeds = result["baseline"], seeds_text(result)
    gains = {name: result["variants"][name]["difference"][HEADLINE] for name in names if name != baseline}
    best = max(gains, key=lambda name: gains[name]["value"])
    significant = [name for name in gains if is_significant(gains[name], result["confidence"])]
    better = [name for name in significant if gains[name]["value"] > 0]
    if better:
        first = max(better, key=lambda name: gains[name]["value"])
        return Choice(first, f"`{first}`: {between(gains[first])} ({seeds})", decided=True)
    verdict = "significantly worse" if best in significant else "not significant"
    evidence = f"`{baseline}`; the best other, `{best}`: {between(gains[best])}, {verdict} ({seeds})"
    return Choice(baseline, evidence, decided=len(significant) == len(gains))


def smallest_choice(result: dict[str, Any], names: list[str]) -> Choice:
    """The variant with the smallest base of those that are equivalent to the baseline, else the baseline.
    That is decided where every smaller one is significantly worse or not within the margin.
    """
    tests, baseline, seeds = result["equivalence"]["variants"], result["baseline"], seeds_text(result)
    sizes = {name: result["variants"][name]["cost"]["base_bytes"] for name in names}
    smaller = sorted((n for n in names if n in tests and sizes[n] < sizes[baseline]), key=lambda n: sizes[n])
    margin = f"{result['equivalence']['margin']:g} points"
    if not smaller:
        return Choice(baseline, f"`{baseline}`: no other is smaller ({seeds})", decided=True)
    differences = {name: result["variants"][name]["difference"][HEADLINE] for name in smaller}
    for place, name in enumerate(smaller):
        if tests[name]["verdict"] == EQUIVALENT:
            skipped = [f"`{n}`" for n in smaller[:place] if tests[n]["verdict"] != DIFFERENT]
            undecided = f"; smaller and undecided: {', '.join(skipped)}" * bool(skipped)
            evidence = f"`{name}`: {between(differences[name])}, equivalent within {margin}{undecided}"
            return Choice(name, f"{evidence} ({seeds})", decided=True)
    worse = [
        name
        for name, entry in differences.items()
        if is_significant(entry, result["confidence"]) and entry["value"] < 0
    ]
    first = smaller[0]
    verdict = "significantly worse, " * (first in worse) + NOT_EQUIVALENT[tests[first]["verdict"]].format(
        margin
    )
    return Choice(
        baseline,
        f"`{baseline}`; the smallest, `{first}`: {between(differences[first])}, {verdict} ({seeds})",
        decided=all(name in worse or tests[name]["verdict"] == DIFFERENT for name in smaller),
    )


def choice_of(small: dict[str, Any], large: dict[str, Any]) -> Choose:
    """How both scales choose from a study. small, large: its results."""
    if "equivalence" in small and "equivalence" in large:
        return smallest_choice
    return significant_choice if small["baseline"] == large["baseline"] else highest_choice


def highest_choice(result: dict[str, Any], names: list[str]) -> Choice:
    """The variant with the highest score, whether or not others are significantly lower."""
    scores = {name: result["variants"][name]["scores"][HEADLINE] for name in names}
    first = max(scores, key=lambda name: scores[name]["value"])
    return Choice(first, f"`{first}`: {between(scores[first], '.2f')} ({seeds_text(result)})", decided=True)


def seeds_text(result: dict[str, Any]) -> str:
    """How many seeds a study had, and whether its intervals allow for others."""
    if len(result["seeds"]) > 1:
        return f"{len(result['seeds'])} seeds"
    lent = result["spread_from"]
    return f"1 seed, with the seed variance of `{lent}`" if lent else "1 seed, no allowance for others"


def parts(
    small: tuple[dict[str, Any], Studies], large: tuple[dict[str, Any], Studies]
) -> Iterator[tuple[str, list[str]]]:
    """Label and shared variants of each part of a study that both scales can answer.

    small, large: a result and the declarations of its scale.
    """
    result, studies = small
    shared = [name for name in large[0]["variants"] if name in result["variants"]]
    if result["baseline"] == large[0]["baseline"]:
        if len(shared) > 1:
            yield "", shared
        return
    series = studies.study(result["study"]).series
    for label, members in large[1].study(result["study"]).series.items():
        others = {member.name for member in series.get(label, ())}
        names = [member.name for member in members if member.name in others and member.name in shared]
        if len(names) > 1:
            yield label, names


def loss_of(
    result: dict[str, Any], studies: Studies, small: str, large: str, candidates: int
) -> dict[str, Any]:
    """The score of variant `large` minus that of `small`, of the study of `result`.

    studies: of its scale; candidates: how many variants `large` was chosen from. A test that the study has
    not made is corrected for that choice (Bonferroni).
    """
    variants, baseline = result["variants"], result["baseline"]
    if small == baseline:
        entry: dict[str, Any] = variants[large]["difference"][HEADLINE]
        return entry
    if large == baseline:
        entry = variants[small]["difference"][HEADLINE]
        turned = {"value": -entry["value"], "low": -entry["high"], "high": -entry["low"]}
        return {**entry, **turned}
    # With the seeds that were compared: studies.yaml may have more by now.
    study = replace(studies.study(result["study"]), seeds=tuple(result["seeds"]))
    pair = study.without({variant.name for variant in study.variants} - {small, large})
    with contextlib.chdir(studies.pipeline or "."):
        runs = recorded(pair)
        if lacking := set(pair.experiments()) - set(runs):
            raise UserError(
                f"{Path(studies.pipeline) / scores_file_of(study)}: lacks {min(lacking)}, which "
                f"{study.name}.json compares; run `onesentence compare {study.name} --from-scores --partial` "
                f"in {studies.pipeline or 'the root folder'}"
            )
        measured = measure(pair, runs, result["resamples"], borrowed_seed_variance(study, studies))
    entry = variance.difference(measured.headline(large), measured.headline(small), result["confidence"])
    variance.adjust_holm([entry], result["confidence"], choices=candidates - 1)
    return entry


def answers(small: Studies, large: Studies) -> list[Answer]:
    """The answer of every study that both scales have run, in the repository's root folder."""
    found = []
    of_small = compared(Path(small.pipeline) / STUDIES, small)
    for name, result in compared(Path(large.pipeline) / STUDIES, large).items():
        if name not in of_small:
            continue
        other = of_small[name]
        choose = choice_of(other, result)
        for label, names in parts((other, small), (result, large)):
            first, second = choose(other, names), choose(result, names)
            loss = None
            if first.variant != second.variant:
                loss = loss_of(result, large, first.variant, second.variant, len(names))
            fields = name, result["question"], label, first, second, loss, result["confidence"]
            found.append(Answer(*fields, result.get("note", ""), choose is smallest_choice))
    return found


def larger_scales(studies: Studies) -> list[Studies]:
    """The scales of studies.yaml with a pipeline of their own, which hold other models' results."""
    scales = studies.declared["scales"].values()
    return [
        Studies(scale["model"], studies.path, scale["pipeline"]) for scale in scales if "pipeline" in scale
    ]


def table(small: str, large: str, found: list[Answer]) -> str:
    """Markdown of the answers of two scales."""
    rows = [
        f"| {answer.question}{f' ({answer.part})' if answer.part else ''} | {answer.small.evidence} | "
        f"{answer.large.evidence} | {between(answer.loss) if answer.loss else 'none'} | {answer.outcome} |"
        for answer in found
    ]
    head = f"| question | choice on {small} | choice on {large} | loss on {large} (points) | outcome |"
    return "\n".join([head, "|---|---|---|---|---|", *rows])


def transfer_text(small: Studies) -> str:
    """A section of docs/decisions.md for each larger scale that has run a study of the small one; "" without
    one.
    """
    sections = []
    for large in larger_scales(small):
        found = answers(small, large)
        if not found:
            continue
        outcomes = [answer.outcome for answer in found]
        late = small.scale == DECIDED_ON and any(answer.by_margin for answer in found)
        rule = f"{RULE} {LATE}" if late else RULE
        notes = [f"`{answer.study}`: {answer.note}" for answer in found if answer.note]
        notes = [note for note in dict.fromkeys([large.note, *notes]) if note]
        sections.append(
            f"## Would {small.scale} have led to the wrong choice for {large.scale}?\n\n"
            f"Questions: {len(found)}. Same choice on both scales: {outcomes.count(SAME)}. Undecided on "
            f"both, so that the baseline stays: {outcomes.count(BOTH_UNDECIDED)}. Another choice, whose loss "
            f"on {large.scale} is not significant: {outcomes.count(ALIKE)}. A worse choice: "
            f"{outcomes.count(WORSE)}.\n\n{rule}\n\n{table(small.scale, large.scale, found)}\n"
            + "".join(f"\n- {note}" for note in notes)
            + "\n" * bool(notes)
        )
    return "\n".join(sections)
