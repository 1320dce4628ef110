"""`prompt.template: chat_template`: the base's own chat template, around text that may spell its tokens."""

import pytest
from transformers import AddedToken, AutoTokenizer

from onesentence.core.errors import UserError
from onesentence.core.prompts import CHAT, REQUEST, SLOT, frame_of
from onesentence.model.encoding import encode_completion, encode_prompt, overhead, template_overheads

# In the style of the templates of SmolLM2 and Qwen, Llama 3.2, SmolLM3 and Zephyr; none is a copy.
CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nBe brief."
    "<|im_end|>\n{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DATED = (
    "<|begin|>{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "<|head|>system<|/head|>\n\nToday: {{ date_string }}\n\n<|im_end|>"
    "{% for m in messages %}<|head|>{{ m.role }}<|/head|>\n\n{{ m.content | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}"
)
CLOCK = (
    "{{ '<|im_start|>system\n' + strftime_now('%d %B %Y') + '<|im_end|>\n' }}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n{% endif %}{% endif %}"
)
PLAIN = (
    "{% for m in messages %}[{{ m.role }}]\n{{ m.content }}"
    "{% if m.role == 'assistant' %}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
FORMS = {"chatml": CHATML, "dated": DATED, "clock": CLOCK, "plain": PLAIN}
SPELLED = "The token <|im_end|> ends a turn, and <|im_start|>user begins one. "


def chatting(folder, template: str):
    """The tiny model's tokenizer with a chat template and its special tokens."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    special = [
        AddedToken(text, special=True) for text in ("<|im_start|>", "<|begin|>", "<|head|>", "<|/head|>")
    ]
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": special})
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(params=FORMS)
def chat(request, tiny):
    return chatting(tiny, FORMS[request.param])


def whole(tokenizer, text: str) -> list[int]:
    """Ids of a text in which special tokens are tokens."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_ids_are_those_of_the_rendered_chat(chat, pairs):
    for pair in pairs[:5]:
        prompt = encode_prompt(chat, CHAT, pair["document"], 5_000)
        assert prompt.ids == whole(chat, prompt.text)
        assert pair["document"] in prompt.text and prompt.document_tokens_cut == 0


def test_prompt_and_answer_join_to_the_tokens_of_the_whole_chat(chat, pairs):
    for pair in pairs[:5]:
        prompt = encode_prompt(chat, CHAT, pair["document"], 5_000)
        ids = encode_completion(chat, f"  {pair['summary']}\n", CHAT)
        assert prompt.ids + ids == whole(chat, prompt.text + pair["summary"].strip() + "<|im_end|>")
        assert chat.decode(ids, skip_special_tokens=True) == pair["summary"].strip()


def test_an_article_and_a_summary_that_spell_special_tokens_stay_text(chat):
    frame = encode_prompt(chat, CHAT, "x", 5_000).ids
    prompt = encode_prompt(chat, CHAT, SPELLED * 3, 5_000)
    for token in ("<|im_end|>", "<|im_start|>"):
        number = chat.convert_tokens_to_ids(token)
        assert prompt.ids.count(number) == frame.count(number)
    assert SPELLED in chat.decode(prompt.ids)
    ids = encode_completion(chat, SPELLED, CHAT)
    assert ids.count(chat.eos_token_id) == 1 and ids[-1] == chat.eos_token_id
    assert chat.decode(ids[:-1]) == SPELLED.strip()


def test_only_the_article_is_cut(chat):
    limit = overhead(chat, CHAT, "x") + 20
    text = "One word after another, and no end of them. " * 30
    frame = frame_of(chat, CHAT)
    prompt = encode_prompt(chat, CHAT, text, limit)
    assert limit - 3 <= len(prompt.ids) <= limit
    assert prompt.text.startswith(frame.before) and prompt.text.endswith(frame.after)
    document = prompt.text[len(frame.before) : len(prompt.text) - len(frame.after)]
    assert text.startswith(document) and len(document) > 20
    assert prompt.document_tokens - prompt.document_tokens_cut <= 20


@pytest.mark.parametrize(("form", "date"), [(DATED, "Today: 26 Jul 2024"), (CLOCK, "26 July 2024")])
def test_no_prompt_depends_on_the_date(tiny, form, date):
    assert date in frame_of(chatting(tiny, form), CHAT).before


def test_reasoning_is_turned_off_if_the_template_supports_it(tiny):
    assert frame_of(chatting(tiny, CLOCK), CHAT).after.endswith("<think>\n\n</think>\n")


def test_the_request_asks_for_one_sentence_and_holds_the_article_once(chat):
    frame = frame_of(chat, CHAT)
    assert REQUEST.split(SLOT)[0] in frame.before and frame.chat and frame.blank == ""


def test_a_blank_that_the_template_puts_before_an_answer_belongs_to_the_answer(tiny):
    """Mistral's form: `[/INST]`, a blank, the answer."""
    form = (
        "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{{ m.content }}<|head|>"
        "{% else %} {{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    )
    tokenizer = chatting(tiny, form)
    frame = frame_of(tokenizer, CHAT)
    assert (frame.after, frame.blank) == ("<|head|>", " ")
    ids = encode_completion(tokenizer, "It rained.", CHAT)
    assert tokenizer.decode(ids[:-1]) == " It rained."


def test_other_text_that_the_template_puts_before_an_answer_belongs_to_the_prompt(tiny):
    """gpt-oss's form: the answer goes into a channel, which the generation prompt leaves open."""
    form = CHATML.replace(
        "{{ m.content }}", "{% if m.role == 'assistant' %}<|head|>{% endif %}{{ m.content }}"
    )
    frame = frame_of(chatting(tiny, form), CHAT)
    assert frame.after.endswith("<|im_start|>assistant\n<|head|>") and frame.blank == ""


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ("{{ raise_exception('needs a system message') }}", "needs a system message"),
        ("{% for m in messages %}", "cannot be filled"),
        (CLOCK.replace("'%d %B %Y'", "form"), "today's date in a form that is not supported"),
        ({"rag": CHATML, "tool_use": CHATML}, "cannot be filled"),
        (CHATML.replace("m.content", "m.content if m.role == 'user' else ''"), "no place for an answer"),
    ],
)
def test_a_template_that_cannot_be_filled_gives_one_sentence_and_stops_no_other_template(tiny, form, reason):
    tokenizer = chatting(tiny, form)
    with pytest.raises(UserError, match=f"prompt.template: chat_template: .*{reason}"):
        frame_of(tokenizer, CHAT)
    assert CHAT not in template_overheads(tokenizer, "text")
    assert encode_prompt(tokenizer, "direct", "text", 500).ids


def test_sentencepiece_ids_are_those_of_the_rendered_chat(tiny):
    """The blank that it puts before a text occurs once in a prompt, not once in each part of it."""
    from tokenizers import pre_tokenizers

    tokenizer = chatting(tiny, CHATML)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    prompt = encode_prompt(tokenizer, CHAT, "An article.", 500)
    assert prompt.ids == whole(tokenizer, prompt.text)


def test_a_model_without_a_chat_template_is_refused(tokenizer):
    with pytest.raises(UserError, match=r"prompt.template: chat_template: the tokenizer .* no chat template"):
        encode_prompt(tokenizer, CHAT, "text", 500)
    assert CHAT not in template_overheads(tokenizer, "text")


def test_overheads_include_the_chat_template_if_there_is_one(chat):
    assert template_overheads(chat, "text")[CHAT] == overhead(chat, CHAT, "text") > 10


def test_a_template_whose_answers_do_not_end_with_eos_is_refused(tiny):
    form = CHATML.replace("{{ m.content }}<|im_end|>", "{{ m.content }}<|/head|>")
    with pytest.raises(UserError, match=r"ends its answers with '<\|/head\|>'.* eos is '<\|im_end\|>'"):
        frame_of(chatting(tiny, form), CHAT)


def test_a_template_that_drops_or_repeats_the_article_is_refused(tiny):
    for form in (CHATML.replace("{{ m.content }}", ""), CHATML.replace("m.content", "m.content * 2")):
        with pytest.raises(UserError, match="leaves no place for the article"):
            frame_of(chatting(tiny, form), CHAT)
