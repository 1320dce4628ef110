"""The remotes through which the machines of a study exchange commits and data, and what must be in them."""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from onesentence.core.errors import UserError
from onesentence.study.clone import output_of_dvc, tracked
from onesentence.study.experiments import experiment_refs, git

# Options of a DVC remote that a worker needs and that hold no secret. All others stay on this machine.
SHARED_OPTIONS = {
    "url", "endpointurl", "region", "user", "port", "version_aware", "use_ssl", "timeout", "read_timeout",
    "connect_timeout", "account_name", "projectname", "listobjects", "oss_endpoint",
    "gdrive_use_service_account", "allow_anonymous_login", "jobs", "verify", "method", "auth",
}  # fmt: skip
PAUSES = (2.0, 10.0)  # seconds between the attempts of a command that needs the network
Result = TypeVar("Result")


@dataclass(frozen=True)
class Remotes:
    """Where workers clone from and where data lie.

    git: name of the git remote here; url: its address, for workers; storage: name of DVC's remote; options:
    its options without secrets; kept_back: names of its options that workers do not get.
    """

    git: str
    url: str
    storage: str
    options: dict[str, str]
    kept_back: tuple[str, ...]


def patiently(action: Callable[[], Result], pauses: tuple[float, ...] = PAUSES) -> Result:
    """The result of an action that needs the network. After a UserError it is tried again, after pauses."""
    for pause in pauses:
        try:
            return action()
        except UserError:
            time.sleep(pause)
    return action()


def is_folder(url: str) -> bool:
    """Whether a place is a folder of the machine, not a URL and not HOST:PATH (as git writes a server)."""
    return "://" not in url and (":" not in url or "/" in url.partition(":")[0])


def git_remote(name: str | None) -> str:
    """The name of the git remote: the given one, that of the branch, `origin`, or the only one."""
    names = git("remote").split()
    if name is not None:
        if name not in names:
            expected = (
                f"expected one of {', '.join(names)}" if names else "add one: `git remote add origin URL`"
            )
            raise UserError(f"--git-remote: no git remote is called {name!r}; {expected}")
        return name
    branch = git("symbolic-ref", "--short", "--quiet", "HEAD", check=False).strip()
    tracking = git("config", f"branch.{branch}.remote", check=False).strip() if branch else ""
    for candidate in (tracking, "origin"):
        if candidate in names:
            return candidate
    if len(names) == 1:
        return names[0]
    found = (
        f"found {', '.join(names)}; name one with --git-remote"
        if names
        else ("found none; add one that the workers reach: `git remote add origin URL`")
    )
    raise UserError(f"study: workers clone from a git remote, {found}")


def has_secret(parts: SplitResult) -> bool:
    """Whether an address holds a secret: a password, or in http(s) a user's name, which may be a token."""
    return parts.password is not None or (parts.scheme in ("http", "https") and bool(parts.username))


def git_url(name: str) -> str:
    """The address of a git remote. A folder is made absolute; a password or user in http(s) is refused."""
    url = git("remote", "get-url", name).strip()
    url = url.removeprefix("file://")
    if is_folder(url):
        return str((Path(git("rev-parse", "--show-toplevel").strip()) / Path(url).expanduser()).resolve())
    parts = urlsplit(url) if "://" in url else None
    if parts and has_secret(parts):
        raise UserError(
            f"git remote {name}: expected a URL without user and password, since workers and the scheduler "
            f"see it; set it to {parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl()} and give "
            "each machine an ssh key or a credential helper of its own"
        )
    return url


def require_pushed(name: str, commit: str) -> None:
    """Raise a UserError unless a branch or tag of the git remote holds the commit."""
    patiently(lambda: git("fetch", "--quiet", name))
    branches = git(
        "for-each-ref", "--contains", commit, "--format=%(refname)", f"refs/remotes/{name}"
    ).split()
    if branches:
        return
    remote_tags = git("ls-remote", "--tags", name).split()[::2]
    known = [tag for tag in remote_tags if git("cat-file", "-t", tag, check=False)]
    if not any(is_ancestor(commit, tag) for tag in known):
        raise UserError(
            f"study: commit {commit[:7]} is not in the git remote {name}, and workers clone it from there; "
            f"run `git push {name} HEAD`"
        )


def is_ancestor(commit: str, other: str) -> bool:
    """Whether the history of `other` holds a commit."""
    command = ["git", "merge-base", "--is-ancestor", commit, other]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def storage() -> tuple[str, dict[str, str], tuple[str, ...]]:
    """DVC's default remote: its name, its options without secrets, and the names of the other options."""
    from dvc.config import Config

    config: Any = Config(".dvc")
    name = config["core"].get("remote")
    if not name or name not in config["remote"]:
        raise UserError(
            "study: workers get data from DVC's remote and store results there, but none is set; run "
            "`onesentence remote FOLDER|URL` with a place that all machines reach"
        )
    # The options that a user has set: `config` holds DVC's defaults as well.
    given = {key for level in Config.LEVELS for key in config.load_one(level)["remote"].get(name, {})}
    options = {key: _text(value) for key, value in config["remote"][name].items() if key in given}
    url = options["url"]
    parts = urlsplit(url) if "://" in url else None
    if parts and has_secret(parts):
        raise UserError(
            f"DVC's remote {name}: expected a URL without a password or token, since workers and the "
            "scheduler see it; set it anew with `onesentence remote URL`"
        )
    shared = {key: value for key, value in options.items() if key in SHARED_OPTIONS}
    return name, shared, tuple(sorted(set(options) - set(shared)))


def _text(value: Any) -> str:
    """A value of DVC's configuration as its file has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def require_inputs(name: str) -> None:
    """Raise a UserError where DVC's remote lacks an input that workers need."""
    pointers = tracked(Path())
    if not pointers:
        return
    text = patiently(lambda: output_of_dvc("status", "--cloud", "--json", "--remote", name, *pointers))
    lacking = [path for path, state in json.loads(text).items() if state in ("new", "missing")]
    if lacking:
        raise UserError(
            f"study: DVC's remote {name} lacks {len(lacking)} inputs, such as {lacking[0]}; run "
            f"`dvc push {' '.join(pointers)}`"
        )


def find(name: str | None, commit: str) -> Remotes:
    """The remotes of a study on several machines; a UserError where one cannot serve it.

    name: of the git remote, None for the usual one; commit: what the workers will clone.
    """
    git_name = git_remote(name)
    url = git_url(git_name)
    storage_name, options, kept_back = storage()
    require_pushed(git_name, commit)
    require_inputs(storage_name)
    return Remotes(git_name, url, storage_name, options, kept_back)


def held(remote: str, refs: list[str]) -> list[str]:
    """Those of the experiments' refs that the git remote holds and this repository lacks."""
    if not refs:
        return []
    there = patiently(lambda: git("ls-remote", remote, *refs)).split()[1::2]
    here = {ref for same_name in experiment_refs().values() for ref in same_name}
    return [ref for ref in refs if ref in there and ref not in here]


def fetch_commit(remote: str, ref: str) -> str:
    """Fetch the commit of a ref of the git remote, without a ref here; returns its hash."""
    commit = git("ls-remote", remote, ref).partition("\t")[0]
    git("fetch", "--quiet", "--no-write-fetch-head", remote, ref)
    return commit


def fetch_scores(commit: str, remote: str, systems: tuple[str, ...] = ("base", "tuned")) -> None:
    """Fetch the scores of an experiment into DVC's cache: the comparison reads them.

    commit: of the experiment, in this repository; remote: name of DVC's remote.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.ui import ui

    from onesentence.evaluation.metrics import scores_file

    targets = [scores_file(system).as_posix() for system in systems]
    enabled, ui._enabled = ui._enabled, False  # its progress bars would be drawn into the study's
    try:
        with Repo() as repo:
            repo.fetch(targets=targets, revs=[commit], workspace=False, remote=remote)
    except DvcException as error:
        raise UserError(f"study: the scores of {commit[:7]} cannot be fetched: {error}") from error
    finally:
        ui._enabled = enabled
