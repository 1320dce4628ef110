"""The peer of `benchmarks.generation`: a Phi or Llama in CTranslate2's format, and beam search in it.

Models are written by the converters of `make export`, from the model in memory, adapter merged.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace


def _name(token: int) -> str:
    """A token's name: CTranslate2 reads and writes text, and an id must come back as itself."""
    return f"<{token}>"


def write_model(model, folder: Path) -> None:
    """Write a PhiForCausalLM or LlamaForCausalLM to an empty folder in CTranslate2's format."""
    from onesentence.export.converters import write_spec

    names = [_name(token) for token in range(model.config.vocab_size)]
    write_spec(model, folder, names, names[model.config.eos_token_id], "float32")


def search(generator, prompt: list[int], settings) -> list[int]:
    """New tokens of the best beam, up to and with EOS.

    One prompt at a time: unequal prompts of one batch are decoded under constraint, six times as slowly
    (OpenNMT/CTranslate2#1349). settings: num_beams, max_new_tokens, length_penalty, suppress_tokens,
    eos_token_id, as transformers' GenerationConfig has them.
    """
    (result,) = generator.generate_batch(
        [[_name(token) for token in prompt]],
        beam_size=settings.num_beams,
        max_length=settings.max_new_tokens,
        length_penalty=settings.length_penalty,
        suppress_sequences=[[_name(token)] for token in settings.suppress_tokens or []],
        end_token=[settings.eos_token_id],
        return_end_token=True,
        include_prompt_in_result=False,
    )
    return result.sequences_ids[0]


class Peer:
    """CTranslate2 in a process of its own, so that it runs on the kernels that it chooses by itself.

    That process is this file and not a module of `benchmarks`, whose import would choose kernels for it.
    """

    def __init__(self, folder: Path, compute_type: str, threads: int) -> None:
        from onesentence.core.runtime import CHOSEN_WAITING, KERNELS

        command = [sys.executable, __file__, str(folder), compute_type, str(threads)]
        environment = {k: v for k, v in os.environ.items() if k not in {*KERNELS, CHOSEN_WAITING}}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __call__(self, prompts: list[list[int]], config) -> tuple[list[list[int]], float, float]:
        """(new tokens, CPU seconds, seconds); config: transformers' GenerationConfig."""
        names = ("num_beams", "max_new_tokens", "length_penalty", "suppress_tokens", "eos_token_id")
        settings = {name: getattr(config, name) for name in names}
        self.process.stdin.write(json.dumps({"prompts": prompts, "settings": settings}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["tokens"], answer["cpu_seconds"], answer["seconds"]

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    """Answer requests of `Peer`, one a line, until there are no more."""
    import ctranslate2

    folder, compute_type, threads = sys.argv[1:]
    generator = ctranslate2.Generator(
        folder, device="cpu", compute_type=compute_type, intra_threads=int(threads)
    )
    for line in sys.stdin:
        asked = json.loads(line)
        settings = SimpleNamespace(**asked["settings"])
        cpu, started = time.process_time(), time.perf_counter()
        tokens = [search(generator, prompt, settings) for prompt in asked["prompts"]]
        seconds = {"cpu_seconds": time.process_time() - cpu, "seconds": time.perf_counter() - started}
        print(json.dumps({"tokens": tokens, **seconds}), flush=True)


if __name__ == "__main__":
    main()
