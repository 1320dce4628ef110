"""What shows a training while it runs: the curve that grows, and trackers. None of it changes a result."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, lora_settings, run
from transformers import TrainerCallback

from onesentence.core import params
from onesentence.core.checkpoints import last_checkpoint
from onesentence.core.errors import UserError
from onesentence.core.plots import read_csv
from onesentence.model.adapters import add_adapter
from onesentence.model.loading import load_base
from onesentence.training import live
from onesentence.training.live import LiveCurve, curve_rows, trackers, write_curve

ROWS = [([5 + i, 6, 7 + i], [8, 9 + i, 0]) for i in range(12)]  # 6 steps
SETTINGS = {"seed": 3, "lora.rank": 2, "train.learning_rate": 0.01}


class Killed(Exception):
    """The run ends after a step."""


class Watch(TrainerCallback):
    """Counts the rows of the curve's file after each log (None: no file), and ends the run at a step."""

    def __init__(self, path: Path, kill: int | None = None) -> None:
        self.path, self.kill, self.seen = path, kill, []

    def on_train_begin(self, args, state, control, **kwargs):
        self.seen.append(self.rows())

    def on_log(self, args, state, control, **kwargs):
        self.seen.append(self.rows())

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.kill:
            raise Killed

    def rows(self) -> int | None:
        return len(read_csv(self.path)) if self.path.exists() else None


@pytest.fixture
def train(tiny_settings, tokenizer, tmp_path, monkeypatch):
    """Train the tiny model for 6 steps in the current folder; returns its log and its weights."""
    from onesentence.training.trainer import build_trainer

    monkeypatch.chdir(tmp_path)
    settings = SimpleNamespace(
        method="lora", epochs=1, steps=None, order="random", batch_size=2, gradient_accumulation=1,
        learning_rate=0.01, warmup_ratio=0.2, autocast="none", log_every=1, checkpoint_every=2,
    )  # fmt: skip
    p = SimpleNamespace(seed=3, train=settings)

    def trained(*watchers: TrainerCallback, resume: Path | None = None):
        model = add_adapter(load_base(tiny_settings), lora_settings(rank=2, dropout=0.1), seed=3)
        trainer = build_trainer(model, tokenizer, ROWS, ROWS[:2], p, Path("checkpoints"), watchers)
        trainer.train(resume_from_checkpoint=resume and str(resume))
        weights = {name: weight.clone() for name, weight in model.state_dict().items() if "lora_" in name}
        return trainer.state.log_history, weights

    return trained


def test_the_curve_grows_at_every_log_and_ends_as_the_last_write(train):
    path = Path("plots/loss.csv")
    watch = Watch(path)
    history, _ = train(LiveCurve(path), watch)
    # A step, or the validation loss of one; the Trainer's summary of the run adds no row.
    assert watch.seen == [None, 1, 2, 2, 3, 4, 4, 5, 6, 6, 6, 6]
    live_bytes = path.read_bytes()
    write_curve(Path("last.csv"), history)
    assert live_bytes == Path("last.csv").read_bytes()
    assert live_bytes.startswith(b"step,loss,validation_loss\n1,") and live_bytes.count(b"\n") == 7
    assert [path.name for path in Path("plots").iterdir()] == ["loss.csv"]


def test_a_resumed_run_shows_the_earlier_rows_at_once_and_ends_the_same(train):
    path = Path("plots/loss.csv")
    train(LiveCurve(path))
    uninterrupted = path.read_bytes()
    shutil.rmtree("checkpoints")  # of the whole run
    with pytest.raises(Killed):
        train(LiveCurve(path), Watch(path, kill=5))
    rows = read_csv(path)
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]  # valid, and as far as the last log
    path.unlink()  # DVC removes a stage's outputs before it runs
    watch = Watch(path)
    train(LiveCurve(path), watch, resume=last_checkpoint(Path("checkpoints"), "train"))
    assert watch.seen[0] == 4
    assert path.read_bytes() == uninterrupted


def test_a_validation_loss_that_is_not_finite_ends_the_run_with_one_sentence(train):
    """The curve could not hold it, and stays as it was."""

    class Spoil(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 2:  # a validation loss follows, before the next training loss
                weights = dict(model.named_parameters())
                next(weights[name] for name in weights if "v_proj.lora_B" in name).data[:] = np.nan

    path = Path("plots/loss.csv")
    with pytest.raises(UserError, match=r"^train: validation loss nan at step 2; lower train\.learning_rate"):
        train(LiveCurve(path), Spoil())
    assert [row["validation_loss"] for row in read_csv(path)] == ["", ""]


def losses(rows: list) -> tuple[dict[int, float], dict[int, float]]:
    """(training losses, validation losses) by step, rounded as the curve is."""
    return tuple({row[0]: round(row[i], 4) for row in rows if row[i] is not None} for i in (1, 2))


def dvclive_losses() -> tuple[dict[int, float], dict[int, float]]:
    found = []
    for name in ("loss", "eval/loss"):
        lines = (live.LOCAL / f"dvclive/plots/metrics/{name}.tsv").read_text().splitlines()[1:]
        found.append(
            {int(step): round(float(loss), 4) for step, loss in (line.split("\t") for line in lines)}
        )
    return tuple(found)


def test_dvclive_gets_the_losses_with_their_steps_and_the_settings(train):
    pytest.importorskip("dvclive")
    import yaml

    run(Path(), "git", "init", "--quiet")
    run(Path(), "python", "-m", "dvc", "init", "--quiet")
    run(Path(), "git", "commit", "--quiet", "--message=start")
    _, without = train()
    before = {path for path in Path().rglob("*") if not path.is_relative_to(".dvc/tmp")}
    history, weights = train(*trackers("dvclive", SETTINGS))
    assert dvclive_losses() == losses(curve_rows(history))
    assert yaml.safe_load((live.LOCAL / "dvclive/params.yaml").read_text()) == SETTINGS
    made = {path for path in Path().rglob("*") if not path.is_relative_to(".dvc/tmp")} - before
    assert all(path.is_relative_to(live.LOCAL) for path in made)  # no dvc.yaml, no experiment
    assert run(Path(), "git", "for-each-ref", "refs/exps").stdout == ""
    assert all(weights[name].equal(without[name]) for name in without)


def test_a_tracker_gets_the_earlier_losses_of_a_resumed_run(train):
    pytest.importorskip("dvclive")
    history, _ = train()
    with pytest.raises(Killed):
        train(Watch(Path("none"), kill=5))
    resume = last_checkpoint(Path("checkpoints"), "train")
    train(*trackers("dvclive", SETTINGS), resume=resume)
    assert dvclive_losses() == losses(curve_rows(history))
    assert [line.partition("\t")[0] for line in (live.LOCAL / "dvclive/plots/metrics/loss.tsv").open()] == [
        "step", *"123456"
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*noload:DeprecationWarning")  # MLflow asks sqlalchemy so
def test_mlflow_gets_the_losses_and_the_settings_in_a_local_database(train, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MADE_UP_TOKEN", "made-up-secret")
    history, weights = train(*trackers("mlflow", SETTINGS))
    uri = f"sqlite:///{live.LOCAL / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri)
    (run_of,) = client.search_runs(["0"])
    found = [
        {each.step: round(each.value, 4) for each in client.get_metric_history(run_of.info.run_id, name)}
        for name in ("loss", "eval_loss")
    ]
    assert tuple(found) == losses(curve_rows(history))
    kept = run_of.data.params
    assert {key: kept[key] for key in SETTINGS} == {key: str(value) for key, value in SETTINGS.items()}
    assert "output_dir" not in kept and "learning_rate" not in kept  # the Trainer's own arguments
    assert not Path("mlruns").exists()
    assert b"made-up-secret" not in (live.LOCAL / "mlflow.db").read_bytes()
    _, without = train()
    assert all(weights[name].equal(without[name]) for name in without)


def test_the_known_trackers_are_those_of_transformers():
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert ("none", *sorted(INTEGRATION_TO_CALLBACK)) == params.TRACKERS
    assert set(live.PACKAGES) == set(INTEGRATION_TO_CALLBACK)
    pins = (ROOT / "tests/requirements.txt").read_text().split()
    assert set(f"{live.PACKAGES['mlflow'][1]} {live.PACKAGES['dvclive'][1]}".split()) <= set(pins)


def test_a_tracker_that_is_not_installed_is_named_with_pips_command(monkeypatch, tmp_path):
    assert trackers("none", {}) == []
    monkeypatch.chdir(tmp_path)
    Path("wandb").mkdir()  # what a tracker wrote is no package
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=(
        r"^train\.report_to: wandb needs wandb, not installed here; run `pip install --constraint "
        r"requirements\.txt wandb`, or set none$"
    )):  # fmt: skip
        trackers("wandb", {})
    with pytest.raises(
        UserError, match=r"azure_ml needs azureml\.core, not installed here; .* azureml-core`"
    ):
        trackers("azure_ml", {})
    installed = live.has_module
    monkeypatch.setattr(live, "has_module", lambda name: name not in live.MLFLOW_DATABASE and installed(name))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(
        UserError, match=r"mlflow needs .*sqlalchemy, alembic, not installed here; .* alembic=="
    ):
        trackers("mlflow", {})
    monkeypatch.delenv("KUBEFLOW_TRAINER_SERVER_URL", raising=False)
    with pytest.raises(UserError, match=r"report_to: kubeflow cannot start: .*KUBEFLOW_TRAINER_SERVER_URL"):
        trackers("kubeflow", {})


def test_an_unknown_tracker_is_refused_with_the_nearest_name():
    values = params.read_yaml(ROOT / "params.yaml")
    values["train"]["report_to"] = "mlfow"
    assert any(
        problem.startswith("train.report_to: expected one of none, azure_ml, ")
        and problem.endswith("found 'mlfow', did you mean 'mlflow'?")
        for problem in params.problems(values)
    )
