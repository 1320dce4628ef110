"""Computes what the stages compute, at tiny shapes; prints the SHA-256 of each result as JSON.

test_runtime.py runs it.

Run     python tests/core/kernels.py FOLDER [--instead VARIABLES]

FOLDER contains two model folders, `phi` and `neox`. VARIABLES (JSON) replace those that
onesentence/core/runtime.py sets: with {} each library chooses its own kernels.
"""

import argparse
import hashlib
import json
import os
import tempfile
from pathlib import Path

from onesentence.core import runtime

TEXTS = [
    "Return the mean of the values along an axis. Values that are not numbers are left out.",
    "Open the file, read every line of it and close it again, also where an error is raised.",
    "Sort the rows of a table by one column or by several of them, in place if asked.",
]
SUMMARIES = ["Average the values of an axis.", "Read the lines of a file.", "Sort a table's rows."]


def digest(values: list) -> str:
    """SHA-256 of a list: the bytes of arrays, the repr of anything else."""
    hashed = hashlib.sha256()
    for value in values:
        hashed.update(value.tobytes() if hasattr(value, "tobytes") else repr(value).encode())
    return hashed.hexdigest()


def bertscore(p) -> list:
    """Scores of BERTScore, stage `score`'s only model: an encoder with exact GELU."""
    from onesentence.evaluation.bertscore import BertScore

    return [BertScore(p.evaluate).scores(SUMMARIES, {"text": TEXTS})["text"]]


def language_model(p, folder: Path, targets: list[str], quantization: str) -> list:
    """Losses and weights of an adapter after three training steps, and the tokens that it then generates."""
    import torch

    from onesentence.core import params
    from onesentence.generation.decoding import summarize_in_batches
    from onesentence.model.adapters import add_adapter
    from onesentence.model.loading import load_base, load_tokenizer
    from onesentence.training.trainer import build_trainer

    model = params.Model(
        name=str(folder), watch=str(folder), revision=None, dtype="float32", quantization=quantization
    )
    p = params.changed(p, {"model": model, "lora.target_modules": targets})
    tokenizer = load_tokenizer(p.model)
    prompts = [tokenizer.encode(text) for text in TEXTS]
    completions = [[*tokenizer.encode(text), tokenizer.eos_token_id] for text in SUMMARIES]
    import numpy as np

    rows = [(np.array(a), np.array(b)) for a, b in zip(prompts, completions, strict=True)]
    runtime.set_up(seed=0)
    model = add_adapter(load_base(p.model), p.lora, p.seed)
    with tempfile.TemporaryDirectory() as name:
        trainer = build_trainer(model, tokenizer, rows, rows, p, Path(name))
        trainer.train()
    history = [
        entry[key] for entry in trainer.state.log_history for key in ("loss", "eval_loss") if key in entry
    ]
    weights = [weight.detach().numpy() for weight in model.parameters() if weight.requires_grad]
    with torch.no_grad():
        logits = [model.eval()(input_ids=torch.tensor([prompts[0]])).logits.float().numpy()]
    ids = [str(i) for i in range(len(prompts))]
    batches = summarize_in_batches(model, tokenizer, prompts, p.generate, ids)
    tokens = [output.tokens for _, outputs in batches for output in outputs]
    return [*history, *weights, *logits, *tokens]


def arrays() -> list:
    """Operations of numpy and scipy in `score`, `evaluate` and the studies."""
    import random

    import numpy as np
    import scipy.linalg

    rng = random.Random(0)
    values = np.array([[rng.random() for _ in range(65)] for _ in range(130)])
    square = values[:60, :60]
    return [
        np.exp(np.log(values).mean(axis=-1)),
        np.log2(values),
        values.T @ values,
        np.quantile(values, [0.025, 0.975], axis=0),
        np.partition(values.ravel(), 100),
        scipy.linalg.solve(square, values[:60, 0]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--instead", type=json.loads)
    arguments = parser.parse_args()
    if arguments.instead is not None:
        for name in runtime.KERNELS:
            os.environ.pop(name, None)
        os.environ.update(arguments.instead)
        runtime.NEEDED = {"no CPU has this"}  # so that set_up does not require the kernels
    from onesentence.core import params

    p = params.load(("seed", "lora", "train", "generate", "evaluate"))
    small = {"seed": 0, "train.epochs": 3, "train.steps": None, "train.batch_size": 3}
    small |= {"train.gradient_accumulation": 1, "train.log_every": 1, "train.checkpoint_every": 3}
    small |= {"generate.max_new_tokens": 6, "generate.num_beams": 2}
    p = params.changed(p, small)
    phi = arguments.folder / "phi", ["q_proj", "k_proj", "v_proj"]
    neox = arguments.folder / "neox", ["query_key_value"]
    results = {
        "arrays": arrays(),
        "score": bertscore(p),
        "phi": language_model(p, *phi, "none"),
        "neox": language_model(p, *neox, "none"),
        "int8": language_model(p, *phi, "int8"),
        "nf4": language_model(p, *phi, "nf4"),
    }
    print(json.dumps({name: digest(values) for name, values in results.items()}))


if __name__ == "__main__":
    main()
