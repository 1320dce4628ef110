"""What a worker checks, and which clone a variant gets."""

import sys
import time
from threading import Thread

import pytest
from cluster import make_small

from onesentence.study import guard, worker
from onesentence.study.clone import LAST
from onesentence.study.worker import Profile


def test_profiles_differ_in_words():
    own = Profile("3.11.7", {"dvc": "3.67.1", "torch": "2.13.0"}, "a")
    assert own.difference(own) == ""
    assert own.difference(Profile("3.12.1", own.packages, "a")) == "Python 3.12.1, here 3.11.7"
    other = {"dvc": "3.0.0", "torch": ""}
    assert own.difference(Profile(own.python, other, "a")) == "dvc 3.0.0, here 3.67.1 and 1 more"
    assert own.difference(Profile(own.python, {"dvc": "3.67.1"}, "a")) == "torch none, here 2.13.0"
    # A package that only the other one has changes nothing.
    assert own.difference(Profile(own.python, own.packages | {"more": "1"}, "a")) == ""
    assert own.difference(Profile(own.python, own.packages, "b")) == "another version of onesentence/study"


def test_the_profile_holds_every_pin(monkeypatch):
    assert worker.pinned("# x==1\nb==2 # note\na==1; python_version < '3.12'\n\n-r c.txt\n") == ("a", "b")
    own = worker.own_profile()
    assert own.packages["dvc"] and own.packages["torch"].count("+") == 0 and len(own.code) == 64
    monkeypatch.setattr(worker.importlib.metadata, "version", lambda name: "2.13.0+cpu")
    assert worker.profile(("torch",)).packages == {"torch": "2.13.0"}


def test_places_that_a_machine_does_not_reach_are_named(tmp_path):
    project = make_small(tmp_path)
    bare, drive = str(tmp_path / "bare"), str(tmp_path / "drive")
    assert worker.problems(bare, {"url": drive}) == []
    assert worker.problems(str(project), {"url": drive}) == []
    (problem,) = worker.problems(str(tmp_path / "nothing"), {"url": drive})
    assert problem.startswith(f"git remote {tmp_path / 'nothing'}: ")
    (problem,) = worker.problems(bare, {"url": str(tmp_path / "nowhere")})
    assert "this folder does not exist there; use a shared one" in problem
    (problem,) = worker.problems(bare, {"url": "gs://bucket/path"})
    assert "the package dvc-gs is not installed there" in problem


def test_a_variant_gets_the_clone_that_it_ran_in(tmp_path, monkeypatch):
    def clone(number: int, last: str) -> None:
        file = tmp_path / f"clone-{number}" / LAST
        file.parent.mkdir(parents=True)
        file.write_text(f"refs/exps/{last} {last}")

    folder, lock = worker.claim(tmp_path, "x", "")
    assert folder.name == "clone-0"
    lock.close()
    clone(0, "one")
    clone(1, "two")
    for name, after, wanted in (("two", "", 1), ("x", "two", 1), ("x", "", 0), ("one", "two", 0)):
        folder, lock = worker.claim(tmp_path, name, after)
        assert folder.name == f"clone-{wanted}"
        lock.close()
    # One that is in use is left alone; one in which this variant is just ending is waited for.
    first = worker.locked(tmp_path / "clone-0")
    assert worker.claim(tmp_path, "x", "")[0].name == "clone-1"
    second = worker.locked(tmp_path / "clone-1")
    assert worker.claim(tmp_path, "x", "")[0].name == "clone-2"
    Thread(target=lambda: (time.sleep(0.5), first.close())).start()
    assert worker.claim(tmp_path, "one", "")[0].name == "clone-0"
    # It does not wait for ever.
    monkeypatch.setattr(guard, "PATIENCE", -5)
    assert worker.claim(tmp_path, "two", "")[0].name in ("clone-0", "clone-2")
    second.close()


def test_what_dask_sets_for_itself_does_not_reach_a_variant(monkeypatch):
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    assert "MKL_NUM_THREADS" not in worker.environment()
    assert worker.environment()["OPENBLAS_NUM_THREADS"] == "7"  # the user's


class Lost:
    """A lease that ends after some looks."""

    def __init__(self, looks: float) -> None:
        self.looks = looks

    def lost(self) -> bool:
        self.looks -= 1
        return self.looks < 0


@pytest.mark.parametrize(("looks", "code", "expected"), [(99, "raise SystemExit(3)", 3), (0, "input", None)])
def test_a_command_is_watched(tmp_path, monkeypatch, looks, code, expected):
    monkeypatch.setattr(worker, "POLL", 0.2)
    lock = worker.locked(tmp_path / "clone-0")
    code = "import time; print('on'); time.sleep(600)" if expected is None else code
    log = tmp_path / "log"
    assert (
        worker.supervise([sys.executable, "-u", "-c", code], log, lock, Lost(looks + 10 * (expected is None)))
        == expected
    )
    lock.close()
    assert worker.locked(tmp_path / "clone-0") is not None  # the guard has ended, too
