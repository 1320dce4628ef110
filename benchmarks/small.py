"""A small project with this repository's own code, for benchmarks that break things.

It trains a real base model (models/phi-tiny-64) on a few docstrings of an installed package. Its stages take
seconds. It is a git and DVC repository of its own, so nothing that happens there reaches this one.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import yaml

from onesentence.core.checkpoints import ROOT as CHECKPOINTS
from onesentence.core.errors import UserError
from onesentence.core.files import file_sha256
from onesentence.core.text import with_heading
from onesentence.data import docstrings
from onesentence.study.clone import has_whole_lock

REPOSITORY = Path(__file__).parents[1]
BASE = "models/phi-tiny-64"
COPIED = (
    *("onesentence", "stages", "models/phi-tiny", BASE, "metrics/pretrain.json", ".dvc/config", ".dvcignore"),
    *("requirements.txt", "params.yaml", "dvc.yaml", ".gitignore", "data/.gitignore", "models/.gitignore"),
    *("metrics/.gitignore", "plots/.gitignore"),
)
PACKAGE = "narwhals/"  # whose docstrings are the articles
GIVEN = "given"  # folder of the articles
ROWS = {"train": 40, "validation": 12, "test": 20}
SETTINGS: dict[str, dict[str, Any]] = {
    "data": {"source": "local", "watch": GIVEN, "train_size": 32, "validation_size": 8, "test_size": 16},
    "model": {"name": BASE, "watch": BASE},
    "lora": {"rank": 4},
    "prompt": {"max_input_tokens": 128},
    "train": {
        **{"epochs": 2, "batch_size": 4, "gradient_accumulation": 1, "eval_examples": 8},
        **{"log_every": 1, "checkpoint_every": 4},
    },
    "smoke": {"examples": 4, "min_success_rate": 0.0},
    "generate": {"max_new_tokens": 6, "num_beams": 2, "max_batch_tokens": 700},
    "evaluate": {"resamples": 100},
}
STUDY = "soak"
STUDIES = {
    "scales": {"small": {"model": BASE, "settings": {"evaluate.split": "validation"}, "quick": {}}},
    "studies": {
        STUDY: {
            "question": "Does a killed study end as one that was not killed?",
            "baseline": "rank-4",
            "seeds": [0],
            "variants": {"rank-2": {"lora.rank": 2}, "rank-4": {"lora.rank": 4}},
        }
    },
}
GROWS = "plots/loss.csv"  # it is written while the model trains, whole at any moment
STAGE = re.compile(r"\bstages\.(\w+)(?: (\w+))?")


def articles(count: int) -> list[dict[str, str]]:
    """`count` different articles with their summaries: docstrings of PACKAGE."""
    rows: dict[str, dict[str, str]] = {}
    for file, path in docstrings.source_files():
        if not file.startswith(PACKAGE):
            continue
        for entry in docstrings.entries_of(file, path):
            pair = docstrings.pair_of(entry)
            if not isinstance(pair, str):
                heading, document, summary = pair
                row = {"id": entry.qualname, "document": with_heading(heading, document), "summary": summary}
                rows[row["document"]] = row
    unique = list({row["id"]: row for row in rows.values()}.values())
    if len(unique) < count:
        raise UserError(
            f"{PACKAGE}: expected {count} docstrings, found {len(unique)}; install requirements.txt"
        )
    return unique[:count]


def files_of_repository() -> list[str]:
    """The files in COPIED that git tracks, or that are new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *COPIED],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    return [name for name in listed.stdout.decode().split("\0") if name]


def merged(values: dict[str, Any], changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The sections of params.yaml with the keys of `changes` set."""
    return values | {section: {**values[section], **keys} for section, keys in changes.items()}


class Project:
    """The small project in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != CHECKPOINTS},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            # The project's own copy of the code comes first; `python -m` looks in the present folder.
            "PYTHONPATH": "",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HF_HUB_OFFLINE": "1",
            "TQDM_DISABLE": "1",
            **dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "small"),
            **dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "small@localhost"),
        }

    def lay_out(self) -> "Project":
        """Make the project: code, base model, articles, settings, one commit."""
        for name in files_of_repository():
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, target)
        rows = articles(sum(ROWS.values()))
        (self.folder / GIVEN).mkdir()
        for split, count in ROWS.items():
            text = "".join(json.dumps(row) + "\n" for row in rows[:count])
            (self.folder / GIVEN / f"{split}.jsonl").write_text(text, encoding="utf-8")
            rows = rows[count:]
        values = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
        self.write_yaml("params.yaml", merged(values, SETTINGS))
        self.write_yaml("studies.yaml", STUDIES)
        (self.folder / "docs").mkdir()
        for arguments in (("init", "--quiet", "--initial-branch=main"), ("add", "--all")):
            self.run("git", *arguments)
        self.run("git", "commit", "--quiet", "--message=start")
        return self

    def write_yaml(self, name: str, values: dict[str, Any]) -> None:
        """Write a YAML file of the project."""
        (self.folder / name).write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")

    def run(self, *command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end; a RuntimeError with its output if `check` and it fails."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)} exited {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def start(self, command: list[str], log: Path, prefix: tuple[str, ...] = ()) -> "subprocess.Popen[bytes]":
        """Start a command in a session of its own; its output goes to a file. prefix: what runs it."""
        with log.open("wb") as file:
            return subprocess.Popen(
                [*prefix, *command],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def outputs(self) -> dict[str, dict[str, str]]:
        """`recorded_outputs` of the project."""
        return recorded_outputs(self.folder)

    def hashes(self, paths: list[str]) -> dict[str, str | None]:
        """SHA-256 of the outputs at `paths`, of a folder by its files; None for one that does not exist."""
        return {path: hash_of(self.folder / path) for path in paths}

    def processes(self) -> list[psutil.Process]:
        """The processes that work in the project's folder, or in a copy in it."""
        found = []
        for process in psutil.process_iter():
            try:
                ended = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
                if not ended and Path(process.cwd()).is_relative_to(self.folder.resolve()):
                    found.append(process)
            except (psutil.Error, OSError):  # it has ended, or is another user's
                continue
        return found

    def reset(self, outputs: list[str]) -> None:
        """Remove all that a run has made: outputs, DVC's cache and records, experiments, checkpoints."""
        for name in [*outputs, "dvc.lock", "models/checkpoints", "data/cost", ".dvc/cache", ".dvc/tmp"]:
            remove(self.folder / name)
        for ref in self.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split():
            self.run("git", "update-ref", "-d", ref)
        for folder in ("metrics/studies", "plots/studies"):
            remove(self.folder / folder)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def recorded_outputs(folder: Path) -> dict[str, dict[str, str]]:
    """MD5 of each output that dvc.lock of a folder records, by stage and path; {} without the file, or where
    a kill left it half-written.
    """
    path = folder / "dvc.lock"
    if not path.is_file() or not has_whole_lock(folder):
        return {}
    stages = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
    return {
        name: {out["path"]: out["md5"] for out in stage.get("outs", ())} for name, stage in stages.items()
    }


def hash_of(path: Path) -> str | None:
    """SHA-256 of a file; of a folder, the names and hashes of its files; None if it does not exist."""
    if path.is_file():
        return file_sha256(path)
    if not path.is_dir():
        return None
    return "\n".join(
        f"{file.relative_to(path).as_posix()} {file_sha256(file)}"
        for file in sorted(path.rglob("*"))
        if file.is_file()
    )


def stage_of(process: psutil.Process) -> str | None:
    """The stage that a process runs ("generate@tuned"); None if it is another program or has ended."""
    try:
        words = process.cmdline()
        name = process.name()
    except psutil.Error:
        return None
    # DVC's shell has the stage's command as one word: the stage is Python.
    if not name.startswith("python") or "-m" not in words:
        return None
    module = STAGE.search(" ".join(words[words.index("-m") + 1 :][:2]))
    return "@".join(filter(None, module.groups())) if module else None
