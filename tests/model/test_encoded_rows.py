"""Rows of a chunk are encoded as each row alone."""

import pyarrow as pa

from onesentence.core.params import Prompt
from onesentence.core.text import with_heading
from onesentence.model.encoded_rows import SCHEMA, encode_chunk, encode_rows, tokenizer_of
from onesentence.model.encoding import encode_completion, encode_prompt


def test_the_table_has_the_tokens_of_each_row(tokenizer, pairs):
    prompt = Prompt(template="direct", max_input_tokens=120)
    rows = [
        (pair["id"], "def f()" * (k % 2), pair["document"], pair["summary"])
        for k, pair in enumerate(pairs[:30])
    ]
    encoded = encode_rows(tokenizer, prompt, rows)
    table = encoded.table()
    assert table.schema == SCHEMA
    cut = 0
    for (name, heading, document, summary), row in zip(rows, table.to_pylist(), strict=True):
        filled = encode_prompt(tokenizer, "direct", with_heading(heading, document), 120)
        assert row == {
            "id": name,
            "prompt_ids": filled.ids,
            "completion_ids": encode_completion(tokenizer, summary, "direct"),
            "document_tokens": filled.document_tokens,
            "document_tokens_cut": filled.document_tokens_cut,
        }
        cut += filled.document_tokens_cut
    assert cut > 0
    assert encoded.prompt_tokens.tolist() == [len(row["prompt_ids"]) for row in table.to_pylist()]


def test_no_rows_are_an_empty_table(tokenizer):
    table = encode_rows(tokenizer, Prompt(template="direct", max_input_tokens=120), []).table()
    assert table.equals(pa.Table.from_pylist([], SCHEMA))


def test_a_process_loads_the_tokenizer_once(tiny_settings, pairs):
    prompt, rows = Prompt("direct", 120), [("1", "", pairs[0]["document"], pairs[0]["summary"])]
    first = encode_chunk(tiny_settings, prompt, rows)
    loaded = tokenizer_of(tiny_settings)
    assert encode_chunk(tiny_settings, prompt, rows).table().equals(first.table())
    assert tokenizer_of(tiny_settings) is loaded
