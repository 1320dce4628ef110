"""Two processes on two cores against one process with two threads: how fast they train and generate.

Stage `train` runs with few steps and with many; the difference is the time of a step, without loading and
measuring. Stage `generate` runs whole. The ways take turns, so that a busy moment of the machine meets all of
them. That losses and weights are those of one process is tested in tests/stages/test_several.py.

Run     python -m benchmarks.processes [--rounds 3] [--steps 10 60] [--output FILE]
        after `dvc repro smoke`
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.common import ratios
from onesentence.commands.edit import apply
from onesentence.core import errors
from onesentence.core.checkpoints import ROOT as CHECKPOINTS
from onesentence.core.errors import UserError
from onesentence.core.files import output_file, write_json
from onesentence.core.machine import machine
from onesentence.core.processes import LAUNCH

WAYS = {"one process": "", "two processes": "--num_processes 2", "FSDP": "--num_processes 2 --use_fsdp"}
ONE = "one process"
COPIED = (
    *("onesentence", "stages", "params.yaml", "requirements.txt", "models/phi-tiny", "data/tokenized"),
    "metrics/smoke.json",
)


def run(folder: Path, options: str, *stage: str) -> float:
    """Seconds of a stage in `folder`; the options are those of `accelerate launch`, "" for one process."""
    environment = {**os.environ, CHECKPOINTS: str(folder / "checkpoints"), LAUNCH: options}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *stage],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(f"{' '.join(stage)} with {options or 'one process'} failed: {done.stderr[-500:]}")
    return time.perf_counter() - started


def set_steps(folder: Path, steps: int) -> None:
    """Train for so many steps, and measure the validation loss at the end alone."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        train = {"epochs": None, "steps": steps, "checkpoint_every": steps}
        apply({"train": {**train, "eval_examples": 8, "log_every": 2}}, "benchmark")
    finally:
        os.chdir(before)


def measured(folder: Path, rounds: int, few: int, many: int) -> dict:
    """Seconds of each way and what they wrote."""
    seconds = {way: {few: [], many: [], "generate": []} for way in WAYS}
    outputs = {}
    with tqdm(total=rounds * 3 * len(WAYS), desc="processes", unit="run") as bar:
        for _ in range(rounds):
            for steps in (few, many):
                set_steps(folder, steps)
                for way, options in WAYS.items():
                    seconds[way][steps].append(run(folder, options, "stages.train"))
                    bar.update()
            for way, options in WAYS.items():
                seconds[way]["generate"].append(run(folder, options, "stages.generate", "base"))
                outputs[way] = (folder / "data/predictions/base.jsonl").read_bytes()
                bar.update()
    step = {way: (np.array(s[many]) - np.array(s[few])) / (many - few) for way, s in seconds.items()}
    generate = {way: np.array(s["generate"]) for way, s in seconds.items()}
    return {
        way: {
            "seconds_a_step": float(np.median(step[way])),
            "times_as_fast": ratios(step[ONE], step[way]),
            "generate_seconds": float(np.median(generate[way])),
            "generate_times_as_fast": ratios(generate[ONE], generate[way]),
            "same_outputs": outputs[way] == outputs[ONE],
        }
        for way in WAYS
    }


def main() -> None:
    about = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processes", description=about)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs=2, default=[10, 60], metavar=("FEW", "MANY"))
    parser.add_argument("--output", type=output_file)
    arguments = parser.parse_args()
    few, many = arguments.steps
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in COPIED:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if Path(name).is_dir():
                shutil.copytree(name, folder / name)
            else:
                shutil.copy(name, folder / name)
        found = measured(folder, arguments.rounds, few, many)
    result = {"rounds": arguments.rounds, "steps": [few, many], "ways": found, "machine": machine()}
    for way, entry in found.items():
        print(
            f"{way}: {entry['seconds_a_step']:.3f} s a step ({entry['times_as_fast']['median']:.2f}x), "
            f"generate {entry['generate_seconds']:.1f} s ({entry['generate_times_as_fast']['median']:.2f}x)"
        )
    if arguments.output:
        write_json(arguments.output, result)


if __name__ == "__main__":
    errors.run(main)
