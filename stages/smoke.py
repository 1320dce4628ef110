"""Stage `smoke`: minutes before hours. Nothing is trained until this has passed.

Reads   data/tokenized/{validation,test}.parquet, the base model.
Writes  metrics/smoke.json.
Run     python -m stages.smoke

On a few articles of each split that outputs are written for, from the shortest to the longest: every id has
an embedding; no later token changes earlier logits; the tokenizer is the model's; what the untuned base
generates ends by itself or uses all of `generate.max_new_tokens`; a fresh adapter changes no token; one
training step has a finite loss and finite gradients. That the base says nothing, or nothing of use, stops no
run: it is counted.
"""

from pathlib import Path

from onesentence.core import errors, params
from onesentence.core.errors import UserError
from onesentence.core.files import read_parquet, write_json
from onesentence.core.runtime import set_up
from onesentence.generation.decoding import evenly_spaced_by_length, summarize
from onesentence.generation.smoke_test import check_tokenizer, run_smoke_test
from onesentence.model.adapters import add_adapter
from onesentence.model.base_check import check_base
from onesentence.model.encoding import training_batch
from onesentence.model.loading import load_base, load_tokenizer
from onesentence.model.model_files import listed
from onesentence.training.loss import completion_loss

PARAMS = ("model", "lora.target_modules", "smoke.examples", "generate")
TOKENIZED = Path("data/tokenized")
SPLITS = ("validation", "test")  # both, so that the outcome stays the same when evaluate.split changes
METRICS_FILE = Path("metrics/smoke.json")
# A fresh adapter's update is zero at any rank, so the smoke test need not wait on the rank that is studied:
# its outcome, and with it generate@base, stays when lora.rank changes.
SMOKE_ADAPTER = {"rank": 8, "alpha": None, "dropout": 0.0}


def few_rows(split: str, examples: int) -> tuple[list[str], list[list[int]], list[list[int]]]:
    """(ids, prompts, completions) of some rows of a tokenized split, from the shortest to the longest."""
    table = read_parquet(TOKENIZED / f"{split}.parquet")
    prompts = table["prompt_ids"].to_pylist()
    # Ties in length at the input limit: the full document's length decides which article is longest.
    lengths = (table["document_tokens"].to_numpy() + [len(ids) for ids in prompts]).tolist()
    chosen = evenly_spaced_by_length(lengths, examples)
    return (
        [table["id"][i].as_py() for i in chosen],
        [prompts[i] for i in chosen],
        [table["completion_ids"][i].as_py() for i in chosen],
    )


def training_step(model, rows: list[tuple[list[int], list[int]]], pad_id: int) -> float:
    """The loss (nats a token) of one optimizer step on (prompt, completion) rows; a UserError where it fails.

    That is where training does not reach a module that was asked for, or a loss or gradient is not finite.
    """
    import torch

    model.train()
    batch = training_batch(rows, pad_id)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    device = next(model.parameters()).device
    loss = completion_loss(model, {key: value.to(device) for key, value in batch.items()})
    loss.backward()
    torch.optim.AdamW(trained, lr=1e-4).step()
    unused = [name for name, w in model.named_parameters() if w.requires_grad and w.grad is None]
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
    return loss.item()


def main() -> None:
    p = params.load(PARAMS)
    set_up(seed=0, formats=[p.model.dtype])
    rows = {split: few_rows(split, p.smoke.examples) for split in SPLITS}
    ids, prompts, completions = rows["validation"]
    every = [prompt for _, asked, _ in rows.values() for prompt in asked]

    tokenizer = load_tokenizer(p.model)
    base = load_base(p.model)
    check_base(base, tokenizer, every)
    document_loss = check_tokenizer(base, tokenizer, prompts)
    outputs, rates = {}, {}
    for split, (names, asked, _) in rows.items():
        outputs[split], rates[split] = run_smoke_test(
            base, tokenizer, names, asked, p.generate, None, f"the untuned base on {split} articles"
        )

    lora = params.Lora(**SMOKE_ADAPTER, target_modules=p.lora.target_modules)
    model = add_adapter(base, lora, seed=0)
    model.eval()
    again = summarize(model, tokenizer, prompts, p.generate)
    both = zip(ids, outputs["validation"], again, strict=True)
    changed = [name for name, old, new in both if old.tokens != new.tokens]
    if changed:
        raise UserError(f"smoke test: a fresh adapter changed the output of {', '.join(changed)}")

    # The shortest and the longest: what does not fit or overflows at full length shows here.
    ends = [(prompts[0], completions[0]), (prompts[-1], completions[-1])]
    loss = training_step(model, ends, tokenizer.pad_token_id)
    write_json(
        METRICS_FILE,
        {
            "examples": {split: len(names) for split, (names, _, _) in rows.items()},
            "success_rate": rates,
            "document_loss": document_loss,
            "training_step_loss": loss,
        },
    )
    print(
        f"smoke: the untuned base wrote a summary for {rates['validation']:.0%} and {rates['test']:.0%} of "
        f"{len(every)} validation and test articles ({min(map(len, every))} to {max(map(len, every))} prompt "
        f"tokens), training loss {loss:.3f}: passed"
    )


if __name__ == "__main__":
    errors.run(main, __doc__)
