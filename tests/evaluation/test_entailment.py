"""Entailment: what is paired with what, by a model whose probabilities are known; and what is refused."""

import json
import math
import random
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from conftest import ROOT
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
)

from onesentence.commands.score import command, with_nli_model
from onesentence.core.errors import UserError
from onesentence.core.files import write_parquet
from onesentence.core.params import Evaluate, part_of
from onesentence.evaluation.comparison import comparisons, definitions, resampled
from onesentence.evaluation.entailment import Entailment, batches, cut, judge_of, label_index, windows
from onesentence.evaluation.extraction import Article
from onesentence.evaluation.metrics import QUALITY, read_scores, write_scores
from onesentence.evaluation.pinned_model import weights_sha256
from onesentence.evaluation.scoring import score_references, score_systems
from stages import score

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [*SPECIAL, ".", "Yes", "yes", "Ha", "ha", "猫", "。", *(f"w{k}" for k in range(30))]
LABELS = ("entailment", "neutral", "contradiction")
TOKENS = 48  # that the model of the tests reads: 11 for a sentence of an output, 34 for a part of the article


def write_tokenizer(folder: Path, **special: str) -> None:
    """A tokenizer of whole words; a pair is [CLS] part [SEP] sentence [SEP]."""
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(handle_chinese_chars=False, lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"} | special
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def config_of(labels: Iterable[str], width: int) -> BertConfig:
    ids = dict(enumerate(labels))
    return BertConfig(
        vocab_size=len(WORDS), hidden_size=width, num_hidden_layers=1, num_attention_heads=1, id2label=ids,
        intermediate_size=width, max_position_embeddings=TOKENS, layer_norm_eps=1e-12,
        label2id={label: k for k, label in ids.items()},
    )  # fmt: skip


@torch.no_grad()
def write_counting(folder: Path, labels: Iterable[str] = LABELS) -> Path:
    """A model by hand: P(entailment) grows with the share of a pair's tokens that are Yes or yes.

    Attention is uniform, so what [CLS] gathers is the mean of a coordinate that is 1 for a yes and 0
    otherwise. Two huge coordinates make each layer's normalization a multiplication by a constant.
    """
    labels, huge = list(labels), 1_000.0
    model = BertForSequenceClassification(config_of(labels, 4))
    for weight in model.parameters():
        weight.zero_()
    table = model.bert.embeddings.word_embeddings.weight
    table[:] = torch.tensor([huge, -huge, 0, 0])
    for word in ("Yes", "yes"):
        table[WORDS.index(word), 2:] = torch.tensor([1.0, -1.0])
    layer = model.bert.encoder.layer[0]
    model.bert.embeddings.LayerNorm.weight[:] = huge / math.sqrt(2)
    layer.attention.output.LayerNorm.weight[:] = layer.output.LayerNorm.weight[:] = huge * math.sqrt(2)
    for dense in (layer.attention.self.value, layer.attention.output.dense):
        dense.weight[:] = torch.eye(4)
    model.bert.pooler.dense.weight[0, 2] = 1
    model.classifier.weight[[label.lower() for label in labels].index("entailment"), 0] = 4
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def chance(yes: int, tokens: int) -> float:
    """The probability of `write_counting` for a pair with so many yes among its tokens, special ones too."""
    score = math.exp(4 * math.tanh(yes / tokens))
    return 100 * score / (score + 2)


def write_random(folder: Path, labels: Iterable[str] = LABELS) -> Path:
    """A model with random weights whose scores differ by points from one pair to another."""
    labels = list(labels)
    torch.manual_seed(0)
    model = BertForSequenceClassification(config_of(labels, 16))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape) / 4)
        rows = torch.randn(3, 16)
        order = [LABELS.index(label.strip().lower()) for label in labels]
        model.classifier.weight[:], model.classifier.bias[:] = rows[order], 0.0
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def settings(folder: Path | str, language: str = "en", **other) -> Evaluate:
    values = {"nli_model": str(folder), "nli_revision": None, "language": language, "meteor_synonyms": False}
    if Path(folder).is_dir() and "nli_sha256" not in other:
        values["nli_sha256"] = weights_sha256(Path(folder), "x", "key")
    return part_of(Evaluate, values | other)


def scores_of(judge: Entailment, article: str, *outputs: str) -> list[float]:
    """The score of each output of one article."""
    found = judge.scores([Article(article)], {str(k): [text] for k, text in enumerate(outputs)})
    return [float(values[0]) for values in found.values()]


@pytest.fixture(scope="module")
def counting_folder(tmp_path_factory) -> Path:
    return write_counting(tmp_path_factory.mktemp("nli") / "counting")


@pytest.fixture
def counting(counting_folder) -> Entailment:
    return Entailment(settings(counting_folder))


@pytest.fixture(scope="module")
def random_folder(tmp_path_factory) -> Path:
    return write_random(tmp_path_factory.mktemp("nli") / "random")


def texts_of(n: int, seed: int = 0) -> tuple[list[Article], list[str]]:
    """Articles of 1 to 12 sentences, and outputs of 1 to 3 sentences, at random."""
    draw = random.Random(seed)

    def text(most: int) -> str:
        sentences = [draw.choices(WORDS[11:], k=draw.randint(2, 9)) for _ in range(draw.randint(1, most))]
        return " ".join(f"Ha {' '.join(words)}." for words in sentences)

    return [Article(text(12)) for _ in range(n)], [text(3) for _ in range(n)]


# What is computed.


def test_the_score_is_the_mean_over_sentences_of_the_best_part_of_the_article(counting):
    article = "Yes yes. Ha ha w1 yes. Ha w1 w2 w3 w4 w5."
    assert counting.parts(article) == ["Yes yes.", "Ha ha w1 yes.", "Ha w1 w2 w3 w4 w5.", article]
    # [CLS] Yes yes . [SEP] Ha . [SEP]: 2 of 8 tokens; the whole article: 3 of 20.
    assert scores_of(counting, article, "Ha.") == [pytest.approx(chance(2, 8), abs=1e-3)]
    # A sentence with a yes of its own: 3 of 9 tokens; the mean of both sentences.
    both = (chance(2, 8) + chance(3, 9)) / 2
    assert scores_of(counting, article, "Ha. Ha yes.", "Ha yes.") == [
        pytest.approx(both, abs=1e-3),
        pytest.approx(chance(3, 9), abs=1e-3),
    ]
    assert 40 < chance(2, 8) < both < chance(3, 9) < 70


def test_a_window_can_hold_what_no_sentence_holds_alone(counting):
    # One by one: 2 yes of 9 tokens. Both: 4 of 13.
    article = "Ha yes yes. Ha yes yes."
    assert counting.parts(article) == ["Ha yes yes.", article]
    assert scores_of(counting, article, "Ha.") == [pytest.approx(chance(4, 13), abs=1e-3)]
    assert chance(4, 13) > chance(2, 9) + 3


def test_the_heading_is_part_of_the_article(counting):
    found = counting.scores([Article("Ha.", source="Yes\n\nNo.")], {"a": ["w1"]})
    assert found["a"][0] == pytest.approx(chance(1, 5), abs=1e-3)


@pytest.mark.parametrize(
    "labels",
    [("contradiction", "neutral", "entailment"), ("Neutral", " ENTAILMENT ", "Contradiction")],
)
def test_the_order_of_the_labels_does_not_matter(tmp_path, random_folder, labels):
    articles, outputs = texts_of(4)
    expected = Entailment(settings(random_folder)).scores(articles, {"a": outputs})["a"]
    swapped = Entailment(settings(write_random(tmp_path, labels))).scores(articles, {"a": outputs})["a"]
    assert swapped == pytest.approx(expected, abs=1e-4)
    assert expected.max() - expected.min() > 1


def test_a_text_without_words_scores_0(counting):
    empty = ["", " \n", "\u200b"]
    assert scores_of(counting, "Yes yes.", *empty) == [0, 0, 0]
    assert [scores_of(counting, article, "Yes.") for article in ("", " \n")] == [[0], [0]]
    assert scores_of(counting, "", "") == [0]


def test_languages_split_sentences_in_their_way(counting_folder):
    article = "猫。yes yes。猫"
    parts = {
        language: Entailment(settings(counting_folder, language)).parts(article) for language in ("zh", "und")
    }
    assert parts["zh"] == parts["und"] == ["猫。", "yes yes。", "猫", "猫。 yes yes。 猫"]
    abbreviated = "Ha w1 z.B. Yes yes."
    german, other = (Entailment(settings(counting_folder, language)) for language in ("de", "und"))
    assert len(german.parts(abbreviated)) == 1 < len(other.parts(abbreviated))
    assert german.signature != other.signature


# Length.


def test_cut_halves_at_the_blank_nearest_to_the_middle():
    def fits(text: str) -> bool:
        return len(text) <= 8

    assert cut("one two", fits) == ["one two"]
    assert cut("one two three", fits) == ["one two", "three"]
    assert cut("a bcdefghijklmn", fits) == ["a", "bcdefg", "hijklmn"]
    assert cut("abcdefghijkl", fits) == ["abcdef", "ghijkl"]
    assert cut("x" * 9, lambda text: False) == ["x"] * 9  # ends, whatever does not fit
    text = " ".join(random.Random(0).choices(WORDS, k=500))
    parts = cut(text, lambda part: len(part.split()) <= 7)
    assert " ".join(parts) == text and max(len(part.split()) for part in parts) <= 7


def test_windows_overlap_by_a_sentence_and_none_is_longer_than_fits():
    def fits(text: str) -> bool:
        return len(text.split()) <= 3

    assert list(windows(["a", "b", "c"], fits)) == ["a b c"]
    assert list(windows(["a", "b", "c", "d", "e"], fits)) == ["a b c", "c d e"]
    assert list(windows(["a", "b", "c", "d"], fits)) == ["a b c", "c d"]
    assert list(windows(["a", "b b b", "c", "d d"], fits)) == ["c d d"]
    assert list(windows(["a a", "b b", "c c"], fits)) == []
    assert list(windows(["a"], fits)) == list(windows([], fits)) == []


def test_batches_hold_each_pair_once_within_their_size():
    draw = random.Random(0)
    lengths = [draw.randint(4, 60) for _ in range(50)]
    found = list(batches(lengths, 200))
    assert sorted(place for batch in found for place in batch) == list(range(50))
    for batch in found:
        longest, shortest = (function(lengths[place] for place in batch) for function in (max, min))
        assert len(batch) * longest <= 200 and longest <= 2 * shortest
    assert max(map(len, found)) > 5
    assert list(batches([900], 200)) == [[0]] and list(batches([], 200)) == []


def test_nothing_is_truncated_where_texts_are_longer_than_the_model(random_folder):
    judge = Entailment(settings(random_folder))
    shapes, words = [], random.Random(0).choices(WORDS[11:], k=400)

    def see(module, arguments, options):
        shapes.append(tuple(options["input_ids"].shape))

    judge._model.register_forward_pre_hook(see, with_kwargs=True)
    article = f"Ha {' '.join(words)}. Yes. Ha {'w1' * 400}."
    output = f"Ha {' '.join(words[:90])}."
    (score,) = scores_of(judge, article, output)
    assert 0 < score < 100
    assert max(length for _, length in shapes) <= TOKENS
    assert max(number * length for number, length in shapes) <= 4_096 and len(shapes) > 1
    parts = judge.parts(article)
    seen = " ".join(parts).split()
    assert set(words) < set(seen) and max(map(judge._count, parts)) <= 34
    kept = " ".join(judge._sentences(output, judge._output_tokens))
    assert kept == output and judge._output_tokens == 11


# What a score depends on.


def test_a_score_depends_on_its_article_and_output_alone(random_folder):
    articles, outputs = texts_of(12)
    judge = Entailment(settings(random_folder))
    scores = judge.scores(articles, {"a": outputs})["a"]
    order = random.Random(1).sample(range(12), 12)
    other = Entailment(settings(random_folder))
    shuffled = other.scores(
        [articles[k] for k in order],
        {"b": outputs[::-1], "empty": [""] * 12, "a": [outputs[k] for k in order], "again": outputs},
    )
    assert shuffled["a"].tobytes() == scores[order].tobytes()
    assert not shuffled["empty"].any() and shuffled["b"].tobytes() != scores.tobytes()
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            judge._known.clear()
            again = judge.scores(articles, {"a": outputs})["a"]
            assert again.tobytes() == scores.tobytes() and torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_a_pair_that_occurs_again_is_computed_once(counting):
    pairs = []
    counting._model.register_forward_pre_hook(
        lambda module, arguments, options: pairs.append(len(options["input_ids"])), with_kwargs=True
    )
    article = "Yes yes. Ha ha w1 yes. Yes yes. Ha w1 w2."
    assert len(counting.parts(article)) == 4  # a sentence occurs twice, all four are one window
    first = scores_of(counting, article, "Ha.", "Ha. Ha.", "Ha. Ha yes.")
    assert sum(pairs) == 2 * 4
    assert scores_of(counting, article, "Ha yes.", "Ha.")[1] == first[0] == first[1]
    assert sum(pairs) == 2 * 4


def test_lists_of_unequal_length_are_refused(counting):
    with pytest.raises(ValueError, match="zip"):
        counting.scores([Article("Yes.")], {"a": ["Yes.", "Ha."]})


# In the evaluation.


def test_differences_are_tested_and_a_failed_output_scores_0(random_folder, tmp_path):
    articles, outputs = texts_of(40)
    ids, references = [str(k) for k in range(40)], outputs[::-1]
    judge = judge_of(settings(random_folder))
    systems = {"ours": outputs, "failing": outputs}
    succeeded = {"ours": [True] * 40, "failing": [k % 2 == 0 for k in range(40)]}
    given = (ids, references, systems, succeeded, articles, settings(random_folder), False, {})
    scores = score_systems(*given, judge=judge)
    ours, failing = (scores[name].columns["entailment"] for name in systems)
    assert (failing[::2] == ours[::2]).all() and not failing[1::2].any() and (ours > 0).all()
    found = comparisons(scores, [("ours", "failing")], resampled(scores, 200), 200, 0.95)["ours-failing"]
    entry = found["entailment"]
    assert entry["value"] == pytest.approx(ours.mean() - failing.mean(), abs=1e-5)
    assert entry["low"] > 0 and entry["p_randomization"] == pytest.approx(1 / 201)
    assert set(found) <= {*QUALITY, "entailment"} and entry["p_holm"] <= len(found) / 201
    assert definitions(scores)["faithfulness"]["entailment"]["signature"].startswith(
        f"entailment|{judge.signature}|n:40"
    )
    of_references = score_references(ids, references, articles, judge=judge)
    expected = judge.scores(articles, {"x": references})["x"]
    assert of_references.columns["entailment"].tobytes() == expected.tobytes()
    write_scores(tmp_path / "a.parquet", scores["ours"], {})
    assert read_scores(tmp_path / "a.parquet").columns["entailment"] == pytest.approx(ours, abs=1e-6)
    # Without a model nothing is added, and nothing else changes.
    plain = score_systems(*given)
    assert "entailment" not in plain["ours"].columns and "entailment" not in plain["ours"].signatures
    for name in systems:
        del scores[name].columns["entailment"], scores[name].signatures["entailment"]
        assert scores[name].signatures == plain[name].signatures
        for column, values in plain[name].columns.items():
            assert scores[name].columns[column].tobytes() == values.tobytes()


def test_the_command_scores_with_a_folders_model(counting_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)  # of params.yaml
    rows = [("Yes yes. Ha w1.", "Ha."), ("Yes.", "Ha w1."), ("Ha w2.", "Yes.")]
    (tmp_path / "articles.txt").write_text("".join(f"{article}\n" for article, _ in rows))
    (tmp_path / "outputs.txt").write_text("".join(f"{output}\n" for _, output in rows))
    given = [
        f"--references={tmp_path / 'outputs.txt'}", "--no-bertscore", "--resamples=100",
        f"--nli-model={counting_folder}", f"--output={tmp_path / 'out.json'}", str(tmp_path / "outputs.txt"),
    ]  # fmt: skip
    with pytest.raises(UserError, match="--nli-model: needs the articles"):
        command.main(given, standalone_mode=False)
    with pytest.raises(UserError, match=r"remove .*--nli-model"):
        command.main(["--scores", "--nli-model=none", "a", "b"], standalone_mode=False)
    command.main([*given, f"--documents={tmp_path / 'articles.txt'}"], standalone_mode=False)
    found = json.loads((tmp_path / "out.json").read_text())
    entry = found["systems"]["outputs"]["entailment"]
    # The best pairs: Yes yes. + Ha.; Yes. + Ha w1.; Ha w2. + Yes.
    best = [chance(2, 8), chance(1, 8), chance(1, 8)]
    assert entry["value"] == pytest.approx(np.mean(best), abs=1e-3)
    assert "entailment" in capsys.readouterr().out
    signature = found["metrics"]["faithfulness"]["entailment"]["signature"]
    assert "|model:counting|weights:" in signature and "/" not in signature


def test_the_stage_scores_with_the_model_of_params_yaml(tmp_path, counting_folder, monkeypatch):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    sha256 = weights_sha256(counting_folder, "x", "key")
    values["evaluate"] |= {"nli_model": str(counting_folder), "nli_sha256": sha256}
    rows = [("w1", "Yes yes. Ha w1.", "Ha."), ("Yes", "Ha w2.", "Ha."), ("", "Yes yes.", "Ha.")]
    headings, documents, outputs = zip(*rows, strict=True)
    ids = ["a", "b", "c"]
    columns = {"id": ids, "group": ids, "summary": ["Ha."] * 3, "heading": headings, "document": documents}
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(values))
    Path("data/prepared").mkdir(parents=True)
    Path("data/predictions").mkdir()
    write_parquet(
        Path("data/prepared/test.parquet"), {k: pa.array(v, pa.string()) for k, v in columns.items()}
    )
    predictions = [
        {"id": i, "prediction": text, "status": status, "stopped": True, "document_tokens_cut": 0}
        for i, text, status in zip(ids, outputs, ("ok", "ok", "echo"), strict=True)
    ]
    Path("data/predictions/tuned.jsonl").write_text("".join(f"{json.dumps(p)}\n" for p in predictions))
    monkeypatch.setattr("sys.argv", ["score", "tuned"])
    score.main()
    found = read_scores(Path("data/scores/tuned/tuned.parquet"))
    # Yes yes. + Ha.; the heading Yes + Ha.; a failed output.
    expected = [chance(2, 8), chance(1, 6), 0]
    assert found.columns["entailment"] == pytest.approx(expected, abs=1e-3)
    assert f"|weights:{sha256}|" in found.signatures["entailment"]


def test_a_folder_replaces_the_model_of_params_yaml(counting_folder, tmp_path):
    values = Evaluate("test", "en", 100, 0.95, False, "x", 1, "0" * 64, "hub/id", "abc", "0" * 64)
    changed = with_nli_model(values, str(counting_folder))
    sha256 = weights_sha256(counting_folder, "x", "key")
    assert (changed.nli_model, changed.nli_revision, changed.nli_sha256) == (
        str(counting_folder),
        None,
        sha256,
    )
    assert judge_of(with_nli_model(values, "none")) is None
    with pytest.raises(UserError, match=r"--nli-model: .*no such folder"):
        with_nli_model(values, "hub/other")
    with pytest.raises(UserError, match=r"--nli-model: .*no \*\.safetensors"):
        with_nli_model(values, str(tmp_path))


# Signature and refusals.


def test_the_signature_names_model_weights_label_and_lengths(counting, counting_folder, tmp_path):
    fields = counting.signature.split("|")
    assert {"SummaC-ZS", "model:counting", "label:0", "lang:en"} < set(fields)
    assert f"weights:{weights_sha256(counting_folder, 'x', 'key')}" in fields
    assert "parts:sentences and windows of up to 34 tokens" in fields
    assert {name.split(":")[0] for name in fields} > {"transformers", "torch", "output"}
    assert "/" not in counting.signature
    other = write_counting(tmp_path / "other", LABELS[::-1])
    assert "|label:2|" in Entailment(settings(other)).signature


def error_of(folder: Path | str, **other) -> str:
    with pytest.raises(UserError) as raised:
        Entailment(settings(folder, **other))
    message = str(raised.value)
    assert "\n" not in message and message.startswith("evaluate.nli_")
    return message


def test_other_weights_are_refused(counting_folder):
    message = error_of(counting_folder, nli_sha256="0" * 64)
    assert weights_sha256(counting_folder, "x", "key") in message and "0" * 64 in message
    assert message.startswith("evaluate.nli_sha256: ")


def test_an_unknown_model_is_refused():
    assert "'nobody/no-such-model'" in error_of("nobody/no-such-model", nli_sha256="0" * 64)


@pytest.mark.parametrize(
    "labels",
    [
        ("LABEL_0", "LABEL_1", "LABEL_2"),
        ("entailment", "neutral", "Entailment"),
        ("not_entailment", "neutral", "contradiction"),
    ],
)
def test_labels_without_one_entailment_are_refused(labels):
    ids = dict(enumerate(labels))
    with pytest.raises(UserError, match="expected one label 'entailment'") as raised:
        label_index({label: k for k, label in ids.items()}, ids, "m")
    assert f"found 0 = {labels[0]}, 1 = {labels[1]}" in str(raised.value)


def test_tables_of_labels_that_disagree_are_refused(tmp_path, counting_folder):
    folder = shutil.copytree(counting_folder, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config["label2id"] = {"entailment": 2, "neutral": 1, "contradiction": 0}
    (folder / "config.json").write_text(json.dumps(config))
    assert "the same in label2id and id2label" in error_of(folder)


def test_a_model_that_was_not_trained_to_classify_is_refused(tmp_path):
    BertModel(config_of(LABELS, 4)).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    assert "no weights for classifier." in error_of(tmp_path)


def test_a_folder_without_a_configuration_or_with_another_kind_of_model_is_refused(tmp_path, counting_folder):
    folder = shutil.copytree(counting_folder, tmp_path / "m")
    (folder / "config.json").unlink()
    assert "could not be loaded" in error_of(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    assert "could not be loaded" in error_of(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 8, "num_labels": 3}))
    assert "could not be loaded" in error_of(folder)
    shutil.copy(counting_folder / "config.json", folder)
    (folder / "model.safetensors").write_bytes(b"not weights")
    assert "could not be loaded" in error_of(folder)


def test_a_hub_id_is_taken_at_its_commit(tmp_path, counting_folder, random_folder, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commits = {"a" * 40: counting_folder, "b" * 40: random_folder}
    for commit, folder in commits.items():
        shutil.copytree(folder, tmp_path / "models--owner--nli/snapshots" / commit)
    for commit, folder in commits.items():
        sha256 = weights_sha256(folder, "x", "key")
        judge = Entailment(settings("owner/nli", nli_revision=commit, nli_sha256=sha256))
        assert "|model:owner/nli|" in judge.signature and sha256 in judge.signature
        assert "other weights" in error_of("owner/nli", nli_revision=commit, nli_sha256="0" * 64)
    assert "could not be fetched" in error_of("owner/nli", nli_revision="c" * 40, nli_sha256="0" * 64)


def test_a_decoder_finds_the_last_token_of_a_padded_pair(tmp_path):
    """A GPT-2 that pads scores a pair as it does alone."""
    torch.manual_seed(0)
    ids = dict(enumerate(LABELS))
    config = GPT2Config(
        vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2, n_positions=TOKENS, id2label=ids,
        label2id={label: k for k, label in ids.items()},
    )  # fmt: skip
    model = GPT2ForSequenceClassification(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape) / 4)
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    judge = Entailment(settings(tmp_path))
    parts = ["w1 w2.", "w3 w4 w5 w6 w7."]
    with torch.inference_mode():
        both = judge._best(parts, "w8.")
        alone = [judge._best([part], "w8.") for part in parts]
    assert both == pytest.approx(max(alone), abs=1e-6) and abs(alone[0] - alone[1]) > 0.01


def test_code_in_a_models_folder_is_not_run(tmp_path, counting_folder):
    folder = shutil.copytree(counting_folder, tmp_path / "m")
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\n")
    auto = {"AutoConfig": "own.Config", "AutoModelForSequenceClassification": "own.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own-model", "auto_map": auto}))
    assert "could not be loaded" in error_of(folder) and not ran.exists()


def test_a_model_that_reads_too_little_or_cannot_pad_is_refused(tmp_path, counting_folder, monkeypatch):
    monkeypatch.setattr("onesentence.evaluation.entailment.LEAST_TOKENS", TOKENS + 1)
    assert f"reads only {TOKENS} tokens" in error_of(counting_folder)
    folder = shutil.copytree(counting_folder, tmp_path / "m")
    (folder / "tokenizer_config.json").write_text("{}")
    write_tokenizer(folder, pad_token=None)
    assert "without a padding token" in error_of(folder)


def test_a_model_that_gives_no_number_is_refused(tmp_path, counting_folder):
    judge = Entailment(settings(counting_folder))
    with torch.no_grad():
        judge._model.classifier.bias.fill_(math.nan)
    with pytest.raises(UserError, match="not a number"):
        scores_of(judge, "Yes.", "Ha.")
