"""Stage `export`: write the tuned model for other programs, in the form of `export.target`.

Reads   models/tuned/, the base model, metrics/{evaluation,train,data}.json (for the card).
Writes  models/exported/: weights, tokenizer, generation_config.json, chat_template.jinja (the trained
        prompt), summarization.json, README.md (the card), .eval_results/.
Run     python -m stages.export (a pipeline of its own: `make export`)

`rescore` then proves that it scores as the measured model does.
"""

from pathlib import Path

from onesentence.core import params, stage
from onesentence.core.files import atomic_write, read_json
from onesentence.core.runtime import set_up
from onesentence.export.card import Results, write_card
from onesentence.export.folder import write_folder
from onesentence.export.proof import folder_bytes

PARAMS = (
    "data.source",
    "data.revision",
    "prompt",
    "model",
    "train.method",
    "smoke.min_success_rate",
    "generate",
    "evaluate.language",
    "export.target",
)
TUNED = Path("models/tuned")
EXPORTED = Path("models/exported")
EVALUATION = Path("metrics/evaluation.json")
TRAIN = Path("metrics/train.json")
DATA = Path("metrics/data.json")


def main() -> None:
    p = params.load(PARAMS)
    set_up(seed=0, formats=[p.model.dtype])
    results = Results(*map(read_json, (EVALUATION, TRAIN, DATA)))  # a UserError before minutes of work
    with atomic_write(EXPORTED) as folder:
        write_folder(p, TUNED, folder)
        write_card(p, folder, results)
    print(f"export: {EXPORTED}, {p.export.target}, {folder_bytes(EXPORTED) / 1e6:.1f} MB")


if __name__ == "__main__":
    stage.run(main, __doc__)
