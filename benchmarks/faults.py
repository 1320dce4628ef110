"""What does each stage say when the machine fails, and is the next run right? Faults, really injected.

A small project runs once. Then each stage runs again under each fault: a full disk, a read-only folder, an
input that vanishes, is cut short or has a flipped bit, a lost or damaged object of DVC's cache, an edited
parameter, a clock set back, too little memory, a second `dvc repro`. A cell of the table passes if the run
fails with one sentence, without a traceback and without a half-written output, and if the next `dvc repro`,
after the fault is repaired as the sentence says, writes the bytes of the undisturbed run. Two faults end
otherwise: with the clock set back the run succeeds, and of two runs at once one does.

Disks are mounted and memory is limited as root; as another user, these faults are skipped. Results are kept
after each cell, and a rerun goes on with the missing ones.

Run     python -m benchmarks.faults --output benchmarks/results/faults.json [--write]
        python -m benchmarks.faults --only disk_full read_only --stages train --output FILE
"""

import argparse
import ctypes
import hashlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from tqdm import tqdm

from benchmarks.small import BASE, GROWS, Project, remove, stage_of
from onesentence.core import errors
from onesentence.core.errors import UserError
from onesentence.core.files import output_file, read_json, write_json, write_text
from onesentence.core.machine import machine
from onesentence.report.readme import write_between

RESULT = Path("benchmarks/results/faults.json")
PAGE = Path("docs/reliability.md")
START, END = "<!-- faults: written by benchmarks.faults -->\n", "<!-- end of faults -->\n"
STAGES = (*("prepare", "tokenize", "smoke", "train", "generate@tuned", "score@tuned", "evaluate", "report"),)
# The folder on which a stage writes its first output, and how many pages (4 kB) of room the full disk has:
# none for a stage that writes little, else a part of an output fits.
WRITES = {
    "prepare": ("data", 1),
    "tokenize": ("data", 1),
    "smoke": ("metrics", 0),
    "train": ("models", 2),
    "generate@tuned": ("data", 0),
    "score@tuned": ("data", 1),
    "evaluate": ("metrics", 1),
    "report": ("plots", 1),
}
# An input of each stage, and DVC's output that holds it. The articles of `prepare` are the user's own.
READS = {
    "tokenize": ("data/prepared/train.parquet", "data/prepared"),
    "smoke": ("data/tokenized/test.parquet", "data/tokenized"),
    "train": ("data/tokenized/train.parquet", "data/tokenized"),
    "generate@tuned": ("data/tokenized/test.parquet", "data/tokenized"),
    "score@tuned": ("data/prepared/test.parquet", "data/prepared"),
    "evaluate": ("data/scores/tuned/tuned.parquet", "data/scores/tuned"),
    "report": ("data/scores/tuned/tuned.parquet", "data/scores/tuned"),
}
SOURCE = "given/train.jsonl"  # the input of prepare
EDITS = {  # a parameter that each stage reads, and another value
    "prepare": ("data", "seed", 1),
    "tokenize": ("prompt", "max_input_tokens", 120),
    "smoke": ("generate", "length_penalty", 0.5),
    "train": ("train", "learning_rate", 0.001),
    "generate@tuned": ("generate", "length_penalty", 0.5),
    "score@tuned": ("evaluate", "bertscore_layer", 5),
    "evaluate": ("evaluate", "confidence", 0.9),
    "report": ("report", "published", "xsum"),
}
WEIGHTS = {
    "smoke": f"{BASE}/model.safetensors",
    "train": f"{BASE}/model.safetensors",
    "generate@tuned": "models/tuned/adapter_model.safetensors",
}
PAGE_BYTES = 4096
MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")  # of cgroup 1; in cgroup 2 the folder above holds memory.max
LITTLE = 16 << 20  # bytes of memory that a stage may take beyond those of its start
LIMIT = 900  # seconds in which a run must end
LOOK = 0.02  # seconds
During = Callable[["subprocess.Popen[bytes]"], None]


class Skipped(Exception):
    """The fault cannot be injected here; the message says why."""


def stage_process(project: Project, process: "subprocess.Popen[bytes]") -> psutil.Process:
    """The process of the stage that a run has started; waits for it."""
    until = time.monotonic() + LIMIT
    while process.poll() is None and time.monotonic() < until:
        for child in children(process):
            if stage_of(child):
                return child
        time.sleep(LOOK)
    raise UserError("faults: DVC started no stage")


def children(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """The processes that a process has started, and those that they have."""
    with suppress(psutil.Error):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def mount(*arguments: str) -> None:
    """Run mount; Skipped if this user may not."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Skipped(f"mount: {done.stderr.strip().splitlines()[-1] if done.stderr else 'failed'}")


def unmount(folder: Path) -> None:
    """Run umount, and wait for those that still use the folder."""
    for _ in range(100):
        if not subprocess.run(["umount", str(folder)], capture_output=True, check=False).returncode:
            return
        time.sleep(0.1)
    raise UserError(f"faults: {folder} cannot be unmounted")


def outputs_of(project: Project, stage: str) -> list[str]:
    """The paths of a stage's outputs."""
    return list(project.outputs()[stage])


def drop_outputs(project: Project, stage: str) -> None:
    """Remove a stage's outputs, as DVC does before it runs the stage."""
    for path in outputs_of(project, stage):
        remove(project.folder / path)


@contextmanager
def disk_full(project: Project, stage: str) -> Iterator[During | None]:
    """The folder of the first output is a disk that has room for a part of it."""
    name, pages = WRITES[stage]
    folder, copy = project.folder / name, project.folder.parent / "copy"
    drop_outputs(project, stage)
    shutil.copytree(folder, copy)
    used = sum(-(-path.stat().st_size // PAGE_BYTES) for path in copy.rglob("*") if path.is_file())
    mount("-t", "tmpfs", "-o", f"size={(used + pages) * PAGE_BYTES}", "tmpfs", str(folder))
    try:
        shutil.copytree(copy, folder, dirs_exist_ok=True)
        yield None
        shutil.rmtree(copy)
        shutil.copytree(folder, copy)  # what the run has left, for the next run
    finally:
        unmount(folder)
        shutil.rmtree(folder)
        shutil.move(copy, folder)


@contextmanager
def read_only(project: Project, stage: str) -> Iterator[During | None]:
    """The folder of the first output is on a file system that was mounted to be read only."""
    folder = project.folder / WRITES[stage][0]
    drop_outputs(project, stage)
    mount("--bind", str(folder), str(folder))
    try:
        mount("-o", "remount,bind,ro", str(folder))
        yield None
    finally:
        unmount(folder)


@contextmanager
def input_vanishes(project: Project, stage: str) -> Iterator[During | None]:
    """An input is removed when the stage has started."""
    path = project.folder / (READS[stage][0] if stage in READS else SOURCE)
    kept = path.read_bytes()

    def during(process: "subprocess.Popen[bytes]") -> None:
        stage_process(project, process)
        path.unlink()

    yield during
    path.write_bytes(kept)


def damaged(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a file's bytes in place and keep its times, as a bad disk does."""
    before = path.stat()
    mode = before.st_mode
    path.chmod(0o644)
    content = change(path.read_bytes())
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()
    path.chmod(mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def flipped(content: bytes) -> bytes:
    """The bytes with one bit flipped in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def half(content: bytes) -> bytes:
    """The first half of the bytes."""
    return content[: len(content) // 2]


def restore(project: Project, output: str) -> None:
    """What the sentence about a damaged output says: remove it, and `dvc checkout`."""
    remove(project.folder / output)
    project.run("dvc", "checkout", output)


@contextmanager
def input_flipped(project: Project, stage: str) -> Iterator[During | None]:
    """A bit of an input has flipped; its size and its times are as before."""
    path, output = READS[stage]
    damaged(project.folder / path, flipped)
    yield None
    restore(project, output)


@contextmanager
def input_cut_short(project: Project, stage: str) -> Iterator[During | None]:
    """A parquet file that the stage reads has lost its second half."""
    path, output = READS[stage]
    damaged(project.folder / path, half)
    yield None
    restore(project, output)


@contextmanager
def weights_cut_short(project: Project, stage: str) -> Iterator[During | None]:
    """A safetensors file has lost its second half: the base model's, for `generate` the adapter's."""
    path = WEIGHTS[stage]
    damaged(project.folder / path, half)
    yield None
    if path.startswith(BASE):
        project.run("git", "checkout", "--", path)
    else:
        restore(project, "models/tuned")


def cache_object(project: Project, path: str, output: str) -> Path:
    """The object of DVC's cache that holds a file of an output folder."""
    name = hashlib.md5((project.folder / path).read_bytes()).hexdigest()
    return project.folder / ".dvc/cache/files/md5" / name[:2] / name[2:]


@contextmanager
def cache_lost(project: Project, stage: str) -> Iterator[During | None]:
    """An input is missing, and so is its object in DVC's cache."""
    path, output = READS[stage]
    found, kept = cache_object(project, path, output), (project.folder / path).read_bytes()
    found.unlink()
    remove(project.folder / output)
    yield None
    # The stage that makes it runs again, and stores the object again.
    project.run("dvc", "repro", "--no-run-cache", "--single-item", maker_of(project, output))
    assert (project.folder / path).read_bytes() == kept and found.is_file()


@contextmanager
def cache_flipped(project: Project, stage: str) -> Iterator[During | None]:
    """An input was checked out of DVC's cache, where a bit of its object has flipped."""
    path, output = READS[stage]
    found = cache_object(project, path, output)
    damaged(found, flipped)
    remove(project.folder / output)
    project.run("dvc", "checkout", output, check=False)
    yield None
    remove(found)  # what the sentence says
    remove(project.folder / output)
    project.run("dvc", "repro", "--no-run-cache", "--single-item", maker_of(project, output))


def maker_of(project: Project, output: str) -> str:
    """The stage that writes an output."""
    return next(stage for stage, outputs in project.outputs().items() if output in outputs)


class Reads:
    """Waits until a file was read (inotify)."""

    CLOSED = 0x10  # IN_CLOSE_NOWRITE

    def __init__(self, path: Path) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.file = self.libc.inotify_init()
        if self.file < 0 or self.libc.inotify_add_watch(self.file, os.fsencode(path), self.CLOSED) < 0:
            raise Skipped("inotify cannot watch a file here")

    def wait(self, process: "subprocess.Popen[bytes]") -> None:
        """Return after the next read, or when the process has ended."""
        while process.poll() is None:
            if select.select([self.file], [], [], LOOK)[0]:
                os.read(self.file, 4096)
                return

    def forget(self) -> None:
        """Drop the reads so far."""
        while select.select([self.file], [], [], 0)[0]:
            os.read(self.file, 4096)


@contextmanager
def parameter_edited(project: Project, stage: str) -> Iterator[During | None]:
    """A parameter of the stage is edited after the stage has read it."""
    path = project.folder / "params.yaml"
    before = path.read_text(encoding="utf-8")
    section, key, value = EDITS[stage]
    values = yaml.safe_load(before)
    values[section][key] = value
    reads = Reads(path)

    def during(process: "subprocess.Popen[bytes]") -> None:
        stage_process(project, process)
        reads.forget()
        for _ in range(2):  # the parameters, and the note of what they were
            reads.wait(process)
        write_text(path, yaml.safe_dump(values, sort_keys=False))

    yield during
    os.close(reads.file)
    write_text(path, before)


@contextmanager
def little_memory(project: Project, stage: str) -> Iterator[During | None]:
    """The system allows the stage little memory from its start, and kills it (a container's limit)."""
    version1 = (MEMORY_GROUPS / "memory.limit_in_bytes").is_file()
    group = (MEMORY_GROUPS if version1 else MEMORY_GROUPS.parent) / f"onesentence-{os.getpid()}"
    try:
        group.mkdir()
        limit = "memory.limit_in_bytes" if version1 else "memory.max"
        (group / limit).write_text(str(LITTLE))
    except OSError as error:
        raise Skipped(f"no group with a limit of memory can be made: {error.strerror}") from error

    def during(process: "subprocess.Popen[bytes]") -> None:
        (group / "cgroup.procs").write_text(str(stage_process(project, process).pid))

    try:
        yield during
    finally:
        group.rmdir()


@contextmanager
def little_address_space(project: Project, stage: str) -> Iterator[During | None]:
    """The stage may map no more memory than at its start, as with `ulimit -v`."""

    def during(process: "subprocess.Popen[bytes]") -> None:
        started = stage_process(project, process)
        size = started.memory_info().vms + 4 * LITTLE
        started.rlimit(psutil.RLIMIT_AS, (size, size))

    yield during


@contextmanager
def clock_set_back(project: Project, stage: str) -> Iterator[During | None]:
    """The clock of the whole run is a day behind."""
    if shutil.which("faketime") is None:
        raise Skipped("the program faketime is not installed")
    yield None


@contextmanager
def two_at_once(project: Project, stage: str) -> Iterator[During | None]:
    """A second `dvc repro` of the same stage starts while the first one runs it."""

    def during(process: "subprocess.Popen[bytes]") -> None:
        first = stage_process(project, process)
        first.suspend()  # a short stage would end before the second run starts
        project.second = project.run(*repro(stage, force=True), check=False)  # type: ignore[attr-defined]
        first.resume()

    yield during


@dataclass(frozen=True)
class Fault:
    """A fault: how it is injected, where it applies and how a run under it must end."""

    title: str
    inject: Callable[[Project, str], AbstractContextManager[During | None]]
    stages: tuple[str, ...] = STAGES
    fails: bool = True
    prefix: tuple[str, ...] = ()  # of the command


READERS = tuple(READS)
FAULTS = {
    "disk_full": Fault("the disk is full", disk_full),
    "read_only": Fault("the folder is read-only", read_only),
    "input_vanishes": Fault("an input vanishes", input_vanishes),
    "input_flipped": Fault("a bit of an input flips", input_flipped, READERS),
    "input_cut_short": Fault("a parquet file is cut short", input_cut_short, READERS),
    "weights_cut_short": Fault("a safetensors file is cut short", weights_cut_short, tuple(WEIGHTS)),
    "cache_lost": Fault("an input and its object in DVC's cache are lost", cache_lost, READERS),
    "cache_flipped": Fault("a bit of an object in DVC's cache flips", cache_flipped, READERS),
    "parameter_edited": Fault("a parameter is edited in mid-run", parameter_edited),
    "little_memory": Fault("the system kills the stage for lack of memory", little_memory),
    "little_address_space": Fault("the stage may map little memory", little_address_space),
    "clock_set_back": Fault(
        "the clock is set back by a day", clock_set_back, fails=False, prefix=("faketime", "-f", "-1d")
    ),
    "two_at_once": Fault("two `dvc repro` at once", two_at_once, fails=False),
}


def repro(stage: str, force: bool) -> list[str]:
    """The command that runs one stage, and not from DVC's record of earlier runs."""
    return ["dvc", "repro", "--single-item", "--no-run-cache", *(["--force"] if force else []), stage]


def sentence_of(text: str) -> str | None:
    """The sentence with which a run ended: the stage's own, else DVC's; None if neither said one."""
    lines = [line.strip() for line in text.splitlines()]
    for start in ("error: ", "ERROR: "):
        for line in reversed(lines):
            if line.startswith(start):
                return line
    return None


def half_written(project: Project, expected: dict[str, str | None]) -> list[str]:
    """Outputs of the stage that exist and are not as expected; the loss curve grows and is left out."""
    found = project.hashes(list(expected))
    return [
        path for path, content in found.items() if content not in (None, expected[path]) and path != GROWS
    ]


def without_paths(text: str, project: Project) -> str:
    """A sentence without this machine's folders and numbers of processes."""
    text = text.replace(f"{project.folder}/", "").replace(str(project.folder), ".")
    text = re.sub(r"\.\d+\.tmp\b", ".N.tmp", text)
    return re.sub(r"\b(process|PID|pid)[ :]*\d+", r"\1 N", text)


def run_cell(project: Project, name: str, stage: str, log: Path) -> dict[str, Any]:
    """Run a stage under a fault, repair it, run again; returns what was found, with "passed"."""
    fault = FAULTS[name]
    expected = project.hashes(outputs_of(project, stage))
    lock = (project.folder / "dvc.lock").read_bytes()
    try:
        with fault.inject(project, stage) as during:
            process = project.start(repro(stage, force=True), log, fault.prefix)
            if during:
                during(process)
            status = process.wait(LIMIT)
    except Skipped as skipped:
        return {"passed": None, "why": str(skipped)}
    text = log.read_text(encoding="utf-8", errors="replace")
    if name == "two_at_once":
        second = project.second  # type: ignore[attr-defined]
        failures = [(status, text), (second.returncode, second.stdout + second.stderr)]
        refused = [output for code, output in failures if code]
        text = refused[0] if len(refused) == 1 else text
        status = int(len(refused) != 1)
    problems = []
    sentence = sentence_of(text)
    if bool(status) != fault.fails:
        problems.append(f"exit code {status}")
    if "Traceback" in text:
        problems.append("a traceback")
    if sentence is None and (fault.fails or name == "two_at_once"):
        problems.append("no sentence")
    problems += [f"{path} is half-written" for path in half_written(project, expected)]
    left = [one.name() for one in psutil.wait_procs(project.processes(), timeout=30)[1]]
    problems += [f"{program} was left running" for program in left]
    again = project.run(*repro(stage, force=False), check=False)
    if again.returncode:
        problems.append(f"the next run failed: {sentence_of(again.stdout + again.stderr)}")
    wrong = [path for path, content in project.hashes(list(expected)).items() if content != expected[path]]
    problems += [f"{path} differs after the next run" for path in wrong]
    if (project.folder / "dvc.lock").read_bytes() != lock:
        problems.append("dvc.lock differs after the next run")
    entry: dict[str, Any] = {"passed": not problems, "exit_code": status}
    if sentence:
        entry["sentence"] = without_paths(sentence, project)
    if problems:
        entry["problems"] = [without_paths(problem, project) for problem in problems]
    return entry


def finished_project(work: Path) -> Project:
    """The small project after `dvc repro`, and a copy of it beside it."""
    project = Project(work / "project")
    copy = work / "finished"
    if not copy.is_dir():
        remove(project.folder)
        project.folder.mkdir(parents=True)
        project.lay_out()
        project.run("dvc", "repro")
        project.run("git", "add", "--all")
        project.run("git", "commit", "--quiet", "--message=run")
        shutil.copytree(project.folder, work / ".copy", symlinks=True)
        (work / ".copy").rename(copy)
    else:
        renew(project, copy)
    return project


def renew(project: Project, copy: Path) -> None:
    """Make the project as it was when it was finished. A mount that a killed run left is undone."""
    for folder in {folder for folder, _ in WRITES.values()}:
        while os.path.ismount(project.folder / folder):
            unmount(project.folder / folder)
    for process in project.processes():
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    remove(project.folder)
    shutil.copytree(copy, project.folder, symlinks=True)


def chosen_cells(only: list[str], stages: list[str]) -> list[tuple[str, str]]:
    """(fault, stage) of the cells to run."""
    return [
        (name, stage)
        for name, fault in FAULTS.items()
        for stage in fault.stages
        if name in only and stage in stages
    ]


def inject_all(cells: list[tuple[str, str]], work: Path, output: Path | None, again: bool) -> dict[str, Any]:
    """Run the cells that the output lacks (`again`: all), and return the whole result."""
    found: dict[str, Any] = read_json(output)["cells"] if output and output.is_file() else {}
    missing = [(name, stage) for name, stage in cells if again or stage not in found.get(name, {})]
    result = {"cells": found, "machine": machine()}
    if not missing:
        return result
    project = finished_project(work)
    with tqdm(missing, desc="faults", unit="cell") as bar:
        for name, stage in bar:
            bar.set_postfix_str(f"{name} in {stage}")
            entry = run_cell(project, name, stage, work / "log")
            found.setdefault(name, {})[stage] = entry
            if not entry["passed"]:
                bar.write(f"{name} in {stage}: {entry}")
                renew(project, work / "finished")
            if output:
                write_json(output, result)
    return result


def table(result: dict[str, Any]) -> str:
    """The Markdown table of faults and stages, and what the runs said."""
    cells = result["cells"]
    marks = {True: "yes", False: "**no**", None: "skipped"}
    rows = [
        "| fault | " + " | ".join(f"`{stage}`" for stage in STAGES) + " |",
        "|---|" + "---|" * len(STAGES),
    ]
    for name, fault in FAULTS.items():
        if name not in cells:
            continue
        columns = []
        for stage in STAGES:
            if stage not in fault.stages:
                columns.append("")
            elif stage in cells[name]:
                columns.append(marks[cells[name][stage]["passed"]])
            else:
                columns.append("not run")
        rows.append(f"| {fault.title} | " + " | ".join(columns) + " |")
    done = [entry["passed"] for stages in cells.values() for entry in stages.values()]
    summary = f"{done.count(True)} of {len(done)} passed"
    if done.count(None):
        summary += f", {done.count(None)} skipped"
    return "\n".join([*rows, "", f"{summary}."]) + "\n\n" + sentences(cells)


def sentences(cells: dict[str, dict[str, Any]]) -> str:
    """One sentence for each fault, as the first stage that met it ended."""
    rows = ["| fault | what the run says, for example |", "|---|---|"]
    for name, fault in FAULTS.items():
        said = [entry["sentence"] for entry in cells.get(name, {}).values() if entry.get("sentence")]
        if said:
            text = said[0].replace("|", r"\|").replace("`", "'")
            rows.append(f"| {fault.title} | `{text}` |")
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="FAULT")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), metavar="STAGE")
    parser.add_argument("--again", action="store_true", help="run cells again that the output has")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="where the project is kept")
    parser.add_argument("--write", action="store_true", help=f"put the table of {RESULT} into {PAGE}")
    parser.add_argument("--output", type=output_file)
    arguments = parser.parse_args()
    cells = chosen_cells(arguments.only, arguments.stages)
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        result = inject_all(cells, work, arguments.output, arguments.again)
    print(table(result))
    if arguments.write:
        write_between(PAGE, START, END, table(read_json(RESULT)))
    if any(entry["passed"] is False for stages in result["cells"].values() for entry in stages.values()):
        sys.exit(1)


if __name__ == "__main__":
    errors.run(main)
