"""A checkpoint is never used if any of its files is short, damaged or missing."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from onesentence.model.adapters import add_adapter
from onesentence.model.loading import load_base
from onesentence.training.checkpoints import (
    MANIFEST,
    fault,
    keep_last,
    last_checkpoint,
    saved_checkpoints,
    seal,
)


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
    assert printed.startswith(f"train: continuing from {before}: checkpoint-10 was removed because ")
    assert printed.count("\n") == 1
    assert saved_checkpoints(tmp_path) == [before]


def test_a_whole_checkpoint_is_used_and_no_reason_printed(tmp_path, capsys):
    checkpoint(tmp_path, 9)
    newest = checkpoint(tmp_path, 10)
    assert last_checkpoint(tmp_path, "train") == newest
    assert capsys.readouterr().out == f"train: continuing from {newest}\n"
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


def test_a_checkpoint_belongs_to_its_data_settings_and_definitions(tmp_path, monkeypatch):
    """A comment does not change the key, nor does a file that training does not import."""
    from stages import train

    def settings(**values) -> SimpleNamespace:
        train_section = SimpleNamespace(epochs=1, **values)
        return SimpleNamespace(
            model=SimpleNamespace(name="models/tiny"),
            lora=SimpleNamespace(rank=4),
            train=train_section,
            seed=0,
        )

    monkeypatch.chdir(tmp_path)
    for split in ("train", "validation"):
        file = tmp_path / train.TOKENIZED / f"{split}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"rows")
    module = tmp_path / "stages/train.py"
    module.parent.mkdir()
    module.write_text("RATE = 1\n")
    monkeypatch.setattr(train, "__file__", str(module))
    key = train.run_key(settings())
    module.write_text("RATE = 1  # why\n")
    (module.parent / "report.py").write_text("OTHER = 1\n")
    assert train.run_key(settings()) == key
    keys = {key, train.run_key(settings(batch_size=2))}
    module.write_text("RATE = 2\n")
    keys.add(train.run_key(settings()))
    module.write_text("RATE = 1\n")
    (tmp_path / train.TOKENIZED / "train.parquet").write_bytes(b"other")
    keys.add(train.run_key(settings()))
    assert len(keys) == 4
    keys.add(train.run_key(settings(report_to="mlflow")))
    assert len(keys) == 4  # where the losses are shown changes no result
