"""What shows a training while it runs: plots/loss.csv, which grows, and experiment trackers.

Importing this module loads torch and transformers, so import it where a model is about to be loaded.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.integrations import integration_utils

from onesentence.core.errors import UserError
from onesentence.core.plots import write_csv

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

COLUMNS = ["step", "loss", "validation_loss"]
LOSSES = ("loss", "eval_loss")  # as the Trainer's log names the last two columns
# Where trackers that write files put them. Git ignores the folder, and DVC does not know it.
LOCAL = Path("trackers")
# By the tracker's name in transformers: the modules that it needs, and the packages that hold them. The tests
# run the pinned ones. None: it needs no package, and its callback says what else it needs.
PACKAGES: dict[str, tuple[tuple[str, ...], str] | None] = {
    "azure_ml": (("azureml.core",), "azureml-core"),
    "clearml": (("clearml",), "clearml"),
    "codecarbon": (("codecarbon",), "codecarbon"),
    "comet_ml": (("comet_ml",), "comet-ml"),
    "dagshub": (("dagshub", "mlflow"), "dagshub mlflow"),
    "dvclive": (("dvclive",), "dvclive==3.49.1"),
    "flyte": (("flytekit",), "flytekit"),
    "kubeflow": None,
    "mlflow": (("mlflow",), "mlflow-skinny==3.17.2 sqlalchemy==2.1.9 alembic==1.20.1"),
    "neptune": (("neptune",), "neptune"),
    "swanlab": (("swanlab",), "swanlab"),
    "tensorboard": (("tensorboard",), "tensorboard"),
    "trackio": (("trackio",), "trackio"),
    "wandb": (("wandb",), "wandb"),
}
MLFLOW_PLACE = "MLFLOW_TRACKING_URI"  # MLflow's own variable
MLFLOW_DATABASE = ("sqlalchemy", "alembic")  # what MLflow needs where that variable names no server


def curve_rows(history: Sequence[Mapping[str, float]]) -> list[list[float | None]]:
    """(step, training loss, validation loss) rows of the Trainer's log."""
    steps: dict[float, dict[str, float]] = {}
    for entry in history:
        for key in LOSSES:
            if key in entry:
                steps.setdefault(entry["step"], {})[key] = entry[key]
    return [[step, *(losses.get(key) for key in LOSSES)] for step, losses in sorted(steps.items())]


def write_curve(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write the losses of the Trainer's log as CSV, completely or not at all."""
    write_csv(path, COLUMNS, curve_rows(history))


class LiveCurve(TrainerCallback):
    """Writes the losses up to now at every log that holds one, so that they can be watched."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.log_history:  # a resumed run has those of its checkpoint
            write_curve(self.path, state.log_history)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if set(LOSSES) & set(logs or {}):
            write_curve(self.path, state.log_history)


class LiveSteps(integration_utils.DVCLiveCallback):
    """DVCLive with the step of the optimizer, in a folder of its own; it changes no file of DVC or git."""

    def setup(self, args: TrainingArguments, state: TrainerState, model: Any) -> None:
        from dvclive import Live

        self.live = Live(str(LOCAL / "dvclive"), dvcyaml=None, save_dvc_exp=False)
        super().setup(args, state, model)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.live.step = state.global_step  # by itself it counts logs
        super().on_log(args, state, control, **kwargs)


class Tracker(TrainerCallback):
    """Passes losses and settings on to a tracker's callback; no checkpoints.

    The tracker gets the settings of params.yaml instead of all arguments of the Trainer, which hold paths of
    this machine. Its own files go to LOCAL. In a resumed run it first gets the losses of the earlier steps.
    """

    def __init__(self, inner: TrainerCallback, settings: Mapping[str, object]) -> None:
        self.inner, self.settings = inner, dict(settings)

    def arguments(self, args: TrainingArguments) -> TrainingArguments:
        """The Trainer's arguments as the tracker sees them."""
        shown = copy.copy(args)
        shown.output_dir = str(LOCAL)
        shown.to_dict = lambda: dict(self.settings)
        return shown

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.inner.on_init_end(self.arguments(args), state, control, **kwargs)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.inner.on_train_begin(self.arguments(args), state, control, **kwargs)
        for entry in state.log_history:
            past = copy.copy(state)
            past.global_step, past.epoch = int(entry["step"]), entry.get("epoch")
            logs = {key: value for key, value in entry.items() if key != "step"}
            self.on_log(args, past, control, logs=logs, **kwargs)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.inner.on_step_end(self.arguments(args), state, control, **kwargs)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.inner.on_log(self.arguments(args), state, control, **kwargs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.inner.on_train_end(self.arguments(args), state, control, **kwargs)


def has_module(name: str) -> bool:
    """Whether a module is installed. A folder that a tracker wrote to, such as wandb/, is none."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # of the package that should hold it
        return False
    return spec is not None and spec.origin is not None


def require_tracker(name: str) -> None:
    """Raise a UserError where the packages of train.report_to are not installed."""
    needed = PACKAGES.get(name)
    if needed is None:
        return
    modules, packages = needed
    if name == "mlflow" and not os.environ.get(MLFLOW_PLACE):
        modules += MLFLOW_DATABASE
    missing = [module for module in modules if not has_module(module)]
    if missing:
        raise UserError(
            f"train.report_to: {name} needs {', '.join(missing)}, not installed here; run "
            f"`pip install --constraint requirements.txt {packages}`, or set none"
        )


def prepare_mlflow() -> None:
    """Make MLflow write to LOCAL, unless its environment names another place, and print no progress."""
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if not mlflow.is_tracking_uri_set():
        LOCAL.mkdir(exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{LOCAL / 'mlflow.db'}")


def trackers(name: str, settings: Mapping[str, object]) -> list[TrainerCallback]:
    """The callbacks for train.report_to: one, or none.

    settings: what was set, by dotted keys of params.yaml. Raises a UserError where the tracker is not
    installed, or refuses to start.
    """
    if name == "none":
        return []
    require_tracker(name)
    if name == "mlflow":
        prepare_mlflow()
    kind = LiveSteps if name == "dvclive" else integration_utils.INTEGRATION_TO_CALLBACK[name]
    try:
        inner = kind()
    except (ImportError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"train.report_to: {name} cannot start: {reason}; correct that, or set none"
        ) from error
    return [Tracker(inner, settings)]
