"""The exported chat template gives the trained prompt, token for token."""

import pytest
from conftest import ROOT
from tokenizers.processors import TemplateProcessing
from transformers import AddedToken, AutoTokenizer

from onesentence.core.errors import UserError
from onesentence.core.prompts import CHAT, TEMPLATES, frame_of
from onesentence.export.folder import write_tokenizer
from onesentence.export.prompt_template import add_chat_template, cut_article, prompt_ids
from onesentence.model.encoding import encode_prompt

OWN = 'Don\'t "quote" {{ this }} or {% that %}\\n: 🦊\n\n{article}\tIn short:'
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPELLED = "The token <|endoftext|> ends a text. "


def exported(tokenizer, template, folder):
    """(the tokenizer as another program loads it, the trained prompt)."""
    frame = frame_of(tokenizer, template)
    write_tokenizer(tokenizer, frame, folder, 500)
    return AutoTokenizer.from_pretrained(folder), frame


@pytest.mark.parametrize("template", [*TEMPLATES, OWN])
def test_the_ids_are_the_trained_ones(template, tokenizer, tmp_path, pairs):
    expected = [encode_prompt(tokenizer, template, pair["document"], 200) for pair in pairs[:8]]
    assert any(prompt.document_tokens_cut for prompt in expected)
    found, frame = exported(tokenizer, template, tmp_path)
    for pair, prompt in zip(pairs, expected, strict=False):
        text, cut = cut_article(found, frame, pair["document"], 200)
        assert (prompt_ids(found, text), cut) == (prompt.ids, prompt.document_tokens_cut)


def test_an_article_that_spells_a_special_token_stays_text(tokenizer, tmp_path):
    prompt = encode_prompt(tokenizer, "direct", SPELLED, 200)
    assert tokenizer.eos_token_id not in prompt.ids
    found, _ = exported(tokenizer, "direct", tmp_path)
    assert prompt_ids(found, SPELLED) == prompt.ids


def test_a_chat_base_keeps_its_own_form(tiny, tmp_path, pairs):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    special = [AddedToken("<|im_start|>", special=True)]
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": special})
    tokenizer.chat_template = CHATML
    expected = [encode_prompt(tokenizer, CHAT, pair["document"], 200) for pair in pairs[:5]]
    found, frame = exported(tokenizer, CHAT, tmp_path)
    assert frame.chat
    for pair, prompt in zip(pairs, expected, strict=False):
        text, _ = cut_article(found, frame, pair["document"], 200)
        assert prompt_ids(found, text) == prompt.ids
        assert prompt.ids[0] == found.convert_tokens_to_ids("<|im_start|>")


def test_a_bos_that_the_tokenizer_adds_is_in_the_template(tokenizer, tmp_path, pairs):
    tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
    bos = tokenizer.bos_token_id
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", bos)]
    )
    prompt = encode_prompt(tokenizer, "direct", pairs[0]["document"], 300)
    assert prompt.ids[0] == bos
    found, _ = exported(tokenizer, "direct", tmp_path)
    assert prompt_ids(found, pairs[0]["document"]) == prompt.ids


def test_a_tokenizer_whose_prompt_no_template_can_give_is_refused(tokenizer):
    tokenizer.add_special_tokens({"cls_token": "<|class|>"})
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<|class|> $A", special_tokens=[("<|class|>", tokenizer.cls_token_id)]
    )
    with pytest.raises(UserError, match=r"no chat template can give the trained prompt .* \(token 0 of "):
        add_chat_template(tokenizer, frame_of(tokenizer, "direct"))


def test_a_message_in_parts_is_joined_and_any_other_chat_is_refused(tokenizer):
    add_chat_template(tokenizer, frame_of(tokenizer, "direct"))

    def text(*messages):
        return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)

    parts = [{"type": "text", "text": "One. "}, {"type": "text", "text": "Two."}]
    whole = {"role": "user", "content": "One. Two."}
    assert text({"role": "user", "content": parts}) == text(whole)
    for messages in ([{"role": "system", "content": "Be brief."}, whole], [whole, whole]):
        with pytest.raises(Exception, match="send one message of the user"):
            text(*messages)


def test_the_settings_that_generation_needs_are_saved(tokenizer, tmp_path):
    found, _ = exported(tokenizer, "direct", tmp_path)
    assert (found.padding_side, found.model_max_length, found.split_special_tokens) == ("left", 500, True)
    assert found.pad_token_id == tokenizer.pad_token_id is not None
    text = (tmp_path / "tokenizer_config.json").read_text()
    assert "is_local" not in text and str(ROOT) not in text
