"""Export the tuned model for other programs, and prove that it scores as the measured one.

Reads   params.yaml (`export`), and what `dvc repro` made; makes that first where it is missing.
Writes  models/exported/, metrics/export.json, and the pipeline that does it: models/dvc.yaml and its lock.

The pipeline is a copy of onesentence/export/pipeline.yaml, made when a model is exported for the first time.
`dvc pull` at the top asks for the outputs of every pipeline below it, and would fail for everyone who has not
exported. Commit models/dvc.yaml and its lock together with `dvc push`.

Run     onesentence export                               (make export)
        onesentence export --preset smollm2-docstrings   the tuned model of a preset's own pipeline
"""

import subprocess
import sys
from pathlib import Path

import click

from onesentence import export
from onesentence.commands import documented, require_pipeline
from onesentence.commands.repro import lay_out, require_data, require_model, same_text
from onesentence.core.errors import UserError
from onesentence.core.files import write_text

PIPELINE = Path(export.__file__).parent / "pipeline.yaml"
LAID_OUT, LOCK = Path("models/dvc.yaml"), Path("models/dvc.lock")
PROOF = Path("metrics/export.json")


def lay_out_export(folder: Path) -> None:
    """Copy the export's pipeline into a folder that has the main one; an older copy is replaced.

    A UserError for a pipeline that is no copy: it is the user's.
    """
    text, path = PIPELINE.read_text(encoding="utf-8"), folder / LAID_OUT
    if same_text(path, text):
        return
    title = text.splitlines()[0]
    if path.is_file() and not path.read_bytes().startswith(title.encode()):
        raise UserError(
            f"{path}: is no copy of {PIPELINE.name}, which `make export` puts there; move it elsewhere"
        )
    write_text(path, text)


@documented(__doc__)
@click.option("--preset", help="Export the tuned model of presets/NAME.")
def command(preset: str | None) -> None:
    require_pipeline()
    folder = Path()
    if preset is not None:
        folder = lay_out(preset)
        require_data(folder, preset)
        require_model(folder)
    lay_out_export(folder)
    done = subprocess.run([sys.executable, "-m", "dvc", "repro", str(LAID_OUT)], cwd=folder)
    if done.returncode == 0:
        files = " ".join(str(folder / name) for name in (LAID_OUT, LOCK, PROOF))
        print(f"To keep the exported model and its proof: git add {files}, then dvc push")
    sys.exit(done.returncode)
