"""What is written: lines that no article can break, files that are complete or called partial, and notes."""

import io
import json
import sys

import pytest

from onesentence.core.errors import UserError
from onesentence.inference.inputs import Item
from onesentence.inference.stream import Result
from onesentence.inference.summarizer import Summary
from onesentence.inference.writing import Notes, Writer, line_of, row_of


def result(text="A sentence.", status="ok", **changes) -> Result:
    values = {"stopped": True, "input_tokens": 90, "output_tokens": 5, "document_tokens_cut": 0}
    values |= {"unsupported": (), **changes}
    return Result(Item("a.csv, line 2", "7", "An article."), Summary(text, status, **values))


NOTHING = Result(Item("a.csv, line 3", "8", "", "'document' is empty"), None)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b]0;title\x07", r"\u001b[31mred\u001b]0;title\u0007"),
        ("two\nlines\r\n and\ttabs\u2028here", "two lines and tabs here"),
        ("\x9b2J \u202eright\u2069", r"\u009b2J \u202eright\u2069"),
        ("half \ud800 character", r"half \ud800 character"),
        ("नमस्ते می\u200cخواهم 👩\u200d💻", "नमस्ते می\u200cخواهم 👩\u200d💻"),
        ("`code` *a* <b> |c|", "`code` *a* <b> |c|"),
    ],
)
def test_no_character_steers_a_terminal(text, shown):
    assert line_of(result(text), jsonl=False, terminal=True) == shown
    for terminal in (True, False):
        line = line_of(result(text), jsonl=True, terminal=terminal)
        assert line.isascii() and line.isprintable() and json.loads(line)["prediction"] == text


def test_a_file_gets_the_characters_of_the_model():
    text = "\x1b[31mred\n\u202eright |c| half \ud800"
    assert line_of(result(text), jsonl=False, terminal=False) == "\x1b[31mred \u202eright |c| half ?"


def test_a_row_has_the_keys_of_the_predictions_and_what_is_unsupported():
    row = row_of(result(unsupported=("2016", "Berlin"), document_tokens_cut=3))
    assert row == {
        "id": "7",
        "prediction": "A sentence.",
        "status": "ok",
        "input_tokens": 90,
        "output_tokens": 5,
        "document_tokens_cut": 3,
        "stopped": True,
        "unsupported": ["2016", "Berlin"],
    }
    failed = row_of(NOTHING)
    assert list(failed) == [*row, "error"]
    assert (failed["id"], failed["status"], failed["error"]) == ("8", "no_article", "'document' is empty")


def test_as_text_a_failed_summary_is_an_empty_line():
    assert line_of(result("Article: An article", "echo"), jsonl=False, terminal=True) == ""
    assert line_of(NOTHING, jsonl=False, terminal=True) == ""


def test_a_file_has_its_name_once_it_is_complete(tmp_path):
    target = tmp_path / "new/out.txt"
    with Writer(False, target) as writer:
        writer.write([result("Café.")])
        assert not target.exists()
        assert (tmp_path / "new/out.txt.partial").read_text(encoding="utf-8") == "Café.\n"
    assert target.read_text(encoding="utf-8") == "Café.\n" and len(list(target.parent.iterdir())) == 1


def test_an_interrupted_file_keeps_what_was_written_beside_the_old_one(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("old\n")
    writer = Writer(False, target)
    with pytest.raises(KeyboardInterrupt), writer:
        writer.write([result()])
        raise KeyboardInterrupt
    assert target.read_text() == "old\n"
    assert (tmp_path / "out.txt.partial").read_text() == "A sentence.\n"
    assert writer.kept() == f"; the first 1 results are in {tmp_path / 'out.txt.partial'}"
    nothing = Writer(False, tmp_path / "other.txt")
    with pytest.raises(KeyboardInterrupt), nothing:
        raise KeyboardInterrupt
    assert nothing.kept() == "" and not (tmp_path / "other.txt.partial").exists()


def test_a_run_that_fails_keeps_what_an_interrupted_one_has_written(tmp_path):
    kept = tmp_path / "out.txt.partial"
    kept.write_text("of an hour\n")
    with pytest.raises(UserError), Writer(False, tmp_path / "out.txt"):
        raise UserError("no such article")
    assert kept.read_text() == "of an hour\n" and not (tmp_path / "out.txt").exists()
    with Writer(False, tmp_path / "out.txt"):
        pass
    assert (tmp_path / "out.txt").read_text() == "" and not kept.exists()
    kept.mkdir()
    with pytest.raises(UserError, match=r"out\.txt\.partial is a folder"):
        Writer(False, tmp_path / "out.txt")


def test_two_runs_do_not_write_one_file(tmp_path):
    with Writer(False, tmp_path / "out.txt") as first:
        first.write([result("The first.")])
        second = Writer(False, tmp_path / "out.txt")
        with pytest.raises(UserError, match=r"another run is writing .*out\.txt\.partial; wait"):
            second.write([result("The second.")])
        first.write([result("Also the first.")])
    assert (tmp_path / "out.txt").read_text() == "The first.\nAlso the first.\n"


def test_a_closed_output_is_named(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(UserError, match="standard output is closed; use --output FILE"):
        Writer(False, None)


def test_a_line_is_written_at_once(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    with Writer(True, None) as writer:
        writer.write([NOTHING])
        assert json.loads(out.getvalue())["id"] == "8"


def test_notes_say_what_was_cut_broken_off_and_is_not_in_the_article():
    notes = Notes(True, 352, 24)
    shown = notes.add(result(document_tokens_cut=1_200, stopped=False, unsupported=("2016", "\x1bX")))
    assert shown == [
        "note: a.csv, line 2: the model did not read the last 1,200 tokens of the article (with the prompt, "
        "it reads 352)",
        "note: a.csv, line 2: the summary was broken off after 24 tokens",
        "note: a.csv, line 2: not in the article: '2016', '\\x1bX'",
    ]
    assert notes.add(result()) == []
    assert notes.add(result("", "empty", stopped=True)) == ["failed: a.csv, line 2: the model wrote nothing"]
    assert notes.add(NOTHING) == ["failed: a.csv, line 3: 'document' is empty"]
    assert notes.failed == 2
    assert notes.sentence("models/tuned") == (
        "summarize: models/tuned: 2 of 4 articles summarized, 2 failed (1 empty, 1 no article), 1 cut, "
        "1 broken off, 1 with numbers or names that the article lacks"
    )


def test_without_being_asked_only_the_first_failures_are_noted():
    notes = Notes(None, 352, 24)
    assert notes.add(result(document_tokens_cut=5)) == []
    shown = [notes.add(result("", "empty")) for _ in range(12)]
    assert [len(lines) for lines in shown] == [1] * 10 + [0] * 2
    assert notes.sentence("m").endswith("12 failed (12 empty), 1 cut (--explain lists them)")
    silent = Notes(False, 352, 24)
    assert silent.add(NOTHING) == [] and silent.failed == 1
    plain = Notes(None, 352, 24)
    plain.add(result())
    assert plain.sentence("m") == "summarize: m: 1 of 1 article summarized"
