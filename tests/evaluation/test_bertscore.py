"""BERTScore equals bert_score's own scorer's, and depends on its pair alone."""

import json
import random
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from onesentence.core.errors import UserError
from onesentence.evaluation.bertscore import PACKAGE, BertScore, model_folder
from onesentence.evaluation.pinned_model import weights_sha256

SHA = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
NO_TOKENS = ["", " \n\t", "\u200b", "\x00"]  # empty, blank, and characters that the tokenizer drops


def settings(name: str = PACKAGE, layer: int = 6, sha: str = SHA) -> SimpleNamespace:
    return SimpleNamespace(bertscore_model=name, bertscore_layer=layer, bertscore_sha256=sha)


@pytest.fixture(scope="module")
def scorer() -> BertScore:
    return BertScore(settings())


@pytest.fixture(scope="module")
def texts(pairs) -> tuple[list[str], list[str]]:
    """(references, outputs) of 20 docstrings: another's summary, a long body, a word, not ASCII, equal."""
    references = [pair["summary"] for pair in pairs[:20]]
    outputs = [pair["summary"] for pair in pairs[1:21]]
    outputs[3] = pairs[3]["document"]
    outputs[4] = "rows"
    outputs[5] = "na\u00efve \u732b \U0001f600 \u05e9\u05dc\u05d5\u05dd"
    outputs[6] = references[6]
    outputs[7] = "word " * 2_000  # more tokens than the model reads
    return references, outputs


@pytest.fixture(scope="module")
def scored(scorer, texts) -> np.ndarray:
    return scorer.scores(texts[0], {"system": texts[1]})["system"]


@pytest.mark.parametrize("layer", [6, 3])
def test_scores_are_those_of_bert_scores_own_scorer(texts, scored, layer):
    from bert_score import BERTScorer

    other = BERTScorer(model_type=str(model_folder(PACKAGE)), num_layers=layer, device="cpu")
    expected = 100 * other.score(texts[1], texts[0], batch_size=1)[2].numpy()
    scores = scored
    if layer != 6:
        scores = BertScore(settings(layer=layer)).scores(texts[0], {"system": texts[1]})["system"]
        assert np.abs(scores - scored).max() > 1  # another layer is another score
    assert scores == pytest.approx(expected, abs=1e-4)
    assert scores.max() - scores.min() > 40
    # In a larger batch the padding has a similarity of 0, which raises words with only negative similarities.
    # So the score of a pair depends on its batch and is never lower.
    batched = 100 * other.score(texts[1], texts[0])[2].numpy()
    assert (batched > scores - 1e-4).all()
    if layer == 6:
        assert (np.abs(batched - scores) < 1e-4).mean() > 0.5 and batched.max() - scores.max() < 1e-4


def test_a_stopped_run_goes_on_with_the_same_scores(scorer, texts, scored, tmp_path, monkeypatch):
    from onesentence.core.journal import Journal
    from onesentence.evaluation import articles

    monkeypatch.setattr(articles, "BATCH", 6)
    path = tmp_path / "scores.journal"
    embed, embedded = scorer._embed, []

    def stops(text, weights):
        embedded.append(text)
        if len(embedded) == 20:  # in the tenth article
            raise KeyboardInterrupt
        return embed(text, weights)

    monkeypatch.setattr(scorer, "_embed", stops)
    with pytest.raises(KeyboardInterrupt):
        scorer.scores(texts[0], {"system": texts[1]}, Journal(path))
    again = scorer.scores(texts[0], {"system": texts[1]}, Journal(path))["system"]
    assert again.tobytes() == scored.tobytes()
    finished = {text for pair in zip(*texts, strict=True) for text in pair if pair[0] in texts[0][:6]}
    assert not finished - {*texts[0][6:], *texts[1][6:]} & {*embedded[20:]}
    count = len(embedded)
    assert (
        scorer.scores(texts[0], {"system": texts[1]}, Journal(path))["system"].tobytes() == scored.tobytes()
    )
    assert len(embedded) == count  # everything was in the journal


def test_a_score_depends_on_its_pair_alone(scorer, texts, scored):
    references, outputs = texts
    order = random.Random(0).sample(range(20), 20)
    shuffled = scorer.scores([references[k] for k in order], {"system": [outputs[k] for k in order]})
    assert shuffled["system"].tobytes() == scored[order].tobytes()
    for k in (0, 3, 6, 19):
        alone = scorer.scores([references[k]], {"system": [outputs[k]]})["system"]
        assert alone.tobytes() == scored[[k]].tobytes()


def test_systems_do_not_disturb_each_other(scorer, texts, scored):
    references, outputs = texts
    # Outputs of two systems, and references that are also outputs, are embedded once.
    scores = scorer.scores(
        references,
        {"a": outputs, "again": outputs, "equal": references, "none": [""] * 20, "b": outputs[::-1]},
    )
    assert scores["a"].tobytes() == scores["again"].tobytes() == scored.tobytes()
    assert scores["equal"] == pytest.approx(np.full(20, 100), abs=1e-4)
    assert not scores["none"].any()
    alone = scorer.scores(references, {"b": outputs[::-1]})
    assert scores["b"].tobytes() == alone["b"].tobytes()


def test_a_second_run_gives_the_same_bytes_whatever_the_number_of_threads(scorer, texts, scored):
    import torch

    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            again = scorer.scores(texts[0], {"system": texts[1]})["system"]
            assert again.tobytes() == scored.tobytes()
            assert torch.get_num_threads() == threads  # as it was
    finally:
        torch.set_num_threads(before)


def test_a_text_without_a_token_scores_0(scorer):
    reference = "The cat sat on the mat."
    n = len(NO_TOKENS)
    assert scorer.scores([reference] * n, {"system": NO_TOKENS})["system"].tolist() == [0] * n
    assert scorer.scores(NO_TOKENS, {"system": [reference] * n})["system"].tolist() == [0] * n
    assert scorer.scores(NO_TOKENS, {"system": NO_TOKENS})["system"].tolist() == [0] * n


def test_a_text_ends_at_the_models_positions_where_the_tokenizer_names_no_length(tmp_path):
    folder = tmp_path / "endless"
    shutil.copytree(model_folder(PACKAGE), folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 10**30}))
    scores = BertScore(settings(str(folder))).scores(["A cat."], {"system": ["cat " * 2_000]})["system"]
    assert 0 < scores[0] < 100


def test_lists_of_unequal_length_are_refused(scorer):
    with pytest.raises(ValueError, match="zip"):
        scorer.scores(["a", "b"], {"system": ["a"]})


def test_the_signature_names_model_layer_and_weights(scorer):
    fields = scorer.signature.split("|")
    assert {f"model:{PACKAGE}", "layer:6", f"weights:{SHA}", "idf:no", "rescaled:no"} < set(fields)
    assert {name.split(":")[0] for name in fields} > {"bert-score", "transformers", "torch"}


def test_builds_of_one_torch_have_one_signature(scorer, monkeypatch):
    """PyPI's torch says 2.13.0 where the CPU build says 2.13.0+cpu."""
    from importlib import metadata

    real = metadata.version
    other = {"torch": real("torch").split("+")[0] + "+cu130"}
    monkeypatch.setattr(metadata, "version", lambda name: other.get(name) or real(name))
    assert BertScore(settings()).signature == scorer.signature


def test_a_folders_signature_holds_its_name_and_no_path(scorer, texts, tmp_path, monkeypatch):
    copy = tmp_path / "my-model"
    copy.mkdir()
    for file in model_folder(PACKAGE).iterdir():
        if file.is_file():
            (copy / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    signatures = [BertScore(settings(name)).signature for name in (str(copy), "my-model", "./my-model/")]
    assert len(set(signatures)) == 1
    assert signatures[0] == scorer.signature.replace(f"model:{PACKAGE}", "model:my-model")
    assert "/" not in signatures[0]
    scores = BertScore(settings(str(copy))).scores(texts[0][:3], {"system": texts[1][:3]})["system"]
    assert scores.tobytes() == scorer.scores(texts[0][:3], {"system": texts[1][:3]})["system"].tobytes()


# A model that cannot be used is refused in one sentence.


def error_of(*arguments, **options) -> str:
    with pytest.raises(UserError) as raised:
        BertScore(settings(*arguments, **options))
    message = str(raised.value)
    assert "\n" not in message and message.startswith("evaluate.bertscore_")
    return message


def test_an_encoder_stored_in_16_bits_is_computed_in_32(tmp_path):
    import torch
    from transformers import AutoModel

    folder = tmp_path / "half"
    shutil.copytree(model_folder(PACKAGE), folder)
    AutoModel.from_pretrained(folder, dtype=torch.float16).save_pretrained(folder)
    scorer = BertScore(settings(str(folder), sha=weights_sha256(folder, "x", "key")))
    assert {weight.dtype for weight in scorer._model.parameters()} == {torch.float32}


def test_an_encoder_that_lacks_weights_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "cut"
    shutil.copytree(model_folder(PACKAGE), folder)
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file({f"other.{name}": weight for name, weight in weights.items()}, path, {"format": "pt"})
    assert "has no weights for embeddings" in error_of(str(folder), sha=weights_sha256(folder, "x", "key"))


def test_a_folder_without_a_vocabulary_is_refused(tmp_path):
    """transformers makes a tokenizer that knows no word, and every text would be alike."""
    folder = tmp_path / "mute"
    shutil.copytree(model_folder(PACKAGE), folder)
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink(missing_ok=True)
    assert "has no tokenizer; copy the whole model" in error_of(str(folder))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_damaged_folder_is_one_sentence(tmp_path, name):
    folder = tmp_path / "m"
    shutil.copytree(model_folder(PACKAGE), folder)
    if name == "config.json":
        config = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**config, "hidden_size": 256}))
    else:
        (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "could not be loaded as an encoder" in error_of(str(folder))


def test_code_in_a_models_folder_is_not_run_and_nobody_is_asked(tmp_path, monkeypatch):
    folder, ran = tmp_path / "m", tmp_path / "ran"
    shutil.copytree(model_folder(PACKAGE), folder)
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\n")
    auto = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own-model", "auto_map": auto}))
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # what transformers would ask
    assert "could not be loaded as an encoder" in error_of(str(folder)) and not ran.exists()


def test_other_weights_are_refused():
    message = error_of(sha="0" * 64)
    assert SHA in message and "0" * 64 in message


@pytest.mark.parametrize("name", ["nobody/no-such-model", "no-such-model", "a/b/c", "no such model"])
def test_an_unknown_model_is_refused(name):
    assert repr(name) in error_of(name)


def test_a_missing_layer_is_refused():
    assert "6 layers and no layer 7" in error_of(layer=7)


def test_a_folder_without_safetensors_is_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    assert "safetensors" in error_of(str(tmp_path))


def test_a_folder_without_a_configuration_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    sha = weights_sha256(tmp_path, "x", "key")
    assert "config.json" in error_of(str(tmp_path), sha=sha)
    (tmp_path / "config.json").write_text("{broken")
    assert "config.json" in error_of(str(tmp_path), sha=sha)


def test_a_model_with_a_decoder_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "num_layers": 6}))
    assert "decoder" in error_of(str(tmp_path), sha=weights_sha256(tmp_path, "x", "key"))


def test_the_hash_of_several_files_is_that_of_their_hashes(tmp_path):
    import hashlib

    parts = {"b.safetensors": b"two", "a.safetensors": b"one"}
    for name, content in parts.items():
        (tmp_path / name).write_bytes(content)
    hashes = "\n".join(hashlib.sha256(parts[name]).hexdigest() for name in sorted(parts))
    assert weights_sha256(tmp_path, "x", "key") == hashlib.sha256(hashes.encode()).hexdigest()
    (tmp_path / "b.safetensors").unlink()
    assert weights_sha256(tmp_path, "x", "key") == hashlib.sha256(b"one").hexdigest()
