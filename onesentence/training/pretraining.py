"""Train a small Phi from scratch on documentation text: the embedded base model and its siblings."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from onesentence.core import params, stopping
from onesentence.core.checkpoints import claimed, keep_last, last_checkpoint, seal
from onesentence.core.files import atomic_write, file_sha256, write_json
from onesentence.core.fingerprint import fingerprint
from onesentence.core.text import with_heading
from onesentence.data.docstrings import DocumentedObject, entries_hash, pair_of, words
from onesentence.data.near_duplicates import NearDuplicates
from onesentence.data.splits import side_of_file, split_docstrings
from onesentence.model.loading import has_bfloat16

if TYPE_CHECKING:
    import torch
    from transformers import PhiForCausalLM, PreTrainedTokenizerFast

PARAMS = ("pretrain",)
REQUIREMENTS = Path("requirements.txt")
MODEL = Path("models/phi-tiny")
METRICS_FILE = Path("metrics/pretrain.json")
STATE = "state.pt"  # the file in a checkpoint's folder
SEEN_FILES = "pretraining_files.txt"
EOS, PAD = "<|endoftext|>", "<|pad|>"


def training_entries(entries: list[DocumentedObject]) -> list[DocumentedObject]:
    """Entries of training files, without near-duplicates of held-out rows and without repetitions."""
    rows, _ = split_docstrings(entries)
    held_out = [row for row in rows if row.split != "train"]
    index = NearDuplicates([row.document for row in held_out], [row.summary for row in held_out], words)
    chosen, seen = [], set()
    candidates = [entry for entry in entries if side_of_file(entry.file) == "train"]
    for entry in tqdm(candidates, desc="held-out near-duplicates", unit="entry"):
        first, _, body = entry.docstring.partition("\n")
        if entry.docstring not in seen and not len(index.matches(body, first)):
            seen.add(entry.docstring)
            chosen.append(entry)
    return chosen


def texts(entries: list[DocumentedObject], p: params.Pretrain, rng: np.random.Generator) -> list[str]:
    """One pass over the entries as texts, in random order.

    If the summary comes last, a long document is cut to about two thirds of the context, so that the model
    still sees its beginning when it reads the summary.
    """
    room = 2 * p.context  # characters: two thirds of the context, at 3 characters a token (measured: 3.4)
    result = []
    for index in rng.permutation(len(entries)):
        entry = entries[index]
        pair = pair_of(entry)
        if not isinstance(pair, str) and rng.random() < p.summary_last_share:
            heading, document, summary = pair
            result.append(f"{with_heading(heading, document)[:room]}\n\n{summary}")
        else:
            result.append(with_heading(entry.heading, entry.docstring))
    return result


def train_tokenizer(corpus: list[str], vocabulary: int) -> "PreTrainedTokenizerFast":
    """A byte-level BPE tokenizer, trained on `corpus`, whose pad token differs from eos."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # all bytes, so that no text is unknown
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def token_rows(
    entries: list[DocumentedObject], tokenizer: "PreTrainedTokenizerFast", p: params.Pretrain, steps: int
) -> NDArray[np.int32]:
    """All rows of the run in order: token ids [steps * batch_size, context] of texts joined by EOS."""
    rng = np.random.default_rng(p.seed)
    needed = steps * p.batch_size * p.context
    ids: list[int] = []
    with tqdm(total=needed, desc="tokenize", unit="token", unit_scale=True) as bar:
        while len(ids) < needed:  # one round for each pass over the entries
            passage = texts(entries, p, rng)
            for start in range(0, len(passage), 1_000):
                before = len(ids)
                for row in tokenizer(passage[start : start + 1_000])["input_ids"]:
                    ids.extend([*row, tokenizer.eos_token_id])
                bar.update(min(len(ids), needed) - min(before, needed))
    return np.array(ids[:needed], dtype=np.int32).reshape(-1, p.context)


def learning_rate_share(step: int, steps: int, warmup: float, decay: float) -> float:
    """Share of the peak learning rate at a step: a linear rise, a plateau, a linear decay to 0."""
    up = (step + 1) / max(1.0, warmup * steps)
    down = (steps - step) / max(1.0, decay * steps)
    return min(1.0, up, down)


def build_model(tokenizer: "PreTrainedTokenizerFast", p: params.Pretrain) -> "PhiForCausalLM":
    """A PhiForCausalLM with random weights. Embedding and output share one matrix."""
    from transformers import PhiConfig, PhiForCausalLM

    config = PhiConfig(
        vocab_size=len(tokenizer),
        hidden_size=p.hidden_size,
        intermediate_size=4 * p.hidden_size,
        num_hidden_layers=p.layers,
        num_attention_heads=p.heads,
        partial_rotary_factor=0.5,
        max_position_embeddings=2_048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return PhiForCausalLM(config)


def backward(model: "PhiForCausalLM", batch: NDArray[np.int32], rows_at_once: int, narrow: bool) -> float:
    """Accumulate the gradients of a batch [rows, context]; returns its mean loss (nats per token).

    rows_at_once: rows of a forward pass, which limits the memory; narrow: compute products in bfloat16.
    """
    import torch

    device, total = next(model.parameters()).device, 0.0
    for rows in torch.from_numpy(batch).long().split(rows_at_once):
        ids = rows.to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=narrow):
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"
        ) / (batch.size - len(batch))  # predicted tokens: all but the first of each row
        loss.backward()
        total += loss.item()
    return total


def save_state(
    folder: Path, model: "PhiForCausalLM", optimizers: "list[torch.optim.Optimizer]", losses: list[float]
) -> None:
    """Write a sealed checkpoint, and remove all but the last two."""
    import torch

    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "losses": losses,
    }
    with atomic_write(folder / f"checkpoint-{len(losses)}") as temporary:
        temporary.mkdir()
        torch.save(state, temporary / STATE)
        seal(temporary)
    keep_last(folder, 2)


def pretrain(
    model: "PhiForCausalLM", rows: NDArray[np.int32], p: params.Pretrain, folder: Path
) -> list[float]:
    """Train `model` in place on rows [steps * batch_size, context]; returns the loss of each step.

    folder: of this run's checkpoints; it resumes from the last whole one. Raises Stopped after a signal.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).train()
    # Eager attention is faster than the fused kernel at this width on a CPU.
    model.set_attn_implementation("eager")
    # Muon is for the weight matrices of hidden layers; embeddings, biases and norms use AdamW.
    matrices = [w for name, w in model.named_parameters() if w.ndim == 2 and "embed" not in name]
    others = [w for name, w in model.named_parameters() if w.ndim != 2 or "embed" in name]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=p.muon_learning_rate, weight_decay=0.0, momentum=0.95),
        torch.optim.AdamW(others, lr=p.adamw_learning_rate, weight_decay=0.0, betas=(0.9, 0.95)),
    ]
    peaks = [p.muon_learning_rate, p.adamw_learning_rate]
    steps = len(rows) // p.batch_size
    losses: list[float] = []
    if checkpoint := last_checkpoint(folder, "pretrain"):
        saved = torch.load(checkpoint / STATE, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        losses = saved["losses"]

    tokens_per_step = p.batch_size * p.context
    narrow = has_bfloat16()  # emulated, a step takes 13 to 17 times as long as in float32 (measured)
    with tqdm(total=steps, initial=len(losses), desc="pretrain", unit="step") as bar:
        while len(losses) < steps:
            step = len(losses)
            share = learning_rate_share(step, steps, p.warmup_ratio, p.decay_share)
            for optimizer, peak in zip(optimizers, peaks, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = peak * share
            batch = rows[step * p.batch_size : (step + 1) * p.batch_size]
            losses.append(backward(model, batch, p.micro_batch_size, narrow))
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            bar.update()
            bar.set_postfix(loss=f"{np.mean(losses[-20:]):.3f}", tokens=f"{len(losses) * tokens_per_step:,}")
            number = stopping.requested()
            if number or len(losses) % p.checkpoint_every == 0 or len(losses) == steps:
                save_state(folder, model, optimizers, losses)
            if number and len(losses) < steps:
                raise stopping.Stopped(number, f"after step {len(losses):,} of {steps:,}")
    return losses


def files_of(entries: list[DocumentedObject]) -> list[str]:
    """The sorted names of the entries' files."""
    return sorted({entry.file for entry in entries})


def make(p: params.Pretrain, entries: list[DocumentedObject], folder: Path, metrics: Path) -> None:
    """Pretrain a model, and write it to `folder` and its numbers to `metrics` (JSON).

    p: the section `pretrain`; entries: what the model reads.
    """
    import torch

    from onesentence.core.runtime import set_up

    set_up(p.seed, ["bfloat16"])  # where the CPU has it
    tokenizer = train_tokenizer([f"{entry.heading}\n\n{entry.docstring}" for entry in entries], p.vocabulary)
    steps = -(-p.tokens // (p.batch_size * p.context))
    rows = token_rows(entries, tokenizer, p, steps)
    torch.manual_seed(p.seed)
    model = build_model(tokenizer, p)
    corpus = entries_hash(entries)
    values = {"corpus": corpus, **vars(p)}
    key = fingerprint("onesentence.training.pretraining", [], values, ["bfloat16"])
    with claimed("pretrain", key) as checkpoints, stopping.deferred():
        losses = pretrain(model, rows, p, checkpoints)
        files = files_of(entries)

        model.to("cpu", torch.bfloat16)  # halves the file, which git holds
        with atomic_write(folder) as temporary:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            (temporary / SEEN_FILES).write_text("".join(f"{file}\n" for file in files), encoding="utf-8")
        write_json(
            metrics,
            {
                "parameters": sum(weight.numel() for weight in model.parameters()),
                "tokens_seen": rows.size,
                "corpus_entries": len(entries),
                "corpus_files": len(files),
                "final_loss": float(np.mean(losses[-20:])),
                "corpus_sha256": corpus,
                "files_sha256": file_sha256(folder / SEEN_FILES),
                "weights_sha256": file_sha256(folder / "model.safetensors"),
            },
        )
    print(f"pretrain: {rows.size:,} tokens, final loss {np.mean(losses[-20:]):.3f} nats/token -> {folder}")
