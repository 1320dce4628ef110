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
from onesentence.evaluation.equivalence import EQUIVALENT
from onesentence.evaluation.metrics import HEADLINE
from onesentence.study import variance
from onesentence.study.comparison import borrowed_seed_variance, compared, measure
from onesentence.study.declaration import Studies
from onesentence.study.phrases import TITLE, between
from onesentence.study.results import STUDIES
from onesentence.study.scores import recorded, scores_file_of

# Of a result and the names of the variants that both scales have: the choice, and the evidence in words.
Choose = Callable[[dict[str, Any], list[str]], tuple[str, str]]
SAME, ALIKE, WORSE = "the same choice", "no significant loss", "**a worse choice**"


@dataclass(frozen=True)
class Answer:
    """What a study answers on two scales.

    part: a series of the study, "" for all of it; small, large: each scale's choice; small_text, large_text:
    with its numbers; loss: the score of the large scale's own choice minus that of the small scale's, on the
    large scale, as `variance.difference` with p_holm; None where they are one. confidence: of the study.
    """

    study: str
    question: str
    part: str
    small: str
    large: str
    small_text: str
    large_text: str
    loss: dict[str, Any] | None
    confidence: float

    @property
    def outcome(self) -> str:
        """Whether the small scale's choice is one to follow on the large scale."""
        if self.loss is None:
            return SAME
        worse = is_significant(self.loss, self.confidence) and self.loss["value"] > 0
        return WORSE if worse else ALIKE


def significant_choice(result: dict[str, Any], names: list[str]) -> tuple[str, str]:
    """The best of the variants that are significantly better than the baseline, else the baseline, and its
    difference from the baseline in words.
    """
    baseline = result["baseline"]
    gains = {name: result["variants"][name]["difference"][HEADLINE] for name in names if name != baseline}
    best = max(gains, key=lambda name: gains[name]["value"])
    better = [name for name in gains if is_significant(gains[name], result["confidence"])]
    better = [name for name in better if gains[name]["value"] > 0]
    if not better:
        worse = is_significant(gains[best], result["confidence"])
        verdict = "significantly worse" if worse else "not significant"
        return baseline, f"`{baseline}`; the best other, `{best}`: {between(gains[best])}, {verdict}"
    first = max(better, key=lambda name: gains[name]["value"])
    return first, f"`{first}`: {between(gains[first])}"


def smallest_choice(result: dict[str, Any], names: list[str]) -> tuple[str, str]:
    """The variant with the smallest base of those that are equivalent to the baseline, else the baseline, and
    the evidence in words.
    """
    tests, baseline = result["equivalence"]["variants"], result["baseline"]
    sizes = {name: result["variants"][name]["cost"]["base_bytes"] for name in names}
    alike = [name for name in names if name in tests and tests[name]["verdict"] == EQUIVALENT]
    chosen = min([baseline, *alike], key=lambda name: sizes[name])
    smallest = min((name for name in names if name in tests), key=lambda name: sizes[name])
    shown = chosen if chosen != baseline else smallest
    entry = result["variants"][shown]["difference"][HEADLINE]
    margin = f"{result['equivalence']['margin']:g} points"
    if chosen != baseline:
        return chosen, f"`{chosen}`: {between(entry)}, equivalent within {margin}"
    lost = is_significant(entry, result["confidence"]) and entry["value"] < 0
    verdict = "significantly worse" if lost else f"not shown to be within {margin}"
    return baseline, f"`{baseline}`; the smallest, `{shown}`: {between(entry)}, {verdict}"


def choice_of(small: dict[str, Any], large: dict[str, Any]) -> Choose:
    """How both scales choose from a study. small, large: its results."""
    if "equivalence" in small and "equivalence" in large:
        return smallest_choice
    return significant_choice if small["baseline"] == large["baseline"] else highest_choice


def highest_choice(result: dict[str, Any], names: list[str]) -> tuple[str, str]:
    """The variant with the highest score, and its score in words."""
    scores = {name: result["variants"][name]["scores"][HEADLINE] for name in names}
    first = max(scores, key=lambda name: scores[name]["value"])
    return first, f"`{first}`: {between(scores[first], '.2f')}"


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


def loss_of(result: dict[str, Any], studies: Studies, small: str, large: str) -> dict[str, Any]:
    """The score of variant `large` minus that of `small`, of the study of `result`. studies: of its scale."""
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
    variance.adjust_holm([entry], result["confidence"])
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
            (first, first_text), (second, second_text) = choose(other, names), choose(result, names)
            loss = None
            if first != second:
                loss = loss_of(result, large, first, second)
            texts = first_text, second_text
            found.append(
                Answer(name, result["question"], label, first, second, *texts, loss, result["confidence"])
            )
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
        f"| {answer.question}{f' ({answer.part})' if answer.part else ''} | {answer.small_text} | "
        f"{answer.large_text} | {between(answer.loss) if answer.loss else 'none'} | {answer.outcome} |"
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
        sections.append(
            f"## Would {small.scale} have led to the wrong choice for {large.scale}?\n\n"
            f"Questions: {len(found)}. Same choice on both scales: {outcomes.count(SAME)}. Another choice, "
            f"whose loss on {large.scale} is not significant: {outcomes.count(ALIKE)}. A worse choice: "
            f"{outcomes.count(WORSE)}. A choice is the best of the variants that are significantly better "
            "than the baseline, else the baseline; of learning rates, the one with the highest score; of "
            "formats of the base, the smallest that is equivalent to the baseline, else the baseline. "
            f"Numbers are points of {TITLE}. The choice on {large.scale} was made on the same articles, "
            f"which favours it a little.\n\n{table(small.scale, large.scale, found)}\n"
        )
    return "\n".join(sections)
