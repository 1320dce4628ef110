"""DVC experiments as git holds them: their names, and which have this code and these values."""

import copy
import functools
import itertools
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from onesentence.core import code_identity, machine_faults, params
from onesentence.core.errors import UserError
from onesentence.evaluation.metrics import Scores, read_scores, scores_file
from onesentence.study.variants import Study

REQUIREMENTS = "requirements.txt"
QUICK = "quick-"  # what the names of quick studies and their variants begin with
COMPARED = (  # the stages whose code and settings make an experiment
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
    """The output of a git command; a UserError where it fails, unless `check` is false."""
    try:
        done = subprocess.run(
            ["git", *arguments], check=False, capture_output=True, encoding="utf-8", errors="replace"
        )
    except FileNotFoundError as error:
        raise UserError("git: not found; install it: the repository's history is read with it") from error
    if check and done.returncode:
        raise UserError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def pipeline_here() -> str:
    """The folder of the working directory's pipeline in the repository: "", or a preset's `presets/NAME`."""
    return git("rev-parse", "--show-prefix", check=False).strip().rstrip("/")


def study_command(name: str) -> str:
    """What a user types to run a study of the working directory's pipeline. name: with `quick-` if quick."""
    quick = " QUICK=1" if name.startswith(QUICK) else ""
    preset = f" PRESET={Path(here).name}" if (here := pipeline_here()) else ""
    return f"`make study NAME={name.removeprefix(QUICK)}{quick}{preset}`"


def restore(path: Path) -> str:
    """The advice about a damaged file that git tracks."""
    return f"restore it: `git checkout -- {path}`"


def experiment_refs() -> dict[str, list[str]]:
    """Git refs of every DVC experiment, by its name."""
    refs: dict[str, list[str]] = {}
    for ref in git("for-each-ref", "--format=%(refname)", "refs/exps").split():
        parts = ref.split("/")
        if len(parts) == 5 and len(parts[2]) == 2:  # refs/exps/<2 digits>/<38 digits>/<name>
            refs.setdefault(parts[4], []).append(ref)
    return refs


def is_of_pipeline_here(ref: str) -> bool:
    """Whether an experiment was run in the working directory's pipeline.

    Its commit holds every pipeline's files; it changes those of its own.
    """
    changed = git("diff", "--name-only", f"{ref}^", ref).splitlines()
    folder = pipeline_here()
    if folder:
        return any(path.startswith(f"{folder}/") for path in changed)
    return not changed or any(not path.startswith("presets/") for path in changed)


def lookup(values: Any, name: str) -> Any:
    """The value of a dotted key."""
    for part in name.split("."):
        values = values[part]
    return values


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted keys, such as `lora.rank`."""
    by_key: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        by_key |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return by_key


def shown(value: object) -> str:
    """A value as params.yaml has it."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def with_values(whole: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy of `whole` (params.yaml) with a variant's values in it. values: by dotted key."""
    changed = copy.deepcopy(whole)
    for name, value in values.items():
        section, _, key = name.partition(".")
        if key:
            changed[section][key] = value
        else:
            changed[section] = value
    return changed


def locked(ref: str) -> dict[str, Any] | None:
    """The compared stages of an experiment's dvc.lock, or None where it did not run all of them."""
    return _locked(git("rev-parse", ref).strip())


@functools.cache
def _locked(commit: str) -> dict[str, Any] | None:
    """`locked` for a commit. A commit never changes, and a study asks often: it is read once."""
    text = git("show", f"{commit}:./dvc.lock", check=False)
    stages = params.parse_yaml(text, Path("dvc.lock")).get("stages", {}) if text else {}
    return {name: stages[name] for name in COMPARED} if set(COMPARED) <= set(stages) else None


def same_code(ref: str) -> bool:
    """Whether an experiment was made with the code, the data and the base model of the working directory.

    Code is the same where its definitions are the same (`code_identity`), in whatever files.
    """
    stages = locked(ref)
    if stages is None:
        return False
    then, now = _code(git("rev-parse", ref).strip()), code_identity.WorkingTree()
    if pins(then) != pins(now):
        return False
    files = [f":/{in_git(path)}" for path in _read_by(stages, then)]
    if files and git("diff", "--name-only", ref, "--", *files):
        return False
    modules = modules_of(stages)
    return code_identity.identity(then, modules) == code_identity.identity(now, modules) is not None


def _read_by(stages: dict[str, Any], tree: code_identity.CommitTree) -> list[str]:
    """The paths, beside code and requirements.txt, that stages of a dvc.lock read and did not make.

    For data that DVC holds, git has a .dvc file: each path is followed by that.
    """
    made = {item["path"] for stage in stages.values() for item in stage["outs"]}
    read = {item["path"] for stage in stages.values() for item in stage["deps"]} - made
    others = sorted(path for path in read if path != REQUIREMENTS and not tree.is_code(path))
    return [name for path in others for name in (path, f"{path}.dvc")]


def in_git(path: str) -> str:
    """Where git has a file or folder of the pipeline: the path from the repository's root, links followed.

    A preset's pipeline has links to what it shares with the default. A link's own object would stay the same
    if its target changed. What leads out of the repository, as DVC's links into its cache, is not followed.
    """
    top = Path(git("rev-parse", "--show-toplevel").strip())
    real = Path(path).resolve()
    return (real if real.is_relative_to(top) else Path.cwd() / path).relative_to(top).as_posix()


def inputs_of(ref: str) -> dict[str, str]:
    """Git's object of every file and folder that an experiment read, beside code and requirements.txt, by
    path. What git does not hold is left out.
    """
    stages = locked(ref) or {}
    objects = {
        path: git("rev-parse", "--verify", "--quiet", f"{ref}:{in_git(path)}", check=False).strip()
        for path in _read_by(stages, _code(git("rev-parse", ref).strip()))
    }
    return {path: known for path, known in objects.items() if known}


def pins(tree: code_identity.Tree) -> list[str]:
    """The packages that requirements.txt pins, sorted and without comments."""
    lines = (tree.text(REQUIREMENTS) or "").splitlines()
    return sorted(line for line in (line.partition("#")[0].strip() for line in lines) if line)


def modules_of(stages: dict[str, Any]) -> list[str]:
    """The modules that the commands of a dvc.lock run: `python -m stages.train` runs stages.train."""
    matches = (re.search(r"\bpython -m (\S+)", stage["cmd"]) for stage in stages.values())
    return sorted({match[1] for match in matches if match})


def made_with(ref: str) -> dict[str, Any]:
    """What determines an experiment's result beside its parameters.

    commit: that it was run at; identity: digest of the code; modules: that its stages run; packages: the pins
    of requirements.txt; inputs: git's object of every other file that it read, by path.
    """
    stages, tree = locked(ref), _code(git("rev-parse", ref).strip())
    modules = modules_of(stages) if stages else []
    identity = code_identity.identity(tree, modules) if stages else None
    if identity is None:
        raise ValueError(f"{ref} has not run every stage")  # `finished` returns no such experiment
    return {
        # An experiment is a commit on top of the one that it was run at.
        "commit": git("rev-parse", f"{ref}^").strip(),
        "identity": code_identity.digest(identity),
        "modules": modules,
        "packages": pins(tree),
        "inputs": inputs_of(ref),
    }


@functools.cache
def _code(commit: str) -> code_identity.CommitTree:
    """The files of a commit. They never change: they are listed once."""
    return code_identity.CommitTree(commit)


def effective(name: str, value: Any) -> dict[str, Any]:
    """The values of a section or a key that may change a result, by dotted key."""
    return {key: each for key, each in flat({name: value}).items() if key not in params.NO_EFFECT}


def has_values(ref: str, values: dict[str, Any]) -> bool:
    """Whether a complete experiment was made with params.yaml and these values in it.

    Keys that change no result may differ. A key that did not exist then counts as having the value that
    changes nothing (`params.ADDED`).
    """
    wanted, stages = with_values(params.read_yaml(params.PARAMS_FILE), values), locked(ref)
    return stages is not None and all(
        effective(key, lookup(wanted, key)) == effective(key, params.completed(key, value))
        for stage in stages.values()
        for key, value in stage.get("params", {}).get("params.yaml", {}).items()
    )


def require_distinct(study: Study, whole: dict[str, Any]) -> None:
    """Raise a UserError where two variants have the same values, so that one of them has a wrong name.

    whole: params.yaml; a variant that relies on a default changes with it.
    """
    resolved = {variant.name: with_values(whole, variant.values) for variant in study.variants}
    for (one, values), (other, others) in itertools.combinations(resolved.items(), 2):
        if values == others:
            raise UserError(
                f"studies.yaml: studies.{study.name.removeprefix(QUICK)}: {one} and {other} have the same "
                "values with this params.yaml; set in each of them the key that it is named for"
            )


def require_loadable(study: Study, whole: dict[str, Any]) -> None:
    """Raise a UserError where the stages would refuse an experiment's values, such as a contradiction of two.

    whole: params.yaml.
    """
    for name, values in study.experiments().items():
        if wrong := params.problems(with_values(whole, values)):
            key = study.name.removeprefix(QUICK)
            raise UserError(f"studies.yaml: studies.{key}: {name}: {wrong[0]}")


def is_missing_file(error: BaseException | None) -> bool:
    """Whether a file that does not exist has led to an error. DVC raises others in its place."""
    while error is not None and not isinstance(error, FileNotFoundError):
        error = error.__cause__ or error.__context__
    return error is not None


def scores_at(revision: str, systems: tuple[str, ...]) -> dict[str, Scores] | None:
    """Scores of every article in a revision by system, or None where DVC's cache lacks them. A UserError
    where the machine cannot read or write them.

    They belong to the pipeline in the working directory, which may be a DVC repository inside the git
    repository. `dvc.api.DVCFileSystem` cannot read those: it looks for a revision's files from git's root.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.brancher import switch
    from dvc_data.index import DataIndexError

    scores = {}
    with tempfile.TemporaryDirectory() as folder, Repo() as repo, switch(repo, revision):
        for system in systems:
            path = Path(folder) / f"{system}.parquet"
            try:
                repo.dvcfs.get_file(scores_file(system).as_posix(), str(path))
            except (OSError, DvcException, DataIndexError) as error:
                # A full disk, say, is no reason to run an experiment again. A missing file is the cache's.
                fault = None if is_missing_file(error) else machine_faults.sentence_of(error)
                if fault:
                    raise UserError(f"{path}: {fault}") from error
                return None
            scores[system] = read_scores(path)
    return scores


def finished(study: Study) -> dict[str, str]:
    """Git ref of each finished experiment of a study, by its name."""
    refs = experiment_refs()
    matching = {}
    for name, values in study.experiments().items():
        for ref in refs.get(name, ()):
            if same_code(ref) and has_values(ref, values):
                matching[name] = ref
                break
    return matching


def make_the_only(ref: str) -> None:
    """Rename other experiments of this name to NAME.COMMIT: DVC accepts no name that two experiments have.

    They may belong to another branch, which finds them by their values (`reuse_equal_experiments`).
    """
    name = ref.rpartition("/")[2]
    for other in experiment_refs()[name]:
        if other != ref:
            rename_ref(other, git("rev-parse", ref).strip())


def rename_ref(ref: str, commit: str) -> None:
    """Free an experiment's name for one of another commit: the old one is called NAME.COMMIT from then on."""
    own = git("rev-parse", ref).strip()
    if own != commit:
        git("update-ref", f"{ref}.{own[:7]}", own)
    git("update-ref", "-d", ref)


def reuse_equal_experiments(wanted: dict[str, dict[str, Any]]) -> list[str]:
    """Give equal experiments that have another name, such as another study's, the wanted name too.

    wanted: values by name; returns the names that were given. DVC's run cache would train them again: it
    restores no stage that has an output in git.
    """
    refs = [ref for same_name in experiment_refs().values() for ref in same_name if same_code(ref)]
    # Commits, because they stay: a given name may be taken from another wanted experiment.
    equal = [(ref, git("rev-parse", ref).strip()) for ref in refs]
    named = []
    for name, values in wanted.items():
        twin = next(((ref, commit) for ref, commit in equal if has_values(commit, values)), None)
        if twin:
            ref, commit = twin
            baseline, _, other = ref.rpartition("/")
            wanted_ref = f"{baseline}/{name}"
            if wanted_ref in experiment_refs().get(name, ()):
                rename_ref(wanted_ref, commit)
            git("update-ref", wanted_ref, commit)
            make_the_only(wanted_ref)
            if other.startswith(f"{name}."):  # it was renamed for another branch's before
                git("update-ref", "-d", ref)
            named.append(name)
    return named
