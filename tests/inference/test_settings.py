"""Settings from params.yaml, also an older one, and from an exported folder, with every problem at once."""

import json
from pathlib import Path

import pytest
from conftest import ROOT
from exports import description

from onesentence.core.errors import UserError
from onesentence.core.prompts import CHAT, Frame
from onesentence.inference.settings import of_export, of_pipeline


def test_the_settings_of_a_pipeline_are_those_of_its_params(pipeline):
    settings = of_pipeline(pipeline)
    assert settings.model.name == settings.model.watch == str(pipeline / "models/tiny")
    assert (settings.prompt.template, settings.prompt.max_input_tokens) == ("direct", 96)
    assert settings.generate.num_beams == 2 and settings.language == "en"
    assert (settings.min_success_rate, settings.document_column) == (0.9, "document")
    assert settings.target is None and settings.frame is None


def test_a_base_that_is_quantized_for_writing_is_loaded_so(pipeline, tmp_path):
    with_text(pipeline, tmp_path, ("  quantization: null", "  quantization: nf4"))
    settings = of_pipeline(tmp_path)
    assert settings.model.quantization == settings.generate.quantization == "nf4"


def test_params_of_an_older_version_are_read_with_their_old_names(tmp_path):
    text = (ROOT / "params.yaml").read_text()
    text = text.replace("  no_repeat_ngram_size:", "  no_repeat_ngram:").replace(
        "  max_batch_tokens:", "  batch_tokens:"
    )
    text = "".join(line for line in text.splitlines(True) if not line.startswith("  quantization: null"))
    (tmp_path / "params.yaml").write_text(
        text.replace("report:\n  published: none", "report:\n  reference: none")
    )
    settings = of_pipeline(tmp_path)
    assert (settings.generate.no_repeat_ngram_size, settings.generate.max_batch_tokens) == (3, 8192)


def with_text(pipeline, folder, *changes: tuple[str, str]) -> None:
    """The pipeline's params.yaml in a folder, with some of its text changed."""
    text = (pipeline / "params.yaml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "params.yaml").write_text(text)


def test_the_params_of_this_pipeline_are_read_strictly(pipeline, tmp_path, monkeypatch):
    with_text(pipeline, tmp_path, ("rank: 16", "rank: many"))
    assert of_pipeline(tmp_path).generate.num_beams == 2  # of another pipeline, only what is used matters
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"params.yaml: 1 problem\(s\)\s+lora.rank: expected"):
        of_pipeline(Path())


def test_problems_of_another_pipeline_are_listed(pipeline, tmp_path):
    with_text(pipeline, tmp_path, ("num_beams: 2", "num_beams: 0"), ("template: direct", "template: no slot"))
    with pytest.raises(UserError, match=r"params.yaml: 2 problem\(s\)") as error:
        of_pipeline(tmp_path)
    assert "prompt.template: expected" in str(error.value)
    assert "generate.num_beams: expected" in str(error.value)
    (tmp_path / "params.yaml").unlink()
    with pytest.raises(UserError, match=r"params.yaml: not found"):
        of_pipeline(tmp_path)


@pytest.fixture
def values(pipeline, tmp_path) -> dict:
    """The description of an exported model."""
    return description(tmp_path / "model", pipeline)


def export(folder, values) -> object:
    (folder / "summarization.json").write_text(json.dumps(values))
    return of_export(folder)


def test_an_export_holds_all_that_is_needed(pipeline, tmp_path, values):
    settings = export(tmp_path, values)
    assert settings.model.name == str(tmp_path) and settings.target == "merged"
    assert settings.frame == Frame("Article: ", "\n\nSummarize the above article in one sentence.\nSummary:")
    assert settings.prompt.template == f"{settings.frame.before}{{article}}{settings.frame.after}"
    assert settings.generate == of_pipeline(pipeline).generate
    values["prompt"]["chat"] = True
    assert export(tmp_path, values).prompt.template == CHAT


def test_problems_of_an_export_are_listed(tmp_path, values):
    del values["prompt"]["before"], values["smoke"]
    values["generate"]["num_beams"] = "four"
    values["language"], values["target"] = "english", "onnx"
    with pytest.raises(UserError) as error:
        export(tmp_path, values)
    lines = str(error.value).split("\n  ")
    assert lines[0].endswith("summarization.json: 5 problem(s)")
    starts = (
        "target: expected one of merged, adapter",
        "language: expected a lang",
        "prompt.before: missing",
    )
    starts += (
        "generate.num_beams: expected a whole number",
        "smoke: expected a section with keys, found None",
    )
    assert [line for line, start in zip(lines[1:], starts, strict=True) if not line.startswith(start)] == []


def test_an_export_of_another_format_is_refused(tmp_path, values):
    with pytest.raises(UserError, match=r"summarization.json: format: expected 1, found 2; export"):
        export(tmp_path, values | {"format": 2})
    (tmp_path / "summarization.json").write_text("[1")
    with pytest.raises(UserError, match=r"summarization.json: not valid JSON"):
        of_export(tmp_path)


@pytest.mark.parametrize("name", ["base", "../base"])
def test_the_base_of_an_exported_adapter_is_a_folder_or_a_hub_id(tmp_path, values, name, monkeypatch):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    values["target"] = "adapter"
    values["model"] |= {"base": name, "revision": "abc"}
    found = export(folder, values).model
    assert (tmp_path / found.name).samefile(tmp_path / "base") and found.revision is None
    values["model"] |= {"base": "microsoft/phi-2"}
    found = export(folder, values).model
    assert (found.name, found.watch, found.revision) == ("microsoft/phi-2", "requirements.txt", "abc")
