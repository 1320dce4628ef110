"""What is the base model's pretraining worth? The same adapter on a randomly initialised base.

Copies models/phi-tiny with freshly drawn weights, fine-tunes and generates with the pipeline's own
stages and params.yaml in a folder of its own, and prints the paired difference in ROUGE-1 between the
committed adapter and that one, with the stage `evaluate`'s code. Takes as long as `train` and `generate` do.

Run     python -m benchmarks.random_base [--output benchmarks/results/random_base.json]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from onesentence.core import errors, params
from onesentence.core.errors import UserError
from onesentence.core.files import output_file, read_jsonl, read_parquet
from onesentence.evaluation import comparison, scoring
from onesentence.evaluation.metrics import test_hash
from onesentence.report.sentences import clusters_phrase, difference_sentence

ROOT = Path(__file__).parent.parent
INPUTS = (
    "params.yaml",
    "data/tokenized",
    "data/predictions/tuned.jsonl",
    "data/prepared",
    "models/phi-tiny",
)


def randomise(folder: Path) -> None:
    """Replace the weights in a model folder by freshly initialised ones."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)


def run(folder: Path, *module: str) -> None:
    """Run a stage in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", *module], cwd=folder, env=environment, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=output_file)
    arguments = parser.parse_args()
    missing = [name for name in INPUTS if not Path(name).exists()]
    if missing:
        raise UserError(f"{', '.join(missing)} not found; run `dvc repro` first")
    p = params.load(("evaluate", "model.name"))
    if p.model.name != "models/phi-tiny":
        raise UserError(
            f"model.name: only models/phi-tiny is compared with a random base, not {p.model.name}"
        )
    p = p.evaluate
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy("params.yaml", folder)
        (folder / "metrics").mkdir()
        shutil.copytree("models/phi-tiny", folder / "models/phi-tiny")
        randomise(folder / "models/phi-tiny")
        shutil.copytree("data/tokenized", folder / "data/tokenized")
        # Not the smoke stage: a random base never stops by itself and is not meant to.
        (folder / "metrics/smoke.json").write_text("{}")
        run(folder, "stages.train")
        run(folder, "stages.generate", "tuned")
        rows = {"random": read_jsonl(folder / "data/predictions/tuned.jsonl")}
    rows["pretrained"] = read_jsonl(Path("data/predictions/tuned.jsonl"))
    table = read_parquet(Path(f"data/prepared/{p.split}.parquet"))
    ids, references = table["id"].to_pylist(), table["summary"].to_pylist()
    outputs, succeeded = {}, {}
    for system in ("pretrained", "random"):
        by_id = {row["id"]: row for row in rows[system]}
        ordered = [by_id[key] for key in ids]
        outputs[system] = [row["prediction"] for row in ordered]
        succeeded[system] = [row["status"] == "ok" for row in ordered]
    scores = scoring.score_systems(
        ids,
        references,
        outputs,
        succeeded,
        None,
        p,
        bertscore=False,
        behaviour={},
        groups=table["group"].to_pylist(),
        unit="file",
    )
    sums = comparison.resampled(scores, p.resamples)
    pairs = [("pretrained", "random")]
    result = {
        "split": p.split,
        "n": len(ids),
        "test": test_hash(ids, references),
        "confidence": p.confidence,
        "resamples": p.resamples,
        "resampling": comparison.described_sample(scores),
        "metrics": comparison.definitions(scores),
        "systems": comparison.summaries(scores, sums, p.confidence),
        "comparisons": comparison.comparisons(scores, pairs, sums, p.resamples, p.confidence),
    }
    found = result["comparisons"]["pretrained-random"]["rouge1"]
    articles = clusters_phrase(result)
    print(
        difference_sentence("the pretrained base", "the random base", found, "rouge1", articles, p.confidence)
    )
    if arguments.output:
        comparison.write_evaluation(arguments.output, result)


if __name__ == "__main__":
    errors.run(main)
