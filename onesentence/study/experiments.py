"""DVC experiments as git holds them: which there are, and whether one is of this code and these values."""

import copy
import functools
import itertools
import re
import subprocess
import tempfile
from pathlib import Path

from onesentence.core import code_identity, params
from onesentence.core.errors import UserError
from onesentence.evaluation.metrics import Scores, read_scores, scores_file
from onesentence.study.variants import Study

REQUIREMENTS = "requirements.txt"
COMPARED = (
    "prepare",
    "tokenize",
    "smoke",
    "train",
    "generate@base",
    "generate@tuned",
    "score@tuned",
    "evaluate",
)


def git(*arguments: str, check: bool = True) -> str:
    """What git prints."""
    done = subprocess.run(
        ["git", *arguments], check=False, capture_output=True, encoding="utf-8", errors="replace"
    )
    if check and done.returncode:
        raise UserError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def experiment_refs() -> dict[str, list[str]]:
    """Git refs of every DVC experiment, by its name."""
    found: dict[str, list[str]] = {}
    for ref in git("for-each-ref", "--format=%(refname)", "refs/exps").split():
        parts = ref.split("/")
        if len(parts) == 5 and len(parts[2]) == 2:  # refs/exps/<2 digits>/<38 digits>/<name>
            found.setdefault(parts[4], []).append(ref)
    return found


def lookup(values: dict, name: str):
    """The value of a dotted key."""
    for part in name.split("."):
        values = values[part]
    return values


def flat(values: dict, prefix: str = "") -> dict[str, object]:
    """params.yaml by dotted keys."""
    found = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def shown(value: object) -> str:
    """A value as params.yaml has it."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def with_values(whole: dict, values: dict[str, object]) -> dict:
    """params.yaml with a variant's values in it, by dotted key."""
    found = copy.deepcopy(whole)
    for name, value in values.items():
        section, _, key = name.partition(".")
        if key:
            found[section][key] = value
        else:
            found[section] = value
    return found


def locked(ref: str) -> dict | None:
    """The compared stages of an experiment's dvc.lock, or None where it has not run them all."""
    return _locked(git("rev-parse", ref).strip())


@functools.cache
def _locked(commit: str) -> dict | None:
    """`locked` of a commit, which never changes: read once, for a study asks for every variant and twin."""
    text = git("show", f"{commit}:./dvc.lock", check=False)
    stages = params.parse_yaml(text, Path("dvc.lock")).get("stages", {}) if text else {}
    return {name: stages[name] for name in COMPARED} if set(COMPARED) <= set(stages) else None


def same_code(ref: str) -> bool:
    """Whether an experiment was made by the code, the data and the base model that are here.

    Code is the same where its definitions are (`code_identity`), wherever they lie.
    """
    stages = locked(ref)
    if stages is None:
        return False
    made = {item["path"] for stage in stages.values() for item in stage["outs"]}
    read = {item["path"] for stage in stages.values() for item in stage["deps"]} - made
    there, here = _code(git("rev-parse", ref).strip()), code_identity.WorkingTree()
    if pins(there) != pins(here):
        return False
    others = sorted(path for path in read if path != REQUIREMENTS and not there.is_code(path))
    # Git holds a .dvc file in place of what it does not hold itself.
    files = [name for path in others for name in (path, f"{path}.dvc")]
    if files and git("diff", "--name-only", ref, "--", *files):
        return False
    modules = modules_of(stages)
    return code_identity.identity(there, modules) == code_identity.identity(here, modules) is not None


def pins(tree: code_identity.Tree) -> list[str]:
    """The packages that requirements.txt asks for, in any order and without comments."""
    lines = (tree.text(REQUIREMENTS) or "").splitlines()
    return sorted(line for line in (line.partition("#")[0].strip() for line in lines) if line)


def modules_of(stages: dict) -> list[str]:
    """The modules that the commands of a dvc.lock run: `python -m stages.train` runs stages.train."""
    found = (re.search(r"\bpython -m (\S+)", stage["cmd"]) for stage in stages.values())
    return sorted({match[1] for match in found if match})


def code_of(refs: list[str]) -> dict[str, str | list[str]]:
    """The identity of the code that experiments were made with, the same for all, and the commits of them."""
    there = code_identity.identity(_code(git("rev-parse", refs[0]).strip()), modules_of(locked(refs[0])))
    # An experiment is a commit on top of the one that it was run at.
    commits = sorted({git("rev-parse", f"{ref}^").strip() for ref in refs})
    return {"identity": code_identity.digest(there), "commits": commits}


@functools.cache
def _code(commit: str) -> code_identity.CommitTree:
    """The files of a commit, which never change: listed once."""
    return code_identity.CommitTree(commit)


def has_values(ref: str, values: dict[str, object]) -> bool:
    """Whether an experiment that has run is of params.yaml with these values in it."""
    wanted = with_values(params.read_yaml(params.PARAMS_FILE), values)
    return all(
        lookup(wanted, key) == value
        for stage in locked(ref).values()
        for key, value in stage.get("params", {}).get("params.yaml", {}).items()
    )


def require_distinct(study: Study, whole: dict) -> None:
    """Raise a UserError where two variants come out the same, so that one name says what is not so.

    whole: params.yaml; a variant that leans on a default changes with it.
    """
    resolved = {variant.name: with_values(whole, variant.values) for variant in study.variants}
    for (one, values), (other, others) in itertools.combinations(resolved.items(), 2):
        if values == others:
            raise UserError(
                f"studies.yaml: studies.{study.name}: {one} and {other} are the same with the params.yaml "
                "that is here; set in each the key that it is named for"
            )


def scores_at(revision: str, systems: tuple[str, ...]) -> dict[str, Scores] | None:
    """Scores of every article in a revision by system, or None where DVC's cache lacks them.

    They are those of the pipeline in the working directory, which may be a DVC repository inside the
    repository: `dvc.api.DVCFileSystem` looks for a revision's files from git's root alone.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.brancher import switch
    from dvc_data.index import DataIndexError

    found = {}
    with tempfile.TemporaryDirectory() as folder, Repo() as repo, switch(repo, revision):
        for system in systems:
            path = Path(folder) / f"{system}.parquet"
            try:
                repo.dvcfs.get_file(scores_file(system).as_posix(), str(path))
            except (OSError, DvcException, DataIndexError):
                return None
            found[system] = read_scores(path)
    return found


def finished(study: Study) -> dict[str, str]:
    """Git ref of each experiment of a study that is there, by its name."""
    refs = experiment_refs()
    found = {}
    for name, values in study.experiments().items():
        for ref in refs.get(name, ()):
            if same_code(ref) and has_values(ref, values):
                found[name] = ref
                break
    return found


def make_the_only(ref: str) -> None:
    """Give other experiments of this name another one, NAME.COMMIT: a name that stands for two is none to
    DVC. They may be another branch's, which finds them by what they are (`reuse_equal_experiments`).
    """
    name = ref.rpartition("/")[2]
    for other in experiment_refs()[name]:
        if other != ref:
            rename_ref(other, git("rev-parse", ref).strip())


def rename_ref(ref: str, commit: str) -> None:
    """Take an experiment's name from it, for one of another commit: it is called NAME.COMMIT from then on."""
    own = git("rev-parse", ref).strip()
    if own != commit:
        git("update-ref", f"{ref}.{own[:7]}", own)
    git("update-ref", "-d", ref)


def reuse_equal_experiments(wanted: dict[str, dict[str, object]]) -> list[str]:
    """Give experiments that are there under another name, as another study calls them, the wanted name too.

    wanted: values by name; returns the names that were given. DVC's run cache would train such a one again:
    it restores no stage that has an output in git.
    """
    refs = [ref for found in experiment_refs().values() for ref in found if same_code(ref)]
    # By their commits, which stay: giving a name may take it from another one that is wanted too.
    there = [(ref, git("rev-parse", ref).strip()) for ref in refs]
    given = []
    for name, values in wanted.items():
        twin = next(((ref, commit) for ref, commit in there if has_values(commit, values)), None)
        if twin:
            ref, commit = twin
            baseline, _, other = ref.rpartition("/")
            wanted_ref = f"{baseline}/{name}"
            if wanted_ref in experiment_refs().get(name, ()):
                rename_ref(wanted_ref, commit)
            git("update-ref", wanted_ref, commit)
            make_the_only(wanted_ref)
            if other.startswith(f"{name}."):  # it had to give way to another branch's before
                git("update-ref", "-d", ref)
            given.append(name)
    return given
