"""Does anything get lost when processes are killed? `kill -9` at random moments, and what the reruns write.

A small project runs once without a kill: `dvc repro evaluate`, and a study with two jobs. Then it starts
again from nothing, is killed, runs again, is killed again, until it comes to its end. The moments are uniform
over a quarter of the time that the undisturbed run takes, so that kills spread over all stages. A kill ends
all processes, or DVC (in a study: the command) alone, or the stage alone. It must leave no output that
differs from the undisturbed run's, except those that DVC calls unfinished; at the end all must be equal. A
training that goes on must repeat at most `train.checkpoint_every` steps.

Run     python -m benchmarks.soak [--kills 100] [--output FILE]
        python -m benchmarks.soak --kills 5 --only pipeline
        python -m benchmarks.soak --work FOLDER        (a run that is stopped goes on from there)
"""

import argparse
import hashlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tqdm import tqdm

from benchmarks.small import GROWS, SETTINGS, STUDY, Project, hash_of, recorded_outputs, remove, stage_of
from onesentence.core import errors
from onesentence.core.errors import UserError
from onesentence.core.files import output_file, read_json, write_json, write_text
from onesentence.core.machine import machine
from onesentence.report.readme import write_between

KINDS = ("all", "parent", "stage")
RESULT = Path("benchmarks/results/soak.json")
PAGE = Path("docs/reliability.md")
START, END = "<!-- soak: written by benchmarks.soak -->\n", "<!-- end of soak -->\n"
PART = 0.25  # of the undisturbed run's time, over which the moment of a kill is uniform
STUDY_SHARE = 4  # one of so many kills is given to the study
LIMIT = 900  # seconds in which a run must end
PATIENCE = 60  # seconds that processes have to end after the one that started them
CLONES = ".dvc/tmp/studies"
LAST = ".dvc/tmp/variant"  # in a clone: what it runs
# Files that DVC does not write atomically, by what it says of one that a kill left half-written.
TORN = {"Unable to read RWLock-file": ".dvc/tmp/rwlock", "dvc.lock' validation failed": "dvc.lock"}
CONTINUES = re.compile(r"train: continuing from checkpoint-(\d+)")
TRAINS = re.compile(r"Running stage 'train'")


@dataclass
class Found:
    """What the kills have shown so far; it is kept in a file, so that a stopped run goes on."""

    seconds: dict[str, float] = field(default_factory=dict)  # of the undisturbed runs
    expected: dict[str, Any] = field(default_factory=dict)  # what they wrote
    kills: list[dict[str, Any]] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)  # steps, for each training that was killed
    mismatches: list[str] = field(default_factory=list)
    rounds: dict[str, int] = field(default_factory=dict)
    torn: list[str] = field(default_factory=list)  # DVC's files that had to be removed before a rerun

    def count(self, run: str) -> int:
        """The number of kills of one kind of run."""
        return sum(kill["run"] == run for kill in self.kills)


def last_step(folder: Path) -> int:
    """The last training step that the loss curve in a folder shows; 0 without one."""
    path = folder / GROWS
    if not path.is_file():
        return 0
    rows = path.read_text(encoding="utf-8").splitlines()[1:]
    return max((int(row.partition(",")[0]) for row in rows), default=0)


class Repetitions:
    """Counts the steps that trainings repeat: those between a kill and the checkpoint that is used next."""

    def __init__(self) -> None:
        self.reached: dict[str, int] = {}

    def killed(self, place: str, folder: Path) -> None:
        """A training in `folder`, whose output goes to the log of `place`, was killed now.

        If it was killed before, and again before it went on, the earlier kill's steps still count.
        """
        self.reached[place] = max(last_step(folder), self.reached.get(place, 0))

    def resolved(self, place: str, log: Path, folder: Path) -> list[int]:
        """The steps that the run of a log repeated of a training that was killed before it; [] if none was,
        or if the run did not come so far. folder: where it trains. Ask before `killed` notes a kill of this
        run.
        """
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        match = CONTINUES.search(text)
        # DVC removes the curve before it says that the stage runs: a step in it is one of this run.
        from_start = TRAINS.search(text) and last_step(folder) > 0
        if place not in self.reached or (match is None and not from_start):
            return []
        # Where DVC alone was killed, the training made another step before it stopped with a checkpoint.
        return [max(0, self.reached.pop(place) - (int(match[1]) if match else 0))]


def differing_outputs(folder: Path, expected: dict[str, str | None]) -> list[str]:
    """Outputs in a folder that are not as expected, except the loss curve of an unfinished training."""
    finished = {path for outputs in recorded_outputs(folder).values() for path in outputs}
    wrong = []
    for path, wanted in expected.items():
        found = hash_of(folder / path)
        if found == wanted:
            continue
        if path in finished:
            wrong.append(
                f"{path} {'is missing' if found is None else 'differs'} though DVC calls it finished"
            )
        elif found is not None and path != GROWS:
            wrong.append(f"{path} differs in an unfinished stage")
    return wrong


def broken_objects(cache: Path) -> list[str]:
    """Files in DVC's cache whose MD5 is not their name."""
    wrong = []
    for file in (cache / "files/md5").glob("[0-9a-f][0-9a-f]/*"):
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "md5").hexdigest()
        if file.parent.name + file.name.removesuffix(".dir") != digest:
            wrong.append(f"{file.parent.name}/{file.name}: the object in the cache is not its name's")
    return wrong


class Soak:
    """Kills runs of one project. A run is "pipeline" or "study"."""

    def __init__(self, work: Path, seed: int, target: str) -> None:
        self.work, self.target = work, target
        self.state = work / "state.json"
        self.project = Project(work / "project")
        self.found = Found(**read_json(self.state)) if self.state.is_file() else Found()
        # What the kills of a run did that has not come to its end is not known.
        self.found.kills = [
            kill for kill in self.found.kills if kill["round"] < self.found.rounds.get(kill["run"], 0)
        ]
        self.rng = np.random.default_rng([seed, len(self.found.kills)])
        self.repetitions = Repetitions()
        if not (self.project.folder / ".git/refs/heads/main").is_file():
            self.project.folder.mkdir(parents=True, exist_ok=True)
            self.project.lay_out()

    def command(self, run: str) -> list[str]:
        """What a user types."""
        if run == "pipeline":
            return [sys.executable, "-m", "dvc", "repro", self.target]
        return [sys.executable, "-m", "onesentence", "study", STUDY, "--quick", "--jobs", "2"]

    def log(self, run: str) -> Path:
        """The file with the output of the run that was started last."""
        return self.work / f"{run}.log"

    def save(self) -> None:
        """Keep what was found."""
        write_text(self.state, json.dumps(asdict(self.found)))

    def results_of(self, run: str) -> dict[str, Any]:
        """What a finished run has made, in a form to compare."""
        if run == "pipeline":
            return dict(self.project.hashes(list(self.found.expected["pipeline"])))
        refs = self.project.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
        locks = {
            ref.rpartition("/")[2]: self.project.run("git", "show", f"{ref}:dvc.lock").stdout
            for ref in refs
            if not ref.startswith(("refs/exps/exec", "refs/exps/stash"))
        }
        files = ("metrics/studies/{}.json", "metrics/studies/scores/{}.parquet", "plots/studies/{}.csv")
        written = self.project.hashes([file.format(f"quick-{STUDY}") for file in files])
        return {**locks, **written}

    def all_outputs(self) -> list[str]:
        """The paths of the outputs that stages write."""
        return [path for stage in self.found.expected["locked"].values() for path in stage]

    def undisturbed(self, run: str) -> None:
        """Run once without a kill, and keep what it wrote and how long it took."""
        if run in self.found.seconds:
            return
        if run == "study":
            self.project.reset(self.all_outputs())
        started = time.monotonic()
        process = self.project.start(self.command(run), self.log(run))
        if self.wait(process):
            raise UserError(f"soak: the undisturbed {run} failed; its output is in {self.log(run)}")
        self.found.seconds[run] = time.monotonic() - started
        if run == "pipeline":
            locked = {name: outs for name, outs in self.project.outputs().items() if name != "pretrain"}
            self.found.expected["locked"] = locked
            self.found.expected["pipeline"] = self.project.hashes(self.all_outputs())
            self.found.expected["dvc.lock"] = hash_of(self.project.folder / "dvc.lock")
        else:
            self.found.expected["study"] = self.results_of("study")
        self.save()

    def wait(self, process: "subprocess.Popen[bytes]", limit: float = LIMIT) -> int | None:
        """The exit code of a process; None if it has not ended after `limit` seconds."""
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None

    def kill(self, run: str, process: "subprocess.Popen[bytes]") -> bool:
        """Kill a run, or a part of it, and look at what it has left; False if the part had just ended."""
        kind = str(self.rng.choice(KINDS))
        running = [(one, stage_of(one)) for one in self.project.processes()]
        stages = [(one, stage) for one, stage in running if stage]
        # A stage whose DVC was killed before may be about to end: this run does not depend on it.
        own = {child.pid for child in psutil.Process(process.pid).children(recursive=True)}
        owned = [(one, stage) for one, stage in stages if one.pid in own]
        if kind == "stage" and not owned:
            kind = "all"
        if kind == "stage":
            one, stage = owned[int(self.rng.integers(len(owned)))]
            doomed, names = [one], [stage]
        else:
            doomed = [one for one, _ in running] if kind == "all" else [psutil.Process(process.pid)]
            names = [stage for _, stage in stages]
        trained = [one for one, stage in stages if stage == "train"]
        folders = [(one, folder_of(one)) for one in trained]
        if kind == "stage":
            doomed = [one for one in doomed if stopped(one)]
            if not doomed:
                return False
        for one in doomed:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)
        for one, folder in folders:
            if folder and (one in doomed or kind == "parent"):
                self.repetitions.killed(self.place_of(folder), folder)
        where = "+".join(sorted(name for name in names if name)) or "dvc"
        number = self.found.rounds.get(run, 0)
        self.found.kills.append({"run": run, "round": number, "kind": kind, "stage": where})
        self.after_kill(run, kind, process)
        return True

    def place_of(self, folder: Path) -> str:
        """Where the output of a training in a folder goes: to the run's log, or to its variant's."""
        last = folder / LAST
        return last.read_text().partition(" ")[2] if last.is_file() else "pipeline"

    def after_kill(self, run: str, kind: str, process: "subprocess.Popen[bytes]") -> None:
        """Wait for what a kill ends by itself, and note every output that is not as it must be."""
        if kind == "stage":
            if self.wait(process) == 0:
                self.found.mismatches.append(f"{run}: exit code 0 though a stage was killed")
        else:
            self.wait(process)
        if (
            run == "pipeline" and kind != "parent"
        ):  # else the stage may be writing now, which is tested at the end
            wrong = differing_outputs(self.project.folder, self.found.expected["pipeline"])
            self.found.mismatches += [f"after a kill of {kind}: {text}" for text in wrong]
        self.found.mismatches += broken_objects(self.project.folder / ".dvc/cache")
        self.save()

    def note_repetitions(self, run: str) -> None:
        """Note the steps that the run that has ended or was killed has repeated."""
        folder = self.project.folder
        if run == "pipeline":
            self.found.repeated += self.repetitions.resolved("pipeline", self.log("pipeline"), folder)
            return
        # A variant may go on in another clone than the one where it was killed.
        for clone in [path.parents[2] for path in folder.glob(f"{CLONES}/*/{LAST}")]:
            place = self.place_of(clone)
            log = folder / CLONES / f"{place}.log"
            self.found.repeated += self.repetitions.resolved(place, log, clone)

    def round(self, run: str, wanted: int, tick: Callable[[], object]) -> None:
        """Run from nothing to the end, with kills until there are `wanted` of this run."""
        self.project.reset(self.all_outputs())
        self.repetitions = Repetitions()
        while True:
            process = self.project.start(self.command(run), self.log(run))
            left = wanted - self.found.count(run)
            moment = self.rng.uniform(0, PART * self.found.seconds[run]) if left > 0 else LIMIT
            status = self.wait(process, moment)
            if status is None and left <= 0:
                raise UserError(f"soak: a {run} has not ended after {LIMIT} seconds; see {self.log(run)}")
            self.note_repetitions(run)
            if status is None:
                if self.kill(run, process):
                    tick()
                    continue
                status = self.wait(process)
            if status == 0:
                break
            if status is not None and self.torn_file_removed(run):
                continue
            if status is not None:
                text = self.log(run).read_text(encoding="utf-8", errors="replace")
                self.found.mismatches.append(f"{run}: a rerun failed: {' '.join(text.split())[-400:]}")
                break
        self.compare(run)

    def torn_file_removed(self, run: str) -> bool:
        """Whether DVC refused a rerun because of a file that a kill left half-written. It is then removed, as
        docs/reliability.md says; git has no dvc.lock of this project to restore. A study does so in its
        clones by itself.
        """
        said = self.log(run).read_text(encoding="utf-8", errors="replace")
        found = [file for message, file in TORN.items() if message in said]
        torn = [file for file in found if run == "pipeline" or file != "dvc.lock"]
        for file in torn:
            remove(self.project.folder / file)
            self.found.torn.append(file)
        return bool(torn)

    def compare(self, run: str) -> None:
        """Note what a finished run wrote differently, and the processes that it has left."""
        expected, found = self.found.expected[run], self.results_of(run)
        for name in sorted({*expected, *found}):
            if expected.get(name) != found.get(name):
                self.found.mismatches.append(f"{run}: {name} differs after kills")
        if run == "pipeline" and hash_of(self.project.folder / "dvc.lock") != self.found.expected["dvc.lock"]:
            self.found.mismatches.append("pipeline: dvc.lock differs after kills")
        _, alive = psutil.wait_procs(self.project.processes(), timeout=PATIENCE)
        self.found.mismatches += [f"{run}: a process was left: {one.name()}" for one in alive]
        for one in alive:
            one.kill()
        self.found.rounds[run] = self.found.rounds.get(run, 0) + 1
        self.save()


def folder_of(process: psutil.Process) -> Path | None:
    """The working directory of a process; None if it has ended."""
    try:
        return Path(process.cwd())
    except psutil.Error:
        return None


def stopped(process: psutil.Process) -> bool:
    """Stop a process; False if it has ended. One that is stopped cannot end before its kill comes, so that
    the run must fail.
    """
    try:
        process.suspend()
        while (status := process.status()) not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            if status == psutil.STATUS_STOPPED:
                return True
            time.sleep(0.001)
    except psutil.NoSuchProcess:
        pass
    return False


def result_of(found: Found) -> dict[str, Any]:
    """The content of the result's file."""
    by_stage = Counter(kill["stage"] for kill in found.kills if kill["run"] == "pipeline")
    return {
        "kills": len(found.kills),
        "rounds": found.rounds,
        "kills_by_run": {run: found.count(run) for run in found.rounds},
        "kills_by_kind": dict(sorted(Counter(kill["kind"] for kill in found.kills).items())),
        "kills_by_stage": dict(sorted(by_stage.items())),
        "checkpoint_every": SETTINGS["train"]["checkpoint_every"],
        "trainings_killed": len(found.repeated),
        "most_steps_repeated": max(found.repeated, default=0),
        "torn_files_removed": {file: found.torn.count(file) for file in TORN.values()},
        "mismatches": found.mismatches,
    }


def line(result: dict[str, Any]) -> str:
    """The result in one sentence."""
    return (
        f"soak: {result['kills']} kills in {sum(result['rounds'].values())} runs; at most "
        f"{result['most_steps_repeated']} steps repeated (checkpoint every {result['checkpoint_every']}); "
        f"{len(result['mismatches'])} mismatches"
    )


def table(result: dict[str, Any]) -> str:
    """The Markdown table of the result."""
    kinds, stages = result["kills_by_kind"], result["kills_by_stage"]
    names = {"all": "all processes", "parent": "DVC or the command alone", "stage": "the stage alone"}
    rows = [
        ("kills", f"{result['kills']:,}"),
        *((f"kills during the {run}", f"{count:,}") for run, count in result["kills_by_run"].items()),
        ("what was killed", ", ".join(f"{names[kind]}: {count:,}" for kind, count in kinds.items())),
        (
            "what ran in the pipeline, `dvc` between stages included",
            ", ".join(f"`{stage}`: {count:,}" for stage, count in stages.items()),
        ),
        ("runs that came to their end", f"{sum(result['rounds'].values()):,}"),
        ("outputs that differ, half-written files, processes left", f"{len(result['mismatches']):,}"),
        *(
            (f"reruns that needed `{file}` to be removed", f"{count:,}")
            for file, count in result["torn_files_removed"].items()
        ),
        (
            f"most steps repeated by a training (checkpoints every {result['checkpoint_every']})",
            f"{result['most_steps_repeated']:,}, of {result['trainings_killed']:,} killed trainings",
        ),
    ]
    return "| measured | result |\n|---|---|\n" + "".join(f"| {what} | {value} |\n" for what, value in rows)


def soak(
    work: Path, kills: int, runs: tuple[str, ...], seed: int, target: str = "evaluate"
) -> dict[str, Any]:
    """Kill `kills` times in all, and return the result. target: the last stage of the pipeline that runs."""
    whole = Soak(work, seed, target)
    shares = {"pipeline": kills, "study": 0}
    if runs == ("study",):
        shares = {"pipeline": 0, "study": kills}
    elif "study" in runs:
        shares = {"pipeline": kills - kills // STUDY_SHARE, "study": kills // STUDY_SHARE}
    whole.undisturbed("pipeline")  # a study's clones are reset by what it wrote
    with tqdm(total=kills, initial=len(whole.found.kills), desc="soak", unit="kill") as bar:
        for run, wanted in shares.items():
            if wanted:
                whole.undisturbed(run)
            while whole.found.count(run) < wanted:
                whole.round(run, wanted, bar.update)
                bar.set_postfix(mismatches=len(whole.found.mismatches))
    return result_of(whole.found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--only", choices=("pipeline", "study"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--work", type=Path, metavar="FOLDER", help="where the project and the progress are kept"
    )
    parser.add_argument("--write", action="store_true", help=f"put the table of {RESULT} into {PAGE}")
    parser.add_argument("--output", type=output_file)
    arguments = parser.parse_args()
    runs = (arguments.only,) if arguments.only else ("pipeline", "study")
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        result = soak(work, arguments.kills, runs, arguments.seed)
    print(line(result))
    for text in result["mismatches"]:
        print(f"soak: {text}")
    if arguments.output:
        write_json(arguments.output, {**result, "machine": machine()})
    if arguments.write:
        write_between(PAGE, START, END, table(read_json(RESULT)))
    if result["mismatches"]:
        sys.exit(1)


if __name__ == "__main__":
    errors.run(main)
