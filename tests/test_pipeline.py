"""The real pipeline end to end with shrunk parameters: the same stages, the embedded base, real text."""

import json
import math
import re
import shutil

import pytest
from conftest import ROOT, SMALL, command, copy_repository, edit, run, stage

from onesentence.commands.sizes import SIZES, folder_of, metrics_of
from onesentence.evaluation.metrics import scores_file

pytestmark = pytest.mark.slow

TRACKED = """
metrics/.gitignore metrics/data.json metrics/evaluation.json metrics/pretrain.json metrics/prompt.json
metrics/smoke.json metrics/summary.json metrics/train.json
plots/.gitignore plots/extraction.csv plots/extraction.svg plots/groups.csv plots/length.csv plots/length.svg
plots/loss.csv plots/loss.svg plots/metrics.csv plots/metrics.svg plots/novelty.csv plots/novelty.svg
plots/results.md plots/tokens.csv plots/tokens.svg
""".split()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The default, shrunk, after `dvc repro`."""
    folder = copy_repository(tmp_path_factory.mktemp("default"))
    edit(folder, **{**SMALL, "data__train_size": 64, "lora__rank": 4})
    result = run(folder, "dvc", "repro")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message=run")
    return folder, result


def numbers(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, float) else []


def test_every_output_is_there_and_nothing_else(finished):
    folder, _ = finished
    found = [
        p.relative_to(folder).as_posix() for top in ("metrics", "plots") for p in (folder / top).iterdir()
    ]
    studies = {"metrics/studies", "plots/studies"}  # of the repository, where some were compared
    siblings = {metrics_of(width).as_posix() for width in SIZES}  # made by `make sizes`, not by the graph
    siblings |= {"metrics/export.json"}  # made by `make export`
    assert sorted(set(found) - studies - siblings) == sorted([*TRACKED, "plots/report.html"])
    assert sorted(p.name for p in (folder / "data/predictions").glob("*.jsonl")) == [
        "base.jsonl",
        "tuned.jsonl",
    ]
    assert sorted(p.name for p in (folder / "models/tuned").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "tuning.json",
    ]
    assert not list(folder.rglob("*.tmp"))


def test_tracked_numbers_are_finite_and_rounded_and_nothing_names_a_path_or_a_time(finished):
    folder, _ = finished
    for name in TRACKED:
        text = (folder / name).read_text()
        assert str(folder) not in text and "/tmp/" not in text, name
        if name.endswith(".json"):
            for number in numbers(json.loads(text)):
                assert math.isfinite(number) and number == round(number, 4)
            assert "seconds" not in text
        if name.endswith(".svg"):
            assert "<dc:date>" not in text


def test_every_test_row_has_one_prediction_in_order(finished):
    import pyarrow.parquet as pq

    folder, _ = finished
    ids = pq.read_table(folder / "data/prepared/test.parquet")["id"].to_pylist()
    for system in ("base", "tuned"):
        lines = (folder / f"data/predictions/{system}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert [row["id"] for row in rows] == ids
        assert set(rows[0]) == {
            *("id", "prediction", "status", "input_tokens", "output_tokens"),
            *("document_tokens_cut", "stopped"),
        }
        assert all(row["output_tokens"] <= 6 and row["input_tokens"] <= 352 for row in rows)


def test_evaluation_has_the_documented_form(finished):
    folder, _ = finished
    found = json.loads((folder / "metrics/evaluation.json").read_text())
    assert found["n"] == 8
    assert list(found["systems"]) == ["lead", "oracle", "base", "tuned", "reference"]
    declared = {name: rule for kind in found["metrics"].values() for name, rule in kind.items()}
    for name, system in found["systems"].items():
        assert set(system) <= set(declared)
        assert ("rouge1" in system) == (name != "reference")
        for metric, entry in system.items():
            low, high = declared[metric]["range"]
            if entry["value"] is not None:
                assert low <= entry["value"] and (high is None or entry["value"] <= high)
                assert entry["low"] <= entry["value"] + 1e-4 and entry["value"] <= entry["high"] + 1e-4
    for rule in declared.values():
        assert f"n:8|unit:file|test:{found['test']}" in rule["signature"]
        assert str(folder) not in rule["signature"]
    for entries in found["comparisons"].values():
        assert set(entries) == {name for name, rule in found["metrics"]["quality"].items()}
        for entry in entries.values():
            assert 0 < entry["p_randomization"] <= entry["p_holm"] <= 1
    scores = {
        name: system["rouge1"]["value"] for name, system in found["systems"].items() if "rouge1" in system
    }
    assert scores["oracle"] >= scores["lead"]
    gain = found["comparisons"]["tuned-lead"]["rouge1"]["value"]
    assert gain == pytest.approx(scores["tuned"] - scores["lead"], abs=2e-4)
    summary = json.loads((folder / "metrics/summary.json").read_text())
    assert len(summary) <= 10 and all(isinstance(value, float) for value in summary.values())
    # A changed score is one changed line of the diff.
    lines = (folder / "metrics/evaluation.json").read_text().splitlines()
    assert sum('"value"' in line for line in lines) == sum(
        len(part) for key in ("systems", "comparisons") for part in found[key].values()
    )


def test_scores_hold_a_row_an_id_and_give_the_aggregates(finished):
    import pyarrow.parquet as pq

    folder, _ = finished
    evaluation = json.loads((folder / "metrics/evaluation.json").read_text())
    ids = pq.read_table(folder / "data/prepared/test.parquet")["id"].to_pylist()
    for name in ("lead", "oracle", "base", "tuned"):
        table = pq.read_table(folder / scores_file(name))
        assert table["id"].to_pylist() == ids
        mean = sum(table["rouge1"].to_pylist()) / len(ids)
        assert evaluation["systems"][name]["rouge1"]["value"] == pytest.approx(mean, abs=1e-4)


def test_the_page_is_cached_and_not_in_git(finished):
    folder, _ = finished
    tracked = run(folder, "git", "ls-files", "plots", "data/scores").stdout.split()
    assert "plots/report.html" not in tracked and not any(name.startswith("data/scores") for name in tracked)
    text = (folder / "plots/report.html").read_text()
    assert "fine-tuned model" in text and len(text) < 5_000_000
    # Nothing that git tracks holds an article.
    import pyarrow.parquet as pq

    for document in pq.read_table(folder / "data/prepared/test.parquet")["document"].to_pylist():
        body = document.rpartition("\n\n")[2][:60]
        for name in TRACKED:
            assert body not in (folder / name).read_text(), name


def test_a_second_evaluation_writes_the_same_bytes(finished):
    """Python's sets come in another order under another hash seed: no score may depend on it."""
    import os
    import subprocess
    import sys

    folder, _ = finished
    names = ["metrics/evaluation.json", *(scores_file(n).as_posix() for n in ("lead", "base", "tuned"))]
    before = [(folder / name).read_bytes() for name in names]
    subprocess.run(
        [sys.executable, "-m", "stages.evaluate"],
        cwd=folder,
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        check=True,
        capture_output=True,
    )
    assert [(folder / name).read_bytes() for name in names] == before


def test_a_second_repro_has_nothing_to_do(finished):
    folder, _ = finished
    again = run(folder, "dvc", "repro")
    assert "Data and pipelines are up to date." in again.stdout
    assert run(folder, "git", "status", "--porcelain").stdout == ""


def test_the_table_and_the_verdict(finished):
    folder, _ = finished
    shown = run(folder, "python", "-m", "onesentence", "results").stdout
    for text in ("lead", "oracle", "tuned", "ROUGE-1", "Holm's correction", "plots/report.html"):
        assert text in shown
    # 100 resamples cannot carry 30 corrected tests, and the verdict says so.
    assert "no difference can be significant" in shown and " gains " not in shown


def test_the_estimate_names_parts_and_times(finished):
    folder, _ = finished
    shown = run(folder, "python", "-m", "onesentence", "estimate").stdout
    for text in ("dataset: reachable", "QLoRA (nf4)", "full fine-tuning", "activations", "Generation memory"):
        assert text in shown
    assert re.search(r"train: fits: needs about [\d.]+ GB", shown)
    assert re.search(r"train: [\d,]+ tokens at [\d,]+ a second: about [\d.]+ min", shown)
    assert re.search(r"generate: 8 articles at [\d.]+ a second", shown)


def test_the_estimate_measures_no_run_of_other_settings_and_none_that_will_not_fit(
    finished, monkeypatch, capsys
):
    from onesentence.commands import estimate

    folder, _ = finished
    before = (folder / "params.yaml").read_bytes()
    monkeypatch.chdir(folder)
    said = {}
    for key, value in (("prompt__max_input_tokens", 200), ("train__batch_size", 200_000)):
        edit(folder, **{key: value})
        estimate.command.main([], standalone_mode=False)
        said[key] = capsys.readouterr().out
        (folder / "params.yaml").write_bytes(before)
    rows = f"rows of {200 + estimate.COMPLETION_TOKENS} tokens"  # the limits, not what is tokenized
    assert rows in said["prompt__max_input_tokens"]
    assert "time: data/tokenized is not up to date; run `dvc repro" in said["prompt__max_input_tokens"]
    refused = said["train__batch_size"]
    assert "train: will not fit" in refused and "these would fit: train.batch_size: " in refused
    assert "fits:" not in refused and "a second" not in refused
    edit(folder, train__batch_size=100)  # one batch: the only step is counted, though it warms up
    estimate.command.main([], standalone_mode=False)
    (folder / "params.yaml").write_bytes(before)
    assert re.search(r"train: [\d,]+ tokens at [\d,]+ a second", capsys.readouterr().out)


def test_a_run_that_will_not_fit_is_refused_and_leaves_everything(finished):
    folder, _ = finished
    before = (folder / "params.yaml").read_bytes()
    adapter = (folder / "models/tuned/adapter_model.safetensors").read_bytes()
    edit(folder, train__batch_size=16_000_000)
    failed = stage(folder, "train", check=False)
    (folder / "params.yaml").write_bytes(before)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert "error: train: will not fit: needs about" in failed.stderr
    assert "these would fit: train.batch_size: " in failed.stderr
    assert (folder / "models/tuned/adapter_model.safetensors").read_bytes() == adapter


def test_inspect_shows_a_row_with_its_prompt_and_labels(finished):
    folder, _ = finished
    shown = command(folder, "inspect", "--split", "test").stdout
    assert "Summarize the above article in one sentence." in shown
    assert "completion" in shown and "<|endoftext|>" in shown
    missing = command(folder, "inspect", "--id", "nowhere", check=False)
    assert missing.returncode == 1
    assert missing.stderr == "error: --id: 'nowhere' not found in train; try another --split\n"


def test_nothing_but_progress_and_summaries_is_printed(finished):
    _, result = finished
    for text in ("Warning", "warn(", "Traceback", "kernels"):
        assert text not in result.stderr and text not in result.stdout


def test_held_out_rows_come_from_files_that_pretraining_did_not_read(finished):
    """Through the prepared ids, against the list in git: a path apart from prepare's own check."""
    import pyarrow.parquet as pq

    from onesentence.data.docstrings import source_files

    folder, _ = finished
    seen = set((folder / "models/phi-tiny/pretraining_files.txt").read_text().splitlines())
    known = {name for name, _ in source_files()}
    for split in ("validation", "test"):
        for name in pq.read_table(folder / f"data/prepared/{split}.parquet")["id"].to_pylist():
            distribution, qualname = name.split(":")
            parts = qualname.split(".")
            modules = ["/".join([distribution, *parts[:k]]) for k in range(len(parts) - 1, 0, -1)]
            candidates = [f"{module}{end}" for module in modules for end in (".py", "/__init__.py")]
            file = next(candidate for candidate in candidates if candidate in known)
            assert file not in seen


SIBLINGS = [width for width in SIZES if (ROOT / folder_of(width)).is_dir()]  # that `make sizes` has made


@pytest.mark.parametrize("width", [None, *SIBLINGS])
def test_pretrained_weights_are_those_that_pretraining_recorded(width):
    import hashlib

    from conftest import ROOT

    ending = f"-{width}" if width else ""
    recorded = json.loads((ROOT / f"metrics/pretrain{ending}.json").read_text())
    weights = ROOT / f"models/phi-tiny{ending}/model.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == recorded["weights_sha256"]
    listing = ROOT / f"models/phi-tiny{ending}/pretraining_files.txt"
    assert hashlib.sha256(listing.read_bytes()).hexdigest() == recorded["files_sha256"]
    assert weights.stat().st_size < 25_000_000
    config = json.loads((ROOT / f"models/phi-tiny{ending}/config.json").read_text())
    if width:  # the siblings read the same files, in the same order
        shape = {"hidden_size": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads"}
        assert {key: config[name] for key, name in shape.items()} == SIZES[width]
        whole = json.loads((ROOT / "metrics/pretrain.json").read_text())
        for key in ("files_sha256", "tokens_seen"):
            assert recorded[key] == whole[key]
    else:
        assert 5_000_000 <= recorded["parameters"] <= 10_000_000


def test_pretrain_itself_runs_and_resumes(tmp_path, monkeypatch, capsys):
    """The frozen stage's own functions on a small corpus: the loss falls, a resumed run is the same."""
    from types import SimpleNamespace

    import numpy as np
    import torch

    from onesentence.data import docstrings
    from onesentence.training import pretraining as pretrain

    entries = []
    for file, path in docstrings.source_files():
        if file.startswith("narwhals/"):
            entries += docstrings.entries_of(file, path)
    p = SimpleNamespace(
        seed=0, vocabulary=600, hidden_size=32, layers=1, heads=2, context=64, batch_size=8,
        micro_batch_size=4, muon_learning_rate=0.02, adamw_learning_rate=0.01, warmup_ratio=0.1,
        decay_share=0.5, summary_last_share=0.5, checkpoint_every=10,
    )  # fmt: skip
    tokenizer = pretrain.train_tokenizer([entry.docstring for entry in entries], p.vocabulary)
    rows = pretrain.token_rows(entries, tokenizer, p, steps=30)
    assert rows.shape == (240, 64)
    assert np.array_equal(rows, pretrain.token_rows(entries, tokenizer, p, steps=30))

    folder = tmp_path / "checkpoints"

    def trained(upto):
        torch.manual_seed(0)
        model = pretrain.build_model(tokenizer, p)
        return pretrain.pretrain(model, rows[: upto * 8], p, folder), model

    whole, model = trained(30)
    assert np.mean(whole[-5:]) < np.mean(whole[:5]) - 1
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-20", "checkpoint-30"]
    saved = torch.load(folder / "checkpoint-30/state.pt", weights_only=True)
    assert len(saved["losses"]) == 30
    # First from the last checkpoint, nothing left to do; then it is cut short, and the one before is taken.
    for said in (
        "pretrain: continuing from checkpoint-30\n",
        "checkpoint-20: checkpoint-30 was removed",
    ):
        again, resumed = trained(30)
        assert said in capsys.readouterr().out
        assert again == whole
        for left, right in zip(model.parameters(), resumed.parameters(), strict=True):
            assert torch.equal(left, right)
        with (folder / "checkpoint-30/state.pt").open("r+b") as file:
            file.truncate(1_000)

    first = {}  # a machine without bfloat16 reads the same text in float32
    for narrow in (True, False):
        monkeypatch.setattr(pretrain, "has_bfloat16", lambda narrow=narrow: narrow)
        shutil.rmtree(tmp_path / "checkpoints")
        first[narrow], _ = trained(3)
    assert first[True] != first[False]
    assert np.allclose(first[True], first[False], rtol=0.02)


def test_siblings_are_made_of_what_phi_tiny_read_or_not_at_all(tmp_path, monkeypatch, capsys):
    from conftest import ROOT

    from onesentence.commands import sizes
    from onesentence.core.errors import UserError
    from onesentence.data import docstrings
    from onesentence.training import pretraining as pretrain

    entries = []
    for file, path in docstrings.source_files():
        if file.startswith("narwhals/"):
            entries += docstrings.entries_of(file, path)
    # Of one package: the whole takes minutes.
    monkeypatch.setattr(sizes, "read_docstrings", lambda _: entries)
    # In float32: an earlier test's first tensor has chosen this process's kernels, which are not bfloat16's.
    monkeypatch.setattr(pretrain, "has_bfloat16", lambda: False)
    monkeypatch.setattr("onesentence.core.runtime.choose_bfloat16_kernels", lambda: None)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    small = {"vocabulary": 600, "context": 64, "tokens": 1_000, "batch_size": 8, "checkpoint_every": 10}
    edit(tmp_path, **{f"pretrain__{key}": value for key, value in small.items()})
    monkeypatch.chdir(tmp_path)
    listing = tmp_path / "models/phi-tiny/pretraining_files.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("other/file.py\n")
    with pytest.raises(UserError, match=r"pretraining_files\.txt: the installed packages have other files"):
        sizes.command.callback()
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["phi-tiny"]

    files = pretrain.files_of(pretrain.training_entries(entries))
    listing.write_text("".join(f"{file}\n" for file in files))
    sizes.command.callback()
    for width, shape in sizes.SIZES.items():
        config = json.loads((sizes.folder_of(width) / "config.json").read_text())
        assert config["hidden_size"] == width and config["num_hidden_layers"] == shape["layers"]
        assert (sizes.folder_of(width) / "pretraining_files.txt").read_text() == listing.read_text()
        assert json.loads((tmp_path / f"metrics/pretrain-{width}.json").read_text())["tokens_seen"] >= 1_000
    capsys.readouterr()
    sizes.command.callback()
    assert capsys.readouterr().out == "sizes: every model exists\n"
