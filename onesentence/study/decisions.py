"""docs/decisions.md: each default of params.yaml with the study, the numbers and the paper behind it.

Written from metrics/studies/ alone, so that a number there can be no other than the study's.
"""

from dataclasses import dataclass
from pathlib import Path

from onesentence.core import params
from onesentence.core.files import read_json
from onesentence.evaluation.comparison import is_real
from onesentence.evaluation.metrics import HEADLINE, METRICS
from onesentence.evaluation.resampling import POWER
from onesentence.report.tables import number
from onesentence.study.declaration import Studies
from onesentence.study.experiments import shown
from onesentence.study.phrases import between
from onesentence.study.sentences import analysis_sentences, chance_sentence, settings_sentence

DECISIONS_FILE = Path("docs/decisions.md")
SAME_CHOICE = {"model.name": {"model.watch", "model.revision"}}  # keys that only follow another
DECIDED_ON = "phi-tiny"  # the scale of studies.yaml whose numbers DECISIONS were made on
CONFIRMATIONS = ("confirmation", "confirmation_decoding")  # the studies that look at the test split


@dataclass(frozen=True)
class Decision:
    """A default: where its evidence is, and what was made of it.

    key: of params.yaml; value: that was chosen; study: that varies it; paper: what others found; choice: what
    was decided, and why. A choice repeats no score: those are printed above it and change with a new run.
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
        "Hu et al. 2021 (LoRA): on par with training every weight. Biderman et al. 2024: it "
        "learns less and forgets less. Kalajdzievski 2023 (rsLoRA), Liu et al. 2024 (DoRA).",
        "Kept: LoRA of rank 16 on query, key and value alone, at the default's rate, was shown to be below "
        "training every weight at its best rate (chosen on the same articles; LoRA at its own best rate, "
        "`own-rate-rank-16` in the study `rank`, comes nearer too). `rslora-qkv` is the best that costs "
        "nothing more: its updates are four times as large at this rank. It was named, before any result of "
        "the study `confirmation` was looked at, as what takes LoRA's place if that calls its difference "
        "from LoRA real and a gain, on the test split and at the default's own length of training. The lead "
        "that it had after 1,000 pairs was not found again after three times the pairs and a pass more: LoRA "
        "stays.",
    ),
    Decision(
        "lora.target_modules",
        ["q_proj", "k_proj", "v_proj"],
        "ablation",
        "Hu et al. 2021 adapt attention alone; Dettmers et al. 2023 (QLoRA) need every linear "
        "layer to match full fine-tuning.",
        "Kept: more modules lead here and in the study `method`, by less than was shown, for three times the "
        "adapter.",
    ),
    Decision(
        "lora.rank",
        16,
        "rank",
        "Hu et al. 2021, section 7.2: low ranks are enough where the task is near to what the base knows.",
        "Kept: at one rate quality grows with the rank, but alpha is twice the rank, so a higher rank is "
        "a longer step too; with each rank's own best rate no trend was shown. A larger adapter was not "
        "shown to bring what a better rate does not.",
    ),
    Decision(
        "train.learning_rate",
        0.002,
        "learning_rate",
        "Biderman et al. 2024: LoRA's best rate is an order of magnitude above that of full fine-tuning.",
        "Kept: no rate was shown to be better at this rank. Twice the default's leads, by less than three "
        "seeds can show (`own-rate-rank-16` in the study `rank`), and the random search over rate, epochs, "
        "alpha and dropout together (study `search`) was not shown to find better settings.",
    ),
    Decision(
        "lora.alpha",
        None,
        "ablation",
        "Kalajdzievski 2023: with the scale alpha / rank, updates shrink as the rank grows.",
        "Kept: a larger alpha leads, a smaller one trails, neither by what one seed can show. rsLoRA at this "
        "rank is LoRA with an alpha of 128: see `train.method`.",
    ),
    Decision(
        "lora.dropout",
        0.05,
        "ablation",
        "Dettmers et al. 2023: 0.05 helped models of 7 and 13 billion weights and not those of 33 and 65.",
        "Kept: no difference was shown.",
    ),
    Decision(
        "model.name",
        "models/phi-tiny",
        "model_size",
        "Kaplan et al. 2020: a larger model reaches the same loss with fewer examples.",
        "Kept: no smaller model, with four or sixteen times the pairs, was shown to be better than the next "
        "larger one. Wider ones were not tried: the default is to run in minutes on two cores.",
    ),
    Decision(
        "data.train_size",
        3000,
        "data_size",
        "Hestness et al. 2017: error falls as a power law of the number of examples.",
        "Kept, for the sake of minutes: quality grows up to all pairs, and taking them all (`null`, one "
        "epoch) doubles the time of training. It is the first thing to change where the score matters more. "
        "As many steps over four times the pairs, none of them twice, were not shown to be better (*same "
        "steps*), so that several passes over few stay.",
    ),
    Decision(
        "train.epochs",
        3,
        "ablation",
        "Muennighoff et al. 2023: up to four passes over the same data are worth nearly as much as new data.",
        "Kept: one pass fewer than the studies' two trails and one more leads, neither by what one seed can "
        "show.",
    ),
    Decision(
        "train.gradient_accumulation",
        2,
        "ablation",
        "McCandlish et al. 2018: the batch that is still useful grows as the loss falls.",
        "Kept: neither half nor twice the batch was shown to be better at the same rate.",
    ),
    Decision(
        "train.warmup_ratio",
        0.05,
        "ablation",
        "Goyal et al. 2017: rising to the full rate step by step avoids trouble early on.",
        "Kept: going without was not shown to be worse; warming up costs nothing.",
    ),
    Decision(
        "train.autocast",
        "none",
        "ablation",
        "Micikevicius et al. 2018: products in 16 bits, sums and weights in 32.",
        "Kept: no loss was shown, but CPUs without bfloat16 would give other bytes.",
    ),
    Decision(
        "prompt.max_input_tokens",
        352,
        "ablation",
        "Narayan et al. 2018: what a summary in XSum needs is spread over the article.",
        "Kept: at 128 tokens two thirds of the documents are cut and no loss was shown; one of a point and a "
        "half could have been missed.",
    ),
    Decision(
        "prompt.template",
        "direct",
        "prompt",
        "Sclar et al. 2024: scores of untuned models hang on the form of the prompt.",
        "Kept: the untuned base's score hangs on the template; after 1,000 pairs no template was shown to be "
        "better than another, so the original study's stays.",
    ),
    Decision(
        "model.quantization",
        "none",
        "quantization",
        "Dettmers et al. 2023: LoRA on an NF4 base matches fine-tuning in 16 bits.",
        "Kept: a base of 27 MB needs no quantizing, and float32 was seen to give the same bytes on two AMD "
        "CPUs, with and without AVX512. The presets quantize Phi-2, where memory decides.",
    ),
    Decision(
        "model.dtype",
        "float32",
        "quantization",
        "Kalamkar et al. 2019: bfloat16 has float32's range and trains to the same quality.",
        "Kept: no loss was shown in bfloat16, but float32 was seen to give the same bytes on two AMD CPUs, "
        "with and without AVX512. The presets take bfloat16 or float16 for Phi-2.",
    ),
    Decision(
        "generate.num_beams",
        4,
        "decoding",
        "Koehn and Knowles 2017: wider beams help up to a width, then quality falls.",
        "Kept: greedy decoding is worse, and neither half nor twice as many beams were shown to be better.",
    ),
    Decision(
        "generate.length_penalty",
        1.0,
        "decoding",
        "Wu et al. 2016: long outputs have lower likelihoods, so beams of unequal length need a correction.",
        "Kept: neither half the power nor twice was shown to be better.",
    ),
    Decision(
        "generate.no_repeat_ngram_size",
        3,
        "decoding",
        "Paulus et al. 2018: no trigram twice in an output, since human summaries hardly ever have one.",
        "Changed from 0: the ban is better here, for a model with less training than the default, and on the "
        "test split for the model that the default trains.",
    ),
    Decision(
        "data.selection",
        "all",
        "novelty",
        "Narayan et al. 2018 measure how abstractive a summary is by its new n-grams.",
        "Kept: as many pairs of the more novel half teach it to copy less, at a real price in ROUGE-1. "
        "The default's outputs hold hardly a verbatim span as it is; `novel_half` is for those to whom new "
        "words are worth that price.",
    ),
    Decision(
        "train.order",
        "random",
        "novelty",
        "Bengio et al. 2009: easy examples first.",
        "Kept: pairs that copy most first, then the others, brought more new 2-grams and no difference in "
        "ROUGE-1; a random order is what others train with.",
    ),
)


def compared_values(found: dict, key: str) -> list[str]:
    """A line for each variant in which `key` alone differs from the study's baseline.

    Where in each of them other keys differ too, all of these, with what else differs.
    """
    alone, mixed, baseline = [], [], found["variants"][found["baseline"]]["values"]
    for name, variant in found["variants"].items():
        own = variant["values"]
        if own[key] == baseline[key]:
            continue
        same = SAME_CHOICE.get(key, set()) | {key}
        others = [other for other in own if other not in same and own[other] != baseline[other]]
        entry = variant["difference"][HEADLINE]
        real = is_real(entry, found["confidence"])
        said = "real" if real else f"not distinguishable (detectable: {number(entry['mde'])})"
        also = f", with other {' and '.join(others)}" if others else ""
        (mixed if others else alone).append(f"- `{name}`{also}: {between(entry)}, {said}")
    return alone or mixed


def committed(studies: Path, name: str, scale: str) -> dict | None:
    """What a study found on this scale, or None where it has not been run on it."""
    path = studies / f"{name}.json"
    found = read_json(path) if path.is_file() else None
    return found if found and found["scale"] == scale else None


def confirmed(studies: Path, key: str, scale: str, values: dict) -> list[str]:
    """What the studies of the test split found about `key`; empty where none varies it there."""
    parts = []
    for name in CONFIRMATIONS:
        found = committed(studies, name, scale)
        if found and key in found["variants"][found["baseline"]]["values"]:
            lines = "\n".join(compared_values(found, key))
            if lines:
                parts.append(
                    f"On the test split, looked at once, study `{name}` "
                    f"({settings_sentence(found, values)}):\n\n{lines}\n"
                )
    return parts


def decisions_text(studies: Path, scale: str, values: dict) -> str:
    """The whole file. scale: of studies.yaml, the one that params.yaml is on; values: params.yaml."""
    title = METRICS[HEADLINE].title
    parts = [
        "# Decisions\n",
        "Defaults in `params.yaml` that a study varies: what the study found, and what others did. "
        "Studies train on less than the default does, so that many runs fit into a night: their settings "
        f"are named. Numbers are differences in {title} from the study's baseline, with their intervals; "
        f"*real* is after Holm's correction over the study's variants, an interval is of its one difference: "
        "it may leave 0 out where no difference is called real; *detectable* is the true difference "
        f"that would have been called real in {POWER:.0%} of cases. Written by `make study`.\n",
    ]
    for decision in DECISIONS:
        section, _, key = decision.key.partition(".")
        value = values[section][key]
        parts.append(f"## `{decision.key}: {shown(value)}`\n")
        found = committed(studies, decision.study, scale)
        varied = found and decision.key in found["variants"][found["baseline"]]["values"]
        if varied:
            parts.append(
                f"Study `{decision.study}` ({settings_sentence(found, values)}), "
                f"baseline `{found['baseline']}` at "
                f"{found['variants'][found['baseline']]['scores'][HEADLINE]['value']:.2f}. "
                f"{chance_sentence(found)}\n"
            )
            lines = compared_values(found, decision.key)
            lines += [f"- {sentence}" for sentence in analysis_sentences(found)]
            parts.append("\n".join(lines) + "\n")
            parts += confirmed(studies, decision.key, scale, values)
        elif found:
            parts.append(f"Study `{decision.study}` compares no other value on {scale}.\n")
        else:
            parts.append(f"Study `{decision.study}`: declared in `studies.yaml`, not run yet.\n")
        parts.append(f"{decision.paper}\n")
        if varied and scale != DECIDED_ON:
            parts.append(f"**No decision yet: those here were made on {DECIDED_ON}.**\n")
        elif varied and value != decision.value:
            parts.append(f"**No decision yet: what was decided was `{shown(decision.value)}`.**\n")
        elif varied:
            parts.append(f"**{decision.choice}**\n")
    return "\n".join(parts)


def current_decisions(studies: Path) -> str:
    """docs/decisions.md as it must be."""
    values = params.read_yaml(params.PARAMS_FILE)
    return decisions_text(studies, Studies(values["model"]["name"]).scale, values)
