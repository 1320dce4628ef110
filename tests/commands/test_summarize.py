"""The command: what goes in and comes out, what it says, how it ends; the pipeline's predictions again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from unittest.mock import patch

import pytest
from click.testing import CliRunner
from conftest import ROOT, command, stage

from onesentence.cli import cli
from onesentence.core.errors import UserError
from onesentence.core.escaping import on_one_line
from onesentence.inference.summarizer import Summarizer

ARTICLES = ["def f(x: int) -> int\n\nReturns x, doubled.", "The council met. It chose Anna.", "word " * 300]


@pytest.fixture
def here(pipeline, tmp_path, monkeypatch):
    """A pipeline as the working directory, with articles of every kind."""
    for name in ("models", "params.yaml"):
        (tmp_path / name).symlink_to(pipeline / name)
    (tmp_path / "articles").mkdir()
    for number, text in enumerate(ARTICLES):
        (tmp_path / f"articles/{number}.txt").write_text(text + "\n")
    rows = [{"id": f"r{number}", "document": text} for number, text in enumerate(ARTICLES)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.partial").write_text("kept by an interrupted run\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def summaries(pipeline) -> list:
    """The summaries of ARTICLES by the library."""
    return Summarizer.load(pipeline).summarize([article.strip() for article in ARTICLES])


@pytest.fixture(scope="module")
def wanted(summaries) -> list[str]:
    """`summaries` as lines of text."""
    return [on_one_line(summary.text) for summary in summaries]


def summarize(*words: str, stdin: str | bytes = "", code: int = 0):
    """Run the command in this process; returns click's result."""
    result = CliRunner().invoke(cli, ["summarize", *words], input=stdin)
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result


def test_a_folder_gives_a_line_for_each_file_and_notes_on_each(here, wanted):
    result = summarize("articles")
    assert result.stdout.split("\n") == [*wanted, ""]
    assert "note: articles/2.txt: the model did not read the last " in result.stderr
    assert (
        result.stderr.strip()
        .split("\n")[-1]
        .startswith("summarize: models/tuned: 3 of 3 articles summarized, 1 cut")
    )
    silent = summarize("articles", "--no-explain")
    assert "note: " not in silent.stderr and "(--explain lists them)" in silent.stderr


def test_json_lines_have_ids_and_numbers(here, summaries):
    result = summarize("articles", "rows.jsonl", "--jsonl")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["id"] for row in rows[:3]] == ["articles/0.txt", "articles/1.txt", "articles/2.txt"]
    assert [row["id"] for row in rows[3:5]] == ["r0", "r1"]
    for row, summary in zip(rows[:3], summaries, strict=True):
        assert (row["prediction"], row["status"]) == (summary.text, summary.status)
        assert row["document_tokens_cut"] == summary.document_tokens_cut
        assert row["unsupported"] == list(summary.unsupported)
    assert rows[2]["document_tokens_cut"] > 0 and "note: " not in result.stderr


def test_standard_input_is_read_without_an_argument_and_with_a_dash(here, wanted):
    for words in ((), ("-",)):
        assert summarize(*words, stdin=ARTICLES[1]).stdout == f"{wanted[1]}\n"
    lines = summarize("--lines", "-", stdin="The council met. It chose Anna.\n" * 2)
    assert lines.stdout == f"{wanted[1]}\n" * 2
    rows = summarize("--from", "jsonl", "--column", "text", stdin=json.dumps({"text": ARTICLES[1]}))
    assert rows.stdout == f"{wanted[1]}\n"


def test_an_output_file_is_written_and_nothing_else(here, wanted):
    result = summarize("articles", "--output", "new/out.txt")
    assert result.stdout == ""
    assert (here / "new/out.txt").read_text(encoding="utf-8").split("\n") == [*wanted, ""]


def test_what_is_no_article_is_an_error_before_a_model_is_loaded(here, monkeypatch):
    (here / "rows.jsonl").write_text('{"document": "x"}\n{"document": ""}\n')
    monkeypatch.setattr(Summarizer, "of", None)  # loading would fail
    with pytest.raises(
        UserError, match=r"^rows.jsonl, line 2: 'document' is empty; correct or remove it, or"
    ):
        summarize("articles", "rows.jsonl")
    with pytest.raises(UserError, match=r"^standard input: the article is empty"):
        summarize("-", stdin=" ")
    assert not (here / "out.txt.partial").exists()


def test_with_keep_going_failures_have_their_place_and_exit_code_3(here, wanted):
    (here / "rows.jsonl").write_text(f'{{"document": ""}}\n{json.dumps({"document": ARTICLES[1]})}\n')
    result = summarize("rows.jsonl", "--keep-going", code=3)
    assert result.stdout == f"\n{wanted[1]}\n"
    assert "failed: rows.jsonl, line 1: 'document' is empty" in result.stderr
    assert "1 of 2 articles summarized, 1 failed (1 no article)" in result.stderr
    rows = [
        json.loads(x) for x in summarize("rows.jsonl", "--keep-going", "--jsonl", code=3).stdout.splitlines()
    ]
    assert [row["status"] for row in rows] == ["no_article", "ok"]


def test_an_error_in_the_middle_of_a_stream_keeps_what_was_written(here, wanted):
    lines = [json.dumps({"document": ARTICLES[1]})] * 17 + ["nonsense"]
    with pytest.raises(UserError) as error:
        summarize("--from", "jsonl", "--output", "out.txt", stdin="\n".join(lines))
    said = str(error.value)
    assert said.startswith("standard input, line 18: not valid JSON")
    assert said.endswith("; the first 17 results are in out.txt.partial")
    assert (here / "out.txt.partial").read_text() == f"{wanted[1]}\n" * 17 and not (here / "out.txt").exists()


def test_a_preset_is_a_pipeline_in_its_folder(here, pipeline, wanted):
    (here / "presets").mkdir()
    (here / "presets/mine.yaml").write_text("seed: 1\n")
    with pytest.raises(
        UserError, match=r"^--preset mine: presets/mine not found; run `make repro PRESET=mine`"
    ):
        summarize("articles", "--preset", "mine")
    (here / "presets/mine").symlink_to(pipeline)
    result = summarize("articles", "--preset", "mine")
    assert result.stdout.split("\n") == [*wanted, ""] and "presets/mine/models/tuned: 3 of 3" in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "models/tuned", "--preset", "x", "a.txt"), "--model and --preset: name one model"),
        (("--model", "models/tuned", "--rev", "x", "a.txt"), "--model and --rev: name one model"),
        (("--preset", "nosuch", "articles"), "preset 'nosuch': no folder presets here; run the command in"),
        (("rows.jsonl", "--output", "rows.jsonl"), "--output: rows.jsonl is read by the same command"),
        (("articles", "--output", "articles"), "--output: articles is a folder"),
        (("articles", "--output", "articles/1.txt"), "--output: articles/1.txt is read by the same command"),
        (("a.partial", "--output", "a"), "--output: a.partial is read by the same command"),
        (("articles", "--output", "."), "--output: found '.', expected the path of a file"),
        (
            ("rows.jsonl", "--column", "text"),
            "rows.jsonl, line 1: no column 'text'; has id, document; name the",
        ),
        (("a.txt", "--lines", "--from", "csv"), "--lines and --from csv: name one form of the input"),
        (("rows.jsonl", "--lines"), "--lines: no input is a text; each row of a table is an article"),
        (("a.txt", "--from", "text"), "--from text: is for standard input, which is not read"),
    ],
)
def test_options_that_do_not_fit_are_refused(here, words, said):
    with pytest.raises(UserError) as error:
        summarize(*words)
    assert str(error.value).startswith(said)


def test_the_untuned_base_and_another_folder_can_be_asked(here, pipeline, wanted):
    untuned = summarize("articles", "--untuned")
    assert untuned.stdout.split("\n") != [*wanted, ""] and "models/tiny (untuned)" in untuned.stderr
    assert summarize("articles", "--model", str(pipeline)).stdout.split("\n") == [*wanted, ""]


def test_a_terminal_without_an_input_is_asked_for_one(here, monkeypatch):
    import pty

    main, terminal = pty.openpty()
    done = start("summarize", stdin=terminal)
    _, said = done.communicate(timeout=60)
    os.close(main)
    os.close(terminal)
    assert done.returncode == 2 and "name a file or a folder, or - for standard input" in said


def start(*words: str, **options) -> subprocess.Popen:
    """Start the command as a process of its own in the working directory."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(
        [sys.executable, "-m", "onesentence", *words], env=environment, text=True, **pipes
    )


def test_a_reader_that_leaves_ends_the_work_without_a_traceback(here, wanted):
    (here / "many.txt").write_text("The council met. It chose Anna.\n" * 5_000)
    with start("summarize", "--lines", "many.txt") as process:
        assert process.stdout.readline() == f"{wanted[1]}\n"
        process.stdout.close()  # as `| head -1` does
        said = process.stderr.read()
        assert process.wait(timeout=60) == 141
    assert "Traceback" not in said and "Error" not in said and "Exception" not in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_temporary_file(here, tmp_path_factory, number):
    """A table on standard input, of which there is no end here, is copied."""
    folder = tmp_path_factory.mktemp("temporary")
    with patch.dict(os.environ, TMPDIR=str(folder)):
        # Where these tests run under nohup, SIGHUP is ignored, and the command would keep it so.
        process = start(
            "summarize",
            "--from",
            "csv",
            stdin=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
        )
    with process:
        end = time.monotonic() + 100
        while not any(folder.rglob("input.csv")) and time.monotonic() < end:
            time.sleep(0.1)
        assert any(folder.rglob("input.csv"))
        time.sleep(2)  # it waits for input: a signal just before that would be heeded after it
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    assert list(folder.rglob("input.csv")) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_says_what_was_written(here, wanted, number, code):
    (here / "many.txt").write_text("The council met. It chose Anna.\n" * 5_000)
    with start("summarize", "--lines", "many.txt", "--output", "out.txt") as process:
        partial = here / "out.txt.partial"
        end = time.monotonic() + 100
        while not (partial.is_file() and partial.stat().st_size) and time.monotonic() < end:
            time.sleep(0.1)
        process.send_signal(number)
        said = process.stderr.read()
        assert process.wait(timeout=60) == code
    count = len(partial.read_text().splitlines())
    assert count >= 1 and not (here / "out.txt").exists()
    assert said.strip() == f"summarize: interrupted; the first {count:,} results are in out.txt.partial"


@pytest.mark.slow
def test_the_pipeline_s_articles_get_the_pipeline_s_predictions(project):
    stage(project, "prepare")
    stage(project, "tokenize")
    stage(project, "train")
    stage(project, "generate", "tuned")
    done = command(project, "summarize", "data/prepared/test.parquet", "--jsonl", "--output", "out.jsonl")
    predictions = [json.loads(x) for x in (project / "data/predictions/tuned.jsonl").read_text().splitlines()]
    rows = [json.loads(x) for x in (project / "out.jsonl").read_text().splitlines()]
    assert [{key: row[key] for key in predictions[0]} for row in rows] == predictions
    assert len(rows) == 8 and "8 of 8 articles" in done.stderr and done.stdout == ""
    shutil.rmtree(project / "models/tuned")
    failed = command(project, "summarize", "README.md", check=False)
    assert failed.returncode == 1 and failed.stderr == (
        "error: models/tuned: not found; run `dvc repro` (or `dvc pull`) to get the tuned model, or add "
        "--untuned\n"
    )
