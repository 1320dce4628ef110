"""The studies of SmolLM2 on XSum, trained and generated on a GPU machine without a network, scored here.

    python -m benchmarks.gpu pack BUNDLE                                           # here
    python -m benchmarks.gpu run BUNDLE --steps studies --output RESULTS.json      # there
    python -m benchmarks.gpu_studies RESULTS.tar rank method                       # here: these studies

The articles are those of presets/smollm2-xsum (`make data FROM=FOLDER PRESET=smollm2-xsum`).

Each run of studies.yaml is made once, however many studies list it. What two runs have in common (a training,
an untuned model's outputs) is made once, too. `run` adds to RESULTS.tar after each job. A `run` that was
killed, and is started again with the same --work, does the jobs that are missing.

The last command scores the outputs with the stages `score` and `evaluate`. It writes the costs, and
presets/smollm2-xsum/metrics/studies/scores/NAME.parquet. In presets/smollm2-xsum,
`onesentence compare NAME --from-scores` then computes the study (`--partial` where runs are missing).

The GPU machine may have another version of a package, such as torch. Then the file names that version, and
`onesentence study` runs a variant again rather than mix the two.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import threading
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from dataclasses import dataclass, replace
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import gpu
from onesentence.core import errors
from onesentence.core.errors import UserError

# Nothing else at the top: on the GPU machine, the packages that the other modules import are in the bundle.

PIPELINE = Path("presets") / gpu.PRESET
PLAN = "plan.json"  # in the bundle's folder `studies`, and in the archive
SPLITS = ("train", "validation", "test")
MODULES = tuple(f"stages.{name}" for name in "evaluate generate prepare score smoke tokenize train".split())
GIGABYTES_EACH = 9  # of GPU memory: batches of 8 rows of 256 tokens, and 8,192 tokens of the cache


def digest(value: Any) -> str:
    """A name for a value of JSON: equal values have equal names."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def picked(whole: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """The values of some sections and dotted keys of params.yaml."""
    from onesentence.study.experiments import lookup

    return {key: lookup(whole, key) for key in keys}


@dataclass(frozen=True)
class Job:
    """What one run of `stages` on the GPU machine makes.

    inputs: the folder of its tokenized rows; params: the whole of params.yaml; training: the name of the
    training, or None for the untuned model; outputs: params.yaml of each set of outputs, by name.
    """

    name: str
    inputs: str
    params: dict[str, Any]
    training: str | None
    outputs: dict[str, dict[str, Any]]


# ---- here: what is to be run


def declared() -> dict[str, dict[str, Any]]:
    """The whole of params.yaml of every run of the pipeline's studies, by its experiment's name.

    The first seed of each study comes first.
    """
    from onesentence.core import params
    from onesentence.study.declaration import Studies
    from onesentence.study.experiments import with_values

    with chdir(PIPELINE):
        studies, whole = Studies.of_workspace(), params.read_yaml(params.PARAMS_FILE)
        named: dict[str, dict[str, Any]] = {}
        for place in range(max(len(studies.study(name).seeds) for name in studies.names())):
            for name in studies.names():
                study = studies.study(name)
                for experiment, values in study.experiments().items():
                    if values["seed"] in study.seeds[place : place + 1]:
                        named.setdefault(experiment, with_values(whole, values))
    return named


def make_inputs(folder: Path, xsum: Path, whole: dict[str, Any]) -> None:
    """Run `prepare` and `tokenize` in a folder, unless it was done there."""
    if (folder / "data/tokenized").exists():
        return
    environment = workspace(folder, whole)
    if not (folder / "data/local").exists():
        (folder / "data/local").symlink_to(xsum.resolve())
    gpu.stage(folder, environment, "stages.prepare")
    gpu.stage(folder, environment, "stages.tokenize")


def workspace(folder: Path, whole: dict[str, Any]) -> dict[str, str]:
    """A folder in which stages run with this params.yaml; the environment that they need."""
    from onesentence.core import params
    from onesentence.core.files import write_text

    for name in ("data", "models", "metrics", "plots"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_text(folder / params.PARAMS_FILE, json.dumps(whole, indent=1))  # JSON is YAML
    # `prepare` reads what phi-tiny was pretrained on. No other folder: a stage would write through a link.
    for model in (Path(whole["model"]["name"]), Path("models/phi-tiny")):
        if not (folder / model).exists():
            (folder / model).symlink_to(model.resolve())
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}


def inputs_name(whole: dict[str, Any]) -> str:
    """The name of the folder of a run's tokenized rows."""
    from stages import prepare, tokenize

    return digest(picked(whole, (*prepare.PARAMS, *tokenize.PARAMS)))


def planned(runs: dict[str, dict[str, Any]], inputs: Path) -> dict[str, Any]:
    """The jobs and the runs that they serve: {"jobs": [...], "runs": {name: {...}}}.

    inputs: the folder of the folders of tokenized rows. Their files tell what is equal: an untuned model
    writes the same for every size of the training data.
    """
    from stages import generate, train

    jobs: dict[str, dict[str, Any]] = {}
    plan: dict[str, Any] = {"jobs": [], "runs": {}}
    for name, whole in runs.items():
        folder = inputs_name(whole)
        rows = {split: file_hash(inputs / folder / f"data/tokenized/{split}.parquet") for split in SPLITS}
        held_out = {split: rows[split] for split in ("validation", "test")}
        writes = {"params": picked(whole, generate.PARAMS), "rows": held_out}
        training = digest({"params": picked(whole, train.PARAMS), "rows": rows})
        base, tuned = digest([writes, "base"]), digest([writes, training])
        for key, outputs, trained in ((base, base, None), (training, tuned, training)):
            job = jobs.setdefault(
                key, {"name": key, "inputs": folder, "params": whole, "training": trained, "outputs": {}}
            )
            job["outputs"].setdefault(outputs, whole)
        plan["runs"][name] = {"params": whole, "training": training, "base": base, "tuned": tuned}
    plan["jobs"] = list(jobs.values())
    return plan


def file_hash(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def articles() -> Path:
    """The pipeline's own articles. A UserError where they are missing, or not those that git names."""
    from dvc.repo import Repo

    folder = PIPELINE / "data/local"
    advice = f"run `make data FROM=FOLDER PRESET={gpu.PRESET}`, or `dvc checkout data/local` in {PIPELINE}"
    if not folder.is_dir():
        raise UserError(f"{folder}: not found; {advice}")
    with chdir(PIPELINE), Repo() as repo:
        if repo.status(targets=["data/local.dvc"]):
            raise UserError(f"{folder}: differs from data/local.dvc; {advice}")
    return folder


def pack(bundle: Path) -> None:
    """Write the plan of the studies and their tokenized rows into BUNDLE/studies."""
    from onesentence.core.files import write_text

    xsum = articles()
    runs, target = declared(), bundle / "studies"
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder)
        for whole in runs.values():
            make_inputs(inputs / inputs_name(whole), xsum, whole)
        for made in sorted(inputs.iterdir()):
            shutil.copytree(made / "data/tokenized", target / made.name)
        # Not write_json, which rounds: a learning rate of 0.00025 would become 0.0003.
        write_text(target / PLAN, json.dumps(planned(runs, inputs)))


# ---- there: train and generate


def versions() -> dict[str, str]:
    """The installed version of each package that requirements.txt pins. Missing packages are left out."""
    pins = Path("requirements.txt").read_text(encoding="utf-8").splitlines()
    names = [line.partition("==")[0].strip() for line in pins if "==" in line and not line.startswith("#")]
    known = {package.metadata["Name"].lower().replace("_", "-") for package in metadata.distributions()}
    return {name: metadata.version(name) for name in names if name.lower().replace("_", "-") in known}


def run_job(job: Job, work: Path, rows: int | None) -> dict[str, Any]:
    """Do one job in a folder of its own; files to keep by name, JSON values and texts."""
    from onesentence.core.files import read_json

    started, folder = time.monotonic(), work / "jobs" / job.name
    gpu.few_rows(work / "bundle/studies" / job.inputs, folder / "data/tokenized", rows)
    kept: dict[str, Any] = {}
    environment = workspace(folder, job.params)
    gpu.stage(folder, environment, "stages.smoke")
    if job.training is not None:
        gpu.stage(folder, environment, "stages.train")
        kept["train.json"] = read_json(folder / "metrics/train.json")
        kept["cost.json"] = read_json(folder / "data/cost/train.json")
    system = "base" if job.training is None else "tuned"
    seconds = {job.name: time.monotonic() - started}
    for name, whole in job.outputs.items():
        took = gpu.stage(folder, workspace(folder, whole), "stages.generate", system)
        seconds[name] = took + seconds.get(name, 0.0)  # of an untuned model: the smoke test, too
        kept[f"{name}.jsonl"] = (folder / f"data/predictions/{system}.jsonl").read_text(encoding="utf-8")
    kept["seconds.json"] = seconds
    shutil.rmtree(folder)
    return kept


class Archive:
    """A tar file with the result of each job that has ended, in this run or an earlier one.

    store: a folder that keeps it for the next `run`; path: the tar, written anew by each `run`.
    """

    def __init__(self, store: Path, path: Path) -> None:
        self.store, self.path = store, path
        self.writing = threading.Lock()  # jobs end side by side
        store.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for job in sorted(store.glob("*.json.gz")):
                tar.add(job, job.name)

    def has(self, name: str) -> bool:
        """Whether a job was done."""
        return (self.store / f"{name}.json.gz").exists()

    def add(self, name: str, found: Any) -> None:
        """Keep what a job, or a plan, has found."""
        data = gzip.compress(json.dumps(found, ensure_ascii=True).encode(), mtime=0)
        file = f"{name}.json.gz"
        with self.writing:
            (self.store / f".{file}.tmp").write_bytes(data)
            (self.store / f".{file}.tmp").rename(self.store / file)
            with tarfile.open(self.path, "a") as tar:
                entry = tarfile.TarInfo(file)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


def run(work: Path, archive_path: Path, ends: float, rows: int | None) -> dict[str, int]:
    """Do the jobs of BUNDLE/studies, as many at once as the GPU's memory and the cores allow.

    No job starts after `ends` (of time.monotonic()). How many were done, are missing, and failed.
    """
    import torch

    from onesentence.core import code_identity
    from onesentence.core.files import read_json
    from onesentence.core.machine import machine

    plan = read_json(work / "bundle/studies" / PLAN)
    tree = code_identity.WorkingTree()
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
    at_once = max(1, min(int(free / 1e9 // GIGABYTES_EACH), os.cpu_count() or 1))
    about = {
        "machine": machine(),
        "at_once": at_once,
        "rows": rows,
        "versions": versions(),
        "identity": code_identity.digest(code_identity.identity(tree, MODULES) or ()),
    }
    # What was found with other code, packages or rows stays apart.
    made = digest([about["identity"], about["versions"], rows])
    archive = Archive(work / "results" / made, archive_path)
    archive.add("plan", {**plan, **about})
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // at_once))  # of each stage
    jobs = [Job(**job) for job in plan["jobs"] if not archive.has(job["name"])]
    failed: list[str] = []

    def one(job: Job) -> None:
        if time.monotonic() < ends:
            try:
                archive.add(job.name, run_job(job, work, rows))
            except UserError as error:  # the others go on
                failed.append(job.name)
                print(error, flush=True)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, jobs))
    done = sum(archive.has(job["name"]) for job in plan["jobs"])
    return {"done": done, "missing": len(plan["jobs"]) - done, "failed": len(failed)}


# ---- here: score


def opened(path: Path) -> dict[str, Any]:
    """What an archive holds, by name. A later one of a name replaces an earlier one.

    What a killed `run` wrote last may be cut off: it is left out.
    """
    found = {}
    try:
        with tarfile.open(path) as tar:
            for entry in tar:
                data = tar.extractfile(entry)
                if data is not None:
                    found[entry.name.removesuffix(".json.gz")] = json.loads(gzip.decompress(data.read()))
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError) as error:
        if not found:
            raise UserError(
                f"{path}: not an archive of `benchmarks.gpu run --steps studies`: {error}"
            ) from error
        print(f"{path}: damaged after {len(found)} results; they are used", flush=True)
    if "plan" not in found:
        raise UserError(f"{path}: has no plan; it is no archive of `benchmarks.gpu run --steps studies`")
    return found


def packages(here: list[str], there: dict[str, str]) -> list[str]:
    """The pins with the versions that the GPU machine had. here: the pins; there: from `versions`."""
    names = {pin: pin.partition("==")[0] for pin in here}
    return sorted(f"{name}=={there[name]}" if name in there else pin for pin, name in names.items())


def made_with(plan: dict[str, Any]) -> dict[str, Any]:
    """What determines the runs' results beside their parameters, as `experiments.made_with` has it.

    For the working directory's pipeline. A UserError where the code is not that of the commit checked out.
    """
    from onesentence.study import experiments

    code = experiments.made_with("HEAD")
    if code["identity"] != plan["identity"]:
        raise UserError(
            f"the archive was made with other code (identity {plan['identity']:.8}) than HEAD's "
            f"({code['identity']:.8}); check out the commit that it was packed from"
        )
    if experiments.git("status", "--porcelain", "--untracked-files=no", "--", ":/stages", ":/onesentence"):
        raise UserError("stages or onesentence have changes that are not committed; commit or undo them")
    commit = experiments.git("rev-parse", "HEAD").strip()
    return {**code, "commit": commit, "packages": packages(code["packages"], plan["versions"])}


def scored(folder: Path, xsum: Path, name: str, found: dict[str, Any], code: dict[str, Any]) -> Any:
    """Score one run's outputs in a folder of its own; the Run for the study's file.

    name: of the run in the plan; found: what the archive holds; code: from `made_with`.
    """
    from onesentence.core.files import atomic_write, read_json, write_text
    from onesentence.evaluation.metrics import read_scores, scores_file
    from onesentence.study.scores import EVALUATION, Run, cost_of

    run = found["plan"]["runs"][name]
    whole, inputs = run["params"], folder / "inputs" / inputs_name(run["params"])
    make_inputs(inputs, xsum, whole)
    if planned({name: whole}, folder / "inputs")["runs"][name] != run:
        raise UserError(
            f"{PIPELINE / 'data/local'}: not the articles that the bundle was packed with; check out the "
            "commit that it was packed from, and its data"
        )
    place = folder / "scored" / digest([run["base"], run["tuned"]])
    environment = workspace(place, whole)
    if not (place / "data/prepared").exists():
        (place / "data/prepared").symlink_to((inputs / "data/prepared").resolve())
    for system in ("base", "tuned"):
        job = run["base"] if system == "base" else run["training"]
        write_text(place / f"data/predictions/{system}.jsonl", found[job][f"{run[system]}.jsonl"])
    baselines = folder / "baselines" / run["base"]
    if not baselines.exists():
        gpu.stage(place, environment, "stages.score", "baselines")
        with atomic_write(baselines) as temporary:
            shutil.copytree(place / "data/scores/baselines", temporary, dirs_exist_ok=True)
    elif not (place / "data/scores/baselines").exists():
        with atomic_write(place / "data/scores/baselines") as temporary:
            shutil.copytree(baselines, temporary, dirs_exist_ok=True)
    gpu.stage(place, environment, "stages.score", "tuned")
    gpu.stage(place, environment, "stages.evaluate")
    evaluation = read_json(place / "metrics/evaluation.json")
    scores = {system: read_scores(place / scores_file(system)) for system in ("base", "tuned")}
    return Run(
        name,
        whole["seed"],
        scores["tuned"],
        scores["base"],
        {key: evaluation[key] for key in EVALUATION if key in evaluation},
        cost_of(found[run["training"]]["train.json"], read_json(inputs / "metrics/prompt.json")),
        whole,
        code,
    )


def cost(found: dict[str, Any], run: dict[str, Any], shared: dict[str, int]) -> dict[str, Any]:
    """What a run took on the GPU machine, as `study.costs` has it.

    shared: how many of the written runs have each training and each set of outputs, which they share equally.
    """
    training = run["training"]
    took = found[training]["seconds.json"] | found[run["base"]]["seconds.json"]
    parts_of = {training, run["tuned"], run["base"]}
    plan, job = found["plan"], found[training]
    of = plan["machine"]
    parts = (of["cpu"], f"{of['cores']} cores", of["instructions"], of["gpu"])
    return {
        "machine": ", ".join(part for part in parts if part),
        "jobs": plan["at_once"],
        "seconds": sum(took[name] / shared[name] for name in sorted(parts_of)),
        "device": job["cost.json"]["device"],
        "training_seconds": job["cost.json"]["seconds"],
        "training_peak_bytes": job["cost.json"]["peak_memory_bytes"],
        "resumed": job["cost.json"]["resumed"],
    }


def require_no_loss(study: Any, names: set[str]) -> None:
    """Raise a UserError where the study's file of scores holds runs that would be dropped.

    names: of the experiments that are written.
    """
    from onesentence.study.scores import recorded, scores_file_of

    file = scores_file_of(study)
    lost = sorted(set(recorded(study)) - names) if file.is_file() else []
    if lost:
        raise UserError(
            f"{file}: holds runs that the archive lacks ({', '.join(lost)}), and runs of one study are "
            "compared only on one machine; remove the file if they are to go"
        )


def collect(archive: Path, names: list[str], work: Path) -> None:
    """Score the runs of some studies and write the studies' files of scores and costs."""
    from tqdm import tqdm

    from onesentence.study.costs import add_cost
    from onesentence.study.declaration import Studies
    from onesentence.study.scores import scores_file_of, write_runs

    found = opened(archive)
    if found["plan"]["rows"]:
        raise UserError(f"{archive}: made with --rows, so it holds few articles; run it without --rows")
    xsum = articles()
    with chdir(PIPELINE):
        code = made_with(found["plan"])
        studies = [Studies.of_workspace().study(name) for name in names]
    # What another archive, or other code, has led to stays apart.
    work = work / digest([file_hash(archive), code["identity"]])
    for study in studies:
        complete = {
            name
            for name in study.experiments()
            if (run := found["plan"]["runs"].get(name)) and {run["base"], run["training"]} <= set(found)
        }
        if not complete:
            raise UserError(f"{archive}: has no complete run of the study {study.name}")
        with chdir(PIPELINE):
            require_no_loss(study, complete)
        planned_runs = [found["plan"]["runs"][name] for name in complete]
        shared = Counter(run[key] for run in planned_runs for key in ("training", "tuned", "base"))
        runs = {}
        for variant, seed in tqdm(list(product(study.variants, study.seeds)), desc=study.name, unit="run"):
            name = study.experiment(variant.name, seed)
            if name in complete:
                made = replace(scored(work, xsum, name, found, code), variant=variant.name)
                runs[name] = made, cost(found, found["plan"]["runs"][name], shared)
        with chdir(PIPELINE):
            write_runs(scores_file_of(study), {name: made for name, (made, _) in runs.items()})
            for made, took in runs.values():
                add_cost(study, made.variant, made.seed, took)
        print(f"{study.name}: {len(runs)} of {len(study.experiments())} runs", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", type=Path)
    parser.add_argument("studies", nargs="+", metavar="STUDY")
    parser.add_argument("--work", type=Path, default=Path("/tmp/gpu-studies"), help="its files")
    arguments = parser.parse_args()
    collect(arguments.archive, arguments.studies, arguments.work.resolve())


if __name__ == "__main__":
    errors.run(main)
