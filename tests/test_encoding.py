"""One prompt, one truncation rule, one set of label rules."""

import pytest

from stages.common.encoding import (
    IGNORED,
    encode_completion,
    encode_prompt,
    overhead,
    pad_left,
    training_batch,
)
from stages.common.errors import UserError
from stages.common.prompts import TEMPLATES, around

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
    before, after = around(template)
    prompt = encode_prompt(tokenizer, template, text, limit)
    assert len(prompt.ids) <= limit
    assert prompt.text.startswith(before) and prompt.text.endswith(after)
    kept = prompt.text[len(before) : len(prompt.text) - len(after)]
    assert text.startswith(kept)
    assert prompt.ids == tokenizer(prompt.text)["input_ids"]
    assert (prompt.document_tokens_cut > 0) == (kept != text)


def test_a_prompt_that_fits_is_left_alone(tokenizer):
    prompt = encode_prompt(tokenizer, "direct", "Short text.", 1_000)
    assert prompt.text == ("Article: Short text.\n\nSummarize the above article in one sentence.\nSummary:")
    assert prompt.document_tokens_cut == 0


def test_a_cut_prompt_uses_nearly_all_of_its_room(tokenizer):
    prompt = encode_prompt(tokenizer, "direct", "alpha beta gamma delta " * 300, 120)
    # A token may merge with its neighbour once the text ends elsewhere; more than a few would be waste.
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
    ids = encode_completion(tokenizer, "  Return the mean.\n")
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[:-1]) == " Return the mean."


def test_pad_is_not_eos_in_the_embedded_kind_of_tokenizer(tokenizer):
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_labels_are_the_completion_alone_and_eos_keeps_its_label():
    # Pad equal to eos (2), as Phi-2's tokenizer has it: the labels must not come from ids.
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
    assert encode_completion(tokenizer, text).count(tokenizer.eos_token_id) == 1
