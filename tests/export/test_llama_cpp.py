"""GGUF files in llama.cpp: the tokens of greedy search in transformers, from the file alone."""

import pytest
import torch
from export.test_gguf import READ_BACK, model_of
from model.test_families import SIZE

from onesentence.core.errors import UserError
from onesentence.core.params import Generate
from onesentence.core.prompts import Frame
from onesentence.export import llama_cpp as engine
from onesentence.export.folder import GGUF, Exported, write_tokenizer
from onesentence.export.gguf import FILE, write_gguf
from onesentence.export.prompt_template import prompt_ids
from onesentence.generation.decoding import generation_config

FRAME = Frame("Article: ", "\n\nSummary:", " ", False)
DECODING = Generate(
    max_new_tokens=12, num_beams=1, length_penalty=1.0, no_repeat_ngram_size=0, max_batch_tokens=4096
)
ARTICLES = [
    "Return the number of lines in a file.",
    "  Two\n\nparagraphs, 12,345 and Ünïcödé 数字.",
    "x" * 60,
]
KINDS = {**READ_BACK, "phi": ("PhiConfig", {**SIZE, "partial_rotary_factor": 0.5})}


def exported_as(number: str) -> Exported:
    return Exported(GGUF, FRAME, 200, DECODING, number, "none", "models/base", None, 1.0)


def written(folder, model, tokenizer, number="float32"):
    write_tokenizer(tokenizer, FRAME, folder, 256)
    write_gguf(model, tokenizer, folder / FILE, number, tokenizer.chat_template)
    outputs = dict(
        pair
        for batch in engine.by_llama_cpp(folder, exported_as(number), ARTICLES)
        for pair in zip(*batch, strict=True)
    )
    return [outputs[i] for i in range(len(ARTICLES))]


@pytest.mark.parametrize("name", KINDS)
def test_the_tokens_of_transformers(name, tmp_path, tokenizer):
    pytest.importorskip("llama_cpp", reason=f"pip install -r {engine.REQUIREMENTS} (it is compiled)")
    kind, settings = KINDS[name]
    model = model_of(kind, settings).eval()
    for article, output in zip(ARTICLES, written(tmp_path, model, tokenizer), strict=True):
        prompt = prompt_ids(tokenizer, article)
        assert output.prompt_ids == prompt
        config = generation_config(tokenizer, DECODING, model.config.vocab_size)
        config.suppress_tokens = None  # llama.cpp has none
        wanted = model.generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :].tolist()
        assert output.tokens == wanted[: len(output.tokens)]
        assert len(output.tokens) == 12 or output.stopped


def test_a_file_that_llama_cpp_cannot_read_is_named(tmp_path, tokenizer):
    pytest.importorskip("llama_cpp", reason=f"pip install -r {engine.REQUIREMENTS} (it is compiled)")
    write_tokenizer(tokenizer, FRAME, tmp_path, 256)
    (tmp_path / FILE).write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"model\.gguf: llama\.cpp cannot read it"):
        list(engine.by_llama_cpp(tmp_path, exported_as("float32"), ARTICLES))


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch):
    def absent(name):
        raise engine.PackageNotFoundError(name)

    monkeypatch.setattr(engine, "version", absent)
    with pytest.raises(UserError, match=r"pip install -r onesentence/export/requirements\.txt"):
        engine.require_llama_cpp()


def test_decoding_is_greedy_without_a_ban():
    beams = Generate(24, 4, 2.0, 3, 8192)
    assert engine.greedy(beams) == Generate(24, 1, 1.0, 0, 8192)
