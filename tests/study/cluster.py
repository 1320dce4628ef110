"""A real Dask scheduler with workers, and a small project whose variants take seconds."""

import atexit
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import yaml
from conftest import ROOT, run

from onesentence.evaluation.metrics import scores_file
from onesentence.study.variants import Study, Variant

IDENTITY = {
    "GIT_AUTHOR_NAME": "test",
    "GIT_AUTHOR_EMAIL": "test@localhost",
    "GIT_COMMITTER_NAME": "test",
    "GIT_COMMITTER_EMAIL": "test@localhost",
}
# The stage of the small project. It leaves a sign of each start and end outside of its clone, and has a
# child.
WORK = """
import json, os, pathlib, subprocess, sys, time
import yaml
data = yaml.safe_load(pathlib.Path("params.yaml").read_text())["data"]
signs = pathlib.Path(data["signs"])
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
name = f"{data['value']}-{os.getpid()}"
threads = {key: os.environ.get(key) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
sign = {"pids": [os.getpid(), child.pid], "folder": os.getcwd(), **threads}
(signs / f".start-{name}").write_text(json.dumps(sign))
(signs / f".start-{name}").rename(signs / f"start-{name}")
if data["value"] == data["fails"]:
    sys.exit(f"the value {data['value']} is not allowed")
deadline = time.time() + data["seconds"]
while time.time() < deadline and not (signs / "hurry").exists():
    time.sleep(0.05)
child.kill()
text = pathlib.Path("data/input.txt").read_text()
for file in map(pathlib.Path, sys.argv[1:]):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text} {file.stem} {data['value']}")
(signs / f"end-{name}").touch()
"""
SCORES = [scores_file(system).as_posix() for system in ("base", "tuned")]
PIPELINE = {
    "stages": {
        "work": {
            "cmd": f"python work.py {' '.join(SCORES)}",
            "deps": ["data/input.txt", "work.py"],
            "params": ["data"],
            "outs": SCORES,
        }
    }
}


def make_small(parent: Path) -> Path:
    """The small project, with a bare git remote and a folder as DVC's remote beside it."""
    shutil.copytree(template(), parent, dirs_exist_ok=True)
    return parent / "project"


@functools.cache
def template() -> Path:
    """The folder of a small project that others are copies of: its paths are relative."""
    parent = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    project = parent / "project"
    for folder in (project / "data", parent / "signs"):
        folder.mkdir(parents=True)
    (project / "work.py").write_text(WORK)
    (project / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    data = {"value": 0, "seconds": 0, "fails": -1, "signs": ""}
    (project / "params.yaml").write_text(yaml.safe_dump({"seed": 0, "data": data}))
    shutil.copy(ROOT / "requirements.txt", project)
    run(project, "git", "init", "--quiet", "--initial-branch=main")
    run(project, "dvc", "init", "--quiet")
    (project / "data/input.txt").write_text("input")
    run(project, "dvc", "add", "--quiet", "data/input.txt")
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--quiet", "--message=small")
    with_remotes(project)
    return parent


def with_remotes(project: Path) -> None:
    """Give a project a bare git remote and DVC's remote, and push everything that workers need."""
    parent = project.parent
    (parent / "drive").mkdir(exist_ok=True)
    run(parent, "git", "init", "--quiet", "--bare", "--initial-branch=main", str(parent / "bare"))
    run(project, "git", "remote", "add", "origin", "../bare")
    run(project, "git", "push", "--quiet", "origin", "HEAD")
    run(project, "dvc", "remote", "add", "--quiet", "--default", "--local", "storage", "../drive")
    run(project, "dvc", "push", "--quiet")


def small_study(project: Path, count: int = 2, **sets) -> Study:
    """A study of the small project: `count` values. sets: other keys of its `data`."""
    sets = {"signs": str(project.parent / "signs"), **sets}
    values = [{"data.value": number, **{f"data.{key}": sets[key] for key in sets}} for number in range(count)]
    variants = tuple(Variant(f"value-{number}", each, each) for number, each in enumerate(values))
    return Study("s", "?", "tiny", "value-0", (0,), variants, {}, "", None, {}, None, None, None, None)


def signs(project: Path, kind: str) -> list[dict]:
    """What the small project's stages left at their start ("start") or end ("end"), without their value."""
    files = sorted((project.parent / "signs").glob(f"{kind}-*"))
    return [{"value": int(file.name.split("-")[1]), **json.loads(file.read_text() or "{}")} for file in files]


def alive(pids: list[int]) -> list[int]:
    """Those of the processes that still run."""
    running = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                running.append(pid)
    return running


def wait_until(reached, seconds: float = 90) -> None:
    """Wait until `reached()` is true; an AssertionError when it takes too long."""
    deadline = time.time() + seconds
    while not reached() and time.time() < deadline:
        time.sleep(0.05)
    assert reached()


def end_group(process: subprocess.Popen, number: int = signal.SIGKILL) -> None:
    """End a process and its group, as if the machine went away."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    process.wait()


class Cluster:
    """A scheduler on `host` and its workers, each in a process group and with a folder of its own.

    It runs the code of this repository, in `folder`.
    """

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        self.folder, self.host = folder, host
        self.workers: dict[str, subprocess.Popen] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "scheduler.json"
        flags = [
            "--no-dashboard",
            "--no-show",
            "--port",
            "0",
            "--host",
            host,
            "--scheduler-file",
            str(self.file),
        ]
        self.scheduler = self.start("scheduler", "distributed.cli.dask_scheduler", *flags)
        wait_until(self.file.is_file, 120)
        self.address = json.loads(self.file.read_text())["address"]

    def start(
        self, name: str, module: str, *arguments: str, prefix: tuple[str, ...] = ()
    ) -> subprocess.Popen:
        """Start a program of Dask; its output goes to a log."""
        with (self.folder / f"{name}.log").open("a") as log:
            return subprocess.Popen(
                [*prefix, sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
                start_new_session=True,
            )

    def add(self, name: str, host: str = "", prefix: tuple[str, ...] = ()) -> None:
        """Start a worker. host: its address; prefix: a command that runs it, such as `ip netns exec NAME`."""
        flags = ["--nthreads", "1", "--no-dashboard", "--local-directory", str(self.folder / name)]
        flags += ["--host", host or self.host]
        module = "distributed.cli.dask_worker"
        self.workers[name] = self.start(name, module, self.address, "--name", name, *flags, prefix=prefix)

    def wait(self, count: int) -> None:
        """Wait until `count` workers are connected."""
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=240)

    def close(self) -> None:
        for process in (*self.workers.values(), self.scheduler):
            end_group(process)


@contextmanager
def cluster(folder: Path, *names: str, host: str = "127.0.0.1"):
    """A `Cluster` with workers of these names."""
    own = Cluster(folder, host)
    try:
        for name in names:
            own.add(name)
        own.wait(len(names))
        yield own
    finally:
        own.close()


NETWORK = "10.77.91"  # of the namespaces below


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def namespaces(*names: str):
    """Network namespaces that reach this machine at NETWORK.1 by a bridge: prefixes of commands in them, with
    their addresses. None where the machine does not allow them.
    """
    mark = os.getpid() % 100_000
    bridge, made = f"os{mark}", []
    try:
        ip("link", "add", bridge, "type", "bridge")
        ip("addr", "add", f"{NETWORK}.1/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        hosts = {}
        for number, name in enumerate(names):
            space, here, there = f"onesentence-{mark}-{name}", f"h{number}x{mark}", f"n{number}x{mark}"
            ip("netns", "add", space)
            made.append(space)
            ip("link", "add", here, "type", "veth", "peer", "name", there)
            ip("link", "set", here, "master", bridge, "up")
            ip("link", "set", there, "netns", space)
            ip("-n", space, "addr", "add", f"{NETWORK}.{number + 2}/24", "dev", there)
            for device in ("lo", there):
                ip("-n", space, "link", "set", device, "up")
            hosts[name] = (("ip", "netns", "exec", space), f"{NETWORK}.{number + 2}")
    except (OSError, subprocess.CalledProcessError):
        hosts = None
    try:
        yield hosts
    finally:
        for words in (("link", "del", bridge), *(("netns", "del", space) for space in made)):
            with suppress(OSError, subprocess.CalledProcessError):
                ip(*words)


@contextmanager
def git_daemon(folder: Path, host: str):
    """A git server of the repositories in a folder; its URL."""
    port = 19_418
    flags = ["--export-all", "--enable=receive-pack", f"--base-path={folder}", "--reuseaddr"]
    process = subprocess.Popen(
        ["git", "daemon", *flags, f"--listen={host}", f"--port={port}", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield f"git://{host}:{port}"
    finally:
        end_group(process)
