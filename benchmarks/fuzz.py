"""Fuzz every reader of a file or a request that somebody else may have written.

A target takes bytes, gives them to the real reader as a file or a body, and expects a success or one
sentence: a UserError or a refusal of the service. Any other exception is a fault.
`tests/security/test_fuzzing.py` calls the same targets with hypothesis. This program calls them with atheris,
which looks for inputs that reach new code. It is run by hand; an input that breaks a target is written to the
working directory.

Run     pip install --require-hashes -r requirements/benchmarks.lock
        python -m benchmarks.fuzz params --seconds 300
        python -m benchmarks.fuzz --list
"""

import argparse
import functools
import gzip
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from onesentence.core import errors
from onesentence.core.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "models/phi-tiny-64"
COLUMNS = {"document_column": "document", "summary_column": "summary", "group_column": None}


def require_sentence(error: Exception) -> str:
    """The sentence of an error as a user sees it; AssertionError unless it is one, safe for a terminal."""
    text = errors.sentence(UserError(str(error)))
    first, *more = text.split("\n")
    assert first.strip() and all(line.startswith("  ") for line in more), text
    assert all(line.isprintable() or not line.isascii() for line in text.split("\n")), ascii(text)
    assert not any(ord(character) < 32 and character != "\n" for character in text), ascii(text)
    assert len(text) <= errors.LONGEST + 4, len(text)
    return text


def attempt(read: Callable[[], object]) -> str | None:
    """The sentence with which `read` refuses its input; None where it accepts it."""
    from onesentence.serving.requests import RefusedError

    try:
        read()
    except (UserError, RefusedError) as error:
        return require_sentence(error)
    return None


def params_file(data: bytes, folder: Path) -> str | None:
    """params.yaml."""
    from onesentence.core import params

    path = folder / "params.yaml"
    path.write_bytes(data)
    return attempt(lambda: params.load(tuple(params.SCHEMA), path))


def studies_file(data: bytes, folder: Path) -> str | None:
    """studies.yaml, with every study that it declares."""
    from onesentence.study.declaration import Studies

    path = folder / "studies.yaml"
    path.write_bytes(data)

    def read() -> None:
        studies = Studies("models/phi-tiny", path)
        for name in studies.names():
            studies.study(name)
            studies.study(name, quick=True)
        studies.check_names()

    return attempt(read)


def rows_of(name: str, data: bytes, folder: Path) -> str | None:
    """A file of pairs with this name, read to its end as stage `prepare` reads it."""
    from onesentence.core.params import Data, part_of
    from onesentence.core.pool import Pool
    from onesentence.data.sources import open_source

    path = folder / name
    path.write_bytes(data)
    settings = part_of(Data, {"source": "local", "watch": str(path), **COLUMNS})

    def read() -> None:
        with Pool(workers=1) as pool:
            for batch, _ in open_source(settings).batches(pool, "en"):
                list(batch.examples())

    return attempt(read)


def summarize_inputs(name: str, kind: str | None, data: bytes, folder: Path) -> str | None:
    """A file that `onesentence summarize` reads."""
    from onesentence.inference.inputs import open_inputs, read_all

    path = folder / name
    path.write_bytes(data)
    return attempt(lambda: list(read_all(open_inputs([str(path)], kind, None, "document"), False)))


def scored_file(role: str, suffix: str, data: bytes, folder: Path) -> str | None:
    """A file that `onesentence score` reads."""
    from onesentence.evaluation.external import read_groups, read_outputs, read_references

    path = folder / f"outputs{suffix}"
    path.write_bytes(data)

    def read() -> None:
        if role == "groups":
            read_groups(path, read_outputs(path, role))
        elif role == "references":
            read_references(path)
        else:
            read_outputs(path, role)

    return attempt(read)


def stored_scores(data: bytes, folder: Path) -> str | None:
    """A file of `onesentence score --scores`, compared with itself."""
    from onesentence.evaluation.metrics import read_scores, require_comparable

    path = folder / "scores.parquet"
    path.write_bytes(data)

    def read() -> None:
        scores = read_scores(path)
        require_comparable(scores, scores, "one", "other")

    return attempt(read)


def ratings_file(data: bytes, folder: Path) -> str | None:
    """A file of ratings, summarized."""
    from onesentence.commands.rate import lines, read_all, summary

    path = folder / "ratings.json"
    path.write_bytes(data)
    return attempt(lambda: lines(summary(read_all([path]))))


def request_body(route: str, data: bytes, _: Path) -> str | None:
    """The body of a request to the service."""
    from onesentence.serving.limits import Limits
    from onesentence.serving.requests import check_max_tokens, read_completion, read_summarize

    def read() -> None:
        if route == "summarize":
            read_summarize(data, Limits())
        else:
            check_max_tokens(read_completion(data, Limits())[1], 64)

    return attempt(read)


@functools.cache
def _tokenizer() -> Any:
    from onesentence.core.params import Model
    from onesentence.model.loading import load_tokenizer

    return load_tokenizer(Model(str(BASE), str(BASE), None, "float32", "none"))


def prompt_filler(data: bytes, _: Path) -> str | None:
    """A template and an article, divided by a NUL: filled, cut, turned into tokens and back."""
    from onesentence.core.prompts import is_template
    from onesentence.model.encoding import encode_completion, encode_prompt

    template, _, article = data.decode("utf-8", "replace").partition("\0")
    if not is_template(template) or not article.strip():
        return None

    def read() -> None:
        filled = encode_prompt(_tokenizer(), template, article, 96)
        assert len(filled.ids) <= 96
        encode_completion(_tokenizer(), article[:200], template)

    return attempt(read)


def chat_template(data: bytes, _: Path) -> str | None:
    """A model's own chat template."""
    import copy

    from onesentence.core.prompts import CHAT, frame_of

    tokenizer = copy.copy(_tokenizer())
    tokenizer.chat_template = data.decode("utf-8", "replace")
    return attempt(lambda: frame_of(tokenizer, CHAT))


def exported_settings(data: bytes, folder: Path) -> str | None:
    """summarization.json of an exported model, and the frame of its prompt."""
    from onesentence.core.prompts import frame_of
    from onesentence.inference.settings import of_export

    (folder / "summarization.json").write_bytes(data)

    def read() -> None:
        settings = of_export(folder)
        if settings.frame is not None and not settings.frame.chat:
            frame_of(SimpleNamespace(), settings.prompt.template)  # type: ignore[arg-type]

    return attempt(read)


def adapter_config(data: bytes, folder: Path) -> str | None:
    """adapter_config.json, as `--model` finds an adapter, with the check that comes before peft."""
    from onesentence.inference.models import find
    from onesentence.model.adapters import check_adapter

    (folder / "adapter_config.json").write_bytes(data)
    (folder / "adapter_model.safetensors").write_bytes(seeds()["safetensors"])

    def read() -> None:
        find(folder)
        check_adapter(folder)

    return attempt(read)


def safetensors_file(data: bytes, folder: Path) -> str | None:
    """The header of a safetensors file."""
    from onesentence.model.model_files import tensors_of

    path = folder / "model.safetensors"
    path.write_bytes(data)
    return attempt(lambda: tensors_of(path))


def weights_index(data: bytes, folder: Path) -> str | None:
    """The index of weights in several files."""
    from onesentence.model.model_files import check_weights

    (folder / "model.safetensors.index.json").write_bytes(data)
    (folder / "a.safetensors").write_bytes(seeds()["safetensors"])
    return attempt(lambda: check_weights(folder))


def model_config(data: bytes, folder: Path) -> str | None:
    """config.json of a base model, with the check of its architecture."""
    from onesentence.core.params import Model
    from onesentence.model.loading import load_config

    (folder / "config.json").write_bytes(data)
    (folder / "model.safetensors").write_bytes(seeds()["safetensors"])
    return attempt(lambda: load_config(Model(str(folder), str(folder), None, "float32", "none")))


def tokenizer_file(name: str, data: bytes, folder: Path) -> str | None:
    """A file of a base model's tokenizer."""
    from onesentence.core.params import Model
    from onesentence.model.loading import load_tokenizer

    for known in ("tokenizer.json", "tokenizer_config.json"):
        (folder / known).write_bytes(seeds()[known])
    shutil.copyfile(BASE / "config.json", folder / "config.json")
    (folder / "model.safetensors").write_bytes(seeds()["safetensors"])
    (folder / name).write_bytes(data)
    return attempt(lambda: load_tokenizer(Model(str(folder), str(folder), None, "float32", "none")))


def model_card(data: bytes, folder: Path) -> str | None:
    """The card of a base model, whose licence and name the export's card repeats."""
    from onesentence.core.params import Model
    from onesentence.export.card import licence_of

    (folder / "README.md").write_bytes(data)
    return attempt(lambda: licence_of(Model(str(folder), str(folder), None, "float32", "none")))


def evaluation_file(data: bytes, folder: Path) -> str | None:
    """metrics/evaluation.json of another revision, compared with that of this one."""
    from onesentence.commands.diff import metrics_table
    from onesentence.core.files import read_json

    path = folder / "evaluation.json"
    path.write_bytes(data)
    here = json.loads(seeds()["evaluation"])
    return attempt(
        lambda: [metrics_table(None, "then", read_json(path), here), metrics_table(None, "x", here, here)]
    )


def predictions_file(data: bytes, folder: Path) -> str | None:
    """data/predictions/SYSTEM.jsonl, joined to two articles."""
    from stages.score import predictions_by_id

    path = folder / "tuned.jsonl"
    path.write_bytes(data)
    return attempt(lambda: predictions_by_id(path, ["a", "b"]))


def _studies() -> bytes:
    """Some studies of studies.yaml, one of each form; the whole file takes long to read."""
    declared = yaml.safe_load((ROOT / "studies.yaml").read_text(encoding="utf-8"))
    kept = {}
    for name, entry in declared["studies"].items():
        if {*entry} - {key for known in kept.values() for key in known}:
            kept[name] = entry
    return yaml.safe_dump({**declared, "studies": kept}, sort_keys=False).encode()


def _pairs() -> list[dict[str, Any]]:
    return [
        {
            "id": f"row {k}",
            "document": f"Article {k}: größer, “quoted”.\nA second line.",
            "summary": f"It is {k}.",
        }
        for k in range(4)
    ]


def _parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(_pairs()), buffer, compression="zstd")
    return buffer.getvalue()


def _scores() -> bytes:
    import numpy as np
    import pyarrow as pa

    from onesentence.evaluation.metrics import Scores, signature, write_scores

    scores = Scores(
        ["a", "b"],
        {"rouge1": np.array([10.0, 20.0])},
        {},
        {"rouge1": signature("rouge1", "x", 2, "0")},
        ["a", "b"],
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.parquet"
        write_scores(path, scores, {"text": pa.array(["one", "two"])})
        return path.read_bytes()


def _safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(8)


def _tokenizer_json() -> bytes:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<eos>": 0, "<unk>": 1, "a": 2, "b": 3}
    small = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    small.pre_tokenizer = pre_tokenizers.Whitespace()
    small.add_special_tokens(["<eos>"])
    text: str = small.to_str()
    return text.encode()


def _table(delimiter: str) -> bytes:
    lines = [
        ["id", "document", "summary"],
        ["1", '"An article, quoted\nover two lines"', "A summary"],
        ["2", "b", "c"],
    ]
    return "\n".join(delimiter.join(line) for line in lines).encode()


@functools.cache
def seeds() -> dict[str, bytes]:
    """One valid input of each kind, from which both fuzzers start."""
    pairs = _pairs()
    jsonl = "".join(json.dumps(row) + "\n" for row in pairs).encode()
    rating = {"id": "row 1", "overall": "tuned", "fluency": "equal"}
    ratings = {"format": "one-sentence ratings 1", "rater": "Anna", "test": "0a1b", "pair": ["tuned", "base"]}
    exported = {
        "format": 1, "target": "merged", "language": "en",
        "prompt": {
            "template": "{article}\n\nTL;DR:", "before": "", "after": "\n\nTL;DR:", "blank": " ",
            "chat": False, "max_input_tokens": 96,
        },
        "model": {"dtype": "float32", "quantization": "none", "base": "phi-tiny-64", "revision": None},
        "generate": {
            "max_new_tokens": 8, "num_beams": 2, "length_penalty": 1.0, "no_repeat_ngram_size": 0,
            "max_batch_tokens": 1_500,
        },
        "smoke": {"min_success_rate": 0.0},
    }  # fmt: skip
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "models/phi-tiny", "r": 8, "revision": None}
    score = {"value": 10.0, "low": 9.0, "high": 11.0}
    evaluation = {
        "n": 500, "resamples": 100, "confidence": 0.95,
        "metrics": {"quality": {"rouge1": {"signature": "rouge1|x|n:500|unit:row|test:0"}}},
        "systems": {"tuned": {"rouge1": score}, "base": {"rouge1": score}},
    }  # fmt: skip
    prediction = {"prediction": "It is so.", "status": "ok", "stopped": True}
    return {
        "params": (ROOT / "params.yaml").read_bytes(),
        "studies": _studies(),
        "jsonl": jsonl,
        "json": json.dumps(pairs).encode(),
        "csv": _table(","),
        "tsv": _table("\t"),
        "gzip": gzip.compress(jsonl, mtime=0),
        "parquet": _parquet(),
        "text": "An article.\nIts second line: größer.\n".encode(),
        "outputs": b"".join(
            json.dumps({"id": k, "prediction": f"It is {k}."}).encode() + b"\n" for k in "ab"
        ),
        "scores": _scores(),
        "ratings": json.dumps({**ratings, "ratings": [rating]}).encode(),
        "summarize": json.dumps({"articles": ["An article.", "Another."], "marks": True}).encode(),
        "completion": json.dumps({"prompt": "An article.", "max_tokens": 64, "n": 1, "stop": []}).encode(),
        "prompt": b"Article: {article}\n\nSummary:\0An article of several words, <|endoftext|> and more.",
        "chat": (
            b"{% for m in messages %}{% if m['role'] == 'user' %}<u>{{ m['content'] }}<a>"
            b"{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
        ),
        "exported": json.dumps(exported).encode(),
        "adapter": json.dumps(adapter).encode(),
        "safetensors": _safetensors(),
        "index": json.dumps({"weight_map": {"w": "a.safetensors"}}).encode(),
        "config": (BASE / "config.json").read_bytes(),
        "tokenizer.json": _tokenizer_json(),
        "tokenizer_config.json": json.dumps(
            {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "unk_token": "<unk>"}
        ).encode(),
        "card": b"---\nlicense: mit\nbase_model: owner/name\n---\n\n# A model\n",
        "evaluation": json.dumps(evaluation).encode(),
        "predictions": b"".join(json.dumps({"id": k, **prediction}).encode() + b"\n" for k in "ab"),
    }


part = functools.partial
# Each target, and the seed that it starts from.
TARGETS: dict[str, tuple[Callable[[bytes, Path], str | None], str]] = {
    "params": (params_file, "params"),
    "studies": (studies_file, "studies"),
    "pairs_jsonl": (part(rows_of, "pairs.jsonl"), "jsonl"),
    "pairs_json": (part(rows_of, "pairs.json"), "json"),
    "pairs_csv": (part(rows_of, "pairs.csv"), "csv"),
    "pairs_tsv": (part(rows_of, "pairs.tsv"), "tsv"),
    "pairs_gzip": (part(rows_of, "pairs.jsonl.gz"), "gzip"),
    "pairs_parquet": (part(rows_of, "pairs.parquet"), "parquet"),
    "summarize_text": (part(summarize_inputs, "article.txt", None), "text"),
    "summarize_lines": (part(summarize_inputs, "articles.txt", "lines"), "text"),
    "summarize_csv": (part(summarize_inputs, "articles.csv", None), "csv"),
    "summarize_jsonl": (part(summarize_inputs, "articles.jsonl", None), "jsonl"),
    "score_text": (part(scored_file, "predictions", ".txt"), "text"),
    "score_jsonl": (part(scored_file, "predictions", ".jsonl"), "outputs"),
    "score_references": (part(scored_file, "references", ".jsonl"), "jsonl"),
    "score_groups": (part(scored_file, "groups", ".txt"), "text"),
    "stored_scores": (stored_scores, "scores"),
    "ratings": (ratings_file, "ratings"),
    "request_summarize": (part(request_body, "summarize"), "summarize"),
    "request_completion": (part(request_body, "completion"), "completion"),
    "prompt": (prompt_filler, "prompt"),
    "chat_template": (chat_template, "chat"),
    "exported": (exported_settings, "exported"),
    "adapter": (adapter_config, "adapter"),
    "safetensors": (safetensors_file, "safetensors"),
    "index": (weights_index, "index"),
    "config": (model_config, "config"),
    "tokenizer": (part(tokenizer_file, "tokenizer.json"), "tokenizer.json"),
    "tokenizer_config": (part(tokenizer_file, "tokenizer_config.json"), "tokenizer_config.json"),
    "card": (model_card, "card"),
    "evaluation": (evaluation_file, "evaluation"),
    "predictions": (predictions_file, "predictions"),
}


def run_target(name: str, data: bytes) -> str | None:
    """What a target says of an input, in a new folder: a sentence, or None where it accepts it."""
    with tempfile.TemporaryDirectory() as folder:
        return TARGETS[name][0](data, Path(folder))


def fuzz(name: str, seconds: int) -> None:
    """Fuzz one target with atheris, from its seed, for some seconds."""
    try:
        import atheris
    except ImportError as error:
        raise UserError(
            "fuzz: atheris is not installed; run `pip install --no-deps --require-hashes -r "
            "requirements/benchmarks.lock`"
        ) from error
    function, seed = TARGETS[name]
    with tempfile.TemporaryDirectory() as corpus, tempfile.TemporaryDirectory() as folder:
        with atheris.instrument_imports(include=["onesentence", "yaml"]):  # of what is imported here
            start = seeds()[seed]
            function(start, Path(folder))
        (Path(corpus) / "seed").write_bytes(start)

        def one(data: bytes) -> None:
            function(data, Path(folder))

        options = [f"-max_total_time={seconds}", "-timeout=30", "-rss_limit_mb=6144", "-max_len=65536"]
        atheris.Setup([sys.argv[0], *options, corpus], one)
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", nargs="?", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--list", action="store_true", help="print the targets")
    arguments = parser.parse_args()
    if arguments.list or arguments.target is None:
        print(
            "\n".join(
                f"{name:20} {(getattr(f, 'func', f).__doc__ or '').strip()}"
                for name, (f, _) in TARGETS.items()
            )
        )
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    fuzz(arguments.target, arguments.seconds)


if __name__ == "__main__":
    errors.run(main)
