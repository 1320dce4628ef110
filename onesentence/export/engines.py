"""Run an exported folder as other programs do: with its own tokenizer, prompt and generation_config.json.

No decoding code of this repository is used here. transformers' `no_repeat_ngram_size` counts the prompt too,
and would forbid every n-gram of the article, so generation_config.json does not have it. transformers counts
the output alone where the prompt is given as embeddings. The card shows that call, and it is the one that is
scored.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from onesentence.core.errors import UserError
from onesentence.export.converters import require_ctranslate2, search
from onesentence.export.folder import ADAPTER, CTRANSLATE2, GGUF, Exported
from onesentence.generation.decoding import generation_config, read_output
from onesentence.model.loading import device_name, quantization_config
from onesentence.model.model_files import check_vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


NOT_COMPARED = ("suppress_tokens", "transformers_version", "_from_model_config")


@dataclass(frozen=True)
class Written:
    """The output for one article.

    prompt_ids: what the engine read; tokens: what it wrote, without padding; status: ok, empty or echo, by
    the rules of the pipeline.
    """

    prompt_ids: list[int]
    tokens: list[int]
    text: str
    stopped: bool
    status: str


def load_exported_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer, as it is."""
    from transformers import AutoTokenizer

    check_vocabulary(folder, str(folder))
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        # tokenizers raises a bare Exception for a file that it cannot read.
        if not isinstance(error, OSError | ValueError | KeyError) and type(error) is not Exception:
            raise
        raise UserError(
            f"{folder}: its tokenizer could not be loaded ({error}); run `make export`"
        ) from error
    if not tokenizer.chat_template:
        raise UserError(f"{folder}: its tokenizer has no chat template; run `make export` again")
    return tokenizer


def chats(articles: list[str]) -> list[list[dict[str, str]]]:
    """Each article as a chat of one message."""
    return [[{"role": "user", "content": article}] for article in articles]


def read(tokenizer: PreTrainedTokenizerBase, prompt: list[int], row: list[int], longest: int) -> Written:
    """What a row of new tokens says; everything in it counts, also what follows an EOS that did not end it.

    longest: generate.max_new_tokens.
    """
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    end = len(row)
    while end and row[end - 1] in (pad, eos):
        end -= 1
    stopped = end < len(row) and row[end] == eos
    tokens = row[: end + 1] if stopped else row[:end]
    text = tokenizer.decode(tokens, skip_special_tokens=True).strip()
    status = read_output(tokenizer, tokens, prompt, longest).status if text else "empty"
    return Written(prompt, tokens, text, stopped, status)


def batches(lengths: list[int], exported: Exported) -> Iterator[list[int]]:
    """Indices of articles by batch, longest first. lengths: tokens of the prompts.

    `generate()` copies a prompt for each beam, so generate.max_batch_tokens holds fewer articles here.
    """
    settings = exported.generate
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    while order:
        size = settings.num_beams * (lengths[order[0]] + settings.max_new_tokens)
        count = max(1, settings.max_batch_tokens // size)
        yield order[:count]
        order = order[count:]


def load_transformers(folder: Path, exported: Exported) -> Any:
    """The model that plain transformers loads from the folder, or peft from an adapter and its base."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    if exported.target != ADAPTER:
        # Without a dtype, transformers takes that of config.json.
        return (
            AutoModelForCausalLM.from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True, trust_remote_code=False
            )
            .to(device_name())
            .eval()
        )
    from peft import PeftModel

    dtype = getattr(torch, exported.dtype)
    options: dict[str, Any] = {"dtype": dtype, "revision": exported.revision or "main"}
    if exported.quantization != "none":
        options["quantization_config"] = quantization_config(exported.quantization, dtype)
        options["device_map"] = {"": device_name()}
    base = AutoModelForCausalLM.from_pretrained(
        exported.base, use_safetensors=True, trust_remote_code=False, **options
    )
    if exported.quantization == "none":
        base.to(device_name())
    model = PeftModel.from_pretrained(base, str(folder)).eval()
    model.get_base_model().generation_config = GenerationConfig.from_pretrained(str(folder))
    return model


def by_transformers(
    folder: Path, exported: Exported, articles: list[str]
) -> Iterator[tuple[list[int], list[Written]]]:
    """Yield (indices, outputs) of articles, batch after batch, by transformers' `generate()`."""
    import torch

    tokenizer, model = load_exported_tokenizer(folder), load_transformers(folder, exported)
    ban = exported.generate.no_repeat_ngram_size
    options = {"no_repeat_ngram_size": ban} if ban else {}
    lengths = [
        len(ids) for ids in tokenizer.apply_chat_template(
            chats(articles), add_generation_prompt=True, return_dict=False
        )
    ]  # fmt: skip
    for batch in batches(lengths, exported):
        inputs = tokenizer.apply_chat_template(
            chats([articles[i] for i in batch]),
            add_generation_prompt=True,
            padding=True,
            return_dict=True,
            return_tensors="pt",
        ).to(model.device)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*n-gram constraints only to newly generated")
            # The prompt as embeddings: transformers then counts n-grams of the output alone.
            rows = model.generate(
                inputs_embeds=model.get_input_embeddings()(ids), attention_mask=mask, **options
            ).tolist()
        prompts = [row[kept == 1].tolist() for row, kept in zip(ids.cpu(), mask.cpu(), strict=True)]
        yield (
            batch,
            [
                read(tokenizer, *pair, exported.generate.max_new_tokens)
                for pair in zip(prompts, rows, strict=True)
            ],
        )


def by_ctranslate2(
    folder: Path, exported: Exported, articles: list[str]
) -> Iterator[tuple[list[int], list[Written]]]:
    """Yield (indices, outputs) of articles, one after the other, by CTranslate2 on the CPU."""
    import torch
    from transformers import GenerationConfig

    require_ctranslate2()
    import ctranslate2

    tokenizer = load_exported_tokenizer(folder)
    config = GenerationConfig.from_pretrained(str(folder))
    compute = "int8" if exported.quantization == "int8" else "float32"
    generator = ctranslate2.Generator(
        str(folder), device="cpu", compute_type=compute, intra_threads=torch.get_num_threads()
    )
    names = read_vocabulary(folder)
    settings = SimpleNamespace(
        num_beams=config.num_beams,
        max_new_tokens=config.max_new_tokens,
        length_penalty=config.length_penalty,
        suppress_tokens=[names[token] for token in config.suppress_tokens or []],
        eos_token_id=config.eos_token_id,
    )
    for i, chat in enumerate(chats(articles)):
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        row = search(
            generator, [names[token] for token in prompt], settings, exported.generate.no_repeat_ngram_size
        )
        yield [i], [read(tokenizer, prompt, row, exported.generate.max_new_tokens)]


def read_vocabulary(folder: Path) -> list[str]:
    """The names of a CTranslate2 model's tokens, by id."""
    import json

    names: list[str] = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
    return names


def run(folder: Path, exported: Exported, articles: list[str]) -> Iterator[tuple[list[int], list[Written]]]:
    """Yield (indices, outputs) of articles, batch after batch, by the engine of the exported target."""
    if exported.target == CTRANSLATE2:
        return by_ctranslate2(folder, exported, articles)
    if exported.target == GGUF:
        from onesentence.export.llama_cpp import by_llama_cpp  # which reads this module

        return by_llama_cpp(folder, exported, articles)
    return by_transformers(folder, exported, articles)


def changed_settings(folder: Path, exported: Exported) -> dict[str, tuple[Any, Any]]:
    """(measured, exported) values of the settings of decoding in a folder that differ, by name.

    They are those of generation_config.json, and the side on which the tokenizer pads.
    """
    from transformers import GenerationConfig

    tokenizer = load_exported_tokenizer(folder)
    # Which ids are suppressed depends on the vocabularies alone.
    measured, found = (
        {key: value for key, value in config.to_diff_dict().items() if key not in NOT_COMPARED}
        for config in (
            generation_config(tokenizer, exported.generate, max(tokenizer.get_vocab().values()) + 1),
            GenerationConfig.from_pretrained(str(folder)),
        )
    )
    measured["padding_side"], found["padding_side"] = "left", tokenizer.padding_side
    return {
        key: (measured.get(key), found.get(key))
        for key in sorted({*measured, *found})
        if measured.get(key) != found.get(key)
    }


def engine_of(exported: Exported) -> str:
    """The engine's name and version."""
    if exported.target == CTRANSLATE2:
        return f"ctranslate2 {require_ctranslate2()}"
    if exported.target == GGUF:
        from onesentence.export.llama_cpp import PACKAGE, require_llama_cpp

        return f"{PACKAGE} {require_llama_cpp()}"
    transformers = f"transformers {version('transformers')}"
    return f"{transformers}, peft {version('peft')}" if exported.target == ADAPTER else transformers
