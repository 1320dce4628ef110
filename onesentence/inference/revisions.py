"""Fetch a pipeline's settings, tuned model and base of another revision or experiment, through DVC."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from onesentence.core import machine_faults
from onesentence.core.errors import UserError
from onesentence.core.escaping import on_one_line
from onesentence.core.files import atomic_write
from onesentence.core.params import NO_FILE, PARAMS_FILE, leaves
from onesentence.inference.settings import of_pipeline

if TYPE_CHECKING:
    from dvc.repo import Repo

FETCHED = "summarize"  # in DVC's folder for temporary files: one folder for each commit
TUNED = Path("models/tuned")  # in a pipeline's folder


class Absent(Exception):
    """A file or folder that a revision does not have; the message is its path."""


def fetch(revision: str, home: Path, untuned: bool) -> tuple[Path, str]:
    """(a folder like the pipeline `home` at a revision, its commit), kept below .dvc/tmp for the next time.

    revision: a branch, tag, commit or DVC experiment. untuned: the base alone. The folder holds params.yaml,
    models/tuned and the base, unless that is on the hub.
    """
    try:
        from dvc.exceptions import DvcException, NotDvcRepoError
        from dvc.repo import Repo
        from dvc.scm import RevError, SCMError
        from dvc_data.index import DataIndexError
    except ImportError as error:
        raise UserError(f"{revision}: a revision is fetched through DVC; run `pip install dvc`") from error
    where = f"{revision}" if home == Path() else f"{revision} of {home}"
    try:
        with Repo(str(home)) as repo:
            commit = commit_of(repo, revision)
            target = Path(os.path.relpath(repo.tmp_dir)) / FETCHED / (f"{commit}-base" if untuned else commit)
            if not target.is_dir():
                with atomic_write(target) as folder:
                    _copy(repo, commit, folder, untuned)
            return target, commit
    except NotDvcRepoError as error:
        raise UserError(
            f"{where}: is no folder, and this is no DVC repository that could have such a revision; name the "
            "folder of a model"
        ) from error
    except (RevError, SCMError) as error:
        raise UserError(
            f"{where}: no folder, no experiment and no git revision has this name; `dvc exp list --all` and "
            "`git branch --all` list them"
        ) from error
    except Absent as error:
        raise UserError(f"{where}: has no {error}; name a revision whose pipeline was run") from error
    except (OSError, DvcException, DataIndexError) as error:
        # A file that is missing is one of the cache.
        fault = None if isinstance(error, FileNotFoundError) else machine_faults.sentence_of(error)
        if fault:
            raise UserError(f"{where}: {fault}") from error
        raise UserError(
            f"{where}: its model is neither in DVC's cache nor in a remote that can be reached "
            f"({type(error).__name__}); run `dvc pull` there, or add a remote (`make remote`)"
        ) from error


def commit_of(repo: Repo, revision: str) -> str:
    """The commit of a branch, tag, commit or DVC experiment; an SCMError for any other name.

    Git gives a name to files and folders of a commit, too, such as HEAD:data.
    """
    from dvc.scm import resolve_rev

    commit: str = resolve_rev(repo.scm, f"{resolve_rev(repo.scm, revision)}^{{commit}}")
    return commit


def _copy(repo: Repo, commit: str, folder: Path, untuned: bool) -> None:
    """Copy the files of a commit into a new folder."""
    from dvc.repo.brancher import switch

    folder.mkdir(parents=True)
    with switch(repo, commit):
        if not repo.dvcfs.exists(PARAMS_FILE.as_posix()):
            raise Absent(PARAMS_FILE)
        repo.dvcfs.get_file(PARAMS_FILE.as_posix(), str(folder / PARAMS_FILE))
        model = of_pipeline(folder).model
        wanted = [] if untuned else [TUNED]
        if model.watch != NO_FILE:
            if leaves(model.name) or Path(model.name).is_absolute():
                raise Absent(f"base in its own folder (model.name is {model.name!r})")
            wanted.append(Path(model.name))
        tree = repo.scm.get_fs(commit)  # all of the repository, where `repo` may be one of its folders
        home = Path(repo.root_dir).relative_to("/")  # DVC has switched to paths in this commit
        for path in wanted:
            if linked := _link(tree, home / path):
                _copy_folder(tree, linked, folder / path)
            else:
                _copy_folder(repo.dvcfs, path, folder / path)


def _link(tree: Any, path: Path) -> Path | None:
    """Where the link leads that git holds at this path; None if it holds none. Both paths start at git's top.

    tree: git's file system at a commit.

    The pipeline of a preset has such a link to a base that the whole repository shares.
    """
    try:
        info = tree.info(path.as_posix())
    except FileNotFoundError:
        return None
    if not stat.S_ISLNK(info["mode"]):
        return None
    target = tree.cat_file(path.as_posix()).decode()
    return Path(os.path.normpath(path.parent / target))


def _copy_folder(files: Any, path: Path, target: Path) -> None:
    """Copy a folder of the present revision. files: a file system of git and DVC, or of git."""
    if path.parts[:1] == ("..",) or not files.isdir(path.as_posix()):
        raise Absent(path)
    found: list[str] = files.find(path.as_posix())
    for file in tqdm(found, desc=f"fetch {on_one_line(str(path))}", unit="file", disable=None, leave=False):
        copy = target / Path(file.lstrip("/")).relative_to(path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        files.get_file(file, str(copy))
