"""A checkpoint is never used if any of its files is short, damaged or missing."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from onesentence.core import checkpoints, stopping
from onesentence.core.checkpoints import (
    FINISHED,
    MANIFEST,
    claimed,
    fault,
    keep_last,
    last_checkpoint,
    lock_of,
    owner,
    root,
    saved_checkpoints,
    seal,
    stored,
    sweep,
)
from onesentence.core.errors import UserError
from onesentence.model.adapters import add_adapter
from onesentence.model.loading import load_base


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def checkpoint(folder, step: int, sealed=True):
    path = folder / f"checkpoint-{step}"
    (path / "inner").mkdir(parents=True)
    (path / "state.json").write_text(f'{{"step": {step}}}')
    (path / "inner/weights.bin").write_bytes(bytes(range(100)))
    if sealed:
        seal(path)
    return path


@pytest.mark.parametrize(
    "damage", [truncate, flip, lambda path: path.unlink(), lambda path: path.write_bytes(b"")]
)
@pytest.mark.parametrize("name", ["state.json", "inner/weights.bin", MANIFEST])
def test_any_damage_to_any_file_is_detected_and_the_previous_checkpoint_is_used(
    tmp_path, capsys, name, damage
):
    before, newest = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    assert fault(newest) is None
    damage(newest / name)
    assert last_checkpoint(tmp_path, "train") == before
    printed = capsys.readouterr().out
    assert printed.startswith(f"train: continuing from {before.name}: checkpoint-10 was removed because ")
    assert printed.count("\n") == 1
    assert saved_checkpoints(tmp_path) == [before]


def test_a_whole_checkpoint_is_used_and_no_reason_printed(tmp_path, capsys):
    checkpoint(tmp_path, 9)
    newest = checkpoint(tmp_path, 10)
    assert last_checkpoint(tmp_path, "train") == newest
    assert capsys.readouterr().out == f"train: continuing from {newest.name}\n"
    assert len(saved_checkpoints(tmp_path)) == 2


def test_without_a_whole_checkpoint_the_run_starts_again_and_says_why(tmp_path, capsys):
    assert last_checkpoint(tmp_path / "new", "train") is None
    assert capsys.readouterr().out == ""
    checkpoint(tmp_path, 100, sealed=False)
    truncate(checkpoint(tmp_path, 20) / "state.json")
    assert last_checkpoint(tmp_path, "train") is None
    assert capsys.readouterr().out == (
        "train: starting from the beginning, no checkpoint is whole: checkpoint-100 was removed because "
        "it was not finished, checkpoint-20 was removed because state.json is truncated or damaged\n"
    )
    assert saved_checkpoints(tmp_path) == []


def test_steps_are_ordered_as_numbers_and_other_names_are_left_alone(tmp_path):
    for step in (100, 20, 9):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-copy").mkdir()
    (tmp_path / "checkpoint-7").write_text("a file")
    assert [path.name for path in saved_checkpoints(tmp_path)] == [f"checkpoint-{n}" for n in (9, 20, 100)]
    keep_last(tmp_path, 2)
    assert [path.name for path in saved_checkpoints(tmp_path)] == ["checkpoint-20", "checkpoint-100"]
    assert (tmp_path / "checkpoint-copy").is_dir() and (tmp_path / "checkpoint-7").is_file()


class Killed(Exception):
    """The run ends between two checkpoints."""


@pytest.mark.slow
def test_training_gives_the_same_weights_whichever_file_of_the_newest_checkpoint_is_truncated(
    tmp_path, tiny_settings, tokenizer
):
    from transformers import TrainerCallback

    from onesentence.training.trainer import build_trainer

    lora = SimpleNamespace(rank=2, alpha=None, dropout=0.1, target_modules=["q_proj", "v_proj"])
    train = SimpleNamespace(
        method="lora", epochs=1, steps=None, order="random", batch_size=2, gradient_accumulation=1,
        learning_rate=0.01, warmup_ratio=0.2, autocast="none", log_every=2, checkpoint_every=2,
    )  # fmt: skip
    p = SimpleNamespace(seed=3, model=tiny_settings, lora=lora, train=train)
    rows = [([5 + i, 6, 7 + i], [8, 9 + i, 0]) for i in range(14)]  # 7 steps

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise Killed

    def trained(folder, resume=None, kill=False):
        model = add_adapter(load_base(tiny_settings), lora, seed=3)
        trainer = build_trainer(model, tokenizer, rows, rows[:2], p, folder)
        if kill:
            trainer.add_callback(Kill())
        trainer.train(resume_from_checkpoint=resume and str(resume))
        weights = {name: weight.clone() for name, weight in model.state_dict().items() if "lora_" in name}
        return weights, trainer.state.log_history

    weights, history = trained(tmp_path / "uninterrupted")
    with pytest.raises(Killed):
        trained(tmp_path / "killed", kill=True)
    newest = saved_checkpoints(tmp_path / "killed")[-1]
    names = sorted(path.name for path in newest.iterdir())
    assert newest.name == "checkpoint-4" and {"optimizer.pt", "rng_state.pth", MANIFEST} < set(names)
    for name in names:
        folder = shutil.copytree(tmp_path / "killed", tmp_path / name)
        truncate(folder / "checkpoint-4" / name)
        resume = last_checkpoint(folder, "train")
        assert resume == folder / "checkpoint-2", name
        again, logged = trained(folder, resume)
        assert all(torch.equal(again[key], weights[key]) for key in weights), name
        losses = [
            [entry.get("loss"), entry.get("eval_loss")] for entry in logged if "train_runtime" not in entry
        ]
        assert losses == [
            [entry.get("loss"), entry.get("eval_loss")] for entry in history if "train_runtime" not in entry
        ]


KEY = "0123456789abcdef"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory whose checkpoints lie in tmp_path/root; DVC does not run the process."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv(checkpoints.ROOT, str(tmp_path / "root"))
    monkeypatch.delenv("DVC_STAGE", raising=False)
    return folder


def test_copies_of_a_repository_use_its_checkpoints(tmp_path, monkeypatch):
    monkeypatch.delenv(checkpoints.ROOT, raising=False)
    for copy in ("", ".dvc/tmp/exps/standalone/tmpab12", ".dvc/tmp/exps/tmpcd34", ".dvc/tmp/studies/clone-0"):
        (tmp_path / copy).mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(tmp_path / copy)
        assert root() == tmp_path / "models/checkpoints"
    preset = tmp_path / "presets/small"
    assert owner(preset) == preset and owner(preset / ".dvc/tmp/exps/tmpxy") == preset
    monkeypatch.setenv(checkpoints.ROOT, str(tmp_path / "elsewhere"))
    assert root() == tmp_path / "elsewhere"
    (tmp_path / "elsewhere").write_text("")
    with pytest.raises(UserError, match=r"ONESENTENCE_CHECKPOINTS: .* is not a folder"):
        root()


def test_a_folder_that_is_claimed_stays_after_a_failure_and_goes_after_success(here):
    with pytest.raises(ZeroDivisionError), claimed("train", KEY) as folder:
        checkpoint(folder, 4)
        raise ZeroDivisionError
    assert saved_checkpoints(folder) and [entry.state for entry in stored()] == ["unfinished"]
    assert stored()[0].progress == "step 4" and stored()[0].stage == "train"
    with claimed("train", KEY) as again:
        assert again == folder and saved_checkpoints(again)
        assert stored()[0].state == f"in use by process {os.getpid()}"
    assert list(root().iterdir()) == []


def test_a_claim_that_wrote_nothing_leaves_nothing(here):
    with pytest.raises(ZeroDivisionError), claimed("train", KEY):
        raise ZeroDivisionError
    assert list(root().iterdir()) == []


def test_under_dvc_a_finished_folder_stays_until_the_next_stage_starts(here, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "train")
    with claimed("train", KEY) as folder:
        checkpoint(folder, 4)
    assert (folder / FINISHED).is_file() and stored()[0].state == "finished"
    sweep("train")  # the stage runs again: DVC was killed before it could record the outputs
    with claimed("train", KEY) as again:
        assert again == folder and saved_checkpoints(again) and not (folder / FINISHED).exists()
    sweep("generate@tuned")
    assert list(root().iterdir()) == []


def test_other_inputs_remove_the_finished_folder_of_the_same_working_directory(here, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "train")
    with claimed("train", KEY) as folder:
        checkpoint(folder, 4)
    with claimed("train", KEY[::-1]) as other:
        assert other != folder and not folder.exists() and not lock_of(folder).exists()


def test_finished_folders_of_another_working_directory_are_removed_after_a_day(here, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "train")
    with claimed("train", KEY) as folder:
        checkpoint(folder, 4)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    sweep("score@tuned")
    assert folder.is_dir()
    old = time.time() - 2 * checkpoints.DAY
    os.utime(folder / FINISHED, (old, old))
    sweep("score@tuned")
    assert not folder.exists()


HOLDER = """
import sys, time
from onesentence.core.checkpoints import claimed
with claimed("train", sys.argv[1]) as folder:
    (folder / "outputs.journal").write_bytes(b"a\\nb\\n")
    print(folder, flush=True)
    sys.stdin.readline()
    raise SystemExit(1)
"""


def holder(folder: Path) -> subprocess.Popen:
    """A process that claims KEY in a working directory until a line comes."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, KEY],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    process.claimed = Path(process.stdout.readline().strip())
    return process


def test_another_working_directory_gets_a_folder_of_its_own(here, tmp_path):
    (tmp_path / "copy").mkdir()
    other = holder(tmp_path / "copy")
    with claimed("train", KEY) as folder:
        assert folder.name == f"train-{KEY}.2" and other.claimed.name == f"train-{KEY}"
        assert {entry.state for entry in stored()} == {
            f"in use by process {os.getpid()}",
            f"in use by process {other.pid}",
        }
        assert not checkpoints.remove(other.claimed) and other.claimed.is_dir()
    other.communicate("\n")
    assert [entry.progress for entry in stored()] == ["2 batches"]
    with claimed("train", KEY) as folder:
        assert folder == other.claimed


def test_a_process_that_is_about_to_end_is_waited_for(here, capsys):
    other = holder(here)
    subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {other.pid}"])
    with claimed("train", KEY) as folder:
        assert folder == other.claimed
    assert capsys.readouterr().out == f"train: waiting for process {other.pid}, which runs this stage here\n"
    other.wait()


def test_two_processes_do_not_run_one_stage_in_one_working_directory(here, monkeypatch):
    monkeypatch.setattr(checkpoints, "PATIENCE", 0.5)
    other = holder(here)
    refused = pytest.raises(UserError, match=rf"^train: process {other.pid} runs this stage in this folder")
    with refused, claimed("train", KEY):
        pass
    other.communicate("\n")


def test_a_root_that_cannot_be_made_is_named(here, monkeypatch):
    (here / "file").write_text("")
    monkeypatch.setenv(checkpoints.ROOT, str(here / "file/inner"))
    refused = pytest.raises(UserError, match=r"the folder of checkpoints .*file/inner cannot be written")
    with refused, claimed("train", KEY):
        pass


def test_a_stop_says_whether_the_same_command_goes_on(here):
    for writes in (False, True):
        with pytest.raises(stopping.Stopped) as stopped, claimed("train", KEY) as folder:
            if writes:
                checkpoint(folder, 4)
            raise stopping.Stopped(15)
        assert stopped.value.kept is writes
