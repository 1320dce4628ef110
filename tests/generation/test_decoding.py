"""Generation gives transformers' tokens, and the smoke test detects the original study's mistakes."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from onesentence.core.errors import UserError
from onesentence.generation import decoding, smoke_test
from onesentence.generation.decoding import (
    articles_within,
    evenly_spaced_by_length,
    generate_tokens,
    generation_config,
    read_output,
    summarize,
    summarize_in_batches,
)
from onesentence.model.encoding import pad_left


def prompts(count=6, seed=0):
    rng = torch.Generator().manual_seed(seed)
    lengths = [3, 40, 17, 90, 8, 60][:count]
    return [torch.randint(2, 500, (n,), generator=rng).tolist() for n in lengths]


def settings(beams=4, new=12):
    return SimpleNamespace(
        max_new_tokens=new, num_beams=beams, max_batch_tokens=500, length_penalty=1.0, no_repeat_ngram_size=0
    )


def test_ids_without_a_token_are_suppressed_and_the_end_is_not():
    """The ids of a tokenizer may have gaps, and its end be above its size."""
    vocabulary = {"a": 0, "b": 1, "<pad>": 3, "<end>": 8}
    tokenizer = SimpleNamespace(
        get_vocab=lambda: vocabulary, pad_token_id=3, eos_token_id=8, bos_token_id=None
    )
    assert generation_config(tokenizer, settings(), 10).suppress_tokens == [2, 4, 5, 6, 7, 9, 3]


@pytest.mark.parametrize("beams", [1, 2, 4])
def test_the_shared_prompt_gives_the_tokens_of_transformers(base, tokenizer, beams):
    ids, mask = pad_left(prompts(), tokenizer.pad_token_id)
    config = generation_config(tokenizer, settings(beams), base.config.vocab_size)
    with torch.inference_mode():
        wanted = base.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    assert torch.equal(generate_tokens(base, ids, mask, config), wanted[:, ids.shape[1] :])


def test_a_prompt_is_read_once_and_not_once_a_beam(base, tokenizer):
    ids, mask = pad_left(prompts(), tokenizer.pad_token_id)
    config = generation_config(tokenizer, settings(4, 5), base.config.vocab_size)
    generate_tokens(base, ids, mask, config)  # the first call proves that beams may share
    seen = []
    base.model.embed_tokens.register_forward_hook(lambda m, inputs, output: seen.append(output.shape[:2]))
    generate_tokens(base, ids, mask, config)
    assert seen[0] == (6, 89)
    assert all(length == 1 for _, length in seen[1:])


def test_the_order_of_prompts_is_kept_whatever_the_batch(base, tokenizer):
    everything = prompts()
    together = summarize(base, tokenizer, everything, settings())
    alone = [summarize(base, tokenizer, [prompt], settings())[0] for prompt in everything]
    assert [output.tokens for output in together] == [output.tokens for output in alone]


def test_every_output_uses_the_whole_of_max_new_tokens_or_stops(base, tokenizer):
    for output in summarize(base, tokenizer, prompts(), settings(new=9)):
        assert output.complete
        assert output.stopped == (output.tokens[-1] == tokenizer.eos_token_id)
        assert output.stopped or len(output.tokens) == 9


@pytest.mark.parametrize("beams", [1, 4])
def test_no_ngram_occurs_twice_in_an_output_but_those_of_the_prompt_may_be_copied(base, tokenizer, beams):
    """transformers' own rule counts the prompt; ours counts the output only."""
    plain = summarize(base, tokenizer, prompts(), settings(beams, 30))
    banned = settings(beams, 30)
    banned.no_repeat_ngram_size = 2
    outputs = summarize(base, tokenizer, prompts(), banned)

    def repeats(tokens):
        pairs = list(pairwise(tokens))
        return len(pairs) - len(set(pairs))

    assert any(repeats(output.tokens) for output in plain)
    assert not any(repeats(output.tokens) for output in outputs)
    # A prompt that contains the model's output does not forbid it.
    first = outputs[0].tokens[:3]
    with torch.inference_mode():
        ids = torch.tensor([[*prompts()[0], *first, *prompts()[0]]])
        ours = generate_tokens(
            base, ids, torch.ones_like(ids), generation_config(tokenizer, banned, 600), no_repeat_ngram_size=2
        )
        config = generation_config(tokenizer, banned, 600)
        config.no_repeat_ngram_size = 2
        theirs = base.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    seen = set(pairwise(ids[0].tolist()))
    assert not seen & set(pairwise(theirs[0, ids.shape[1] :].tolist()))
    assert seen & set(pairwise([ids[0, -1].item(), *ours[0].tolist()]))


def test_the_length_penalty_changes_the_lengths(base, tokenizer):
    """Far below 1 it favours short outputs, far above 1 long ones."""
    with torch.no_grad():
        base.lm_head.bias[tokenizer.eos_token_id] = 1.5
    lengths = []
    for penalty in (-5.0, 5.0):
        chosen = settings(4, 12)
        chosen.length_penalty = penalty
        lengths.append(sum(len(o.tokens) for o in summarize(base, tokenizer, prompts(), chosen)))
    assert lengths[0] < lengths[1]


def test_ids_without_a_token_are_never_generated(base, tokenizer):
    base.resize_token_embeddings(len(tokenizer) + 40)
    with torch.no_grad():
        base.lm_head.weight[len(tokenizer) :] = base.lm_head.weight.abs().max() * 10
        base.lm_head.bias = torch.nn.Parameter(torch.zeros(len(tokenizer) + 40))
        base.lm_head.bias[len(tokenizer) :] = 100.0
    outputs = summarize(base, tokenizer, prompts(), settings())
    assert all(token < len(tokenizer) for output in outputs for token in output.tokens)


def test_pad_is_never_generated(base, tokenizer):
    with torch.no_grad():
        base.lm_head.bias[tokenizer.pad_token_id] = 100.0
    for output in summarize(base, tokenizer, prompts(), settings()):
        assert output.complete and tokenizer.pad_token_id not in output.tokens


def test_right_padding_is_refused(base, tokenizer):
    ids = torch.tensor([[5, 6, 7], [8, tokenizer.pad_token_id, tokenizer.pad_token_id]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    config = generation_config(tokenizer, settings(2, 5), base.config.vocab_size)
    with pytest.raises(ValueError, match="padded on the left"):
        generate_tokens(base, ids, mask, config)


def test_status_and_stop_of_an_output(tokenizer):
    def ids(text):
        return tokenizer(text)["input_ids"]

    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    prompt = ids("Article: the whole of a document that is long enough to tell.")
    ok = read_output(tokenizer, [*ids(" A summary."), eos, pad, pad], prompt, 20)
    assert (ok.text, ok.status, ok.stopped, ok.complete) == ("A summary.", "ok", True, True)
    assert ok.tokens[-1] == eos
    empty = read_output(tokenizer, [eos, pad], prompt, 20)
    assert (empty.text, empty.status, empty.succeeded) == ("", "empty", False)
    echo = read_output(tokenizer, [*prompt, eos], prompt, 40)
    assert (echo.status, echo.succeeded) == ("echo", False)
    running = read_output(tokenizer, prompt[:10], prompt, 10)
    assert (running.status, running.succeeded) == ("echo", False)
    copied = read_output(tokenizer, [*prompt[:10], eos], prompt, 20)  # EOS ends it: a copy, no echo
    assert (copied.status, copied.succeeded) == ("ok", True)
    full = read_output(tokenizer, ids(" a b c d"), prompt, len(ids(" a b c d")))
    assert (full.stopped, full.succeeded) == (False, True)
    short = read_output(tokenizer, ids(" a b c d"), prompt, 20)
    assert (short.complete, short.succeeded) == (False, False)


def test_a_batch_holds_no_more_than_its_budget_and_at_least_one_article():
    assert articles_within(1_000, 100, 0) == 10
    assert articles_within(1_000, 100, 25) == 8  # 8 x 125
    assert articles_within(1_000, 100, 26) == 7
    assert articles_within(50, 100, 25) == 1


def test_batches_hold_every_row_once_longest_first(base, tokenizer):
    rows = prompts()  # 3, 40, 17, 90, 8 and 60 tokens, and 2 beams of 4 new ones
    few = SimpleNamespace(
        max_new_tokens=4, num_beams=2, max_batch_tokens=140, length_penalty=1.0, no_repeat_ngram_size=0
    )
    names = [str(len(row)) for row in rows]
    batches = [batch for batch, _ in summarize_in_batches(base, tokenizer, rows, few, names)]
    # 90 + 8 = 98: one; 60 + 8 = 68: two; 17 + 8 = 25: the rest
    assert [[len(rows[i]) for i in batch] for batch in batches] == [[90], [60, 40], [17, 8, 3]]


def fail_above(base, rows: int):
    """Make an allocation fail whenever more than `rows` rows pass through the model."""

    def hook(module, inputs, output):
        if len(output) > rows:
            torch.empty(2**46)

    return base.model.embed_tokens.register_forward_hook(hook)


def test_a_batch_that_does_not_fit_is_halved_and_the_tokens_stay_the_same(base, tokenizer, capsys):
    rows, names = prompts(), [str(i) for i in range(6)]
    large = SimpleNamespace(
        max_new_tokens=6, num_beams=4, max_batch_tokens=10**6, length_penalty=1.0, no_repeat_ngram_size=0
    )
    wanted = [output.tokens for output in summarize(base, tokenizer, rows, large)]
    fail_above(base, 8)  # two articles of four beams
    batches = list(summarize_in_batches(base, tokenizer, rows, large, names))
    assert max(len(batch) for batch, _ in batches) <= 2
    tokens = {
        i: output.tokens for batch, outputs in batches for i, output in zip(batch, outputs, strict=True)
    }
    assert [tokens[i] for i in range(6)] == wanted
    printed = capsys.readouterr().out
    assert "out of memory with 6 articles; continuing with 3" in printed and "continuing with 1" in printed


def test_batches_after_those_that_are_finished_are_the_same(base, tokenizer, capsys):
    """Also where a batch did not fit: the next ones are as small as they would have been, and are not tried
    larger again.
    """
    rows, names = [*prompts(), *prompts()], [str(i) for i in range(12)]
    settings = SimpleNamespace(
        max_new_tokens=6, num_beams=4, max_batch_tokens=500, length_penalty=1.0, no_repeat_ngram_size=0
    )
    for limit in (None, 8):
        if limit:
            fail_above(base, limit)
        wanted = list(summarize_in_batches(base, tokenizer, rows, settings, names))
        printed = capsys.readouterr().out.count("out of memory")
        assert printed == (2 if limit else 0)
        batches = [batch for batch, _ in wanted]
        assert len(batches) > 2
        for count in range(1, len(batches) + 1):
            rest = list(summarize_in_batches(base, tokenizer, rows, settings, names, batches[:count]))
            assert rest == wanted[count:]
        assert capsys.readouterr().out.count("out of memory") < len(batches) * max(printed, 1)
    with pytest.raises(ValueError, match="does not continue the order"):
        next(summarize_in_batches(base, tokenizer, rows, settings, names, [[0]]))


def test_an_article_that_does_not_fit_alone_is_named(base, tokenizer):
    fail_above(base, 2)
    few = SimpleNamespace(
        max_new_tokens=6, num_beams=4, max_batch_tokens=10**6, length_penalty=1.0, no_repeat_ngram_size=0
    )
    with pytest.raises(
        UserError, match=r"generate.max_batch_tokens: the-long-one \(40 prompt tokens, 4 beams\)"
    ):
        summarize(base, tokenizer, prompts()[:2], few, ["the-short-one", "the-long-one"])


def test_another_error_names_the_ids_of_its_batch(base, tokenizer):
    few = SimpleNamespace(
        max_new_tokens=6, num_beams=4, max_batch_tokens=10**6, length_penalty=1.0, no_repeat_ngram_size=0
    )
    with pytest.raises(IndexError) as caught:
        summarize(base, tokenizer, [[10**6], [10**6] * 2], few, ["a", "b"])
    assert caught.value.__notes__ == ["while generating for b, a"]


def test_evenly_spaced_rows_go_from_the_shortest_to_the_longest():
    lengths = [50, 10, 40, 30, 20, 60, 70]
    assert [lengths[i] for i in evenly_spaced_by_length(lengths, 3)] == [10, 40, 70]
    assert sorted(evenly_spaced_by_length(lengths, 20)) == list(range(7))


def run_smoke_test(base, tokenizer, new=12):
    rows = prompts()
    names = [f"id{len(row)}" for row in rows]
    return smoke_test.run_smoke_test(base, tokenizer, names, rows, settings(new=new), 0.9, "the untuned base")


def test_the_smoke_test_passes(base, tokenizer):
    _, rate = run_smoke_test(base, tokenizer)
    assert rate == 1.0


def test_a_limit_that_counts_the_prompt_is_detected(base, tokenizer, monkeypatch):
    """A mistake of the original study: `max_length`, which counts the prompt's tokens too."""

    def misused(tokenizer, settings, vocabulary):
        config = generation_config(tokenizer, settings, vocabulary)
        config.max_new_tokens, config.max_length = None, 95
        return config

    monkeypatch.setattr(decoding, "generation_config", misused)
    with pytest.raises(
        UserError, match=r"(?s)is broken for 6 of 6 articles.*id90: 90 prompt tokens, stopped after 5 of 12"
    ):
        run_smoke_test(base, tokenizer)


def test_padding_on_the_right_is_detected(base, tokenizer, monkeypatch):
    def pad_right(rows, pad_id):
        ids, mask = pad_left([row[::-1] for row in rows], pad_id)
        return ids.flip(1), mask.flip(1)

    monkeypatch.setattr(decoding, "pad_left", pad_right)
    with pytest.raises(ValueError, match="padded on the left"):
        run_smoke_test(base, tokenizer)


def output(text="fine", tokens=(5, 6, 0), stopped=True, status="ok", complete=True):
    return decoding.Output(text, list(tokens), stopped, status, complete)


PROMPTS = [list(range(20, 30)), list(range(20, 40)), list(range(20, 50))]
SILENT = output("", (0,), status="empty")
ECHO = output("Article: a", (20, 21), stopped=False, status="echo")


def checked(outputs, least):
    return smoke_test.check_success(["a", "b", "c"], PROMPTS, outputs, 8, least, "the model")


def test_a_base_may_write_nothing_or_repeat_its_prompt():
    assert checked([output(), SILENT, ECHO], None) == pytest.approx(1 / 3)
    assert checked([SILENT] * 3, None) == checked([ECHO] * 3, None) == 0


def test_a_tuned_model_under_the_rate_is_stopped_with_the_articles_that_failed():
    with pytest.raises(UserError) as caught:
        checked([output(), SILENT, ECHO], 0.9)
    text = str(caught.value)
    assert "the model succeeded on 33% of 3 articles, smoke.min_success_rate is 90%" in text
    assert "b: 20 prompt tokens, output is empty" in text and "c: 30 prompt tokens, output is echo" in text
    assert "a: " not in text


@pytest.mark.parametrize("least", [None, 0.0, 0.9])
@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (output("x", (4,), stopped=False, complete=False), "stopped after 1 of 8 new tokens without EOS"),
        (output("x", range(50, 60)), "10 new tokens, more than the limit of 8"),
        (output("x", [*range(20, 50), 5, 0]), "32 new tokens, more than the limit of 8"),
    ],
)
def test_a_broken_pipeline_stops_any_model(least, broken, reason):
    with pytest.raises(UserError) as caught:
        checked([output(), output(), broken], least)
    assert "the generation of the model is broken for 1 of 3 articles" in str(caught.value)
    assert f"c: 30 prompt tokens, {reason}" in str(caught.value)


def test_outputs_that_begin_with_the_whole_prompt_stop_any_model():
    """A wrong slice of the tokens gives such outputs, if the prompt is short enough."""
    rows = [list(range(20, 30))]
    with pytest.raises(UserError, match="the output begins with the tokens of the prompt"):
        smoke_test.check_success(["a"], rows, [output("x", [*rows[0], 5, 0])], 40, None, "the model")


def test_another_models_tokenizer_is_detected(pairs):
    """With the embedded base: a random model knows no tokenizer."""
    from conftest import ROOT

    from onesentence.model.loading import load_base, load_tokenizer
    from onesentence.training.pretraining import train_tokenizer

    name = str(ROOT / "models/phi-tiny")
    own = SimpleNamespace(name=name, watch=name, revision=None, dtype="float32", quantization="none")
    model, tokenizer = load_base(own), load_tokenizer(own)
    documents = [pair["document"] for pair in pairs]

    def check(tokenizer_):
        return smoke_test.check_tokenizer(
            model, tokenizer, [tokenizer_(text)["input_ids"][:300] for text in documents[:6]]
        )

    assert check(tokenizer) < 4.0  # nats a token; a uniform guess over 8,192 is 9.0
    for vocabulary in (8_192, 1_000):
        with pytest.raises(UserError, match="the tokenizer is not this model's"):
            check(train_tokenizer(documents, vocabulary))
    with pytest.raises(UserError, match=r"expected ids below 8192, found 9000"):
        smoke_test.check_tokenizer(model, tokenizer, [[1, 9_000]])


def test_a_random_base_passes_the_tokenizer_check(base, tokenizer, pairs):
    loss = smoke_test.check_tokenizer(base, tokenizer, [tokenizer(pairs[0]["document"])["input_ids"]])
    assert abs(loss - 6.4) < 0.2  # ln(600)
