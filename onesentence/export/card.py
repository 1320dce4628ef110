"""The card of an exported model (README.md) and its scores in the hub's format (.eval_results/)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from onesentence.core.errors import UserError
from onesentence.core.escaping import markdown_code
from onesentence.core.files import write_text
from onesentence.core.params import Data, Model, Params, generating, parse_yaml
from onesentence.core.text import percent
from onesentence.evaluation.metrics import HEADLINE
from onesentence.export.converters import require_ctranslate2
from onesentence.export.folder import ADAPTER, CTRANSLATE2, GGUF, SETTINGS
from onesentence.export.gguf import FILE

CARD, EVAL_RESULTS = "README.md", ".eval_results"
# The repository's own bases, under its own licence.
SHIPPED = ("models/phi-tiny", "models/phi-tiny-64", "models/phi-tiny-128")
LIBRARIES = {ADAPTER: "peft", CTRANSLATE2: "ctranslate2", GGUF: "gguf"}
LOAD = {
    "merged": """tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)""",
    ADAPTER: """tokenizer = AutoTokenizer.from_pretrained(folder)
base = AutoModelForCausalLM.from_pretrained({base!r}{options})
model = PeftModel.from_pretrained(base, folder)
model.get_base_model().generation_config = GenerationConfig.from_pretrained(folder)""",
}
QUANTIZED = {  # as `quantization_config` of onesentence/model/loading.py makes it
    "int8": "BitsAndBytesConfig(load_in_8bit=True)",
    "nf4": "BitsAndBytesConfig(\n"
    "    load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_use_double_quant=True,\n"
    "    bnb_4bit_compute_dtype={dtype!r})",
}
IMPORTS = {
    "merged": "from transformers import AutoModelForCausalLM, AutoTokenizer",
    ADAPTER: "from peft import PeftModel\n"
    "from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig",
}
GENERATE = """chat = [{"role": "user", "content": article}]
inputs = tokenizer.apply_chat_template(
    chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"
)"""
PLAIN = "output = model.generate(**inputs)[0, inputs['input_ids'].shape[1] :]"
BANNED = """embedded = model.get_input_embeddings()(inputs["input_ids"])
output = model.generate(
    inputs_embeds=embedded, attention_mask=inputs["attention_mask"], no_repeat_ngram_size={ban}
)[0]"""
DECODE = "print(tokenizer.decode(output, skip_special_tokens=True).strip())"
CTRANSLATE = """import json
from pathlib import Path

import ctranslate2
from transformers import AutoTokenizer, GenerationConfig

folder = "{folder}"
tokenizer = AutoTokenizer.from_pretrained(folder)
config = GenerationConfig.from_pretrained(folder)
names = json.loads(Path(folder, "vocabulary.json").read_text(encoding="utf-8"))
generator = ctranslate2.Generator(folder, compute_type="{number}")
chat = [{{"role": "user", "content": article}}]
prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
(result,) = generator.generate_batch(
    [[names[token] for token in prompt]],
    beam_size=config.num_beams,
    max_length=config.max_new_tokens,
    length_penalty=config.length_penalty,
    no_repeat_ngram_size={ban},
    suppress_sequences=[[names[token]] for token in config.suppress_tokens or []],
    end_token=[config.eos_token_id],
    include_prompt_in_result=False,
)
print(tokenizer.decode(result.sequences_ids[0], skip_special_tokens=True).strip())"""
LLAMA_CPP = """import llama_cpp

model = llama_cpp.Llama("models/exported/{file}", n_ctx={context}, verbose=False)
chat = [{{"role": "user", "content": article}}]
answer = model.create_chat_completion(chat, temperature=0.0, max_tokens={longest})
print(answer["choices"][0]["message"]["content"].strip())"""
GREEDY_NOTE = """
llama.cpp has no beam search, and no ban on repeated n-grams. This file is decoded by greedy search, where the
scores above come from the model's own decoding ({beams} beams). `metrics/export.json` has the test of
equivalence with the model in greedy search, and the difference to the scores above.
"""
BAN_NOTE = """
The prompt is given as embeddings on purpose. The model was measured with a ban on repeated {ban}-grams of
the output. Where transformers gets token ids, its `no_repeat_ngram_size` counts the n-grams of the prompt
too, and forbids copying from the article; with embeddings it counts the output alone.
generation_config.json does not contain the ban: a server that reads only this file (`transformers serve`,
vLLM) decodes without it, which scores lower (`docs/export.md` has the measured difference).
"""


@dataclass(frozen=True)
class Results:
    """metrics/evaluation.json, metrics/train.json and metrics/data.json."""

    evaluation: dict[str, Any]
    trained: dict[str, Any]
    data: dict[str, Any]


def front_matter(folder: Path) -> dict[str, Any]:
    """The metadata of a model folder's card; empty without a card or metadata."""
    path = folder / CARD
    if not path.is_file():
        return {}
    start, _, rest = path.read_text(encoding="utf-8", errors="replace").partition("---\n")
    text, end, _ = rest.partition("\n---")
    try:
        return parse_yaml(text, path) if not start.strip() and end else {}
    except UserError:  # somebody else's card: what it does not say is not known
        return {}


def licence_of(base: Model) -> tuple[str | None, str]:
    """(the base's licence as its card names it or None, a sentence about it)."""
    if base.name in SHIPPED:
        return "mit", (
            "The base is under the MIT licence of its repository; `models/README.md` there lists the\n"
            "licences of the texts that it was pretrained on."
        )
    licence = front_matter(Path(base.name)).get("license")
    if isinstance(licence, str):
        return (
            licence,
            f"The base's card names the licence {markdown_code(licence)}, which applies to this model too.",
        )
    return None, f"The licence of the base is not known here: see the card of {markdown_code(base.name)}."


def metadata(p: Params, target: str) -> dict[str, Any]:
    """The card's metadata, as the hub reads it."""
    values: dict[str, Any] = {}
    licence, _ = licence_of(p.model)
    if licence:
        values["license"] = licence
    if p.evaluate.language != "und":
        values["language"] = p.evaluate.language
    known = front_matter(Path(p.model.name)).get("base_model")
    base = p.model.name if p.model.revision else known  # a folder's name means nothing on the hub
    if isinstance(base, str):
        values["base_model"] = base
    values["library_name"] = LIBRARIES.get(target, "transformers")
    values["pipeline_tag"] = "text-generation"
    return {**values, "tags": ["summarization"]}


def scores_table(evaluation: dict[str, Any]) -> str:
    """The quality metrics of base and tuned model, with intervals and signatures."""
    confidence = percent(evaluation["confidence"])
    lines = [f"| metric [{confidence} interval] | this model | untuned base |", "| --- | --- | --- |"]
    signatures = []
    for name, metric in evaluation["metrics"]["quality"].items():
        cells = [interval(evaluation["systems"][system][name]) for system in ("tuned", "base")]
        lines.append(f"| {metric['title']} ({metric['unit']}) | {cells[0]} | {cells[1]} |")
        signatures.append(metric["signature"])
    return "\n".join(lines) + "\n\nSignatures:\n\n" + "".join(f"    {text}\n" for text in signatures)


def interval(entry: dict[str, Any]) -> str:
    """A score with its interval."""
    if entry["value"] is None:
        return "undefined"
    value = f"{entry['value']:.2f}"
    return value if entry["low"] is None else f"{value} [{entry['low']:.2f}, {entry['high']:.2f}]"


def usage(p: Params, target: str) -> str:
    """The Python code that runs the folder as `rescore` ran it."""
    ban = p.generate.no_repeat_ngram_size
    if target == CTRANSLATE2:
        number = p.export.target.partition("_")[2]
        return CTRANSLATE.format(folder="models/exported", number=number, ban=ban)
    if target == GGUF:
        longest = p.generate.max_new_tokens
        return LLAMA_CPP.format(file=FILE, context=p.prompt.max_input_tokens + longest, longest=longest)
    options = f", dtype={p.model.dtype!r}" + (f", revision={p.model.revision!r}" if p.model.revision else "")
    load, imports, generate = LOAD[target], IMPORTS[target], GENERATE
    if target == ADAPTER:
        quantization = generating(p).quantization
        if quantization != "none":  # the scores are those of the quantized base
            made = QUANTIZED[quantization].format(dtype=p.model.dtype)
            options += f", quantization_config={made}, device_map='auto'"
            imports = imports.replace("GenerationConfig", "BitsAndBytesConfig, GenerationConfig")
            generate += ".to(model.device)"
        load = load.format(base=p.model.name, options=options)
    call = BANNED.format(ban=ban) if ban else PLAIN
    return "\n".join([imports, "", 'folder = "models/exported"', load, generate, call, DECODE])


def source_of(data: Data) -> str:
    """Where the pairs come from, in words."""
    known = {"docstrings": "Python docstrings", "local": "the user's own articles"}
    if data.source in known:
        return known[data.source]
    revision = f" at revision {markdown_code(data.revision)}" if data.revision else ""
    return f"{markdown_code(data.source)}{revision}"


def card(p: Params, results: Results) -> str:
    """The text of the card."""
    target = p.export.target.partition("_")[0]
    evaluation, trained = results.evaluation, results.trained
    source, ban = source_of(p.data), p.generate.no_repeat_ngram_size
    note = BAN_NOTE.format(ban=ban) if ban and target in LOAD else ""
    if target == GGUF:
        note = GREEDY_NOTE.format(beams=p.generate.num_beams)
    engine = f"\nConverted for CTranslate2 {require_ctranslate2()}.\n" if target == CTRANSLATE2 else ""
    most = f"{p.prompt.max_input_tokens} tokens of prompt and {p.generate.max_new_tokens} of output at most"
    return f"""---
{yaml.safe_dump(metadata(p, target), sort_keys=False, allow_unicode=True).strip()}
---

# A summary in one sentence

{markdown_code(p.model.name)}, fine-tuned ({p.train.method}) to summarize an article in one sentence.
Exported as `{p.export.target}`.
{engine}
- Trained on {results.data["splits"]["train"]["used"]:,} pairs of article and summary from {source}:
  {trained["steps"]:,} steps, {trained["tokens_trained"]:,} tokens.
- {trained["trainable_parameters"]:,} of {trained["total_parameters"]:,} parameters were trained.
- Decoding: {p.generate.num_beams} beams, length penalty {p.generate.length_penalty:g}, {most}.

`{SETTINGS}` has every setting: the trained prompt as text, its limit, the decoding.

## Scores

These scores are from {evaluation["n"]:,} articles of the {evaluation["split"]} split, before the export.
The exported model was scored again with its own engine: `metrics/export.json` of the repository has the
difference and the test of equivalence. `.eval_results/` has the scores in the hub's format.

{scores_table(evaluation)}
## Use

```python
{usage(p, target)}
```
{note}
The chat template of the tokenizer is the trained prompt: one message with the role `user`, the article.
Cut a long article at its end, so that the prompt has at most {p.prompt.max_input_tokens} tokens.

{elsewhere(target)}## Limits

- It writes plausible sentences that may be false. Check numbers and names against the article.
- It was measured on texts like those of its training, in the language `{p.evaluate.language}`, and on no
  others.
- Longer articles are cut; what was cut is not in the summary.
- It follows no instructions, and it was not tested for harmful output.

## Licence

{licence_of(p.model)[1]}
"""


def elsewhere(target: str) -> str:
    """Other programs that run the folder, as a paragraph of the card; nothing for GGUF."""
    if target == GGUF:  # `onesentence summarize` runs none
        return ""
    served = ".\nOr served: `transformers serve models/exported`." if target == "merged" else "."
    command = "`onesentence summarize --model models/exported FILE`"
    return f"Or, in the repository that made it: {command}{served}\n\n"


def eval_results(p: Params, evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """The scores in the format of the hub's .eval_results/*.yaml: a data set, a task, a value, notes.

    A data set that is not on the hub has the name of its source, which is no id of the hub.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    return eval_result_entries_to_yaml(
        [
            EvalResultEntry(
                dataset_id=p.data.source,
                task_id=name,
                value=evaluation["systems"]["tuned"][name]["value"],
                dataset_revision=p.data.revision,
                notes=f"{interval(evaluation['systems']['tuned'][name])}; {metric['signature']}",
            )
            for name, metric in evaluation["metrics"]["quality"].items()
            if evaluation["systems"]["tuned"][name]["value"] is not None
        ]
    )


def write_card(p: Params, folder: Path, results: Results) -> None:
    """Write the card and the scores into an exported folder."""
    write_text(folder / CARD, card(p, results))
    text = yaml.safe_dump(eval_results(p, results.evaluation), sort_keys=False, allow_unicode=True, width=110)
    write_text(folder / EVAL_RESULTS / f"{HEADLINE}.yaml", text)
