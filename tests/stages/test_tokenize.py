"""Warnings about lengths, quantiles and the plot of lengths, by hand."""

import csv

import pytest

from stages import tokenize


@pytest.mark.parametrize(
    ("max_new_tokens", "warning"),
    [
        (9, "is under the 95th percentile of the training summaries (10 tokens)"),
        (10, None),
        (20, None),
        (21, "is over twice the mean length of the training summaries (10.0 tokens)"),
    ],
)
def test_a_limit_that_does_not_suit_the_summaries_gives_a_warning(max_new_tokens, warning):
    message = tokenize.length_warning([10] * 100, max_new_tokens)
    if warning is None:
        assert message is None
    else:
        assert message.startswith(f"generate.max_new_tokens: {max_new_tokens} {warning}: ")


def test_quantiles_are_lengths_that_occur():
    assert tokenize.quantiles([1, 100]) == {
        "p0": 1, "p5": 1, "p25": 1, "p50": 1, "p75": 100, "p95": 100, "p100": 100,
    }  # fmt: skip


def test_the_plot_of_lengths_has_its_numbers_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenize, "PLOT", tmp_path / "tokens.svg")
    monkeypatch.setattr(tokenize, "PLOT_DATA", tmp_path / "tokens.csv")
    tokenize.draw([10, 20, 30, 40], [1, 2, 3, 4], limit=25, max_new_tokens=4)
    with (tmp_path / "tokens.csv").open(newline="") as file:
        rows = {int(row["percent_of_rows"]): row for row in csv.DictReader(file)}
    assert sorted(rows) == list(range(101))
    lengths = {p: (int(row["document_tokens"]), int(row["summary_tokens"])) for p, row in rows.items()}
    # Of four rows, one has at most 10 tokens, two have at most 20.
    assert (lengths[0], lengths[25], lengths[26], lengths[100]) == ((10, 1), (10, 1), (20, 2), (40, 4))
    first = (tmp_path / "tokens.svg").read_bytes()
    tokenize.draw([10, 20, 30, 40], [1, 2, 3, 4], limit=25, max_new_tokens=4)
    assert (tmp_path / "tokens.svg").read_bytes() == first
