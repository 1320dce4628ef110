"""Run a model that was exported for CTranslate2, on the prompts of the pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from onesentence.core import machine_faults
from onesentence.core.errors import UserError
from onesentence.export.converters import require_ctranslate2, search
from onesentence.export.engines import read_vocabulary
from onesentence.generation.decoding import Output, generation_config, read_output

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from onesentence.inference.settings import Settings

MODEL = "model.bin"  # of CTranslate2, which is no pickle


class CTranslate2Model:
    """A model in CTranslate2's format on the CPU, in int8 or float32."""

    def __init__(self, folder: Path, settings: Settings, tokenizer: PreTrainedTokenizerBase) -> None:
        import torch

        require_ctranslate2()
        import ctranslate2

        for name in (MODEL, "vocabulary.json"):
            if not (folder / name).is_file():
                raise UserError(f"{folder}: {name} not found; copy the whole folder, or run `make export`")
        compute = "int8" if settings.model.quantization == "int8" else "float32"
        try:
            self.generator: Any = ctranslate2.Generator(
                str(folder), device="cpu", compute_type=compute, intra_threads=torch.get_num_threads()
            )
        except (RuntimeError, ValueError) as error:
            if machine_faults.sentence_of(error):
                raise
            reason = " ".join(str(error).split())
            raise UserError(
                f"{folder}: CTranslate2 cannot load this model ({reason}); run `make export` again"
            ) from error
        self.names, self.tokenizer, self.generate = read_vocabulary(folder), tokenizer, settings.generate
        config = generation_config(tokenizer, settings.generate, len(self.names))
        self.settings = SimpleNamespace(
            num_beams=config.num_beams,
            max_new_tokens=config.max_new_tokens,
            length_penalty=config.length_penalty,
            suppress_tokens=[self.names[token] for token in config.suppress_tokens or []],
            eos_token_id=config.eos_token_id,
        )

    def outputs(self, prompts: list[list[int]]) -> Iterator[tuple[list[int], list[Output]]]:
        """Yield ([index], [output]) of each prompt: CTranslate2 is fastest with one at a time."""
        for place, prompt in enumerate(prompts):
            names = [self.names[token] for token in prompt]
            row = search(self.generator, names, self.settings, self.generate.no_repeat_ngram_size)
            yield [place], [read_output(self.tokenizer, row, prompt, self.generate.max_new_tokens)]
