"""Stage `smoke`: check in minutes what would fail after hours. No stage trains until it has passed.

Reads   data/tokenized/{validation,test}.parquet, the base model.
Writes  metrics/smoke.json.
Run     python -m stages.smoke

It takes a few articles of each split, from the shortest to the longest, and checks: every id has an
embedding; later tokens do not change earlier logits; the tokenizer is the model's own; the untuned base
writes EOS or uses all of `generate.max_new_tokens`; a new adapter changes no token; one training step has a
finite loss and finite gradients. If the base writes nothing, or nothing useful, the run goes on: this is
counted.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from onesentence.core import params, stage
from onesentence.core.errors import UserError
from onesentence.core.files import read_parquet, write_json
from onesentence.core.runtime import set_up
from onesentence.generation.decoding import evenly_spaced_by_length, summarize
from onesentence.generation.smoke_test import check_tokenizer, run_smoke_test
from onesentence.model.adapters import add_adapter
from onesentence.model.base_check import check_base, readable_layers
from onesentence.model.encoding import training_batch
from onesentence.model.loading import load_base, load_tokenizer
from onesentence.model.model_files import listed
from onesentence.training.loss import completion_loss

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

PARAMS = ("model", "lora.target_modules", "smoke.examples", "generate")
TOKENIZED = Path("data/tokenized")
SPLITS = ("validation", "test")  # both, so that the result does not depend on evaluate.split
METRICS_FILE = Path("metrics/smoke.json")
# The update of a new adapter is zero at any rank. With a fixed rank the result does not depend on lora.rank,
# so a study of ranks repeats neither this stage nor generate@base.
SMOKE_ADAPTER = params.Lora(rank=8, alpha=None, dropout=0.0, target_modules=[])


def few_rows(split: str, examples: int) -> tuple[list[str], list[list[int]], list[list[int]]]:
    """(ids, prompts, completions) of some rows of a tokenized split, from the shortest to the longest."""
    table = read_parquet(TOKENIZED / f"{split}.parquet")
    prompts = table["prompt_ids"].to_pylist()
    # Many prompts have the length of the input limit: the length of the whole document orders them.
    lengths = (table["document_tokens"].to_numpy() + [len(ids) for ids in prompts]).tolist()
    chosen = evenly_spaced_by_length(lengths, examples)
    return (
        [table["id"][i].as_py() for i in chosen],
        [prompts[i] for i in chosen],
        [table["completion_ids"][i].as_py() for i in chosen],
    )


def training_step(model: PeftModel, rows: list[tuple[list[int], list[int]]], pad_id: int) -> float:
    """The loss (nats a token) of one optimizer step on (prompt, completion) rows.

    Raises a UserError if a module of lora.target_modules gets no gradient, or if the loss or a gradient is
    not finite.
    """
    import torch

    model.train()
    batch = training_batch(rows, pad_id)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    device = next(model.parameters()).device
    loss = completion_loss(model, {key: value.to(device) for key, value in batch.items()})
    loss.backward()
    torch.optim.AdamW(trained, lr=1e-4).step()
    unused = [
        name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None
    ]
    if unused:
        raise UserError(
            f"smoke test: lora.target_modules: training does not reach {listed(unused)}; name other modules"
        )
    finite = all(bool(torch.isfinite(weight.grad).all()) for weight in trained)
    if not (bool(torch.isfinite(loss)) and finite):
        raise UserError(
            f"smoke test: a training step gave loss {loss.item()} with "
            f"{'finite' if finite else 'non-finite'} gradients; use another model.dtype"
        )
    return float(loss.item())


def check_written_form(
    p: params.Params, tokenizer: PreTrainedTokenizerBase, ids: list[str], prompts: list[list[int]]
) -> None:
    """Test the base as it writes summaries, where generate.quantization has it in another form than training.

    Otherwise a form that this machine lacks would be found after training.
    """
    model = params.generating(p)
    if model != p.model:
        name = f"the untuned base with generate.quantization {model.quantization}"
        base = load_base(model)
        with readable_layers(base, "generate.quantization"):
            run_smoke_test(base, tokenizer, ids, prompts, p.generate, None, name)


def main() -> None:
    p = params.load(PARAMS)
    set_up(seed=0, formats=[p.model.dtype])
    rows = {split: few_rows(split, p.smoke.examples) for split in SPLITS}
    ids, prompts, completions = rows["validation"]
    all_prompts = [prompt for _, split_prompts, _ in rows.values() for prompt in split_prompts]

    tokenizer = load_tokenizer(p.model)
    base = load_base(p.model)
    check_base(base, tokenizer, all_prompts)
    document_loss = check_tokenizer(base, tokenizer, prompts)
    outputs, rates = {}, {}
    for split, (split_ids, split_prompts, _) in rows.items():
        outputs[split], rates[split] = run_smoke_test(
            base,
            tokenizer,
            split_ids,
            split_prompts,
            p.generate,
            None,
            f"the untuned base on {split} articles",
        )

    lora = replace(SMOKE_ADAPTER, target_modules=p.lora.target_modules)
    model = add_adapter(base, lora, seed=0)
    model.eval()
    again = summarize(model, tokenizer, prompts, p.generate)
    pairs = zip(ids, outputs["validation"], again, strict=True)
    changed = [name for name, before, after in pairs if before.tokens != after.tokens]
    if changed:
        raise UserError(
            f"smoke test: a new adapter, whose update is zero, changed the output of {', '.join(changed)}; "
            "use other lora.target_modules"
        )

    check_written_form(p, tokenizer, ids, prompts)

    # The shortest and the longest row: the longest shows what does not fit in memory, or overflows.
    ends = [(prompts[0], completions[0]), (prompts[-1], completions[-1])]
    loss = training_step(model, ends, tokenizer.pad_token_id)
    write_json(
        METRICS_FILE,
        {
            "examples": {split: len(split_ids) for split, (split_ids, _, _) in rows.items()},
            "success_rate": rates,
            "document_loss": document_loss,
            "training_step_loss": loss,
        },
    )
    lengths = [len(prompt) for prompt in all_prompts]
    print(
        f"smoke: passed; the untuned base wrote a summary for {rates['validation']:.0%} of the validation "
        f"and {rates['test']:.0%} of the test articles ({len(lengths)} articles, {min(lengths)} to "
        f"{max(lengths)} prompt tokens); training loss {loss:.3f}"
    )


if __name__ == "__main__":
    stage.run(main, __doc__)
