"""dvc.yaml tells the truth: deps against imports and reads, params against PARAMS, dvc.lock against both."""

import ast
import hashlib
import importlib
import json
import re
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from onesentence.report.tables import results_table
from stages import score

PACKAGES = ("stages", "onesentence")
STAGES = ["pretrain", "prepare", "tokenize", "smoke", "train", "generate", "score", "evaluate", "report"]
GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())
EXPORT = yaml.safe_load(
    (ROOT / "onesentence/export/pipeline.yaml").read_text()
)  # a pipeline of its own, for `make export`
EXPORT_STAGES = ["export", "rescore"]
EVERY_STAGE = [*STAGES, *EXPORT_STAGES]
LOCK = yaml.safe_load((ROOT / "dvc.lock").read_text())
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())


def definition(stage: str) -> dict:
    found = {**GRAPH["stages"], **EXPORT["stages"]}[stage]
    return found.get("do", found)


def packages(file: Path) -> set[Path]:
    """The `__init__.py` files that Python runs before a project file; an empty one changes nothing."""
    folders = file.relative_to(ROOT).parents
    files = {ROOT / folder / "__init__.py" for folder in folders if folder.parts}
    return {file for file in files if file.read_text().strip()}


def imported(path: Path) -> set[Path]:
    """Project files that a file imports, wherever in it the import stands, and those of its packages."""
    found = packages(path)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGES):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            file = ROOT / (name.replace(".", "/") + ".py")
            if name.startswith(PACKAGES) and file.is_file():
                found.add(file)
    return found


def closure(path: Path) -> set[str]:
    seen, waiting = {path}, [path]
    while waiting:
        new = imported(waiting.pop()) - seen
        seen |= new
        waiting += new
    return {file.relative_to(ROOT).as_posix() for file in seen}


def test_the_graph_has_just_these_stages():
    assert list(GRAPH["stages"]) == STAGES
    assert list(GRAPH["stages"]["generate"]["foreach"]) == ["base", "tuned"]
    assert list(GRAPH["stages"]["score"]["foreach"]) == list(score.GROUPS)
    assert definition("pretrain")["frozen"] is True


def test_the_export_is_a_pipeline_of_its_own_in_the_folder_above():
    assert list(EXPORT["stages"]) == EXPORT_STAGES
    assert EXPORT["vars"] == ["../params.yaml"]
    assert all(definition(stage)["wdir"] == ".." for stage in EXPORT_STAGES)
    assert not any(EXPORT_STAGES[k] in GRAPH["stages"] for k in range(2))


def test_artifacts_name_what_a_stage_writes():
    outs = [out for stage in EVERY_STAGE for out in definition(stage)["outs"]]
    assert {entry["path"] for entry in GRAPH["artifacts"].values()} == {"models/exported", "models/tuned"}
    assert all(entry["path"] in outs for entry in GRAPH["artifacts"].values())


def code_deps(stage: str) -> tuple[set[str], set[str]]:
    """(files, folders) of code that dvc.yaml lists for a stage."""
    deps = [dep for dep in definition(stage)["deps"] if dep.startswith(("stages/", "onesentence/"))]
    return {dep for dep in deps if dep.endswith(".py")}, {dep for dep in deps if not dep.endswith(".py")}


@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_every_imported_file_is_listed_and_every_listed_folder_holds_one(stage):
    files, folders = code_deps(stage)
    needed = closure(ROOT / f"stages/{stage}.py")
    assert len(needed) > 5 and folders
    holders = {name: next((f for f in folders if name.startswith(f"{f}/")), None) for name in needed}
    assert {name for name, folder in holders.items() if folder is None} == files
    assert {folder for folder in holders.values() if folder} == folders
    assert {f"stages/{stage}.py", "stages/__init__.py", "onesentence/__init__.py"} <= files  # kernels
    assert definition(stage)["cmd"].split()[:3] == ["python", "-m", f"stages.{stage}"]


@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_params_are_what_the_stage_may_read(stage):
    module = importlib.import_module(f"stages.{stage}")
    assert tuple(definition(stage)["params"]) == module.PARAMS


def keys_read(script: Path) -> set[str]:
    """What a stage's script reads of `p`, the parameters: a section ("model") or a key ("data.seed")."""
    tree = ast.parse(script.read_text())
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    keys = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            chain = ast.unparse(node).split(".")
            if chain[0] == "p":
                keys.add(".".join(chain[1:3]))
        elif isinstance(node, ast.Call) and ast.unparse(node) == "params.generating(p)":
            keys |= {"model", "generate.quantization"}
    return keys


@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_a_stage_has_every_parameter_that_it_reads(stage):
    """Others are not loaded: reading one would end the stage with an AttributeError, maybe after hours."""
    own = importlib.import_module(f"stages.{stage}").PARAMS
    keys = keys_read(ROOT / f"stages/{stage}.py")
    assert keys or stage == "pretrain"  # which reads its own section alone
    for key in keys:
        section = key.partition(".")[0]
        whole = key == section and key in PARAMS and isinstance(PARAMS[key], dict)
        # A section that is handed on whole may be loaded in part: the reader needs no more of it.
        assert {key, section} & set(own) or (whole and any(name.startswith(f"{key}.") for name in own)), key


@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_every_file_a_stage_reads_is_a_dep_and_every_file_it_writes_an_out(stage):
    """The path constants of a stage, against its deps and outs."""
    module = importlib.import_module(f"stages.{stage}")
    entry = definition(stage)
    outs = [next(iter(out)) if isinstance(out, dict) else out for out in entry["outs"]]
    outs += [next(iter(out)) for out in entry.get("metrics", [])]
    listed = [re.sub(r"\$\{[^}]*\}", "*", name) for name in entry["deps"] + outs]
    listed += [item["after"] for item in GRAPH["stages"]["generate"]["foreach"].values()] * (
        stage == "generate"
    )
    uncompared = {"data/cost/train.json"}
    for value in vars(module).values():
        if isinstance(value, Path) and value.as_posix() not in uncompared and not value.is_absolute():
            name = value.as_posix()
            assert any(item == name or item.startswith(f"{name}/") for item in listed), name


def test_only_the_summary_is_declared_as_metrics():
    declared = [out for stage in EVERY_STAGE for out in definition(stage).get("metrics", [])]
    assert declared == [{"metrics/summary.json": {"cache": False}}]


def test_every_key_of_params_is_read_by_a_stage():
    sources = "\n".join(
        path.read_text() for path in [*(ROOT / "stages").rglob("*.py"), *(ROOT / "onesentence").rglob("*.py")]
    )
    for section, values in PARAMS.items():
        for key in values if isinstance(values, dict) else [section]:
            by_name = rf"\.{key}\b"
            by_split = r"\{split\}_size" if key.endswith("_size") and section == "data" else by_name
            assert re.search(by_name, sources) or re.search(by_split, sources), f"{section}.{key}"


def md5(path: Path) -> str:
    """A file's or a folder's, as DVC computes it: a folder's is of the list of its files."""
    if path.is_file():
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    inside = sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    listed = [{"md5": md5(file), "relpath": file.relative_to(path).as_posix()} for file in inside]
    text = json.dumps(sorted(listed, key=lambda each: each["relpath"].split("/")), sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def lookup(name: str):
    value = PARAMS
    for part in name.split("."):
        value = value[part]
    return value


LOCKED = list(LOCK["stages"])


def test_the_lock_has_every_stage():
    assert sorted(LOCK["stages"]) == sorted(
        [s for s in STAGES if s not in ("generate", "score")]
        + ["generate@base", "generate@tuned", "score@baselines", "score@tuned"]
    )


@pytest.mark.parametrize("stage", LOCKED)
def test_the_lock_is_of_the_committed_code_and_parameters(stage):
    """Without running anything: hashes of every dependency and output in git, and every parameter."""
    locked = LOCK["stages"][stage]
    compared = 0
    for item in locked["deps"] + locked["outs"]:
        path = ROOT / item["path"]
        code = item["path"].startswith("onesentence/")
        if path.exists() and (code or ("md5" in item and not item["md5"].endswith(".dir"))):
            assert md5(path) == item["md5"], f"{stage}: {item['path']} changed; run dvc repro"
            compared += 1
    assert compared
    for name, value in locked["params"]["params.yaml"].items():
        assert lookup(name) == value, f"{stage}: {name} changed; run dvc repro"
    wanted = set(definition(stage.split("@")[0])["params"])
    assert {name for name in locked["params"]["params.yaml"]} == wanted


COMMITTED = sorted(path.name for path in (ROOT / "presets").iterdir() if (path / "dvc.lock").is_file())


@pytest.mark.parametrize("preset", COMMITTED)
def test_a_presets_results_are_of_the_committed_code(preset):
    """Its graph is the repository's; hashes of its code and of its files in git are those of its lock."""
    folder = ROOT / "presets" / preset
    assert (folder / "dvc.yaml").read_text() == (ROOT / "dvc.yaml").read_text()
    compared = 0
    for stage, locked in yaml.safe_load((folder / "dvc.lock").read_text())["stages"].items():
        for item in locked["deps"] + locked["outs"]:
            path = folder / item["path"]
            code = item["path"].startswith("onesentence/")
            if stage != "pretrain" and (path.is_file() or code):
                assert md5(path) == item["md5"], (
                    f"{preset}, {stage}: {item['path']} changed; run dvc repro there"
                )
                compared += 1
    assert compared > 50


def test_the_table_of_results_is_that_of_the_committed_metrics():
    evaluation = json.loads((ROOT / "metrics/evaluation.json").read_text())
    table = results_table(evaluation, PARAMS["report"]["published"])
    assert (ROOT / "plots/results.md").read_text() == table
