"""The card and the scores of an export, and its registration as a version that others can get."""

import pytest
import yaml
from conftest import ROOT, run
from huggingface_hub import ModelCard
from huggingface_hub import parse_eval_result_entries as parse

from onesentence.core import params
from onesentence.core.files import read_json
from onesentence.export.card import Results, card, write_card


@pytest.fixture
def results() -> Results:
    return Results(*(read_json(ROOT / f"metrics/{name}.json") for name in ("evaluation", "train", "data")))


def settings(**changes) -> params.Params:
    """params.yaml as committed, with other values by key (section__key)."""
    loaded = params.load(tuple(params.SCHEMA), ROOT / "params.yaml")
    for name, value in changes.items():
        section, _, key = name.partition("__")
        part = getattr(loaded, section)
        values = {**vars(part), key: value}
        object.__setattr__(loaded, section, params.part_of(type(part), values))
    return loaded


@pytest.mark.parametrize("target", params.EXPORT_TARGETS)
def test_the_card_has_the_scores_and_code_that_compiles(target, results, tmp_path):
    if target.startswith("ctranslate2"):
        pytest.importorskip("ctranslate2", reason="pip install -r models/requirements.txt")
    write_card(settings(export__target=target), tmp_path, results)
    text = (tmp_path / "README.md").read_text()
    shown = ModelCard(text)
    kind = target.partition("_")[0]
    library = {"merged": "transformers", "adapter": "peft"}.get(kind, kind)
    assert (shown.data.license, shown.data.library_name, shown.data.language) == ("mit", library, "en")
    tuned = results.evaluation["systems"]["tuned"]["rouge1"]
    assert f"| {tuned['value']:.2f} [{tuned['low']:.2f}, {tuned['high']:.2f}] |" in text
    assert results.evaluation["metrics"]["quality"]["rouge1"]["signature"] in text
    compile(text.partition("```python\n")[2].partition("```")[0], "card", "exec")
    # llama.cpp has neither beams nor a ban; its card says so.
    assert ("no beam search" if kind == "gguf" else "no_repeat_ngram_size=3") in text


def test_without_a_ban_the_card_shows_the_plain_call(results):
    text = card(settings(generate__no_repeat_ngram_size=0), results)
    assert "model.generate(**inputs)" in text and "inputs_embeds" not in text


@pytest.mark.parametrize(
    ("quantization", "words"), [("nf4", "load_in_4bit=True"), ("int8", "load_in_8bit=True")]
)
def test_an_adapter_s_card_loads_the_base_as_it_was_scored(results, quantization, words):
    """Also where the base writes in another format than it was trained in."""
    for key in ("model__quantization", "generate__quantization"):
        text = card(settings(export__target="adapter", **{key: quantization}), results)
        code = text.partition("```python\n")[2].partition("```")[0]
        compile(code, "card", "exec")
        assert words in code and "import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig" in code
        assert ").to(model.device)" in code
    assert "BitsAndBytesConfig" not in card(settings(export__target="adapter"), results)


def test_a_card_names_no_command_that_cannot_run_the_folder(results):
    assert "onesentence summarize" not in card(settings(export__target="gguf_q8_0"), results)
    assert "onesentence summarize --model models/exported FILE`.\nOr served:" in card(settings(), results)


def test_the_licence_is_that_of_the_bases_card(results, tmp_path):
    base = str(tmp_path / "base")
    other = {"model__name": base, "model__watch": base}
    assert "licence of the base is not known" in card(settings(**other), results)
    (tmp_path / "base").mkdir()
    (tmp_path / "base/README.md").write_text(
        "---\nlicense: apache-2.0\nbase_model: owner/name\n---\n# Base\n"
    )
    shown = ModelCard(card(settings(**other), results))
    assert (shown.data.license, shown.data.base_model) == ("apache-2.0", "owner/name")


def test_the_scores_are_in_the_hubs_format(results, tmp_path):
    write_card(settings(), tmp_path, results)
    (file,) = (tmp_path / ".eval_results").iterdir()
    entries = {entry.task_id: entry for entry in parse(yaml.safe_load(file.read_text()))}
    quality = results.evaluation["metrics"]["quality"]
    assert list(entries) == list(quality)
    for name, entry in entries.items():
        assert entry.value == results.evaluation["systems"]["tuned"][name]["value"]
        assert entry.notes.endswith(quality[name]["signature"])


@pytest.mark.slow
def test_a_registered_version_can_be_got_from_a_remote(tmp_path):
    """By its version and by a commit, with the repository's own declaration of artifacts."""
    work, remote, storage = (tmp_path / name for name in ("work", "remote.git", "storage"))
    work.mkdir()
    artifacts = yaml.safe_load((ROOT / "dvc.yaml").read_text())["artifacts"]
    (work / "dvc.yaml").write_text(yaml.safe_dump({"artifacts": artifacts}))
    (work / "models").mkdir()
    script = (
        "from pathlib import Path; p = Path('models/exported'); p.mkdir(); (p / 'weights').write_text({!r})"
    )
    (work / "make.py").write_text(script.format("one"))
    stage = {"cmd": "python make.py", "wdir": "..", "deps": ["make.py"], "outs": ["models/exported"]}
    (work / "models/dvc.yaml").write_text(yaml.safe_dump({"stages": {"export": stage}}))
    run(tmp_path, "git", "init", "--quiet", "--bare", "--initial-branch=main", str(remote))
    run(work, "git", "init", "--quiet", "--initial-branch=main")
    run(work, "dvc", "init", "--quiet")
    run(work, "dvc", "remote", "add", "--quiet", "--default", "storage", str(storage))
    run(work, "git", "remote", "add", "origin", str(remote))

    def publish() -> str:
        run(work, "dvc", "repro", "--quiet", "models/dvc.yaml")
        run(work, "dvc", "push", "--quiet")
        run(work, "git", "add", "--all")
        run(work, "git", "commit", "--quiet", "--message=export")
        run(work, "git", "push", "--quiet", "origin", "main")
        return run(work, "git", "rev-parse", "HEAD").stdout.strip()

    publish()
    run(work, "gto", "register", "summarizer", "--version", "v1.0.0")
    run(work, "git", "push", "--quiet", "--tags", "origin")
    (work / "make.py").write_text(script.format("two"))
    second = publish()
    artifact, path = ("artifacts", "get", str(remote), "summarizer"), ("get", str(remote), "models/exported")
    for words, revision, content in ((artifact, "v1.0.0", "one"), (path, second, "two")):
        folder = tmp_path / content
        folder.mkdir()
        run(folder, "dvc", *words, "--rev", revision)
        assert (folder / "exported/weights").read_text() == content
