"""docs/decisions.md: each default of params.yaml with the study, the numbers and the paper behind it.

Written from metrics/studies/ alone, so that every number there is the study's.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onesentence.core import params
from onesentence.evaluation.comparison import is_significant
from onesentence.evaluation.metrics import HEADLINE, METRICS
from onesentence.evaluation.resampling import POWER
from onesentence.report.formatting import mde_text
from onesentence.study.declaration import Studies
from onesentence.study.experiments import QUICK, shown
from onesentence.study.phrases import between
from onesentence.study.results import read_result
from onesentence.study.sentences import (
    SET_WITH_MODEL,
    analysis_sentences,
    chance_sentence,
    settings_sentence,
)
from onesentence.study.transfer import DECIDED_ON, transfer_text

DECISIONS_FILE = Path("docs/decisions.md")
SAME_CHOICE = {"model.name": set(SET_WITH_MODEL)}  # keys that follow another key
CONFIRMATIONS = ("confirmation", "confirmation_decoding")  # the studies of the test split


@dataclass(frozen=True)
class Decision:
    """A default: its evidence, and the decision.

    key: of params.yaml; value: the one that was chosen; study: the one that varies it; paper: what others
    found; choice: what was decided, and why. A choice repeats no score: scores are printed above it and
    change with a new run.
    """

    key: str
    value: object
    study: str
    paper: str
    choice: str = ""


DECISIONS = (
    Decision(
        "train.method",
        "lora",
        "method",
        "Hu et al. 2021 (LoRA): on par with training every weight. Biderman et al. 2024: LoRA learns less "
        "and forgets less. Kalajdzievski 2023 (rsLoRA), Liu et al. 2024 (DoRA).",
        "Kept: LoRA of rank 16 on query, key and value at the default's rate is significantly worse than "
        "training every weight at its best rate. That rate was chosen on the same articles; LoRA at its own "
        "best rate, `own-rate-rank-16` in the study `rank`, comes nearer too. `rslora-qkv` is the best "
        "variant of the same cost: its updates are four times as large at this rank. Before any result of "
        "the study `confirmation` was seen, this rule was set: the variant replaces LoRA if it gains "
        "significantly on the test split at the default's own length of training. Its lead after 1,000 pairs "
        "did not appear again after three times the pairs and one more pass: LoRA stays.",
    ),
    Decision(
        "lora.target_modules",
        ["q_proj", "k_proj", "v_proj"],
        "ablation",
        "Hu et al. 2021 adapt attention alone; Dettmers et al. 2023 (QLoRA) need every linear "
        "layer to match full fine-tuning.",
        "Kept: more modules score higher here and in the study `method`, but not significantly, and triple "
        "the adapter.",
    ),
    Decision(
        "lora.rank",
        16,
        "rank",
        "Hu et al. 2021, section 7.2: low ranks are enough where the task is close to what the base knows.",
        "Kept: at one rate quality grows with the rank, but alpha is twice the rank, so a higher rank is "
        "also a longer step. With each rank's own best rate there is no significant trend. A larger adapter "
        "brings nothing significant beyond a better rate.",
    ),
    Decision(
        "train.learning_rate",
        0.002,
        "learning_rate",
        "Biderman et al. 2024: LoRA's best rate is an order of magnitude above that of full fine-tuning.",
        "Kept: no rate is significantly better at this rank. Twice the default's rate scores higher, by less "
        "than three seeds can detect (`own-rate-rank-16` in the study `rank`). The random search over rate, "
        "epochs, alpha and dropout together (study `search`) found no significantly better settings.",
    ),
    Decision(
        "lora.alpha",
        None,
        "ablation",
        "Kalajdzievski 2023: with the scale alpha / rank, updates shrink as the rank grows.",
        "Kept: a larger alpha scores higher and a smaller one lower, neither by as much as one seed can "
        "detect. rsLoRA at this rank is LoRA with an alpha of 128: see `train.method`.",
    ),
    Decision(
        "lora.dropout",
        0.05,
        "ablation",
        "Dettmers et al. 2023: 0.05 helped models of 7 and 13 billion weights, but not those of 33 and 65.",
        "Kept: no significant difference.",
    ),
    Decision(
        "model.name",
        "models/phi-tiny",
        "model_size",
        "Kaplan et al. 2020: a larger model reaches the same loss with fewer examples.",
        "Kept: no smaller model, with four or sixteen times the pairs, is significantly better than the next "
        "larger one. Wider models were not tried: the default must run in minutes on two cores.",
    ),
    Decision(
        "data.train_size",
        3000,
        "data_size",
        "Hestness et al. 2017: error falls as a power law of the number of examples.",
        "Kept to save minutes: quality grows up to all pairs, but all of them (`null`, one epoch) double the "
        "time of training. Change this first where the score matters more. As many steps over four times the "
        "pairs, each seen once, are not significantly better (*same steps*), so several passes over few "
        "pairs stay.",
    ),
    Decision(
        "train.epochs",
        3,
        "ablation",
        "Muennighoff et al. 2023: up to four passes over the same data are worth nearly as much as new data.",
        "Kept: one pass fewer than the studies' two scores lower and one more scores higher, neither by as "
        "much as one seed can detect.",
    ),
    Decision(
        "train.gradient_accumulation",
        2,
        "ablation",
        "McCandlish et al. 2018: the largest useful batch grows as the loss falls.",
        "Kept: neither half nor twice the batch is significantly better at the same rate.",
    ),
    Decision(
        "train.warmup_ratio",
        0.05,
        "ablation",
        "Goyal et al. 2017: a rate that rises step by step avoids trouble early in training.",
        "Kept: no warmup is not significantly worse, but warming up costs nothing.",
    ),
    Decision(
        "train.autocast",
        "none",
        "ablation",
        "Micikevicius et al. 2018: products in 16 bits, sums and weights in 32.",
        "Kept: bfloat16 loses nothing significant, but CPUs without it would give other bytes.",
    ),
    Decision(
        "prompt.max_input_tokens",
        352,
        "ablation",
        "Narayan et al. 2018: what a summary in XSum needs is spread over the article.",
        "Kept: at 128 tokens two thirds of the documents are cut. The difference is not significant, but the "
        "MDE is 1.5 points.",
    ),
    Decision(
        "prompt.template",
        "direct",
        "prompt",
        "Sclar et al. 2024: scores of untuned models depend on the form of the prompt.",
        "Kept: the untuned base's score depends on the template. After 1,000 pairs no template is "
        "significantly better than another, so the original study's template stays.",
    ),
    Decision(
        "model.quantization",
        "none",
        "quantization",
        "Dettmers et al. 2023: LoRA on an NF4 base matches fine-tuning in 16 bits.",
        "Kept: a base of 27 MB needs no quantization, and float32 gave the same bytes on two AMD CPUs, with "
        "and without AVX512. The presets quantize Phi-2, where memory decides.",
    ),
    Decision(
        "model.dtype",
        "float32",
        "quantization",
        "Kalamkar et al. 2019: bfloat16 has float32's range and trains to the same quality.",
        "Kept: bfloat16 loses nothing significant, but float32 gave the same bytes on two AMD CPUs, with and "
        "without AVX512. The presets use bfloat16 or float16 for Phi-2.",
    ),
    Decision(
        "generate.num_beams",
        4,
        "decoding",
        "Koehn and Knowles 2017: wider beams help up to a width, then quality falls.",
        "Kept: greedy decoding is worse, and neither half nor twice as many beams are significantly better.",
    ),
    Decision(
        "generate.length_penalty",
        1.0,
        "decoding",
        "Wu et al. 2016: long outputs have lower likelihoods, so beams of unequal length need a correction.",
        "Kept: neither half nor twice the power is significantly better.",
    ),
    Decision(
        "generate.no_repeat_ngram_size",
        3,
        "decoding",
        "Paulus et al. 2018: no trigram twice in an output, since human summaries hardly ever repeat one.",
        "Changed from 0: the ban is better here, for a model with less training than the default, and on the "
        "test split for the model that the default trains.",
    ),
    Decision(
        "data.selection",
        "all",
        "novelty",
        "Narayan et al. 2018 measure how abstractive a summary is by its new n-grams.",
        "Kept: training on the more novel half, with as many pairs, teaches the model to copy less, but "
        "loses significantly in ROUGE-1. The default's outputs hold hardly any verbatim span. `novel_half` "
        "is for users to whom new words are worth that loss.",
    ),
    Decision(
        "train.order",
        "random",
        "novelty",
        "Bengio et al. 2009: easy examples first.",
        "Kept: training on the pairs that copy most first brings more new 2-grams and no significant "
        "difference in ROUGE-1. A random order is what others train with.",
    ),
)


def compared_values(result: dict[str, Any], key: str) -> list[str]:
    """A line for each variant that differs from the study's baseline in `key` alone.

    Where every one of them differs in other keys too, a line for each, which names those keys.
    """
    alone: list[str] = []
    mixed: list[str] = []
    baseline = result["variants"][result["baseline"]]["values"]
    for name, variant in result["variants"].items():
        own = variant["values"]
        if own[key] == baseline[key]:
            continue
        same = SAME_CHOICE.get(key, set()) | {key}
        others = [other for other in own if other not in same and own[other] != baseline[other]]
        entry = variant["difference"][HEADLINE]
        significant = is_significant(entry, result["confidence"])
        verdict = "significant" if significant else f"not significant (MDE {mde_text(entry['mde'])})"
        also = f", which also changes {' and '.join(others)}" if others else ""
        (mixed if others else alone).append(f"- `{name}`{also}: {between(entry)}, {verdict}")
    return alone or mixed


def committed(studies: Path, name: str, scale: str) -> dict[str, Any] | None:
    """The results of a study on this scale, or None where it has not been run on it."""
    path = studies / f"{name}.json"
    result = read_result(path) if path.is_file() else None
    return result if result and result["scale"] == scale else None


def confirmed(studies: Path, key: str, scale: str, values: dict[str, Any]) -> list[str]:
    """What the studies of the test split say about `key`; empty where none varies it there."""
    parts = []
    for name in CONFIRMATIONS:
        result = committed(studies, name, scale)
        if result and key in result["variants"][result["baseline"]]["values"]:
            lines = "\n".join(compared_values(result, key))
            if lines:
                parts.append(
                    f"On the test split, evaluated once, in the study `{name}` "
                    f"({settings_sentence(result, values)}):\n\n{lines}\n"
                )
    return parts


def decisions_text(studies: Path, scale: str, values: dict[str, Any], transfer: str = "") -> str:
    """The whole file. scale: of studies.yaml, the one of the model in params.yaml; values: params.yaml;
    transfer: the sections that compare this scale with larger ones (`transfer_text`).
    """
    title = METRICS[HEADLINE].title
    parts = [
        "# Decisions\n",
        "Defaults in `params.yaml` that a study varies: what the study measured, and what others found. "
        "Most studies train on less data than the default, so that many runs fit into a night; their "
        f"settings are given. Numbers are differences in {title} from the study's baseline, with their "
        "intervals. *Significant* is after Holm's correction over the study's variants. Intervals are not "
        "corrected for multiple tests, so one may exclude 0 although the difference is not significant. "
        "*MDE* is the minimum detectable effect: the true difference that is significant in "
        f"{POWER:.0%} of cases. Written by `make study`.\n",
        *independence_note(studies, scale),
        *([transfer] if transfer else []),
    ]
    for decision in DECISIONS:
        section, _, key = decision.key.partition(".")
        parts += decision_parts(decision, values[section][key], studies, scale, values)
    return "\n".join(parts)


def independence_note(studies: Path, scale: str) -> list[str]:
    """A paragraph on studies that were compared before clusters were resampled; none without."""
    # A decision may mention any study.
    others = [path.stem for path in sorted(studies.glob("*.json")) if not path.stem.startswith(QUICK)]
    names = dict.fromkeys([*(decision.study for decision in DECISIONS), *CONFIRMATIONS, *others])
    results = {name: committed(studies, name, scale) for name in names}
    old = [f"`{name}`" for name, result in results.items() if result and "resampling" not in result]
    if not old:
        return []
    return [
        "These studies were compared before articles of one source file were resampled together: "
        f"{', '.join(old)}. They take articles as independent. Their intervals are too narrow, by about a "
        "tenth for two variants of one model.\n"
    ]


def decision_parts(
    decision: Decision, value: object, studies: Path, scale: str, values: dict[str, Any]
) -> list[str]:
    """The paragraphs of one decision. value: the default that params.yaml has now; values: params.yaml."""
    parts = [f"## `{decision.key}: {shown(value)}`\n"]
    result = committed(studies, decision.study, scale)
    varied = False
    if result is None:
        parts.append(f"Study `{decision.study}`: declared in `studies.yaml`, not run yet.\n")
    elif decision.key not in result["variants"][result["baseline"]]["values"]:
        parts.append(f"Study `{decision.study}` compares no other value on {scale}.\n")
    else:
        varied = True
        parts.append(
            f"Study `{decision.study}` ({settings_sentence(result, values)}), baseline "
            f"`{result['baseline']}` at "
            f"{result['variants'][result['baseline']]['scores'][HEADLINE]['value']:.2f}. "
            f"{chance_sentence(result)}\n"
        )
        lines = compared_values(result, decision.key)
        lines += [f"- {sentence}" for sentence in analysis_sentences(result)]
        parts.append("\n".join(lines) + "\n")
        parts += confirmed(studies, decision.key, scale, values)
    parts.append(f"{decision.paper}\n")
    # A decision holds for the scale and the value that it was made for, and for no other.
    if varied and scale != DECIDED_ON:
        parts.append(f"**No decision yet: the decisions here were made on {DECIDED_ON}.**\n")
    elif varied and value != decision.value:
        parts.append(f"**No decision yet: `{shown(decision.value)}` was decided.**\n")
    elif varied:
        parts.append(f"**{decision.choice}**\n")
    return parts


def current_decisions(studies: Path) -> str:
    """The text of docs/decisions.md for the params.yaml and the studies in the working directory."""
    values = params.read_yaml(params.PARAMS_FILE)
    here = Studies(values["model"]["name"])
    return decisions_text(studies, here.scale, values, transfer_text(here))
