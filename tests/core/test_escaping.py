"""Text from outside, where it is shown: nothing in it steers, is markup, is a formula or is a secret."""

import csv

import pytest

from onesentence.core.escaping import (
    LINES,
    csv_cell,
    markdown_cell,
    markdown_code,
    markdown_text,
    on_one_line,
    secrets_of,
    visible,
    without_secrets,
)
from onesentence.core.plots import read_csv, write_csv

STEERING = [
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    *"\u202a\u202b\u202c\u202d\u202e\u2066\u2069",
]
STEERING += [*"\u200b\u200e\u200f\u061c\u2028\u2029\ufeff\ufff9\U000e0041", "\ud800", "\udcff"]


@pytest.mark.parametrize("character", STEERING, ids=ascii)
def test_a_character_that_steers_is_shown_by_its_number(character):
    shown = visible(f"a{character}b")
    assert shown.isprintable() and shown.isascii()
    assert shown.encode("ascii").decode("unicode_escape") == f"a{character}b"


def test_text_of_every_script_stays():
    texts = ["Größe “x” → 北京 \U0001f600", "नमस्ते می\u200cخواهم 👩\u200d💻", "שלום עולם", "a\\u001b"]
    assert [visible(text) for text in texts] == texts
    assert visible("a\n\tb\r", keep=LINES) == "a\n\tb\\u000d"
    assert on_one_line(" a\n\n b\u2028c\x1b ") == "a b c\\u001b"


def test_markdown_shows_text_and_nothing_else():
    text = "[x](http://a) <b>|`*_# @user\n| new row"
    escaped = markdown_text(text)
    assert escaped == r"\[x\](http://a) \<b\>\|\`\*\_\# \@user \| new row"
    assert markdown_cell("GPL | <b> \\ x\n") == r"GPL \| &lt;b> \\ x"
    assert markdown_code("`a` | @user\nnext") == "`'a' \u00a6 @user next`"
    assert markdown_code("abcdef", 3) == "`abc ...`" and markdown_code("") == ""


FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\n=1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_in_a_csv_file_is_text(tmp_path, text):
    write_csv(tmp_path / "a.csv", ["name", text], [[text, -1.5], ["-3.5", 2]])
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["name", f"'{text}"], [f"'{text}", "-1.5"], ["-3.5", "2"]]
    assert read_csv(tmp_path / "a.csv")[0]["name"] == f"'{text}"


def test_numbers_and_other_cells_stay():
    assert csv_cell("a\r=1\x1b") == "a\\u000d=1\\u001b"
    assert [csv_cell(cell) for cell in (-1, -1.5, None, "-1e-3", "a=b", "")] == [
        -1,
        -1.5,
        None,
        "-1e-3",
        "a=b",
        "",
    ]


def test_secrets_are_known_by_the_names_of_their_variables(tmp_path):
    path = tmp_path / "credentials.json"
    path.touch()
    environment = {
        "HF_TOKEN": "hf_abcdefgh",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
        "WANDB_API_KEY": "0123456789",
        "GOOGLE_APPLICATION_CREDENTIALS": str(path),  # a path is no secret
        "SHORT_TOKEN": "main",  # would hide a word
        "HOME": "/home/user",
    }
    assert secrets_of(environment) == ["wJalrXUtnFEMI", "hf_abcdefgh", "0123456789"]
    text = "GET https://user:pa55@host/x?X-Amz-Signature=abc&a=1 with hf_abcdefgh in main of /home/user"
    assert without_secrets(text, environment) == (
        "GET https://user:***@host/x?X-Amz-Signature=***&a=1 with *** in main of /home/user"
    )


def test_an_address_without_a_secret_stays():
    text = "ssh://host/path ssh://user@host:22/path https://host:8080/a@b?page=2 a@b.c s3://bucket/key=value"
    assert without_secrets(text, {}) == text


def test_a_token_in_the_place_of_the_user_is_hidden():
    text = "https://ghp_0123456789abcdefghij@github.com/a https://x:p@ss:w@host/a"
    assert without_secrets(text, {}) == "https://***@github.com/a https://x:***@host/a"
