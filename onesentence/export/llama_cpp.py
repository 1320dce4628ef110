"""Run a GGUF file with llama.cpp, through its Python package.

llama.cpp has no beam search (its pull request 7736 removed it). So an exported GGUF file is decoded by greedy
search, and compared with the measured model in greedy search.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onesentence.core.errors import UserError
from onesentence.core.params import Generate
from onesentence.export.engines import Written, chats, load_exported_tokenizer, read
from onesentence.export.gguf import FILE

if TYPE_CHECKING:
    from onesentence.export.folder import Exported

PACKAGE, REQUIREMENTS = "llama-cpp-python", "onesentence/export/requirements.txt"
READ_AT_ONCE = 512  # tokens of a prompt


def require_llama_cpp() -> str:
    """The version of llama.cpp's package; a UserError if it is not installed."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError as error:
        raise UserError(
            f"export.target: gguf: {PACKAGE} is not installed; run `pip install -r {REQUIREMENTS}` (it is "
            "compiled: a C++ compiler and about ten minutes), or use another target"
        ) from error


def greedy(settings: Generate) -> Generate:
    """The decoding that llama.cpp has: `settings` without beams, and without a ban on repeated n-grams.

    A length penalty is for beams: transformers refuses to write one without them.
    """
    return replace(settings, num_beams=1, no_repeat_ngram_size=0, length_penalty=1.0)


def load(folder: Path, exported: Exported) -> Any:
    """llama.cpp's model of the folder; a UserError if it cannot read the file."""
    import llama_cpp
    import torch

    path, threads = folder / FILE, torch.get_num_threads()
    try:
        return llama_cpp.Llama(
            str(path),
            n_ctx=exported.max_input_tokens + exported.generate.max_new_tokens,
            n_batch=READ_AT_ONCE,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )
    except ValueError as error:
        raise UserError(f"{path}: llama.cpp cannot read it ({error}); run `make export` again") from error


def read_prompt(model: Any, formatter: Any, chat: list[dict[str, str]]) -> list[int]:
    """Token ids of a chat, with the chat template and the tokenizer of the GGUF file."""
    text = formatter(messages=chat).prompt
    ids: list[int] = model.tokenize(text.encode(), add_bos=False, special=True)
    return ids


def write(model: Any, prompt: list[int], longest: int) -> list[int]:
    """New tokens of greedy search, up to and with EOS, at most `longest`."""
    tokens: list[int] = []
    for token in model.generate(prompt, temp=0.0, top_k=0, repeat_penalty=1.0, reset=True):
        tokens.append(token)
        if token == model.token_eos() or len(tokens) == longest:
            break
    return tokens


def by_llama_cpp(
    folder: Path, exported: Exported, articles: list[str]
) -> Iterator[tuple[list[int], list[Written]]]:
    """Yield (indices, outputs) of articles, one after the other."""
    require_llama_cpp()
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    tokenizer = load_exported_tokenizer(folder)  # to read what was written, by the rules of the pipeline
    longest = exported.generate.max_new_tokens
    with closing(load(folder, exported)) as model:
        formatter = Jinja2ChatFormatter(
            template=model.metadata["tokenizer.chat_template"],
            eos_token=name_of(model, model.token_eos()),
            bos_token=name_of(model, model.token_bos()),
        )
        for i, chat in enumerate(chats(articles)):
            prompt = read_prompt(model, formatter, chat)
            yield [i], [read(tokenizer, prompt, write(model, prompt, longest), longest)]


def name_of(model: Any, token: int) -> str:
    """The text of a special token; empty where the model has none."""
    if token < 0:
        return ""
    text: str = model._model.token_get_text(token)
    return text
