"""Checks of a base model before training: ids, positions, causality, letters."""

from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    FalconConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MptConfig,
    MptForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PreTrainedTokenizerFast,
    XLNetConfig,
)

from onesentence.core.errors import UserError
from onesentence.model import base_check


def prompts(count=3):
    rng = torch.Generator().manual_seed(0)
    return [torch.randint(2, 500, (n,), generator=rng).tolist() for n in (5, 40, 17)[:count]]


def test_the_tiny_model_passes(base, tokenizer):
    base_check.check_base(base, tokenizer, prompts())


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_rounding_does_not_count_as_reading_ahead(tiny_settings, tokenizer, quantization):
    from onesentence.model.loading import load_base

    settings = SimpleNamespace(**{**vars(tiny_settings), "quantization": quantization})
    base_check.check_base(load_base(settings), tokenizer, prompts())


@pytest.mark.parametrize("kind", ["pad", "eos", "bos"])
def test_a_special_token_beyond_the_embeddings_is_named(tokenizer, kind):
    tokenizer.add_special_tokens({f"{kind}_token": "[NEW]"})
    base_check.check_ids(tokenizer, 601)
    with pytest.raises(
        UserError, match=rf"{kind} token '\[NEW\]' has id 600, and the model has 600 embeddings"
    ):
        base_check.check_ids(tokenizer, 600)


def test_an_added_token_of_the_articles_beyond_the_embeddings_is_named(base, tokenizer):
    tokenizer.add_tokens(["<page>"])
    base_check.check_base(base, tokenizer, prompts())  # an unused token is harmless
    ids = tokenizer("one <page> two")["input_ids"]
    with pytest.raises(UserError, match="token '<page>' of the articles has id 600"):
        base_check.check_base(base, tokenizer, [ids])


TABLES = [
    (GPT2LMHeadModel, GPT2Config(vocab_size=99, n_embd=16, n_layer=1, n_head=2, n_positions=32)),
    (
        OPTForCausalLM,
        OPTConfig(
            vocab_size=99, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16,
            word_embed_proj_dim=16, max_position_embeddings=32,
        ),
    ),
    (MptForCausalLM, MptConfig(vocab_size=99, d_model=16, n_heads=2, n_layers=1, max_seq_len=32)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "config"), TABLES)
def test_positions_in_a_table_end_where_the_model_does(kind, config):
    """The model itself computes as many positions as the check allows, and no more."""
    model = kind(config).eval()
    with torch.no_grad():
        model(input_ids=torch.ones(1, 32, dtype=torch.long))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.ones(1, 33, dtype=torch.long))
    assert base_check.check_positions(config, 32, "generate.max_new_tokens") is None
    with pytest.raises(UserError, match=r"take 40 tokens, the model has 32 positions; lower .* by 8"):
        base_check.check_positions(config, 40, "generate.max_new_tokens")


def test_rotary_positions_beyond_training_give_a_warning():
    config = PhiConfig(max_position_embeddings=32)
    assert base_check.check_positions(config, 32, "its summary") is None
    warning = base_check.check_positions(config, 33, "its summary")
    assert "a prompt and its summary take 33 tokens, the model was trained on at most 32 positions" in warning


@pytest.mark.parametrize("config", [MambaConfig(), FalconConfig(alibi=True), XLNetConfig()])
def test_a_model_without_positions_has_no_limit(config):
    assert base_check.check_positions(config, 10**6, "its summary") is None


class Peeking(torch.nn.Module):
    """A causal model, to whose logits a share of the next position's is added."""

    def __init__(self, inner, share):
        super().__init__()
        self.inner, self.share, self.config, self.dtype = inner, share, inner.config, inner.dtype

    def forward(self, **inputs):
        logits = self.inner(**inputs).logits
        return SimpleNamespace(logits=logits + self.share * logits.roll(-1, dims=1))


def test_reading_the_next_token_is_detected(base):
    base_check.check_causal(Peeking(base, 0.0), prompts())
    with pytest.raises(UserError, match=r"Peeking \(model_type phi\) is not causal"):
        base_check.check_causal(Peeking(base, 0.001), prompts())


def test_one_short_prompt_is_enough(base):
    base_check.check_causal(base, [[5, 6, 7, 8]])


def wordpieces(**normalizer):
    """An uncased tokenizer like BERT's, trained on a few words; it knows the Latin letters."""
    inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(**normalizer)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    letters = "abcdefghijklmnopqrstuvwxyz"
    inner.train_from_iterator(
        ["the mean of the values"] * 3 + list(letters) + [f"x{letters}", letters.upper()],
        trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]", "[PAD]"], show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]")


TEXTS = ["the mean of the values", "the values of the mean", "mean of the values"]
NAMES = ["a", "b", "c"]


def test_a_tokenizer_that_loses_nothing_gets_no_warning(tokenizer):
    texts = ["Müller traf Bär.", "他们离开了", "naïve ﬁle No. 1"]
    assert base_check.check_round_trip(tokenizer, NAMES, texts) is None


def test_a_tokenizer_that_lower_cases_gets_a_warning():
    texts = [text.title() for text in TEXTS]
    warning = base_check.check_round_trip(wordpieces(lowercase=True), NAMES, texts)
    assert "changes the case of letters" in warning
    assert base_check.check_round_trip(wordpieces(lowercase=True), NAMES, TEXTS) is None


@pytest.mark.parametrize(
    "texts", [["Жёлтый", *TEXTS[1:]], ["他们离开了", *TEXTS[1:]], ["the möän", *TEXTS[1:]]]
)
def test_a_tokenizer_that_loses_letters_is_refused_with_an_example(texts):
    with pytest.raises(
        UserError, match=r"loses .*% of the letters of the training summaries \(a: '.*' are miss"
    ):
        base_check.check_round_trip(wordpieces(lowercase=True), NAMES, texts)


def test_letters_are_counted_after_normalization():
    assert base_check.letters("aaB 1, é") == {"a": 2, "B": 1, "1": 1, "é": 1}
    assert base_check.letters("e\u0301") == {"é": 1}
    assert base_check.letters("-.\n") == {}
