"""The peer of `benchmarks.generation`: a Phi or Llama in CTranslate2's format, and beam search in it.

CTranslate2's own converter expects the attributes of Phi's first, remote code and fails on the class that
transformers has had since 4.37 (OpenNMT/CTranslate2#1641). A Llama is written beside it from the model in
memory, adapter merged, so that both come the same way.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

ACTIVATIONS = {"gelu_new": "GELUTanh", "gelu_pytorch_tanh": "GELUTanh", "gelu": "GELU", "relu": "RELU"}


def _name(token: int) -> str:
    """A token's name: CTranslate2 reads and writes text, and an id must come back as itself."""
    return f"<{token}>"


def _fill(spec, *modules) -> None:
    """Weights and biases of linear layers or a layer norm, [outputs, inputs], those of several one below the
    other (queries, keys and values are one product there)."""
    import torch

    weight = torch.cat([module.weight for module in modules]).float().numpy()
    biases = [module.bias for module in modules if getattr(module, "bias", None) is not None]
    bias = torch.cat(biases).float().numpy() if biases else None
    if hasattr(spec, "gamma"):
        spec.gamma = weight
        if bias is not None:
            spec.beta = bias
    else:
        spec.weight = weight
        if bias is not None:
            spec.bias = bias


def phi_spec(model):
    """CTranslate2's specification of a PhiForCausalLM, with its weights in float32.

    Raises ValueError where the configuration asks for what is not carried over.
    """
    from ctranslate2.specs import common_spec, transformer_spec

    config = model.config
    rotary = config.rope_parameters
    if config.model_type != "phi" or config.qk_layernorm or rotary["rope_type"] != "default":
        raise ValueError("only Phi is converted, without norms of queries and keys, with default positions")
    width = config.hidden_size // config.num_attention_heads
    grouped = config.num_key_value_heads != config.num_attention_heads
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_heads_kv=config.num_key_value_heads if grouped else None,
        activation=getattr(common_spec.Activation, ACTIVATIONS[config.hidden_act]),
        rotary_dim=int(width * rotary["partial_rotary_factor"]),
        rotary_interleave=False,
        rotary_base=rotary["rope_theta"],
        parallel_residual=True,
        shared_layer_norm=True,
    )
    spec.config.layer_norm_epsilon = config.layer_norm_eps
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = model.model.embed_tokens.weight.float().numpy()
    _fill(decoder.layer_norm, model.model.final_layernorm)
    _fill(decoder.projection, model.lm_head)
    for target, layer in zip(decoder.layer, model.model.layers, strict=True):
        attention = layer.self_attn
        _fill(target.shared_layer_norm, layer.input_layernorm)
        _fill(target.self_attention.linear[0], attention.q_proj, attention.k_proj, attention.v_proj)
        _fill(target.self_attention.linear[1], attention.dense)
        _fill(target.ffn.linear_0, layer.mlp.fc1)
        _fill(target.ffn.linear_1, layer.mlp.fc2)
    return spec


def llama_spec(model):
    """CTranslate2's specification of a LlamaForCausalLM, with its weights in float32.

    Raises ValueError where the configuration asks for what is not carried over.
    """
    from ctranslate2.specs import common_spec, transformer_spec

    config = model.config
    rotary = config.rope_parameters
    if config.model_type != "llama" or config.hidden_act != "silu" or rotary["rope_type"] != "default":
        raise ValueError("only Llama is converted, with SiLU and default positions")
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_heads_kv=config.num_key_value_heads,
        activation=common_spec.Activation.SWISH,
        pre_norm=True,
        ffn_glu=True,
        rms_norm=True,
        rotary_dim=0,  # all of a head
        rotary_interleave=False,
        rotary_base=rotary["rope_theta"],
    )
    spec.config.layer_norm_epsilon = config.rms_norm_eps
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = model.model.embed_tokens.weight.float().numpy()
    _fill(decoder.layer_norm, model.model.norm)
    _fill(decoder.projection, model.lm_head)
    for target, layer in zip(decoder.layer, model.model.layers, strict=True):
        attention = layer.self_attn
        _fill(target.self_attention.layer_norm, layer.input_layernorm)
        _fill(target.self_attention.linear[0], attention.q_proj, attention.k_proj, attention.v_proj)
        _fill(target.self_attention.linear[1], attention.o_proj)
        _fill(target.ffn.layer_norm, layer.post_attention_layernorm)
        _fill(target.ffn.linear_0, layer.mlp.gate_proj)
        _fill(target.ffn.linear_0_noact, layer.mlp.up_proj)
        _fill(target.ffn.linear_1, layer.mlp.down_proj)
    return spec


def write_model(model, folder: Path) -> None:
    """Write a PhiForCausalLM or LlamaForCausalLM to an empty folder in CTranslate2's format."""
    import torch

    with torch.no_grad():
        spec = llama_spec(model) if model.config.model_type == "llama" else phi_spec(model)
    names = [_name(token) for token in range(model.config.vocab_size)]
    spec.register_vocabulary(names)
    spec.config.unk_token = spec.config.bos_token = spec.config.eos_token = names[model.config.eos_token_id]
    spec.validate()
    spec.optimize()
    spec.save(str(folder))


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
