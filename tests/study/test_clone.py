"""The clone that a killed study left: what is repaired in it, and what of it is kept."""

import pytest
from cluster import make_small
from conftest import run

from onesentence.study.clone import Clone, has_whole_lock, tracked

MD5 = "d41d8cd98f00b204e9800998ecf8427e"
WHOLE = (
    f"schema: '2.0'\nstages:\n  a:\n    cmd: python a.py\n    outs:\n    - path: a.txt\n      md5: {MD5}\n"
)
TORN = {
    "empty": "",
    "cut short": WHOLE.partition(" md5")[0] + " md",
    "bytes": "\0" * 20,
    "half a stage": WHOLE.partition("    cmd")[0],
}


def test_inputs_may_have_any_name(tmp_path):
    project = make_small(tmp_path)
    for name in ("my model.dvc", "modèle.dvc", "presets/my own/data.dvc", "presets/my own/.dvc/config"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("")
    before = tracked(project)
    run(project, "git", "add", "--all", "--force")
    assert sorted({*tracked(project)} - {*before}) == ["modèle.dvc", "my model.dvc"]


@pytest.mark.parametrize("text", TORN.values(), ids=TORN)
@pytest.mark.parametrize("committed", [WHOLE, None], ids=["in git", "not in git"])
def test_a_dvc_lock_that_a_kill_left_half_written_is_restored(text, committed, tmp_path):
    project = make_small(tmp_path)
    lock = project / "dvc.lock"
    lock.unlink(missing_ok=True)
    if committed:
        lock.write_text(committed)
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--quiet", "--allow-empty", "--message=lock")
    commit = run(project, "git", "rev-parse", "HEAD").stdout.strip()
    clone = Clone(tmp_path / "clone", commit)
    clone.create(str(project))
    assert not clone.usable()  # until it is complete
    clone.complete()
    mine = clone.folder / "dvc.lock"
    later = WHOLE.replace("  a:", "  b:")
    mine.write_text(later)  # of stages that have ended in the clone
    assert clone.usable() and mine.read_text() == later
    mine.write_text(text)
    assert not has_whole_lock(clone.folder) and clone.usable()
    assert (mine.read_text() if mine.is_file() else None) == committed
    assert has_whole_lock(clone.folder) and clone.usable()
