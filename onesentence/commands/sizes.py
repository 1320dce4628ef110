"""Pretrain phi-tiny's smaller siblings, models/phi-tiny-WIDTH, on the files that phi-tiny has read.

The study `model_size` compares them. It runs in clones, so commit the models before it. Settings are those of
`pretrain` in params.yaml except width, layers and heads. A model that exists is kept.

Run     onesentence sizes       (make sizes)
"""

from dataclasses import replace
from pathlib import Path

from onesentence.commands import documented
from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.data.docstrings import read_docstrings
from onesentence.training import pretraining

# Heads have 64 dimensions each, as in phi-tiny, which has hidden_size 256 and 6 layers. Each size has about a
# third of the next one's parameters: 0.7, 1.8 and 6.8 million.
SIZES = {
    64: {"hidden_size": 64, "layers": 3, "heads": 1},
    128: {"hidden_size": 128, "layers": 4, "heads": 2},
}


def folder_of(width: int) -> Path:
    """The folder of the sibling with this width."""
    return pretraining.MODEL.with_name(f"{pretraining.MODEL.name}-{width}")


def metrics_of(width: int) -> Path:
    """The file with the sibling's loss and the text that it read."""
    return pretraining.METRICS_FILE.with_name(f"pretrain-{width}.json")


@documented(__doc__)
def command() -> None:
    p = params.load(pretraining.PARAMS).pretrain
    missing = {
        width: shape
        for width, shape in SIZES.items()
        if not (folder_of(width).is_dir() and metrics_of(width).is_file())
    }
    if not missing:
        print("sizes: every model exists")
        return
    entries = pretraining.training_entries(read_docstrings(pretraining.REQUIREMENTS))
    listing = pretraining.MODEL / pretraining.SEEN_FILES
    if pretraining.files_of(entries) != listing.read_text(encoding="utf-8").splitlines():
        raise UserError(
            f"sizes: {listing}: the installed packages have other files, so a sibling might read rows that "
            "the study tests on; install requirements.txt, or make phi-tiny again as well"
        )
    for width, shape in missing.items():
        values = replace(p, **shape)
        pretraining.make(values, entries, folder_of(width), metrics_of(width))
