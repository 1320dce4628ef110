"""Find and load the model that summarizes: of a pipeline, exported, an adapter with its base, or a base."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onesentence.core import machine_faults
from onesentence.core.errors import UserError
from onesentence.core.params import NO_FILE, PARAMS_FILE
from onesentence.export.engines import load_exported_tokenizer
from onesentence.export.folder import CTRANSLATE2
from onesentence.inference.ctranslate2 import CTranslate2Model
from onesentence.inference.inputs import nameable
from onesentence.inference.revisions import TUNED, fetch
from onesentence.inference.settings import EXPORT, Settings, base_model, of_export, of_pipeline
from onesentence.model.adapters import ADAPTER, TUNING, check_adapter, load_tuned, merged, quiet_peft
from onesentence.model.loading import load_base, load_tokenizer
from onesentence.model.model_files import read_object

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RUN_HERE = ("merged", "adapter", CTRANSLATE2)  # exported targets


@dataclass(frozen=True)
class ModelSource:
    """A model before it is loaded: where it is, and how it was trained.

    name: what messages call it. tuned: the folder of what was trained, None for a base or a merged model.
    trained: whether it was trained for summaries, so that the smoke test asks for its success rate.
    """

    name: str
    settings: Settings
    tuned: Path | None
    trained: bool


def find(model: str | Path | None, untuned: bool = False, revision: str | None = None) -> ModelSource:
    """The model that `--model` names; None is the pipeline in the working directory.

    model: the folder of a pipeline (params.yaml), of an exported model (summarization.json), of a tuned model
    (tuning.json), of peft's adapter (adapter_config.json) or of a base (config.json); a name that no folder
    has is a revision. untuned: the base of a pipeline or an adapter, without what was trained. revision: of
    the pipeline in the folder, instead of its present state.
    """
    folder = Path() if model is None else Path(model)
    there = nameable(folder) and folder.exists()
    if revision is None and not (there and folder.is_dir()):
        if there or os.sep in str(model):
            kind = "is a file" if there else "not found"
            raise UserError(
                f"--model: {folder}: {kind}; expected the folder of an exported model, of an adapter, of a "
                "base model or of a pipeline, or the name of an experiment or a git revision"
            )
        folder, revision = Path(), str(model)
    if revision is not None:
        fetched, commit = fetch(revision, folder, untuned)
        source = _pipeline(fetched, untuned)
        label = str(TUNED)
        if untuned:
            label = source.settings.model.name  # of a hub, or a folder in what was fetched
            if Path(label).is_relative_to(fetched):
                label = os.path.relpath(label, fetched)
        return replace(source, name=f"{label} at {revision} ({commit[:7]})")
    if (folder / EXPORT).is_file():
        source = _exported(folder)
    elif (folder / TUNING).is_file():
        source = _tuned(folder)
    elif (folder / ADAPTER).is_file():
        source = _adapter(folder)
    elif (folder / PARAMS_FILE).is_file():
        return _pipeline(folder, untuned)
    elif (folder / "config.json").is_file():
        settings = of_pipeline(Path())
        name = str(folder)
        base = replace(settings.model, name=name, watch=name, revision=None)
        return ModelSource(name, replace(settings, model=base), None, trained=False)
    elif model is None:
        raise UserError(
            f"{PARAMS_FILE}: not found here; run the command in the repository, or name a model's folder "
            "with --model"
        )
    else:
        raise UserError(
            f"--model: {folder}: no model is in this folder (expected {EXPORT}, {TUNING}, {ADAPTER}, "
            f"config.json or {PARAMS_FILE}); name the folder that holds the weights"
        )
    return _without_tuning(source) if untuned else source


def _without_tuning(source: ModelSource) -> ModelSource:
    if source.tuned is None:
        raise UserError(
            f"--untuned: {source.name} holds one merged model (expected an adapter beside its base, or a "
            "pipeline); name the base's folder with --model"
        )
    return ModelSource(f"{source.settings.model.name} (untuned)", source.settings, None, trained=False)


def _pipeline(folder: Path, untuned: bool) -> ModelSource:
    """The tuned model of the pipeline in a folder, or its base."""
    settings = of_pipeline(folder)
    if untuned:
        return ModelSource(f"{settings.model.name} (untuned)", settings, None, trained=False)
    if not (folder / TUNED / TUNING).is_file():
        where = "" if folder == Path() else f" in {folder}"
        raise UserError(
            f"{folder / TUNED}: not found; run `dvc repro` (or `dvc pull`){where} to get the tuned model, or "
            "add --untuned"
        )
    return ModelSource(
        str(folder / TUNED), _with_base(folder / TUNED, settings, folder), folder / TUNED, True
    )


def _tuned(folder: Path) -> ModelSource:
    """A tuned model that stage `train` wrote: with the params.yaml of its pipeline, else of this one."""
    above = folder.resolve().parent.parent
    home = Path(os.path.relpath(above)) if (above / PARAMS_FILE).is_file() else Path()
    return ModelSource(str(folder), _with_base(folder, of_pipeline(home), home), folder, True)


def _with_base(tuned: Path, settings: Settings, home: Path) -> Settings:
    """`settings`, once it is certain that they name the base on which `tuned` was trained."""
    trained_on = read_object(tuned / TUNING).get("base")
    named = settings.model.name
    if trained_on not in (named, os.path.relpath(named, home)):
        raise UserError(
            f"{tuned}: was trained on the base {trained_on!r}, but {home / PARAMS_FILE} has model.name "
            f"{named!r}; use the params.yaml it was trained with, or train again with `dvc repro`"
        )
    return settings


def _exported(folder: Path) -> ModelSource:
    settings = of_export(folder)
    if settings.target not in RUN_HERE:
        raise UserError(
            f"{folder}: was exported for {settings.target}, which this command cannot run; use that "
            "engine, or export the target merged"
        )
    return ModelSource(str(folder), settings, folder if settings.target == "adapter" else None, trained=True)


def _adapter(folder: Path) -> ModelSource:
    """An adapter in peft's layout, with the prompt and the decoding of params.yaml in this folder."""
    settings = of_pipeline(Path())
    config = read_object(folder / ADAPTER)
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise UserError(
            f"{folder / ADAPTER}: base_model_name_or_path: expected the base's name, found {name!r}"
        )
    model = settings.model
    if name != model.name:
        model = base_model(folder, name, config.get("revision"), model.dtype, model.quantization)
    return ModelSource(str(folder), replace(settings, model=model), folder, trained=True)


def load_model_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The tokenizer of the model, which for an adapter is that of its base."""
    if source.settings.target != CTRANSLATE2:
        with _naming(source):
            return load_tokenizer(source.settings.model)
    tokenizer = load_exported_tokenizer(Path(source.settings.model.name))  # beside no safetensors
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.model_max_length = 10**9  # `encoding` cuts long documents
    return tokenizer


def load_model(
    source: ModelSource, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel | PeftModel | CTranslate2Model:
    """The model on its device, in eval mode; a UserError names the folder that it cannot be loaded from."""
    with _naming(source):
        if source.settings.target == CTRANSLATE2:
            return CTranslate2Model(Path(source.settings.model.name), source.settings, tokenizer)
        if source.tuned is None:
            return load_base(source.settings.model)
        with _fitting(source, source.tuned):
            if (source.tuned / TUNING).is_file():
                return load_tuned(source.settings.model, source.tuned)
            return load_adapter(source, source.tuned)


def load_adapter(source: ModelSource, folder: Path) -> PreTrainedModel | PeftModel:
    """The base with peft's adapter on it, merged where that changes no output."""
    from peft import PeftModel

    check_adapter(folder)

    def adapted() -> PeftModel:
        with quiet_peft():
            return PeftModel.from_pretrained(load_base(source.settings.model), folder).eval()

    return merged(adapted, source.settings.model)


@contextmanager
def _fitting(source: ModelSource, folder: Path) -> Iterator[None]:
    """Inside, an adapter that does not fit its base is a UserError; peft would warn, or list tensors."""
    base = source.settings.model.name
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        try:
            yield
        except UserError:
            raise
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, UserWarning) as error:
            if machine_faults.sentence_of(error):  # too little memory says nothing about the adapter
                raise
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{folder}: the adapter does not fit the base {base} ({reason}); use the base that it was "
                "trained on"
            ) from error


@contextmanager
def _naming(source: ModelSource) -> Iterator[None]:
    """Inside, errors of the loader name the model, which params.yaml does not always name."""
    try:
        yield
    except UserError as error:
        model = source.settings.model
        text = str(error).replace(f"model.name: {model.name!r}", model.name)
        if source.tuned is not None and model.watch == NO_FILE:
            text += f"; no folder {model.name} was found here or beside {source.tuned}"
        raise UserError(text) from error
