"""Pretrain phi-tiny's smaller siblings, models/phi-tiny-WIDTH, on the files that phi-tiny has read.

Study `model_size` compares them, and runs in clones: commit what this makes before it. The settings are those
of `pretrain` in params.yaml but for width, layers and heads; what is there is kept.

Run     onesentence sizes       (make sizes)
"""

from dataclasses import replace
from pathlib import Path

from onesentence.commands import documented
from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.data.docstrings import read_docstrings
from stages import pretrain

# Heads have 64 dimensions each, as phi-tiny's; its own size is hidden_size 256, layers 6. Each has about a
# third of the next one's parameters: 0.7, 1.8 and 6.8 million.
SIZES = {
    64: {"hidden_size": 64, "layers": 3, "heads": 1},
    128: {"hidden_size": 128, "layers": 4, "heads": 2},
}


def folder_of(width: int) -> Path:
    """Where the sibling of a width is."""
    return pretrain.MODEL.with_name(f"{pretrain.MODEL.name}-{width}")


def metrics_of(width: int) -> Path:
    """Where its loss and what it read are recorded."""
    return pretrain.METRICS_FILE.with_name(f"pretrain-{width}.json")


@documented(__doc__)
def command() -> None:
    p = params.load(pretrain.PARAMS).pretrain
    missing = {
        width: shape
        for width, shape in SIZES.items()
        if not (folder_of(width).is_dir() and metrics_of(width).is_file())
    }
    if not missing:
        print("sizes: all are there")
        return
    kept = pretrain.training_entries(read_docstrings(pretrain.REQUIREMENTS))
    listing = pretrain.MODEL / pretrain.SEEN_FILES
    if pretrain.files_of(kept) != listing.read_text(encoding="utf-8").splitlines():
        raise UserError(
            f"sizes: the installed packages have other files than {listing} names, so a sibling might read "
            "rows that the study tests on; install requirements.txt as it is, or remake phi-tiny as well"
        )
    for width, shape in missing.items():
        values = replace(p, **shape)
        pretrain.make(values, kept, folder_of(width), metrics_of(width))
