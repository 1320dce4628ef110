"""A right export passes. Each classic mistake is caught by its score, and its likely cause is named."""

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from conftest import ROOT, edit, lora_settings
from safetensors.torch import load_file, save_file

from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.files import atomic_write, read_parquet, write_jsonl, write_parquet
from onesentence.evaluation import extraction, scoring
from onesentence.evaluation.metrics import write_scores
from onesentence.export.folder import read_settings
from onesentence.generation.decoding import summarize
from onesentence.model.adapters import load_tuned, save_tuned, trainable
from onesentence.model.encoded_rows import encode_rows
from onesentence.model.loading import load_base, load_tokenizer
from stages import export, rescore

pytestmark = pytest.mark.slow  # every test runs both stages
ARTICLES = 12
SETTINGS = {"generate__max_new_tokens": 12, "generate__num_beams": 2, "evaluate__resamples": 200}


def tune(model: params.Model, method: str) -> None:
    """Write models/tuned: an adapter of random numbers, or all weights with a bias to end outputs."""
    adapted = trainable(load_base(model), lora_settings(rank=4), 0, method)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.add_(torch.randn_like(weight) * 0.05)
            elif name == "lm_head.bias" and method == "full":
                weight[0] += 5.0  # EOS
    save_tuned(adapted, Path("models/tuned"), model.name, method)


def measure(p: params.Params, pairs: list[dict]) -> None:
    """Write what earlier stages write: articles, prompts, outputs and scores of the tuned model."""
    chosen = [pair for pair in pairs if 150 < len(pair["document"]) < 900][:ARTICLES]
    assert len(chosen) == ARTICLES
    text = {
        key: pa.array([pair[name] for pair in chosen], pa.string())
        for key, name in (("id", "id"), ("group", "id"), ("document", "document"), ("summary", "summary"))
    }
    text["heading"] = pa.array([""] * len(chosen), pa.string())
    write_parquet(Path("data/prepared/test.parquet"), text)
    tokenizer = load_tokenizer(p.model)
    rows = [(pair["id"], "", pair["document"], pair["summary"]) for pair in chosen]
    table = encode_rows(tokenizer, p.prompt, rows).table()
    write_parquet(Path("data/tokenized/test.parquet"), {name: table[name] for name in ("id", "prompt_ids")})
    rows = table["prompt_ids"].to_pylist()
    outputs = summarize(load_tuned(p.model, Path("models/tuned")), tokenizer, rows, p.generate)
    write_jsonl(
        Path("data/predictions/tuned.jsonl"),
        [
            {"id": pair["id"], "prediction": output.text, "status": output.status, "stopped": output.stopped}
            for pair, output in zip(chosen, outputs, strict=True)
        ],
    )
    scores = scoring.score_systems(
        [pair["id"] for pair in chosen],
        [pair["summary"] for pair in chosen],
        {"tuned": [output.text for output in outputs]},
        {"tuned": [output.succeeded for output in outputs]},
        [extraction.Article(pair["document"]) for pair in chosen],
        p.evaluate,
        bertscore=True,
        behaviour={},
        unit="file",
    )["tuned"]
    with atomic_write(Path("data/scores/tuned")) as folder:
        folder.mkdir(parents=True)
        write_scores(folder / "tuned.parquet", scores, {})


def lay_out(folder: Path) -> None:
    """The files of the repository that the two stages read."""
    for name in ("params.yaml", "requirements.txt", "metrics/evaluation.json", "metrics/train.json",
                 "metrics/data.json"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    (folder / "models").mkdir()
    (folder / "models/phi-tiny").symlink_to(ROOT / "models/phi-tiny")
    edit(folder, **SETTINGS)


def loaded() -> params.Params:
    return params.load(tuple(params.SCHEMA))


@pytest.fixture(autouse=True)
def chosen_kernels(monkeypatch):
    """The kernels of this process are chosen: a second choice would be refused."""
    for module in (export, rescore):
        monkeypatch.setattr(module, "set_up", lambda seed, formats: None)


def measured(folder: Path, pairs: list[dict], method: str) -> Path:
    """A project with a tuned model that was measured on a few articles."""
    lay_out(folder)
    edit(folder, train__method=method)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tune(loaded().model, method)
        measure(loaded(), pairs)
    return folder


@pytest.fixture(scope="module")
def measured_adapter(tmp_path_factory, pairs) -> Path:
    return measured(tmp_path_factory.mktemp("adapter"), pairs, "lora")


@pytest.fixture(scope="module")
def measured_whole(tmp_path_factory, pairs) -> Path:
    return measured(tmp_path_factory.mktemp("whole"), pairs, "full")


@pytest.fixture
def project(measured_adapter, tmp_path, monkeypatch) -> Path:
    """A copy of the project with an adapter, which is also the working directory."""
    folder = shutil.copytree(measured_adapter, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def whole(measured_whole, tmp_path, monkeypatch) -> Path:
    """The same with every weight trained."""
    folder = shutil.copytree(measured_whole, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def change(path: str, **values) -> None:
    """Set keys of a JSON file of the exported folder; None removes one."""
    file = Path("models/exported") / path
    content = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def refusal() -> str:
    """The error of `rescore`, which writes its numbers before it fails."""
    with pytest.raises(UserError) as error:
        rescore.main()
    assert json.loads(Path("metrics/export.json").read_text())["equivalence"]["verdict"] != "equivalent"
    return str(error.value)


@pytest.mark.parametrize("target", ["merged", "adapter", "ctranslate2_float32"])
def test_what_is_right_is_equivalent(target, project, capsys):
    if target == "ctranslate2_float32":
        pytest.importorskip("ctranslate2", reason="pip install -r models/requirements.txt")
        edit(project, generate__no_repeat_ngram_size=0)
        measure_again()
    edit(project, export__target=target)
    export.main()
    rescore.main()
    result = json.loads(Path("metrics/export.json").read_text())
    assert (result["n"], result["prompts_that_differ"], result["outputs_that_differ"]) == (ARTICLES, 0, 0)
    test = result["equivalence"]
    assert (test["verdict"], test["value"], test["low"], test["high"]) == ("equivalent", 0.0, 0.0, 0.0)
    assert result["differences"]["bertscore"]["value"] == 0.0 and result["update_kept"] == 1.0
    assert result["bytes"] == sum(f.stat().st_size for f in Path("models/exported").rglob("*") if f.is_file())
    assert "is equivalent to the measured model: ROUGE-1 +0.00 [+0.00, +0.00]" in capsys.readouterr().out
    rows = [json.loads(line) for line in Path("data/predictions/exported.jsonl").read_text().splitlines()]
    measured = [json.loads(line) for line in Path("data/predictions/tuned.jsonl").read_text().splitlines()]
    keys = ("id", "prediction", "status", "stopped")
    assert [[row[key] for key in keys] for row in rows] == [[row[key] for key in keys] for row in measured]


def measure_again() -> None:
    """Measure the tuned model with the present params.yaml."""
    table = read_parquet(Path("data/prepared/test.parquet"))
    measure(loaded(), [{key: row[key] for key in ("id", "document", "summary")} for row in table.to_pylist()])


def test_a_gguf_file_is_compared_with_the_measured_model_in_greedy_search(project):
    """Without llama.cpp: what `rescore` loads of params.yaml is enough to run the measured model."""
    edit(project, export__target="gguf_float32", generate__no_repeat_ngram_size=0)
    export.main()
    measured, exported = params.load(rescore.PARAMS), read_settings(rescore.EXPORTED)
    ids = read_parquet(Path("data/tokenized/test.parquet"), ["id"])["id"].to_pylist()
    prompts, _ = rescore.read_measured(ids, "test")
    rows = rescore.measure_greedily(params.generating(measured), exported, ids, prompts)
    edit(project, generate__num_beams=1)
    measure_again()
    assert rows == rescore.read_measured(ids, "test")[1]


def test_another_prompt_is_caught(project):
    export.main()
    file = Path("models/exported/chat_template.jinja")
    file.write_text(file.read_text().replace("one sentence", "a sentence"))
    message = refusal()
    assert f"prompts that differ: {ARTICLES} of {ARTICLES}" in message
    assert "likely cause: the prompt or the tokenizer" in message and "token " in message


def test_a_lost_eos_is_caught(whole):
    export.main()
    change("generation_config.json", eos_token_id=None)
    change("config.json", eos_token_id=None)
    assert "eos_token_id is None, was 0" in refusal()


def test_weights_that_do_not_stop_are_caught(whole):
    export.main()
    file = "models/exported/model.safetensors"
    weights = load_file(file)
    weights["lm_head.bias"][0] -= 50.0
    save_file(weights, file, {"format": "pt"})
    assert re.search(r"likely cause: EOS: 0% of the outputs end by EOS, \d\d\d?% did; ", refusal())


def test_16_bits_that_round_the_update_away_are_named(project, capsys):
    """Its loss is in metrics/export.json and printed, whatever it does to these few outputs."""
    weights = load_file("models/tuned/adapter_model.safetensors")
    for name, weight in weights.items():
        weights[name] = weight * 0.02 if "lora_B" in name else weight
    save_file(weights, "models/tuned/adapter_model.safetensors", {"format": "pt"})
    measure_again()
    edit(project, model__dtype="bfloat16", export__margin=100.0)
    export.main()
    rescore.main()
    kept = json.loads(Path("metrics/export.json").read_text())["update_kept"]
    assert kept < 0.9
    assert f"warning: bfloat16 kept {kept:.1%} of the update" in capsys.readouterr().out


def test_a_target_that_needs_an_adapter_is_refused_for_whole_weights(whole):
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("target: merged", "target: adapter"))
    with pytest.raises(UserError, match=r"export\.target: must not be adapter where train\.method is full"):
        export.main()


def test_what_is_missing_is_named(project):
    with pytest.raises(UserError, match=r"models/exported/summarization\.json: not found; run `make export`"):
        rescore.main()
    shutil.rmtree("models/tuned")
    with pytest.raises(UserError, match=r"models/tuned: tuning\.json not found; run `dvc repro`"):
        export.main()
    assert not Path("models/exported").exists()


@pytest.mark.parametrize(
    ("setting", "value"), [("num_beams", 1), ("max_new_tokens", 4), ("length_penalty", -2.0)]
)
def test_other_decoding_is_caught(setting, value, project):
    export.main()
    change("generation_config.json", **{setting: value, "early_stopping": value != 1})
    assert f"{setting} is {value!r}, was " in refusal()


def test_a_tokenizer_that_lost_its_settings_is_caught(project):
    export.main()
    change("tokenizer_config.json", padding_side="right")
    message = refusal()
    assert f"prompts that differ: 0 of {ARTICLES}" in message
    assert "padding_side is 'right', was 'left'" in message
