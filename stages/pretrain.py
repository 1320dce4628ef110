"""Stage `pretrain`: train the embedded base model, a small Phi, from scratch on documentation text.

Reads   the docstrings of the training files of the packages named in onesentence/data/docstrings.py.
Writes  models/phi-tiny/ (weights in bfloat16, config, tokenizer, list of the files read) and
        metrics/pretrain.json.
Run     dvc unfreeze pretrain && dvc repro pretrain   (python -m stages.pretrain)

The model reads every pair of a training file either unchanged (heading, first line, body) or, with
probability `pretrain.summary_last_share`, with its first line moved behind the body. That is the gap sentence
of Zhang et al. 2020 (PEGASUS): it teaches a small model that a sentence can follow from a text. The model
never reads an instruction or a prompt template.
"""

from onesentence.core import params, stage
from onesentence.data.docstrings import read_docstrings
from onesentence.training.pretraining import (
    METRICS_FILE,
    MODEL,
    PARAMS,
    REQUIREMENTS,
    make,
    training_entries,
)


def main() -> None:
    make(params.load(PARAMS).pretrain, training_entries(read_docstrings(REQUIREMENTS)), MODEL, METRICS_FILE)


if __name__ == "__main__":
    stage.run(main, __doc__)
