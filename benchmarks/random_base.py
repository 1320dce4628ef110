"""What is the base model's pretraining worth? The same adapter on a randomly initialised base.

Copies models/phi-tiny with freshly drawn weights, fine-tunes and generates with the pipeline's own
stages and params.yaml in a folder of its own, and prints the paired difference in ROUGE between the
committed adapter and that one. Takes as long as `train` and `generate` do.

Run     python -m benchmarks.random_base [--output benchmarks/results/random_base.json]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from stages.common import errors, params
from stages.common.errors import UserError
from stages.common.files import read_jsonl, read_parquet, write_json
from stages.common.scores import ROUGE, difference_of, rouge_scores, summary_of

ROOT = Path(__file__).parent.parent
NEEDED = (
    "params.yaml",
    "data/tokenized",
    "data/predictions/adapter.jsonl",
    "data/prepared",
    "models/phi-tiny",
)


def randomise(folder: Path) -> None:
    """Replace the weights in a model folder by freshly initialised ones."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(folder)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)


def run(folder: Path, *module: str) -> None:
    """Run a stage in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", *module], cwd=folder, env=environment, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    missing = [name for name in NEEDED if not Path(name).exists()]
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
        run(folder, "stages.generate", "adapter")
        rows = {"random": read_jsonl(folder / "data/predictions/adapter.jsonl")}
    rows["pretrained"] = read_jsonl(Path("data/predictions/adapter.jsonl"))
    table = read_parquet(Path(f"data/prepared/{p.split}.parquet"))
    ids, references = table["id"].to_pylist(), table["summary"].to_pylist()
    scores = {}
    for system, found in rows.items():
        by_id = {row["id"]: row for row in found}
        ordered = [by_id[key] for key in ids]
        scores[system] = rouge_scores(
            references, [row["prediction"] for row in ordered], [row["status"] == "ok" for row in ordered]
        )
    settings = (p.bootstrap_samples, p.confidence)
    result = {
        "split": p.split,
        "n": len(ids),
        "systems": {
            system: {metric: summary_of(found[metric], *settings) for metric in ROUGE}
            for system, found in scores.items()
        },
        "pretrained-random": {
            metric: difference_of(scores["pretrained"][metric], scores["random"][metric], *settings)
            for metric in ROUGE
        },
    }
    found = result["pretrained-random"]["rouge1"]
    print(
        f"random base: ROUGE-1 {result['systems']['random']['rouge1']['mean']:.2f}; the pretrained base is "
        f"{found['mean']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}] above it (p = {found['p']:.4f})"
    )
    if arguments.output:
        write_json(arguments.output, result)


if __name__ == "__main__":
    errors.run(main)
