"""Studies on a real Dask scheduler: workers and heads that are killed, and what is printed."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml
from cluster import (
    IDENTITY,
    NETWORK,
    SCORES,
    Cluster,
    alive,
    cluster,
    end_group,
    git_daemon,
    make_small,
    namespaces,
    signs,
    small_study,
    wait_until,
    with_remotes,
)
from conftest import ROOT, make_project, run

from onesentence.core.errors import UserError
from onesentence.study import scheduler, worker
from onesentence.study.pool import log_of, run_missing
from onesentence.study.scheduler import Workers, connect

# A head in a process of its own, so that it can be killed. argv: address, seconds of a variant.
HEAD = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell's children ignore it
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
from pathlib import Path
from cluster import small_study
from onesentence.study.experiments import git
from onesentence.study.pool import WORK, run_missing
from onesentence.study.scheduler import Workers
WORK.mkdir(parents=True, exist_ok=True)
study = small_study(Path.cwd(), 3, seconds=float(sys.argv[2]))
pool = Workers(sys.argv[1], "s", git("rev-parse", "HEAD").strip(), None)
pool.open()
names = study.experiments()
here = git("for-each-ref", "refs/exps")
pool.fetch_finished(list(names))
here = git("for-each-ref", "--format=%(refname)", "refs/exps")
missing = {name: values for name, values in names.items() if f"/{name}" not in here}
print("missing", *missing, flush=True)
failed = run_missing(study, missing, pool, lambda name, cost: None)
pool.drop()
sys.exit(len(failed))
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    project = make_small(tmp_path)
    monkeypatch.chdir(project)
    for key, value in IDENTITY.items():
        monkeypatch.setenv(key, value)
    Path(".dvc/tmp/studies").mkdir(parents=True)
    return project


def opened(address: str) -> Workers:
    commit = run(Path(), "git", "rev-parse", "HEAD").stdout.strip()
    pool = Workers(address, "s", commit, None)
    pool.open()
    return pool


def experiments(folder: Path) -> dict[str, str]:
    """The commits of experiments in a repository, by name."""
    lines = run(folder, "git", "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps").stdout
    return {line.split()[0].rpartition("/")[2]: line.split()[1] for line in lines.splitlines()}


@contextmanager
def head(address: str, seconds: float):
    """A head in the background; it is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD, address, str(seconds)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests/study'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        end_group(process)


@pytest.mark.slow
def test_variants_run_on_workers_and_come_back_through_the_remotes(small, tmp_path):
    with cluster(tmp_path / "dask", "a", "b") as dask:
        pool = opened(str(dask.file))  # the scheduler's file serves as well as its address
        study = small_study(small, 3, fails=2)
        finished: dict[str, dict] = {}
        failed = run_missing(study, study.experiments(), pool, finished.__setitem__)
        assert failed == ["value-2-seed0"]
        assert sorted(finished) == ["value-0-seed0", "value-1-seed0"] and pool.running() == []
        assert all(cost["machine"] and cost["seconds"] > 0 for cost in finished.values())
        # What succeeded is here, in the git remote, and its scores are in the cache of this machine.
        assert sorted(experiments(small)) == ["value-0-seed0", "value-1-seed0"]
        assert experiments(small) == experiments(tmp_path / "bare")
        shown = run(small, "dvc", "exp", "show", "--json").stdout
        assert "value-1-seed0" in shown
        (tmp_path / "drive").rename(tmp_path / "away")
        run(small, "dvc", "exp", "apply", "value-1-seed0")
        assert (small / SCORES[1]).read_text() == "input tuned 1"
        (tmp_path / "away").rename(tmp_path / "drive")
        # The author is the head's, the log of the failed one is here, and a variant has its share of cores.
        author = run(small, "git", "log", "-1", "--format=%an <%ae>", experiments(small)["value-1-seed0"])
        assert author.stdout.strip() == "test <test@localhost>"
        assert "the value 2 is not allowed" in log_of("value-2-seed0").read_text()
        started = signs(small, "start")
        cores = max(1, min(2, (os.cpu_count() or 1) // 2))
        assert {sign["OMP_NUM_THREADS"] for sign in started} == {str(cores)}
        assert {sign["MKL_NUM_THREADS"] for sign in started} == {None}  # Dask's own choice is not passed on
        # Two clones for two workers: the third variant ran in one that was there.
        folders = [sign["folder"] for sign in started]
        assert len(folders) == 3 and len(set(folders)) == 2
        assert alive([pid for sign in started for pid in sign["pids"]]) == []  # of the failed one, too
        # A comparison reads no inputs: those of this machine may be in the remote alone.
        shutil.rmtree(small / ".dvc/cache")
        assert (pool.clone().folder / "params.yaml").is_file()
        pool.drop()
        assert not list((tmp_path / "dask").rglob("clone-?/.git"))


TINY = {
    "scales": {"tiny": {"model": "models/tiny", "settings": {"evaluate.split": "validation"}, "quick": {}}},
    "studies": {
        "rank": {
            "question": "Does quality grow with the rank?",
            "baseline": "rank-2",
            "seeds": [0, 1],
            "axes": {"lora.rank": [2, 4]},
        }
    },
}


@pytest.fixture
def two_machines(tmp_path):
    """A scheduler with two workers, each in a network namespace of its own and with a git server between
    them and the head; on one machine's loopback where namespaces are not allowed. Its URL of git, or "".
    """
    with ExitStack() as stack:
        hosts = stack.enter_context(namespaces("a", "b"))
        dask = Cluster(tmp_path / "dask", f"{NETWORK}.1" if hosts else "127.0.0.1")
        stack.callback(dask.close)
        for name in ("a", "b"):
            prefix, host = hosts[name] if hosts else ((), "")
            dask.add(name, host, prefix)
        url = stack.enter_context(git_daemon(tmp_path, f"{NETWORK}.1")) if hosts else ""
        dask.wait(2)
        yield dask, url


@pytest.mark.slow
@pytest.mark.long
def test_a_quick_study_on_two_machines_gives_the_bytes_of_one(two_machines, tmp_path, pairs, tiny):
    dask, url = two_machines
    project = make_project(tmp_path, pairs, tiny)
    (project / "studies.yaml").write_text(yaml.safe_dump(TINY, sort_keys=False))
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--quiet", "--message=studies")
    with_remotes(project)
    if url:
        run(project, "git", "remote", "set-url", "origin", f"{url}/bare")
    study = ("python", "-m", "onesentence", "study", "rank", "--quick")
    run(project, *study, "--scheduler", dask.address)
    names = [f"quick-rank-{rank}-seed0" for rank in (2, 4)]
    assert sorted(experiments(project)) == names and experiments(tmp_path / "bare") == experiments(project)
    files = [project / "metrics/studies/quick-rank.json", *(project / "plots/studies").glob("quick-rank.*")]
    files.append(project / "metrics/studies/scores/quick-rank.parquet")
    assert len(files) == 4
    there = {file: file.read_bytes() for file in files}
    trees = [
        run(project, "git", "rev-parse", f"{experiments(project)[name]}^{{tree}}").stdout for name in names
    ]
    # One machine: without what the workers made.
    run(project, "dvc", "exp", "remove", *names)
    for file in files:
        file.unlink()
    run(project, *study)
    assert {file: file.read_bytes() for file in files} == there
    here = [
        run(project, "git", "rev-parse", f"{experiments(project)[name]}^{{tree}}").stdout for name in names
    ]
    assert here == trees  # every file of both experiments


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_leaves_no_process(small, tmp_path):
    with cluster(tmp_path / "dask", "a") as dask:
        pool = opened(dask.address)
        study = small_study(small, 1, seconds=600)
        failed: list = []
        head = threading.Thread(
            target=lambda: failed.append(
                run_missing(study, study.experiments(), pool, lambda name, cost: None)
            )
        )
        head.start()
        wait_until(lambda: signs(small, "start"))
        (first,) = signs(small, "start")
        assert alive(first["pids"]) == first["pids"]
        # The process that runs the task dies; Dask's nanny starts another one, which goes on in the clone.
        client = connect(dask.address)
        (pid,) = client.run(os.getpid).values()
        client.close()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(signs(small, "start")) == 2)
        assert alive(first["pids"]) == []
        (second,) = [sign for sign in signs(small, "start") if sign["pids"] != first["pids"]]
        assert second["folder"] == first["folder"]
        # The whole machine goes away; another one takes the variant.
        dask.add("b")
        dask.wait(2)
        end_group(dask.workers["a"])
        wait_until(lambda: len(signs(small, "start")) == 3)
        wait_until(lambda: alive(second["pids"]) == [], 20)
        (tmp_path / "signs/hurry").touch()
        head.join(timeout=60)
        assert failed == [[]]
        assert len(signs(small, "end")) == 1
        assert list(experiments(small)) == ["value-0-seed0"]


@pytest.mark.slow
def test_a_head_that_is_killed_or_stopped_goes_on_when_it_is_started_again(small, tmp_path):
    with cluster(tmp_path / "dask", "a", "b") as dask:
        with head(dask.address, 600) as process:
            wait_until(lambda: len(signs(small, "start")) == 2)
        # Killed: it could tell nobody. The next head ends what it had left, and starts it again.
        first = [pid for sign in signs(small, "start") for pid in sign["pids"]]
        with head(dask.address, 600) as process:
            wait_until(lambda: len(signs(small, "start")) == 4)
            assert alive(first) == []
            # Ctrl-C: the variants end before the head does.
            process.send_signal(signal.SIGINT)
            output = process.communicate(timeout=60)[0]
            assert process.returncode not in (0, None), output
            assert alive([pid for sign in signs(small, "start") for pid in sign["pids"]]) == []
        assert experiments(tmp_path / "bare") == {}
        # Killed after its worker had finished a variant, and before the head fetched it.
        with head(dask.address, 0) as process:
            wait_until(lambda: experiments(tmp_path / "bare"))
            process.send_signal(signal.SIGSTOP)  # it fetches nothing more
        wait_until(lambda: len(signs(small, "end")) >= 2)
        time.sleep(0.5)
        there = set(experiments(tmp_path / "bare"))
        with head(dask.address, 0) as process:
            output = process.communicate(timeout=120)[0]
            assert process.returncode == 0, output
        missing = {line for line in output.splitlines() if line.startswith("missing")}
        assert len(missing) == 1 and not there & set(missing.pop().split()), output
        assert experiments(small) == experiments(tmp_path / "bare")
        assert sorted(experiments(small)) == [f"value-{number}-seed0" for number in range(3)]


@pytest.mark.slow
def test_a_head_that_is_silent_loses_its_lease_and_a_worker_that_is_not_fit_is_refused(
    small, tmp_path, monkeypatch
):
    with cluster(tmp_path / "dask", "a") as dask:
        pool = opened(dask.address)
        study = small_study(small, 1, seconds=600)
        # The lease is given to another head: the variant ends, and must run again.
        (place,) = pool.places()
        pool.start(place, "value-0-seed0", study.experiments()["value-0-seed0"])
        wait_until(lambda: signs(small, "start"))
        pool.over.set()
        pool.renewing.join()
        pool.variable.set(["another", 0])
        ended: list = []
        wait_until(lambda: ended.extend(pool.ended()) or ended, 60)
        assert [(each.name, each.state) for each in ended] == [("value-0-seed0", "again")]
        assert alive([pid for sign in signs(small, "start") for pid in sign["pids"]]) == []
        assert experiments(tmp_path / "bare") == {}
        pool.close()
        # A worker of other packages, of another place.
        own = worker.own_profile()
        other = worker.Profile(own.python, own.packages | {"torch": "1.0"}, own.code)
        monkeypatch.setattr(scheduler.worker, "own_profile", lambda: other)
        with pytest.raises(UserError, match=r"worker tcp://.*: it has torch .*, here 1\.0"):
            opened(dask.address)
        # It was not given a variant before: the check on the worker itself refuses it, too.
        pool = Workers(dask.address, "s", run(small, "git", "rev-parse", "HEAD").stdout.strip(), None)
        pool.lasts = dict.fromkeys(pool._workers(), "")
        pool.variable.set([pool.lease.head, 0])
        (place,) = pool.places()
        pool.start(place, "value-0-seed0", study.experiments()["value-0-seed0"])
        wait_until(lambda: ended.extend(pool.ended()) or len(ended) == 2, 60)
        assert ended[1].state == "again" and pool.places() == []
        assert "left out: worker tcp://" in "".join(pool.news())
        pool.close()


def test_an_address_where_nothing_answers_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "CONNECT", 1)
    with pytest.raises(UserError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9 "):
        connect("tcp://127.0.0.1:9")
    with pytest.raises(UserError, match="expected an address such as tcp://HOST:8786"):
        connect("127.0.0.1")
    with pytest.raises(UserError, match=r"nothing\.json: not found"):
        connect(str(tmp_path / "nothing.json"))
