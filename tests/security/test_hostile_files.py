"""Real hostile files, given to the real readers: each is refused by name, and nothing in it is run."""

import gzip
import json
import pickle
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import ROOT, command, lora_settings

from onesentence.commands import rate
from onesentence.core import files, params
from onesentence.core.errors import UserError, sentence
from onesentence.core.params import Data, Model, part_of
from onesentence.core.pool import Pool
from onesentence.data import records
from onesentence.data.sources import open_source
from onesentence.evaluation.external import read_outputs
from onesentence.evaluation.metrics import read_scores
from onesentence.export.engines import load_transformers
from onesentence.inference.models import find, load_adapter, load_model
from onesentence.inference.settings import of_export
from onesentence.model.adapters import add_adapter, load_tuned, save_tuned
from onesentence.model.loading import load_base, load_config, load_tokenizer
from onesentence.study.declaration import Studies


class Payload:
    """Unpickled, it writes a file: the proof that a pickle was carried out."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return (open, (str(self.proof), "w"))


def hostile_pickle(path: Path, proof: Path) -> None:
    """A file of weights that runs code when it is loaded without weights_only; this is tried first."""
    torch.save(Payload(proof), path)
    torch.load(path, weights_only=False).close()
    assert proof.is_file()
    proof.unlink()


def settings(folder: Path) -> Model:
    return Model(str(folder), str(folder), None, "float32", "none")


@pytest.fixture
def model(tiny, tmp_path) -> Path:
    """A copy of the tiny model."""
    return shutil.copytree(tiny, tmp_path / "model")


@pytest.fixture
def adapter(tiny_settings, tmp_path) -> Path:
    """An adapter on the tiny model, as stage `train` writes it."""
    folder = tmp_path / "adapter"
    adapted = add_adapter(load_base(tiny_settings), lora_settings(rank=2), seed=0)
    save_tuned(adapted, folder, tiny_settings.name, "lora")
    return folder


def refused(call, *parts: str) -> None:
    """The call ends in a sentence that names each of `parts`."""
    with pytest.raises(UserError) as caught:
        call()
    said = sentence(caught.value)
    assert all(part in said for part in parts), said


# Models


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt"])
def test_pickled_weights_are_refused_by_name_and_never_read(model, tmp_path, name):
    proof = tmp_path / "proof"
    (model / "model.safetensors").unlink()
    hostile_pickle(model / name, proof)
    for load in (load_base, load_config, load_tokenizer):
        refused(lambda load=load: load(settings(model)), name, "a pickle can run code")
    assert not proof.exists()


def test_pickled_weights_beside_safetensors_are_not_read(model, tmp_path):
    hostile_pickle(model / "pytorch_model.bin", tmp_path / "proof")
    load_base(settings(model))
    assert not (tmp_path / "proof").exists()


def test_an_index_of_pickled_weights_is_not_read(model, tmp_path):
    (model / "model.safetensors").unlink()
    hostile_pickle(model / "pytorch_model-00001-of-00001.bin", tmp_path / "proof")
    index = {"weight_map": {"w": "pytorch_model-00001-of-00001.bin"}}
    (model / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    refused(lambda: load_base(settings(model)), "a pickle can run code")
    # As the index of safetensors: the file it names is no safetensors file.
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(lambda: load_base(settings(model)), "pytorch_model-00001-of-00001.bin", "not a safetensors file")
    assert not (tmp_path / "proof").exists()


def test_an_exported_folder_with_pickled_weights_is_not_read(model, tmp_path):
    (model / "model.safetensors").unlink()
    hostile_pickle(model / "pytorch_model.bin", tmp_path / "proof")
    with pytest.raises(OSError, match="safetensors"):
        load_transformers(model, part_of(type("Exported", (), {}), {"target": "merged"}))
    assert not (tmp_path / "proof").exists()


def test_a_pickled_adapter_is_refused_and_never_read(adapter, tiny_settings, tmp_path):
    (adapter / "adapter_model.safetensors").unlink()
    hostile_pickle(adapter / "adapter_model.bin", tmp_path / "proof")
    refused(lambda: load_tuned(tiny_settings, adapter), "adapter_model.safetensors not found", "a pickle")
    (adapter / "tuning.json").unlink()
    source = find(adapter)
    refused(lambda: load_adapter(source, adapter), "adapter_model.safetensors not found", "a pickle")
    assert not (tmp_path / "proof").exists()


def test_an_adapter_of_a_kind_that_loads_others_is_refused(adapter, tiny_settings):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "peft_type": "XLORA"}))
    refused(lambda: load_tuned(tiny_settings, adapter), str(path), "expected 'LORA', found 'XLORA'")


CODE = (
    "open({proof!r}, 'w').close()\nfrom transformers import PhiForCausalLM as Own, PhiConfig as OwnConfig\n"
)


@pytest.mark.parametrize("model_type", ["phi", "own"])
def test_code_in_a_model_folder_is_not_run(model, tmp_path, model_type, capsys):
    proof = tmp_path / "proof"
    (model / "own.py").write_text(CODE.format(proof=str(proof)))
    path = model / "config.json"
    auto = {
        "AutoConfig": "own.OwnConfig",
        "AutoModelForCausalLM": "own.Own",
        "AutoTokenizer": ["own.Own", None],
    }
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": auto, "model_type": model_type}))
    if model_type == "own":
        refused(lambda: load_base(settings(model)), "model.name", "own (auto_map)")
    else:
        load_base(settings(model))
        assert "its own Python code is not run" in capsys.readouterr().out
        load_tokenizer(settings(model))
    assert not proof.exists()


def test_an_index_that_leaves_the_folder_is_refused(model, tmp_path):
    shutil.move(model / "model.safetensors", tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"w": "../elsewhere.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(lambda: load_base(settings(model)), "'../elsewhere.safetensors' leaves the model's folder")


def test_a_config_that_asks_for_more_memory_than_there_is(model):
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab_size": 10**13}))
    refused(lambda: load_base(settings(model)), "model.name", str(model))


def test_an_adapter_of_another_shape_is_refused_by_name(adapter, tmp_path, pairs):
    from conftest import write_tiny_model

    other = write_tiny_model(tmp_path / "other", [pair["document"] for pair in pairs[:200]], vocabulary=500)
    config = json.loads((other / "config.json").read_text())
    wide = {**config, "hidden_size": 32, "intermediate_size": 64}
    from transformers import AutoConfig, AutoModelForCausalLM

    (other / "config.json").write_text(json.dumps(wide))
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(other)).save_pretrained(other)
    (adapter / "tuning.json").unlink()
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(other)}))
    source = find(adapter)
    said = f"{adapter}: the adapter does not fit the base {other}"
    refused(lambda: load_model(source, load_tokenizer(source.settings.model)), said)


def test_an_adapter_made_for_another_base_is_refused_by_name(pipeline, tmp_path):
    folder = shutil.copytree(pipeline, tmp_path / "pipeline")
    path = folder / "models/tuned/tuning.json"
    path.write_text(json.dumps({"method": "lora", "base": "models/other"}))
    refused(lambda: find(folder / "models/tuned"), "was trained on the base 'models/other'", "models/tiny")


def test_a_prompt_in_an_exported_folder_cannot_hold_the_place_of_the_article(tmp_path):
    from benchmarks.fuzz import seeds

    value = json.loads(seeds()["exported"])
    value["prompt"]["before"] = "{article}"
    (tmp_path / "summarization.json").write_text(json.dumps(value))
    refused(lambda: of_export(tmp_path), "prompt.before: expected a text without {article}")


# Paths


@pytest.mark.parametrize("watch", ["../secret.jsonl", "/etc/passwd", "data/local/../../../x"])
def test_data_outside_the_repository_is_refused(tmp_path, watch):
    text = (ROOT / "params.yaml").read_text()
    path = tmp_path / "params.yaml"
    text = text.replace("source: docstrings", "source: local")
    path.write_text(text.replace("watch: requirements.txt", f"watch: {watch}", 1))
    refused(lambda: params.load(("data",), path), f"data.watch: '{watch}' leaves the repository")


def test_a_base_outside_the_repository_is_refused(tmp_path):
    text = (ROOT / "params.yaml").read_text().replace("models/phi-tiny", "../models/phi-tiny")
    (tmp_path / "params.yaml").write_text(text)
    refused(
        lambda: params.load(("model",), tmp_path / "params.yaml"), "model.name: '../models/phi-tiny' leaves"
    )


@pytest.mark.parametrize("name", ["../../x", "/x", "a/b", "-x", "a\nb"])
def test_a_study_whose_name_is_a_path_is_refused(tmp_path, name):
    declared = params.read_yaml(ROOT / "studies.yaml")
    declared["studies"] = {name: declared["studies"]["rank"]}
    (tmp_path / "studies.yaml").write_text(json.dumps(declared))
    refused(
        lambda: Studies("models/phi-tiny", tmp_path / "studies.yaml"), f"studies: {name!r}: expected a name"
    )


def test_a_preset_whose_name_is_a_path_is_refused():
    done = command(ROOT, "preset", "../params", check=False)
    assert done.returncode == 1 and "preset '../params': presets/../params.yaml not found" in done.stderr


def test_a_link_out_of_the_data_is_refused_by_name(tmp_path, pairs, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(json.dumps(pair) + "\n" for pair in pairs[:3])
    local = tmp_path / "data/local"
    local.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        (local / f"{split}.jsonl").write_text(rows if split == "train" else "")
    (tmp_path / "secret.jsonl").write_text(rows)
    columns = {"document_column": "document", "summary_column": "summary", "group_column": None}

    def read(watch: str) -> list:
        source = open_source(part_of(Data, {"source": "local", "watch": watch, **columns}))
        with Pool(workers=1) as pool:
            read = [row for batch, _ in source.batches(pool) for row in batch.examples()]
        return read

    assert len(read("data/local")) == 3
    (local / "train.jsonl").unlink()
    (local / "train.jsonl").symlink_to(tmp_path / "secret.jsonl")
    refused(lambda: read("data/local"), "data/local/train.jsonl: is a symbolic link that leaves data/local")
    refused(lambda: read("data/local/train.jsonl"), "data/local/train.jsonl: is a symbolic link that leaves")
    # DVC itself links to its cache, where it is set up to (cache.type).
    cached = tmp_path / ".dvc/cache/files/md5/ab/cdef0123456789"
    cached.parent.mkdir(parents=True)
    cached.write_text(rows)
    (local / "train.jsonl").unlink()
    (local / "train.jsonl").symlink_to(cached)
    assert len(read("data/local")) == 3


# Bombs


def rows_of(path: Path) -> int:
    needed = {"document_column": "document", "summary_column": "summary"}
    return sum(1 for _ in records.records(path, needed))


@pytest.fixture
def small_floor(monkeypatch):
    """A file of any size may expand to 16 MB, not to 1 GB: a bomb above that takes long to write."""
    for module in (files, records):
        monkeypatch.setattr(module, "EXPANDED_ALWAYS", 2**24)


def write_bomb(path: Path, documents: pa.Array, **options) -> None:
    summaries = pa.array(["b"] * len(documents))
    table = pa.table({"document": documents, "summary": summaries})
    pq.write_table(table, path, compression="zstd", **options)
    assert path.stat().st_size < 100_000


@pytest.mark.usefixtures("small_floor")
def test_a_bomb_of_one_page_of_parquet(tmp_path):
    path = tmp_path / "bomb.parquet"
    write_bomb(path, pa.array(["a" * 20_000_000]), use_dictionary=False)
    refused(lambda: rows_of(path), str(path), "bytes that expand to 20,0", "made to fill the memory")
    refused(lambda: files.read_parquet(path), str(path), "made to fill the memory")
    refused(lambda: read_scores(path), str(path), "made to fill the memory")


@pytest.mark.usefixtures("small_floor")
@pytest.mark.parametrize("stored", ["dictionary", "string"])
def test_a_bomb_of_a_dictionary_of_parquet(tmp_path, stored):
    """One text, named by thousands of rows: what they hold together, no page declares."""
    path = tmp_path / "bomb.parquet"
    documents = pa.DictionaryArray.from_arrays(pa.array([0] * 4_000, pa.int32()), pa.array(["a" * 50_000]))
    write_bomb(path, documents if stored == "dictionary" else documents.cast(pa.string()))
    with pq.ParquetFile(path) as file:
        assert file.metadata.row_group(0).total_byte_size < 100_000
    refused(lambda: rows_of(path), str(path), "made to fill the memory")


@pytest.mark.usefixtures("small_floor")
def test_a_bomb_of_shared_beginnings_of_parquet(tmp_path):
    """DELTA_BYTE_ARRAY stores of each text only what differs from the one before: here nothing."""
    path = tmp_path / "bomb.parquet"
    texts = pa.array(["a" * 50_000] * 4_000)
    write_bomb(path, texts, use_dictionary=False, column_encoding={"document": "DELTA_BYTE_ARRAY"})
    refused(lambda: rows_of(path), str(path), "made to fill the memory")


def varint(number: int) -> bytes:
    """A number as Thrift's compact protocol writes it."""
    number, out = 2 * number, bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def test_a_bomb_of_rows_that_parquet_claims_and_does_not_hold(tmp_path):
    """A group that claims 2^35 rows makes pyarrow ask for their memory before it reads one."""
    path, rows = tmp_path / "bomb.parquet", 12_345
    write_bomb(path, pa.array(["a"] * rows))
    whole = path.read_bytes()
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    footer, tried = whole[start:-8], 0
    for place in [k for k in range(len(footer)) if footer[k:].startswith(varint(rows))]:
        claimed = footer[:place] + varint(2**35) + footer[place + len(varint(rows)) :]
        path.write_bytes(whole[:start] + claimed + len(claimed).to_bytes(4, "little") + b"PAR1")
        with pq.ParquetFile(path) as file:
            if file.metadata.row_group(0).num_rows != 2**35:
                continue  # the place of another count
        for read in (rows_of, files.read_parquet, read_scores):
            refused(lambda read=read: read(path), str(path), "made to fill the memory")
        tried += 1
    assert tried == 1


@pytest.mark.usefixtures("small_floor")
def test_a_bomb_of_gzip(tmp_path):
    line = json.dumps({"document": "a" * 1_000_000, "summary": "b"}).encode() + b"\n"
    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=9) as file:
        for _ in range(64):
            file.write(line)
    assert path.stat().st_size < 100_000
    refused(lambda: rows_of(path), str(path), "made to fill the memory")


@pytest.mark.parametrize("name", ["bomb.jsonl", "bomb.json", "bomb.csv", "bomb.jsonl.gz"])
def test_a_bomb_of_one_line(tmp_path, name):
    path = tmp_path / name
    open_ = gzip.open if name.endswith(".gz") else open
    with open_(path, "wb") as file:
        file.write(b"document,summary\n" if "csv" in name else b"")
        for _ in range(80):
            file.write(b"a" * 2**20)
    refused(lambda: rows_of(path), f"{path}, line", "longer than 67,108,864 characters")


def test_a_quote_that_never_ends_is_no_bomb(tmp_path):
    path = tmp_path / "quote.csv"
    with path.open("w") as file:
        file.write('document,summary\n"')
        for _ in range(80):
            file.write("a" * 2**20 + "\n")
    refused(lambda: rows_of(path), str(path), "field larger than field limit")


@pytest.mark.usefixtures("small_floor")
def test_a_large_but_real_parquet_file_is_read(tmp_path, pairs):
    """Real text, each row 20 times: no rule against bombs may refuse it."""
    path = tmp_path / "real.parquet"
    rows = [{key: pair[key] for key in ("document", "summary")} for pair in pairs] * 20
    for options in ({}, {"use_dictionary": False, "column_encoding": {"document": "DELTA_BYTE_ARRAY"}}):
        pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd", **options)
        assert rows_of(path) == len(rows)


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "read",
    [
        lambda path: files.read_json(path),
        lambda path: files.read_jsonl(path),
        lambda path: rate.read_ratings(path),
        lambda path: rows_of(path.rename(path.with_suffix(".jsonl"))),
        lambda path: read_outputs(path.rename(path.with_suffix(".jsonl")), "predictions"),
    ],
)
def test_brackets_inside_each_other_are_refused(tmp_path, read):
    path = tmp_path / "deep.json"
    path.write_text(DEEP)
    refused(lambda: read(path), "deep.json", "not valid JSON")


@pytest.mark.parametrize("reader", [params.read_yaml, lambda path: Studies("models/phi-tiny", path)])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"{chr(98 + k)}: &{chr(98 + k)} [{', '.join([f'*{chr(97 + k)}'] * 9)}]\n" for k in range(9)
        ), "more than 100,000 values with its aliases"),
        ("a: &a [*a]\n", "a value that contains itself"),
        ("a: &a {b: *a}\n", "a value that contains itself"),
        ("a: " + "[" * 3_000, "not valid YAML"),
        ("a: !!python/object/apply:os.system ['touch proof']\n", "not valid YAML"),
        ("a: !!python/name:os.system\n", "not valid YAML"),
    ],
)  # fmt: skip
def test_yaml_that_expands_or_constructs_is_refused(tmp_path, monkeypatch, reader, text, said):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "params.yaml"
    path.write_text(text)
    started = time.monotonic()
    refused(lambda: reader(path), str(path), said)
    assert not Path("proof").exists() and time.monotonic() - started < 30


def test_an_alias_that_repeats_a_value_is_no_bomb(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {x: 1, y: [1, 2]}\nb: *a\nc: [*a, *a]\n")
    value = {"x": 1, "y": [1, 2]}
    assert params.read_yaml(path) == {"a": value, "b": value, "c": [value, value]}


def test_a_study_of_more_variants_than_anyone_runs_is_refused(tmp_path):
    declared = params.read_yaml(ROOT / "studies.yaml")
    study = {"question": "?", "baseline": "x", "seeds": [1]}
    values = list(range(1, 1_001))
    declared["studies"] = {"many": {**study, "axes": {"lora.rank": values, "lora.alpha": values}}}
    path = tmp_path / "studies.yaml"
    path.write_text(json.dumps(declared))
    refused(lambda: Studies("models/phi-tiny", path).names(), "more than 10,000 combinations")
    search = {"budget": 10**9, "seed": 0, "keys": {"lora.rank": values}}
    declared["studies"] = {"many": {**study, "search": search}}
    path.write_text(json.dumps(declared))
    refused(
        lambda: Studies("models/phi-tiny", path), "search.budget: expected a whole number from 1 to 10,000"
    )


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_named_as_data_is_refused(tmp_path, protocol):
    proof = tmp_path / "proof"
    raw = pickle.dumps(Payload(proof), protocol)
    for name in ("a.jsonl", "a.json", "a.csv", "a.parquet"):
        (tmp_path / name).write_bytes(raw)
        refused(lambda name=name: rows_of(tmp_path / name), name)
    (tmp_path / "a.txt").write_bytes(raw)
    refused(lambda: read_outputs(tmp_path / "a.txt", "predictions"), "a.txt")
    assert not proof.exists()
