"""The library's summaries: the tokens of the pipeline, in order, with what was cut or is unsupported."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.files import read_parquet
from onesentence.core.text import with_heading
from onesentence.generation.decoding import summarize
from onesentence.inference.summarizer import Summarizer, storable, unsupported
from onesentence.model.adapters import load_tuned
from onesentence.model.encoding import encode_prompt
from onesentence.model.loading import load_base, load_tokenizer

PREDICTIONS = ROOT / "data/predictions/tuned.jsonl"
AS_IN_PREDICTIONS = ("status", "input_tokens", "output_tokens", "document_tokens_cut", "stopped")


@pytest.fixture(scope="module")
def summarizer(pipeline):
    return Summarizer.load(pipeline)


@pytest.fixture(scope="module")
def articles(pairs) -> list[str]:
    chosen = [pair["document"] for pair in pairs[:6]]
    return [*chosen, "word " * 500]


def of_pipeline(pipeline, articles: list[str], tuned: bool):
    """(prompts, outputs) by the functions that the stages call."""
    before = Path.cwd()
    os.chdir(pipeline)
    try:
        p = params.load(("prompt", "model", "generate"))
        tokenizer = load_tokenizer(p.model)
        prompts = [
            encode_prompt(tokenizer, p.prompt.template, article, p.prompt.max_input_tokens)
            for article in articles
        ]
        model = load_tuned(p.model, pipeline / "models/tuned") if tuned else load_base(p.model)
        return prompts, summarize(model, tokenizer, [prompt.ids for prompt in prompts], p.generate)
    finally:
        os.chdir(before)


@pytest.mark.parametrize("untuned", [False, True])
def test_a_summary_has_the_tokens_of_the_pipeline(pipeline, articles, untuned):
    prompts, outputs = of_pipeline(pipeline, articles, not untuned)
    summaries = Summarizer.load(pipeline, untuned=untuned).summarize(articles)
    for prompt, output, summary in zip(prompts, outputs, summaries, strict=True):
        assert (summary.text, summary.status, summary.stopped) == (output.text, output.status, output.stopped)
        assert summary.input_tokens == len(prompt.ids) <= 96
        assert summary.output_tokens == len(output.tokens)
        assert summary.document_tokens_cut == prompt.document_tokens_cut
    assert summaries[-1].document_tokens_cut > 300


def test_the_adapter_changes_the_summaries(pipeline, articles, summarizer):
    tuned = [summary.text for summary in summarizer.summarize(articles)]
    assert tuned != [summary.text for summary in Summarizer.load(pipeline, untuned=True).summarize(articles)]


def test_batches_cover_every_article_once_and_the_order_is_kept(summarizer, articles):
    seen = []
    for batch, summaries in summarizer.summarize_in_batches(articles):
        assert len(batch) == len(summaries)
        seen += batch
    assert sorted(seen) == list(range(len(articles))) and len(seen) > 1
    alone = [summarizer.summarize([article])[0] for article in articles]
    assert summarizer.summarize(articles) == alone


def test_a_base_without_an_embedding_for_an_id_is_refused(pipeline, tiny, tmp_path, monkeypatch):
    """`tokenize` checks the pipeline's base. Another folder's model is first read here."""
    shutil.copytree(tiny, tmp_path / "padded")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_special_tokens({"pad_token": "[ANOTHER PAD]"})
    tokenizer.save_pretrained(tmp_path / "padded")
    monkeypatch.chdir(pipeline)
    with pytest.raises(UserError, match=r"pad token '\[ANOTHER PAD\]' has id 600, and the model has 600 emb"):
        Summarizer.load(tmp_path / "padded").summarize(["An article."])
    shutil.copytree(tiny, tmp_path / "worded")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_tokens(["zyzzyva"])
    tokenizer.save_pretrained(tmp_path / "worded")
    worded = Summarizer.load(tmp_path / "worded")
    assert len(worded.summarize(["An article that the model can read."])) == 1
    with pytest.raises(UserError, match="token 'zyzzyva' of the articles has id 600"):
        worded.summarize(["A zyzzyva is a beetle."])


def test_prompts_beyond_a_table_of_positions_are_refused(pipeline, tiny, tmp_path, monkeypatch, capsys):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    for positions in (100, 102):  # the pipeline's prompts have up to 96 tokens, its outputs 6
        config = GPT2Config(vocab_size=600, n_positions=positions, n_embd=16, n_layer=1, n_head=2)
        GPT2LMHeadModel(config).save_pretrained(tmp_path / f"gpt2-{positions}")
        tokenizer.save_pretrained(tmp_path / f"gpt2-{positions}")
    monkeypatch.chdir(pipeline)
    small = Summarizer.load(tmp_path / "gpt2-100")
    assert len(small.summarize(["A short article."])) == 1
    with pytest.raises(UserError, match=r"gpt2-100: .*102 tokens, the model has 100 pos.*; lower .* by 2"):
        small.summarize(["word " * 500])
    with pytest.raises(UserError, match="100 positions"):
        small.check()  # as `serve` does before it accepts an article
    assert len(Summarizer.load(tmp_path / "gpt2-102").summarize(["word " * 500])) == 1
    # A rotary model goes on beyond what it was trained on, and says so.
    shutil.copytree(tiny, tmp_path / "short")
    config = json.loads((tmp_path / "short/config.json").read_text())
    (tmp_path / "short/config.json").write_text(json.dumps({**config, "max_position_embeddings": 100}))
    capsys.readouterr()
    short = Summarizer.load(tmp_path / "short")
    short.summarize(["word " * 500, "A short article."])
    assert "was trained on at most 100 positions; its outputs may be poor" in capsys.readouterr().err


@pytest.mark.skipif(not PREDICTIONS.is_file(), reason="the default pipeline was not run here")
def test_the_default_writes_the_predictions_of_its_pipeline(monkeypatch):
    monkeypatch.chdir(ROOT)
    rows = read_parquet(ROOT / "data/prepared/test.parquet").slice(0, 12).to_pylist()
    wanted = [json.loads(line) for line in PREDICTIONS.read_text().splitlines()[:12]]
    summaries = Summarizer.load().summarize([with_heading(row["heading"], row["document"]) for row in rows])
    for row, want, summary in zip(rows, wanted, summaries, strict=True):
        values = dataclasses.asdict(summary)
        assert (row["id"], values["text"]) == (want["id"], want["prediction"])
        assert {key: values[key] for key in AS_IN_PREDICTIONS} == {
            key: want[key] for key in AS_IN_PREDICTIONS
        }


def test_a_broken_model_fails_the_smoke_test(pipeline):
    import torch

    summarizer = Summarizer.load(pipeline)
    assert summarizer.check() == 1.0
    with torch.no_grad():  # now every summary ends before it begins
        summarizer.model.lm_head.bias[summarizer.tokenizer.eos_token_id] = 1e4
    assert summarizer.summarize(["An article."])[0].status == "empty"
    with pytest.raises(UserError, match=r"smoke test: .*tuned succeeded on 0% of 2 articles") as error:
        summarizer.check(["One article.", "Another one."], ["a.txt", "b.txt"])
    assert "a.txt: " in str(error.value) and "output is empty" in str(error.value)
    summarizer.trained = False  # an untuned base may write nothing
    assert summarizer.check() == 0.0


def test_weights_that_are_no_numbers_are_one_sentence(pipeline):
    import torch

    summarizer = Summarizer.load(pipeline)
    with torch.no_grad():
        summarizer.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(
        UserError,
        match=r"^article 1: the summary by .*tuned stopped after 1 of .*, so the model is broken; train",
    ):
        summarizer.summarize(["An article."])


def test_numbers_and_names_that_the_article_lacks_are_named_once_in_their_order():
    article = "In 2015 Anna Smith paid 1,000 euros for it. NATO was not asked."
    text = "Smith paid 1000 euros in 2016, and Berlin paid 30 in 2016 for NATO."
    assert unsupported(article, text) == ("2016", "Berlin", "30")
    assert unsupported(article, article) == ()


def test_half_characters_are_replaced_as_in_prepare(summarizer):
    assert storable("a\ud800b") == "a?b"
    assert summarizer.summarize(["a\ud800b c"]) == summarizer.summarize(["a?b c"])
