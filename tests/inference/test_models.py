"""Which model a name means, and how one that does not fit is refused."""

import json
import shutil

import pytest
from conftest import write_tiny_model
from exports import write_export

from onesentence.core.errors import UserError
from onesentence.inference.models import find, load_model
from onesentence.inference.summarizer import Summarizer

ARTICLES = ["def f(x: int) -> int\n\nReturns x, doubled.", "The council met on Monday. It chose a new mayor."]


def texts(model, **options) -> list[str]:
    """The summaries of ARTICLES by a model."""
    return [summary.text for summary in Summarizer.load(model, **options).summarize(ARTICLES)]


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


@pytest.mark.parametrize("target", ["merged", "adapter"])
def test_an_exported_model_needs_no_pipeline(pipeline, tuned, tmp_path, monkeypatch, target):
    folder = write_export(tmp_path / "exported", pipeline, target)
    monkeypatch.chdir(tmp_path)
    assert texts("exported") == tuned
    found = find("exported")
    assert found.trained and found.settings.target == target and found.name == "exported"
    if target == "adapter":
        assert texts("exported", untuned=True) == texts(pipeline, untuned=True)
    else:
        with pytest.raises(UserError, match=r"^--untuned: exported holds one merged model"):
            find("exported", untuned=True)
    assert (folder / "summarization.json").is_file()


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
            load_model(find(folder))


def test_a_layer_that_the_adapter_lacks_is_refused(pipeline, tmp_path):
    folder = shutil.copytree(pipeline, tmp_path / "other")
    path = folder / "models/tuned/adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"target_modules": ["q_proj", "k_proj", "v_proj", "fc1"]}))
    with pytest.raises(UserError, match=r"does not fit the base .*missing adapter keys"):
        load_model(find(folder))


def test_an_adapter_without_its_weights_or_its_base_is_refused(pipeline, tmp_path, monkeypatch):
    folder = write_export(tmp_path / "exported", pipeline, "adapter", model__base="models/gone")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"adapter_model.safetensors not found; save the adapter as safe"):
        load_model(find(folder))
    shutil.copy(pipeline / "models/tuned/adapter_model.safetensors", folder)
    with pytest.raises(UserError, match=r"^models/gone.* (not in the local cache|not on the hub)"):
        load_model(find(folder))
    adapter = shutil.copytree(pipeline / "models/tuned", tmp_path / "adapter")
    (adapter / "tuning.json").unlink()
    (adapter / "adapter_config.json").write_text("{}")
    monkeypatch.chdir(pipeline)
    with pytest.raises(UserError, match=r"base_model_name_or_path: expected the base's name, found None"):
        find(adapter)


@pytest.mark.parametrize("target", ["gguf", "ctranslate2"])
def test_a_target_of_another_engine_is_refused(pipeline, tmp_path, target):
    folder = write_export(tmp_path / "exported", pipeline, target)
    with pytest.raises(UserError, match=rf"exported: was exported for {target}, which this command cannot"):
        find(folder)


def test_a_folder_without_a_model_and_a_pipeline_without_training_are_refused(pipeline, tmp_path):
    with pytest.raises(UserError, match=r"no model is in this folder \(expected summarization.json"):
        find(tmp_path)
    shutil.copytree(pipeline / "models/tiny", tmp_path / "models/tiny")
    shutil.copy(pipeline / "params.yaml", tmp_path)
    with pytest.raises(
        UserError, match=r"models/tuned: not found; run `dvc pull` or `dvc repro` in .*--untuned"
    ):
        find(tmp_path)
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(UserError, match=r"file.txt: is a file; expected the folder"):
        find(tmp_path / "file.txt")
    with pytest.raises(UserError, match=r"^--model: no/such: not found; expected the folder"):
        find("no/such")
