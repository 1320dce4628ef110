"""Which model a name means, and how one that does not fit is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import write_tiny_model
from exports import write_export

from onesentence.core.errors import UserError
from onesentence.export.engines import load_exported_tokenizer
from onesentence.inference.models import find, load_model
from onesentence.inference.summarizer import Summarizer

ARTICLES = ["def f(x: int) -> int\n\nReturns x, doubled.", "The council met on Monday. It chose a new mayor."]


def texts(model, **options) -> list[str]:
    """The summaries of ARTICLES by a model."""
    return [summary.text for summary in Summarizer.load(model, **options).summarize(ARTICLES)]


def load(folder) -> None:
    """Load a model whose tokenizer is not asked for."""
    load_model(find(folder), None)


@pytest.fixture(scope="module")
def tuned(pipeline) -> list[str]:
    """The summaries of the pipeline's tuned model."""
    return texts(pipeline)


def test_the_working_directory_is_the_default(pipeline, tuned, monkeypatch):
    monkeypatch.chdir(pipeline)
    assert texts(None) == tuned
    assert find(None).name == "models/tuned" and find(None, untuned=True).name == "models/tiny (untuned)"


def test_a_tuned_folder_uses_the_pipeline_that_it_lies_in(pipeline, tuned):
    found = find(pipeline / "models/tuned")
    assert found.settings.prompt.max_input_tokens == 96 and found.trained
    assert texts(pipeline / "models/tuned") == tuned


def test_a_base_alone_uses_the_prompt_of_this_pipeline(pipeline, monkeypatch):
    untuned = texts(pipeline, untuned=True)
    monkeypatch.chdir(pipeline)
    assert texts("models/tiny") == untuned
    assert not find("models/tiny").trained


def test_an_exported_model_needs_no_pipeline(pipeline, tuned, tmp_path, monkeypatch):
    write_export(tmp_path / "exported", pipeline)
    monkeypatch.chdir(tmp_path)
    assert texts("exported") == tuned
    found = find("exported")
    assert found.trained and found.settings.target == "merged" and found.name == "exported"
    with pytest.raises(UserError, match=r"^--untuned: exported holds one merged model"):
        find("exported", untuned=True)


@pytest.mark.parametrize("from_folder", [".", "..", "models"])
def test_an_exported_adapter_finds_its_base(pipeline, tuned, tmp_path, monkeypatch, from_folder):
    home = tmp_path / "home"
    shutil.copytree(pipeline, home)
    write_export(home / "models/exported", home, "adapter")
    monkeypatch.chdir(home / from_folder)
    folder = (home / "models/exported").relative_to(Path.cwd())
    assert texts(folder) == tuned
    assert texts(folder, untuned=True) == texts(pipeline, untuned=True)


def test_an_exported_prompt_is_used_whatever_its_template_is_called_today(pipeline, tmp_path):
    other = write_export(tmp_path / "a", pipeline, prompt__before="Read: ", prompt__after="\nIn short:")
    (prompt,) = Summarizer.load(other).prompts(["An article."])
    assert prompt.text == "Read: An article.\nIn short:"


def test_an_exported_chat_prompt_is_not_filled_again(pipeline, tmp_path):
    frame = {"prompt__before": "<|user|>\n", "prompt__after": "\n<|model|>", "prompt__blank": "\n"}
    folder = write_export(tmp_path / "a", pipeline, prompt__chat=True, **frame)
    (prompt,) = Summarizer.load(folder).prompts(["An article."])  # the tokenizer has no chat template
    assert prompt.text == "<|user|>\nAn article.\n<|model|>"


def test_peft_s_own_layout_finds_its_base_beside_it(pipeline, tuned, tmp_path, monkeypatch):
    shutil.copytree(pipeline / "models/tuned", tmp_path / "adapter")
    (tmp_path / "adapter/tuning.json").unlink()
    monkeypatch.chdir(pipeline)
    assert texts(tmp_path / "adapter") == tuned


def test_another_base_is_refused_by_its_name(pipeline, tmp_path):
    folder = shutil.copytree(pipeline, tmp_path / "other")
    (folder / "models/tuned/tuning.json").write_text('{"method": "lora", "base": "models/phi-9"}')
    with pytest.raises(UserError, match=r"was trained on the base 'models/phi-9', but .* has model.name"):
        find(folder)
    with pytest.raises(UserError, match=r"was trained on the base 'models/phi-9'"):
        find(folder / "models/tuned")


def test_a_base_of_another_shape_is_refused(pipeline, tmp_path, pairs):
    folder = shutil.copytree(pipeline, tmp_path / "other")
    shutil.rmtree(folder / "models/tiny")
    write_tiny_model(folder / "models/tiny", [pair["document"] for pair in pairs[:50]])
    config = json.loads((folder / "models/tuned/adapter_config.json").read_text())
    path = folder / "models/tuned/adapter_config.json"
    for changes, said in (({"r": 4}, "size mismatch"), ({"target_modules": ["nothing"]}, "not found")):
        path.write_text(json.dumps(config | changes))
        with pytest.raises(UserError, match=rf"the adapter does not fit the base .*models/tiny \(.*{said}"):
            load(folder)


def test_too_little_memory_is_not_said_of_the_adapter(pipeline, monkeypatch):
    from onesentence.inference import models

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(models, "load_tuned", full)
    with pytest.raises(torch.OutOfMemoryError):
        load(pipeline)


def test_a_layer_that_the_adapter_lacks_is_refused(pipeline, tmp_path):
    folder = shutil.copytree(pipeline, tmp_path / "other")
    path = folder / "models/tuned/adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"target_modules": ["q_proj", "k_proj", "v_proj", "fc1"]}))
    with pytest.raises(UserError, match=r"does not fit the base .*missing adapter keys"):
        load(folder)


def test_an_adapter_without_its_weights_or_its_base_is_refused(pipeline, tmp_path, monkeypatch):
    folder = write_export(tmp_path / "exported", pipeline, "adapter", model__base="models/gone")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"adapter_model.safetensors not found; save the adapter as safe"):
        load(folder)
    shutil.copy(pipeline / "models/tuned/adapter_model.safetensors", folder)
    with pytest.raises(UserError, match=r"^models/gone.*; no folder models/gone was found here or beside"):
        load(folder)
    adapter = shutil.copytree(pipeline / "models/tuned", tmp_path / "adapter")
    (adapter / "tuning.json").unlink()
    (adapter / "adapter_config.json").write_text("{}")
    monkeypatch.chdir(pipeline)
    with pytest.raises(UserError, match=r"base_model_name_or_path: expected the base's name, found None"):
        find(adapter)


@pytest.mark.parametrize("quantization", ["none", "q8_0"])
def test_a_target_of_another_engine_is_refused(pipeline, tmp_path, quantization):
    folder = write_export(tmp_path / "exported", pipeline, target="merged", model__quantization=quantization)
    path = folder / "summarization.json"
    path.write_text(path.read_text().replace('"merged"', '"gguf"'))
    with pytest.raises(UserError, match=r"exported: was exported for gguf, which this command cannot run"):
        find(folder)


def test_ctranslate2_writes_what_transformers_writes(pipeline, tmp_path):
    pytest.importorskip("ctranslate2", reason="CTranslate2 is in models/requirements.txt")
    greedy = {"generate__num_beams": 1, "generate__no_repeat_ngram_size": 0}
    merged = write_export(tmp_path / "merged", pipeline, **greedy)
    folder = write_export(tmp_path / "fast", pipeline, "ctranslate2_float32", **greedy)
    summarizer = Summarizer.load(folder)
    articles = [*ARTICLES, "word " * 300]
    assert summarizer.summarize(articles) == Summarizer.load(merged).summarize(articles)
    assert summarizer.check() == 1.0 and summarizer.name == str(folder)
    (folder / "model.bin").write_bytes(b"cut")
    with pytest.raises(
        UserError, match=r"fast: CTranslate2 cannot load this model \(.*run `make export` again"
    ):
        Summarizer.load(folder)
    (folder / "model.bin").unlink()
    with pytest.raises(UserError, match=r"fast: model.bin not found; copy the whole folder"):
        Summarizer.load(folder)


def test_a_damaged_tokenizer_of_an_export_is_named(pipeline, tmp_path):
    folder = write_export(tmp_path / "exported", pipeline, target="merged")
    path = folder / "tokenizer.json"
    for text in (path.read_text()[:200], '{"version": "1.0"}'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"exported.*(tokenizer\.json|its tokenizer could not be loaded)"):
            load_exported_tokenizer(folder)


def test_without_a_pipeline_here_a_model_must_be_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^params\.yaml: not found here; .* with --model"):
        find(None)


def test_a_name_that_is_too_long_for_a_folder_is_not_found(pipeline, monkeypatch):
    monkeypatch.chdir(pipeline)
    with pytest.raises(UserError, match=r"^--model: x+/x+: not found; expected the folder of"):
        find("x" * 300 + "/" + "x" * 300)


def test_a_revision_s_base_of_a_hub_keeps_its_name(pipeline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(pipeline / "params.yaml", tmp_path)
    values = yaml.safe_load((tmp_path / "params.yaml").read_text())
    values["model"] |= {"name": "microsoft/phi-2", "watch": "requirements.txt", "revision": "0" * 40}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr("onesentence.inference.models.fetch", lambda *_: (tmp_path, "0123456789"))
    assert find("HEAD", untuned=True).name == "microsoft/phi-2 at HEAD (0123456)"


def test_a_folder_without_a_model_and_a_pipeline_without_training_are_refused(pipeline, tmp_path):
    with pytest.raises(UserError, match=r"no model is in this folder \(expected summarization.json"):
        find(tmp_path)
    shutil.copytree(pipeline / "models/tiny", tmp_path / "models/tiny")
    shutil.copy(pipeline / "params.yaml", tmp_path)
    with pytest.raises(
        UserError, match=r"models/tuned: not found; run `dvc repro` \(or `dvc pull`\) in .*--untuned"
    ):
        find(tmp_path)
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(UserError, match=r"file.txt: is a file; expected the folder"):
        find(tmp_path / "file.txt")
    with pytest.raises(UserError, match=r"^--model: no/such: not found; expected the folder"):
        find("no/such")
