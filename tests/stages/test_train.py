"""Training: the order of rows, resuming, what changes and what must not change."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import copy_project, edit, lora_settings, make_project, run, stage, take_cache

from onesentence.core.plots import read_csv
from onesentence.model.encoding import training_batch
from onesentence.training.batches import batch_order, batches_of, token_novelty
from onesentence.training.live import curve_rows, has_module
from onesentence.training.loss import completion_loss
from onesentence.training.trainer import FLOAT16_SCALE, measured_loss, scale_float16_gradients
from stages.train import warn


def test_every_epoch_visits_every_row_once():
    lengths = [(37 * i) % 101 for i in range(103)]
    batches = batch_order(lengths, 8, epochs=3, seed=5)
    assert len(batches) == 3 * 13
    for epoch in range(3):
        rows = [i for batch in batches[13 * epoch : 13 * (epoch + 1)] for i in batch]
        assert sorted(rows) == list(range(103))
    assert Counter(i for batch in batches for i in batch) == dict.fromkeys(range(103), 3)


def test_the_seed_determines_the_order_and_seed_0_is_valid():
    lengths = list(range(50))
    assert batch_order(lengths, 4, 1, 0) == batch_order(lengths, 4, 1, 0)
    assert batch_order(lengths, 4, 1, 0) != batch_order(lengths, 4, 1, 1)


def test_batches_hold_rows_of_similar_length():
    import numpy as np

    lengths = np.random.default_rng(0).integers(10, 500, size=1_000).tolist()

    def padding(batches):
        return sum(max(lengths[i] for i in b) * len(b) for b in batches) / (len(batches and lengths))

    ours = padding(batch_order(lengths, 8, 1, 0)) / (sum(lengths) / len(lengths))
    random = np.random.default_rng(1).permutation(1_000).reshape(-1, 8).tolist()
    assert ours < 1.15 < padding(random) / (sum(lengths) / len(lengths))


def rows_of(count: int) -> list:
    import numpy as np

    return [(np.arange(5 + i % 40), np.array([3, 4, 0])) for i in range(count)]


def schedule(**values):
    defaults = {"batch_size": 4, "gradient_accumulation": 3, "epochs": None, "steps": None, "order": "random"}
    return SimpleNamespace(**{**defaults, **values})


def test_steps_take_as_many_epochs_as_they_need():
    rows = rows_of(22)  # 6 batches an epoch, the last of 2 rows
    batches = batches_of(rows, schedule(steps=5), seed=1)  # 15 batches: 2 epochs and a half
    assert len(batches) == 15
    assert batches == batches_of(rows, schedule(epochs=3), seed=1)[:15]
    assert len(batches_of(rows, schedule(steps=4), seed=1)) == 12
    assert len(batches_of(rows, schedule(epochs=2), seed=1)) == 12


def test_token_novelty_by_hand():
    import numpy as np

    prompt = np.array([1, 2, 3, 4])
    assert token_novelty(prompt, np.array([2, 3, 0])) == 0.5  # the prompt has (2, 3) and lacks (3, 0)
    assert token_novelty(prompt, np.array([1, 2, 3])) == 0.0
    assert token_novelty(prompt, np.array([3, 2])) == 1.0
    assert token_novelty(prompt, np.array([2, 3, 2, 3, 9])) == pytest.approx(
        2 / 3
    )  # each distinct 2-gram counts once
    assert token_novelty(prompt, np.array([7])) == 1.0


def test_a_curriculum_goes_from_copies_to_novelty_and_visits_every_row():
    import numpy as np

    rng = np.random.default_rng(3)
    lengths = rng.integers(10, 300, size=500).tolist()
    novelty = rng.random(500).tolist()
    batches = batch_order(lengths, 4, 2, 0, novelty)
    assert Counter(i for batch in batches for i in batch) == dict.fromkeys(range(500), 2)
    for epoch in (batches[:125], batches[125:]):
        rows = [i for batch in epoch for i in batch]
        pools = [[novelty[i] for i in rows[k : k + 64]] for k in range(0, 500, 64)]
        assert all(max(left) <= min(right) for left, right in pairwise(pools))
    assert batches[:125] != batches[125:] and batches != batch_order(lengths, 4, 2, 1, novelty)
    mixed = [novelty[i] for batch in batch_order(lengths, 4, 1, 0) for i in batch]
    assert abs(np.corrcoef(mixed, range(500))[0, 1]) < 0.2  # the random order has no trend


def test_measured_loss_is_the_token_mean_without_dropout(base):
    rows = [([5, 6, 7], [8, 0]), (list(range(20, 60)), [9, 9, 9, 0]), ([4], [0])]
    wanted = sum(completion_loss(base, training_batch([row], 1), "sum").item() for row in rows) / 7
    base.train()
    assert measured_loss(base, rows, pad_id=1, autocast="none") == pytest.approx(wanted, rel=1e-5)
    assert base.training


def test_float16_scaling_leaves_gradients_as_they_are(tiny_settings):
    """In float32 the scale, a power of two, must cancel exactly."""
    from onesentence.model.adapters import add_adapter
    from onesentence.model.loading import load_base

    def gradients(scaled):
        model = add_adapter(load_base(tiny_settings), lora_settings(), seed=0).train()
        if scaled:
            scale_float16_gradients(model)
        completion_loss(model, training_batch([([5, 6, 7], [8, 0])], 1)).backward()
        return [w.grad for w in model.parameters() if w.requires_grad]

    assert FLOAT16_SCALE == 2**10
    for plain, scaled in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(plain, scaled)


def test_float16_scaling_keeps_small_gradients(tiny_settings):
    """In float16 the gradients of a loss divided by 2**20 vanish without the scale."""
    from types import SimpleNamespace

    from onesentence.model.adapters import add_adapter
    from onesentence.model.loading import load_base

    settings = SimpleNamespace(**{**vars(tiny_settings), "dtype": "float16"})

    def largest(scaled):
        model = add_adapter(load_base(settings), lora_settings(), seed=0).train()
        if scaled:
            scale_float16_gradients(model)
        loss = completion_loss(model, training_batch([(list(range(5, 60)), [8, 9, 0])], 1)) / 2**20
        loss.backward()
        grads = [w.grad for n, w in model.named_parameters() if "lora_B" in n]
        assert all(g.dtype == torch.float32 and torch.isfinite(g).all() for g in grads)
        return sum((g != 0).sum().item() for g in grads)

    assert largest(True) > 2 * largest(False)


@pytest.mark.parametrize(
    ("rank", "trainable", "total", "expected"),
    [
        (16, 7_864_320, 2_787_548_160, []),
        (4, 1_966_080, 2_787_548_160, ["lora.rank: 4", "0.07 %"]),
        (128, 62_914_560, 2_787_548_160, ["lora.rank: 128", "2.26 %"]),
        (16, 147_456, 6_988_800, []),  # 2 % of a small base is no reason to warn
    ],
)
def test_warnings(capsys, rank, trainable, total, expected):
    from types import SimpleNamespace

    settings = {"lora": SimpleNamespace(rank=rank), "train": SimpleNamespace(method="lora")}
    warn(SimpleNamespace(**settings), trainable, total)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(expected)
    assert all(text in line for text, line in zip(expected, lines, strict=True))


def test_curve_rows_join_the_two_losses_by_step():
    history = [
        {"step": 5, "loss": 2.0},
        {"step": 10, "loss": 1.0},
        {"step": 10, "eval_loss": 1.5},
        {"step": 10},
    ]
    assert curve_rows(history) == [[5, 2.0, None], [10, 1.0, 1.5]]


def digest(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def checked(tmp_path_factory, pairs, tiny, ran):
    """The tiny project after the stages before training."""
    folder = make_project(tmp_path_factory.mktemp("checked"), pairs, tiny)
    take_cache(folder, ran)
    run(folder, "dvc", "repro", "--quiet", "smoke")
    return folder


@pytest.fixture
def project(checked, tmp_path):
    return copy_project(checked, tmp_path)


@pytest.mark.slow
@pytest.mark.long  # tests/stages/test_resume.py kills `dvc repro`
def test_a_run_killed_at_step_150_and_started_again_gives_the_same_bytes(project):
    # 40 rows * 22 epochs / 4 rows = 220 steps, checkpoints at 100 and 200.
    edit(project, data__train_size=40, train__epochs=22, train__log_every=25, train__checkpoint_every=100)
    run(project, "dvc", "repro", "--quiet", "smoke")
    stage(project, "train")
    uninterrupted = digest(project / "models/tuned")
    metrics = (project / "metrics/train.json").read_bytes()
    curve = (project / "plots/loss.csv").read_bytes()

    for file in ("models/tuned/adapter_model.safetensors", "metrics/train.json", "plots/loss.csv"):
        (project / file).unlink()
    killed = subprocess.Popen(
        [sys.executable, "-m", "stages.train"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    # The progress bar shows the step; 150 lies between two checkpoints.
    seen = ""
    while "150/220" not in seen:
        piece = killed.stderr.read(64)
        assert piece, seen
        seen += piece
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (project / "metrics/train.json").exists()
    # The curve has grown up to the kill, and is whole.
    rows = read_csv(project / "plots/loss.csv")
    assert [row["step"] for row in rows][:5] == ["25", "50", "75", "100", "125"] and len(rows) < 9
    assert (project / "plots/loss.csv").read_bytes() in curve
    assert list((project / "models/checkpoints").glob("train-*/checkpoint-100"))

    again = stage(project, "train")
    assert "continuing from" in again.stdout and "checkpoint-100" in again.stdout
    assert digest(project / "models/tuned") == uninterrupted
    assert (project / "metrics/train.json").read_bytes() == metrics
    assert (project / "plots/loss.csv").read_bytes() == curve
    assert not list((project / "models/checkpoints").glob("train-*"))
    steps = [line.split(",")[0] for line in curve.decode().splitlines()[1:]]
    assert steps[:4] == ["25", "50", "75", "100"]


@pytest.mark.slow
@pytest.mark.long
def test_a_tracker_changes_no_byte_of_the_stage_and_git_ignores_its_files(project):
    pytest.importorskip("dvclive")
    stage(project, "train")
    files = ["metrics/train.json", "plots/loss.csv"]
    before = digest(project / "models/tuned"), [(project / file).read_bytes() for file in files]
    status = run(project, "git", "status", "--porcelain").stdout
    edit(project, train__report_to="dvclive")
    shutil.rmtree(project / "models/tuned")
    stage(project, "train")
    assert (digest(project / "models/tuned"), [(project / file).read_bytes() for file in files]) == before
    lines = (project / "trackers/dvclive/plots/metrics/loss.tsv").read_text().splitlines()[1:]
    kept = {step: f"{float(loss):.3f}" for step, loss in (line.split("\t") for line in lines)}
    rows = read_csv(project / "plots/loss.csv")
    assert kept == {row["step"]: f"{float(row['loss']):.3f}" for row in rows if row["loss"]}
    after = run(project, "git", "status", "--porcelain").stdout
    assert set(after.splitlines()) - set(status.splitlines()) == {" M params.yaml"}
    edit(project, train__report_to="wandb")
    if not has_module("wandb"):
        failed = stage(project, "train", check=False)
        assert failed.returncode == 1 and failed.stderr.count("\n") == 1
        assert failed.stderr.startswith(
            "error: train.report_to: wandb needs wandb, not installed here; run `pip "
        )


ELSEWHERE = {
    "one thread": {"OMP_NUM_THREADS": "1"},
    "wider kernels": {"ATEN_CPU_CAPABILITY": "avx512", "MKL_CBWR": "AVX512"},
    "narrower kernels": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    },
}


ASKED = {name for asked in ELSEWHERE.values() for name in asked}
WRITTEN = ["metrics/train.json", "plots/loss.csv", "data/predictions/tuned.jsonl"]


def trained_bytes(folder: Path) -> tuple[dict[str, str], list[bytes]]:
    return digest(folder / "models/tuned"), [(folder / file).read_bytes() for file in WRITTEN]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory, pairs, tiny):
    """A project with the embedded model, after training and generation with default threads and kernels."""
    folder = make_project(tmp_path_factory.mktemp("embedded"), pairs, tiny)
    edit(folder, model__name="models/phi-tiny", model__watch="models/phi-tiny", generate__num_beams=4)
    with pytest.MonkeyPatch.context() as patch:
        for name in ASKED:
            patch.delenv(name, raising=False)
        run(folder, "dvc", "repro", "--quiet", "generate@tuned")
    return folder, trained_bytes(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "elsewhere",
    [
        pytest.param(asked, id=name, marks=pytest.mark.long if name == "wider kernels" else ())
        for name, asked in ELSEWHERE.items()
    ],
)
def test_other_threads_and_kernels_change_no_byte(embedded, monkeypatch, elsewhere):
    """With the shapes of the embedded model; smaller products use the same kernels everywhere."""
    folder, before = embedded
    for name in ASKED:
        monkeypatch.delenv(name, raising=False)
    for name, value in elsewhere.items():
        monkeypatch.setenv(name, value)
    shutil.rmtree(folder / "models/tuned")
    for file in WRITTEN:
        (folder / file).unlink()
    stage(folder, "train")
    stage(folder, "generate", "tuned")
    assert trained_bytes(folder) == before


@pytest.mark.slow
def test_autocast_multiplies_in_bfloat16_and_stores_float32(project):
    from safetensors.torch import load_file

    from onesentence.model.loading import has_bfloat16

    if not has_bfloat16():
        pytest.skip("this CPU has no bfloat16")
    stage(project, "train")
    exact = load_file(project / "models/tuned/adapter_model.safetensors")
    loss = json.loads((project / "metrics/train.json").read_text())["validation_loss"]
    edit(project, train__autocast="bfloat16")
    stage(project, "train")
    rounded = load_file(project / "models/tuned/adapter_model.safetensors")
    assert all(weight.dtype == torch.float32 for weight in rounded.values())
    assert any(not torch.equal(rounded[name], exact[name]) for name in exact)
    rounded_loss = json.loads((project / "metrics/train.json").read_text())["validation_loss"]
    assert rounded_loss == pytest.approx(loss, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["full", *(pytest.param(name, marks=pytest.mark.long) for name in ("dora", "rslora"))]
)
def test_other_methods_train_generate_and_record_their_name(project, method):
    from safetensors.torch import load_file

    edit(project, train__method=method, train__order="extractive_first", train__epochs=None, train__steps=3)
    edit(project, smoke__min_success_rate=0.0)  # three steps on random weights make no summaries
    stage(project, "train")
    stage(project, "generate", "tuned")
    files = {path.name for path in (project / "models/tuned").iterdir()}
    assert json.loads((project / "models/tuned/tuning.json").read_text()) == {
        "base": "models/tiny",
        "method": method,
    }
    metrics = json.loads((project / "metrics/train.json").read_text())
    assert (metrics["method"], metrics["steps"]) == (method, 3)
    if method == "full":
        assert {"model.safetensors", "config.json"} <= files and "adapter_config.json" not in files
        assert metrics["trainable_parameters"] == metrics["total_parameters"]
        base = load_file(project / "models/tiny/model.safetensors")
        tuned = load_file(project / "models/tuned/model.safetensors")
        assert set(base) == set(tuned) and all(base[name].shape == tuned[name].shape for name in base)
        assert all(not torch.equal(base[name], tuned[name]) for name in base if "layers.0" in name)
        assert metrics["tuned_bytes"] == (project / "models/tuned/model.safetensors").stat().st_size
        exact = (project / "data/predictions/tuned.jsonl").read_text()
        edit(project, generate__quantization="nf4")  # of what was trained in float32
        stage(project, "smoke")
        stage(project, "generate", "tuned")
        rounded = (project / "data/predictions/tuned.jsonl").read_text()
        assert rounded != exact and rounded.count("\n") == exact.count("\n")
    else:
        config = json.loads((project / "models/tuned/adapter_config.json").read_text())
        assert (config["use_dora"], config["use_rslora"]) == (method == "dora", method == "rslora")
        assert files == {"adapter_config.json", "adapter_model.safetensors", "tuning.json"}
    if method != "dora":  # the most arithmetic of its own; LoRA's bytes are compared below
        return
    before = digest(project / "models/tuned")
    stage(project, "train")
    assert digest(project / "models/tuned") == before


@pytest.mark.slow
def test_the_loss_falls_the_base_stays_and_cost_has_its_own_file(project):
    edit(project, train__epochs=12, train__learning_rate=0.03)
    weights = digest(project / "models/tiny")
    started = time.time()
    stage(project, "train")
    assert digest(project / "models/tiny") == weights
    metrics = json.loads((project / "metrics/train.json").read_text())
    assert not {"seconds", "peak_memory_bytes"} & set(metrics)
    cost = json.loads((project / "data/cost/train.json").read_text())
    assert 0 < cost["seconds"] < time.time() - started + 1
    rows = (project / "plots/loss.csv").read_text().splitlines()[1:]
    losses = [float(row.split(",")[1]) for row in rows if row.split(",")[1]]
    quarter = len(losses) // 4  # one point is the mean of two steps, and batches differ
    assert sum(losses[-quarter:]) / quarter < losses[0] - 0.08, losses
    assert metrics["trainable_parameters"] == 2 * 3 * 2 * 64 * 16
    assert metrics["train_loss"] < losses[0]
