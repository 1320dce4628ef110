"""Fixtures: a tiny model with random weights, real pairs, and whole projects to run stages in."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

import stages  # noqa: F401  first, so that it chooses the kernels before a test imports numpy or torch
from onesentence.core.params import Model

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"
os.environ["HF_HUB_OFFLINE"] = "1"  # no test waits on a network
# A shell starts background processes with SIGINT ignored, which the programs that tests stop would inherit.
with suppress(ValueError):  # not the main thread
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip long tests unless LONG is set. Files with slow tests come first, so that both workers end on quick
    ones and none waits long.
    """
    if not os.environ.get("LONG"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes minutes; `make test LONG=1` runs it"))
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def run(folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess:
    """Run a command in `folder` with this Python's environment first on the PATH."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": "",
        "HF_HUB_OFFLINE": "1",
        "GIT_AUTHOR_NAME": "test",
        "GIT_AUTHOR_EMAIL": "test@localhost",
        "GIT_COMMITTER_NAME": "test",
        "GIT_COMMITTER_EMAIL": "test@localhost",
    }
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if check and result.returncode:
        raise AssertionError(f"{command} exited {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result


def stage(folder: Path, *module: str, check: bool = True) -> subprocess.CompletedProcess:
    """Run `python -m stages.NAME ...` in `folder`."""
    return run(folder, "python", "-m", f"stages.{module[0]}", *module[1:], check=check)


def command(folder: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess:
    """Run `python -m onesentence NAME ...` in `folder`."""
    return run(folder, "python", "-m", "onesentence", *words, check=check)


def edit(folder: Path, **values) -> None:
    """Set keys of a project's params.yaml: section__key=value."""
    from onesentence.commands.edit import apply

    overlay: dict = {}
    for name, value in values.items():
        section, _, key = name.partition("__")
        if key:
            overlay.setdefault(section, {})[key] = value
        else:
            overlay[section] = value
    before = Path.cwd()
    os.chdir(folder)  # whether model.name is a folder is asked from the project's root
    try:
        apply(overlay, "test")
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium. Once a module: while it is open, its thread can run no other event loop."""
    from playwright.sync_api import sync_playwright

    programs = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    if not any(programs):
        pytest.skip("no Chromium on this machine: install the package `chromium` to test the page")
    options = "no-sandbox disable-gpu disable-background-networking disable-component-update disable-sync"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=next(path for path in programs if path),
            args=[f"--{option}" for option in [*options.split(), "no-first-run"]],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def pairs() -> list[dict]:
    """Real pairs: the docstrings of one installed package."""
    from onesentence.core.text import with_heading
    from onesentence.data import docstrings

    found = []
    for file, path in docstrings.source_files():
        if file.startswith("narwhals/"):
            for entry in docstrings.entries_of(file, path):
                pair = docstrings.pair_of(entry)
                if not isinstance(pair, str):
                    heading, document, summary = pair
                    article = with_heading(heading, document)
                    found.append({"id": entry.qualname, "document": article, "summary": summary})
    unique = {pair["document"]: pair for pair in found}
    return list({pair["id"]: pair for pair in unique.values()}.values())


def write_tiny_model(folder: Path, texts: list[str], vocabulary: int = 600) -> Path:
    """A Phi with random weights (2 layers, 64 wide) and its tokenizer, in the hub's layout."""
    import torch

    from onesentence.training.pretraining import build_model, train_tokenizer

    tokenizer = train_tokenizer(texts, vocabulary)
    torch.manual_seed(0)
    shape = SimpleNamespace(hidden_size=64, layers=2, heads=2)
    build_model(tokenizer, shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, pairs) -> Path:
    """Folder of the tiny model."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny"), [pair["document"] for pair in pairs])


@pytest.fixture(scope="session")
def tiny_settings(tiny) -> Model:
    """params.yaml's `model` section for the tiny model."""
    return Model(name=str(tiny), watch=str(tiny), revision=None, dtype="float32", quantization="none")


@pytest.fixture
def tokenizer(tiny_settings):
    """The tiny model's tokenizer, as the stages load it."""
    from onesentence.model.loading import load_tokenizer

    return load_tokenizer(tiny_settings)


@pytest.fixture
def base(tiny_settings):
    """The tiny model, as the stages load it."""
    from onesentence.model.loading import load_base

    return load_base(tiny_settings)


def copy_repository(target: Path) -> Path:
    """The repository's own files (tracked, or new and not ignored) in a new git repository."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_symlink():  # of a preset's pipeline: to a file or a folder
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).symlink_to((ROOT / name).readlink())
        elif name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((ROOT / name).read_bytes())
    run(target, "git", "init", "--quiet", "--initial-branch=main")
    run(target, "git", "add", "--all")
    run(target, "git", "commit", "--quiet", "--message=start")
    return target


SMALL = {
    "data__train_size": 24,
    "data__validation_size": 6,
    "data__test_size": 8,
    "train__epochs": 1,
    "train__batch_size": 4,
    "train__gradient_accumulation": 1,
    "train__log_every": 2,
    "train__checkpoint_every": 4,
    "train__eval_examples": 8,
    "smoke__examples": 4,
    "generate__max_new_tokens": 6,
    "generate__num_beams": 2,
    "generate__max_batch_tokens": 1_500,
    "evaluate__resamples": 100,
}


def write_local(folder: Path, pairs: list[dict], sizes=(40, 10, 12)) -> Path:
    """train, validation and test .jsonl files of distinct pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    start = 0
    for name, size in zip(("train", "validation", "test"), sizes, strict=True):
        rows = pairs[start : start + size]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        start += size
    return folder


def make_project(parent: Path, pairs: list[dict], tiny: Path) -> Path:
    """A repository in `parent`, set to the tiny model and local data, small enough for seconds a stage."""
    folder = parent / "project"
    folder.mkdir()
    copy_repository(folder)
    shutil.copytree(tiny, folder / "models/tiny")
    data = write_local(parent / "given", pairs)
    edit(folder, model__name="models/tiny", model__watch="models/tiny", **SMALL)
    run(folder, "python", "-m", "onesentence", "data", str(data))
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message=tiny")
    return folder


@pytest.fixture(scope="session")
def ran(tmp_path_factory, pairs, tiny) -> Path:
    """The project of `make_project` after `dvc repro`, committed. All workers of pytest have one: copy it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "ran"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other worker waits here
        if not (folder / "done").exists():
            shutil.rmtree(folder / "project", ignore_errors=True)  # of a worker that failed
            project = make_project(folder, pairs, tiny)
            run(project, "dvc", "repro", "--quiet")
            run(project, "git", "add", "--all")
            run(project, "git", "commit", "--quiet", "--message=run")
            (folder / "done").touch()
    return folder / "project"


def take_cache(project: Path, ran: Path) -> None:
    """Give a project DVC's cache of `ran`: DVC takes from it what was run with the same parameters."""
    shutil.copytree(ran / ".dvc/cache", project / ".dvc/cache", dirs_exist_ok=True)


def copy_project(project: Path, parent: Path) -> Path:
    """A copy in `parent` of a project that several tests start from, with DVC's cache and what was made."""
    return shutil.copytree(project, parent / "project", symlinks=True)


@pytest.fixture
def project(tmp_path, pairs, tiny) -> Path:
    """`make_project` for one test."""
    return make_project(tmp_path, pairs, tiny)


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory, tiny) -> Path:
    """The folder of a pipeline with the tiny model, and an adapter on it that changes its outputs."""
    import torch

    from onesentence.model.adapters import add_adapter, save_tuned
    from onesentence.model.loading import load_base

    folder = tmp_path_factory.mktemp("pipeline")
    shutil.copytree(tiny, folder / "models/tiny")
    shutil.copy(ROOT / "params.yaml", folder)
    edit(folder, model__name="models/tiny", model__watch="models/tiny", prompt__max_input_tokens=96, **SMALL)
    settings = Model(str(tiny), str(tiny), None, "float32", "none")
    adapted = add_adapter(load_base(settings), lora_settings(), seed=0)
    with torch.no_grad():  # a new adapter's B is zero
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.2)
    save_tuned(adapted, folder / "models/tuned", "models/tiny", "lora")
    return folder


def lora_settings(
    rank: int = 16, alpha=None, dropout: float = 0.0, target_modules=("q_proj", "k_proj", "v_proj")
) -> SimpleNamespace:
    """params.yaml's `lora` section."""
    return SimpleNamespace(rank=rank, alpha=alpha, dropout=dropout, target_modules=list(target_modules))
