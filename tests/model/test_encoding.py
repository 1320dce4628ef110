"""Prompts, truncation and labels, for tokenizers of every kind."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from onesentence.core.errors import UserError
from onesentence.core.prompts import TEMPLATES, frame_of
from onesentence.model.encoding import (
    IGNORED,
    encode_completion,
    encode_prompt,
    overhead,
    pad_left,
    training_batch,
)

TEXTS = [
    "Return the mean.",
    "word",
    "emoji 😀😀 and עברית and 日本語 " * 20,
    "NUL \x00 inside, and a very long tail " + "of words " * 500,
    "trailing blanks   \n\n",
]


OWN = "Text:\n{article}\n\nIn a sentence:"


@pytest.mark.parametrize("template", [*TEMPLATES, OWN])
@pytest.mark.parametrize("text", TEXTS)
def test_only_the_document_is_cut(tokenizer, template, text):
    limit = overhead(tokenizer, template, "x") + 20
    frame = frame_of(tokenizer, template)
    before, after = frame.before, frame.after
    prompt = encode_prompt(tokenizer, template, text, limit)
    assert len(prompt.ids) <= limit
    assert prompt.text.startswith(before) and prompt.text.endswith(after)
    document = prompt.text[len(before) : len(prompt.text) - len(after)]
    assert text.startswith(document)
    assert prompt.ids == tokenizer(prompt.text)["input_ids"]
    assert (prompt.document_tokens_cut > 0) == (document != text)


def test_a_prompt_that_fits_is_left_alone(tokenizer):
    prompt = encode_prompt(tokenizer, "direct", "Short text.", 1_000)
    assert prompt.text == ("Article: Short text.\n\nSummarize the above article in one sentence.\nSummary:")
    assert prompt.document_tokens_cut == 0


def test_a_cut_prompt_uses_nearly_all_allowed_tokens(tokenizer):
    prompt = encode_prompt(tokenizer, "direct", "alpha beta gamma delta " * 300, 120)
    # The last token may differ once the text ends earlier, so a few tokens may remain; more would be waste.
    assert 115 <= len(prompt.ids) <= 120


def test_no_room_for_the_document_is_an_error(tokenizer):
    limit = overhead(tokenizer, "qa", "x") - 2
    with pytest.raises(UserError, match=r"prompt.max_input_tokens: .* leaves no room .*'qa'"):
        encode_prompt(tokenizer, "qa", "some words of a document", limit)


def test_a_document_of_100_000_words(tokenizer):
    prompt = encode_prompt(tokenizer, "direct", "lorem ipsum " * 50_000, 352)
    assert len(prompt.ids) <= 352
    assert prompt.document_tokens_cut > 90_000


def test_completion_is_the_summary_and_eos(tokenizer):
    ids = encode_completion(tokenizer, "  Return the mean.\n", "direct")
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[:-1]) == " Return the mean."


def test_pad_is_not_eos_in_a_tokenizer_like_the_embedded_one(tokenizer):
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_only_the_completion_has_labels_and_eos_keeps_its_label():
    # Pad is eos (2), as for Phi-2's tokenizer: labels must not depend on ids.
    batch = training_batch([([5, 6, 7], [8, 2]), ([5], [9, 9, 2])], pad_id=2)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 2], [5, 9, 9, 2, 2]]
    assert batch["labels"].tolist() == [
        [IGNORED, IGNORED, IGNORED, 8, 2],
        [IGNORED, 9, 9, 2, IGNORED],
    ]
    assert set(batch) == {"input_ids", "labels"}


def test_padding_is_on_the_left():
    ids, mask = pad_left([[1, 2, 3], [4]], pad_id=0)
    assert ids.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_text_that_spells_a_special_token_stays_text(tokenizer):
    text = f"Appends {tokenizer.eos_token} to every text."
    prompt = encode_prompt(tokenizer, "direct", text, 1_000)
    assert tokenizer.eos_token_id not in prompt.ids
    assert tokenizer.decode(prompt.ids) == prompt.text
    assert encode_completion(tokenizer, text, "direct").count(tokenizer.eos_token_id) == 1


def trained(inner, trainer, documents):
    inner.train_from_iterator(documents, trainer)
    return inner


def with_habit(name: str, documents: list[str]):
    """A tokenizer with this habit, trained on real documents; eos is </s>, bos is <s>."""
    special = {"special_tokens": ["<s>", "</s>", "<unk>"], "show_progress": False}
    bytes_first = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    if name.startswith("byte"):  # GPT-2, Llama 3
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space="blank" in name)
        inner.decoder = decoders.ByteLevel()
        trained(inner, trainers.BpeTrainer(vocab_size=600, **special, **bytes_first), documents)
    elif name.startswith("meta"):  # Llama 2, Mistral
        inner = Tokenizer(models.BPE(unk_token="<unk>"))
        scheme = "always" if "always" in name else "first"
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        inner.decoder = decoders.Metaspace()
        trained(inner, trainers.BpeTrainer(vocab_size=600, **special), documents)
    elif name.startswith("unigram"):  # T5
        inner = Tokenizer(models.Unigram())
        inner.normalizer = normalizers.NFKC()
        blanks = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
        inner.pre_tokenizer = pre_tokenizers.Sequence(blanks)
        inner.decoder = decoders.Metaspace()
        trained(inner, trainers.UnigramTrainer(vocab_size=400, unk_token="<unk>", **special), documents)
    else:  # BERT
        inner = Tokenizer(models.WordPiece(unk_token="<unk>"))
        inner.normalizer = normalizers.BertNormalizer(lowercase=True)
        inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        inner.decoder = decoders.WordPiece()
        trained(inner, trainers.WordPieceTrainer(vocab_size=600, **special), documents)
    before_text = [("<s>", 0)] if "bos" in name else []
    after_text = [("</s>", 1)] if "eos" in name else []
    if before_text or after_text:
        single = " ".join([*(text for text, _ in before_text), "$A", *(text for text, _ in after_text)])
        inner.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=before_text + after_text
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    )


HABITS = [
    "byte",
    "byte, bos, eos",
    "byte, blank",
    "byte, blank, bos, eos",
    "meta, always",
    "meta, always, bos, eos",
    "meta, first, bos",
    "unigram, eos",
    "wordpiece",
    "wordpiece, bos, eos",
]


@pytest.fixture(scope="module", params=HABITS)
def habit(request, pairs):
    return with_habit(request.param, [pair["document"] for pair in pairs[:60]])


def whole_ids(tokenizer, text):
    """Ids of a text without the EOS that the tokenizer may append."""
    ids = tokenizer(text)["input_ids"]
    return ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids


@pytest.mark.parametrize("template", TEMPLATES)
def test_prompt_and_completion_join_to_the_tokens_of_the_whole_text(habit, pairs, template):
    for pair in pairs[:3]:
        prompt = encode_prompt(habit, template, pair["document"], 2_000)
        ids = encode_completion(habit, pair["summary"], template)
        assert habit.eos_token_id not in prompt.ids
        assert ids[-1] == habit.eos_token_id and ids.count(habit.eos_token_id) == 1
        assert [*prompt.ids, *ids[:-1]] == whole_ids(habit, f"{prompt.text} {pair['summary']}")


def test_a_cut_prompt_ends_in_the_template_whatever_the_tokenizer_adds(habit, pairs):
    document = " ".join(pair["document"] for pair in pairs[:10])
    prompt = encode_prompt(habit, "direct", document, 120)
    assert 100 <= len(prompt.ids) <= 120 and prompt.document_tokens_cut > 0
    assert prompt.text.endswith("Summary:") and habit.eos_token_id not in prompt.ids
    assert prompt.ids == whole_ids(habit, prompt.text)
    added = overhead(habit, "direct", document)
    assert prompt.document_tokens - prompt.document_tokens_cut == pytest.approx(120 - added, abs=4)


def test_no_token_is_put_before_a_completion(pairs):
    """By hand: a word that is one token in a text is one token behind the prompt."""
    tokenizer = with_habit("meta, always", ["mean mean mean"] * 50)
    assert tokenizer.convert_ids_to_tokens(encode_completion(tokenizer, "mean", "direct")) == [
        "▁mean",
        "</s>",
    ]


def test_a_summary_whose_first_token_would_merge_with_the_prompt_keeps_its_own_tokens():
    """The template ends with a blank, which this tokenizer merges with the summary's first one."""
    vocabulary = ["<s>", "</s>", "<unk>", "▁", "a", "▁▁", ":", ".", "▁a"]
    ids = {token: number for number, token in enumerate(vocabulary)}
    inner = Tokenizer(models.BPE(ids, [("▁", "▁"), ("▁", "a")], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")
    assert tokenizer.tokenize(": ") == ["▁", ":", "▁"]
    assert tokenizer.tokenize(":  a") == ["▁", ":", "▁▁", "a"]
    completion_ids = encode_completion(tokenizer, "a", "{article}: ")
    assert tokenizer.convert_ids_to_tokens(completion_ids) == ["▁a", "</s>"]
