"""Summarize articles in one sentence each, with the prompt, cut and decoding that were measured.

An INPUT is a text file (one article), a folder of .txt and .md files, a table (.jsonl, .json, .csv, .tsv,
.parquet) with a column of articles, or - for standard input. Summaries are written in the order of the
articles, one a line, or as JSON Lines with --jsonl. Notes go to standard error: where an article was cut, and
numbers and names in a summary that its article lacks.

The model is the tuned one of params.yaml, or --model: the folder of an exported model, of an adapter beside
its base, of a base, or of a pipeline; or an experiment's name or a git revision, whose model DVC fetches.

Exit code: 0 if every article got a summary, 3 if some did not, 1 for an error, 130 if it was interrupted.

Run     onesentence summarize article.txt
        python -m pydoc json.dumps | onesentence summarize
        onesentence summarize articles.csv --column text --jsonl --output summaries.jsonl
        onesentence summarize articles/ --model models/exported --explain
        head -5 lines.txt | onesentence summarize --lines --rev main
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from tqdm import tqdm

from onesentence.commands import documented
from onesentence.commands.preset import PRESETS, overlay_of
from onesentence.core.errors import UserError
from onesentence.core.escaping import on_one_line
from onesentence.core.files import output_file, require_other_file
from onesentence.inference.inputs import KINDS, STDIN, Input, check, files_of, open_inputs, read_all
from onesentence.inference.models import ModelSource, find
from onesentence.inference.stream import summarized, windows
from onesentence.inference.summarizer import Summarizer
from onesentence.inference.writing import NOTES_SHOWN, Notes, Writer, partial_of

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

FAILED, INTERRUPTED, PIPE_CLOSED = 3, 130, 141  # exit codes; 128 + the signal's number, as shells count


def presets(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of presets, for the shell."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(path.stem) for path in sorted(PRESETS.glob(f"{incomplete}*.yaml"))]


@documented(__doc__)
@click.argument("inputs", nargs=-1, type=click.Path(allow_dash=True), metavar="[INPUT]...")
@click.option("--model", type=click.Path(), help="A folder, an experiment's name or a git revision.")
@click.option("--rev", help="The tuned model of an experiment or a git revision.")
@click.option("--preset", shell_complete=presets, help="The tuned model of presets/NAME.")
@click.option("--untuned", is_flag=True, help="The base model, without what was trained.")
@click.option("--column", help="Of the articles in tables; by default data.document_column.")
@click.option("--from", "kind", type=click.Choice(KINDS), help="What standard input holds; by default text.")
@click.option("--lines", is_flag=True, help="Every line of a text is an article.")
@click.option(
    "--jsonl", is_flag=True, help="Write JSON Lines: status, tokens, cut and flags of each summary."
)
@click.option("--output", help="Write to this file, which appears when it is complete.")
@click.option(
    "--explain/--no-explain", default=None, help="Notes on each summary; by default for up to 10 articles."
)
@click.option("--keep-going", is_flag=True, help="Count what is no article as failed, instead of an error.")
def command(  # noqa: PLR0913 (click gives each option as an argument)
    inputs: tuple[str, ...],
    model: str | None,
    rev: str | None,
    preset: str | None,
    untuned: bool,
    column: str | None,
    kind: str | None,
    lines: bool,
    jsonl: bool,
    output: str | None,
    explain: bool | None,
    keep_going: bool,
) -> None:
    if model and (rev or preset):
        raise UserError(f"--model and --{'rev' if rev else 'preset'}: name one model; remove one of them")
    if lines and kind not in (None, "lines"):
        raise UserError(f"--lines and --from {kind}: name one form of the input; remove one of them")
    kind = "lines" if lines else kind
    target = None if output is None else output_file(output)  # an error must come before the work
    named = [file for name in inputs if name != STDIN for file in files_of(Path(name))]
    require_other_file(target, named)
    if target is not None:
        require_other_file(partial_of(target), named)
    if sys.stdin is None and (not inputs or STDIN in inputs):
        raise UserError(f"{STDIN}: standard input is closed; name a file or a folder")
    if not inputs and sys.stdin.isatty():
        raise click.UsageError(
            "Missing argument 'INPUT...': name a file or a folder, or - for standard input"
        )
    writer = Writer(jsonl, target)
    # What libraries and the pipeline print is no summary.
    with _ending(writer), writer, contextlib.redirect_stdout(sys.stderr):
        source = find(_pipeline_of(preset) if preset else model, untuned, rev)
        opened = open_inputs(inputs or (STDIN,), kind, column, source.settings.document_column)
        notes = run(source, opened, writer, explain, keep_going)
    if notes.failed:
        sys.exit(FAILED)


def _pipeline_of(preset: str) -> Path:
    """The folder of a preset that was run; a UserError for another name, and if it was not run."""
    overlay_of(preset)
    folder = PRESETS / preset
    if not folder.is_dir():
        raise UserError(
            f"--preset {preset}: {folder} not found; run `make repro PRESET={preset}` first, which trains it"
        )
    return folder


def run(
    source: ModelSource, opened: list[Input], writer: Writer, explain: bool | None, keep_going: bool
) -> Notes:
    """Summarize every article; returns the counts. Articles are checked before the model is loaded."""
    total = check(opened, keep_going)
    groups = windows(read_all(opened, keep_going))
    first = next(groups, [])
    if not first:
        raise UserError(f"{opened[0].name}: no article in it; expected at least one")
    if sys.stderr.isatty():
        print(f"summarize: loading {on_one_line(source.name)}", file=sys.stderr)
    summarizer = Summarizer.of(source)
    few = total is not None and total <= NOTES_SHOWN and not writer.jsonl
    generate, prompt = source.settings.generate, source.settings.prompt
    notes = Notes(
        True if explain is None and few else explain, prompt.max_input_tokens, generate.max_new_tokens
    )
    rate = source.settings.min_success_rate if source.trained and not keep_going else None
    with tqdm(total=total, desc="summarize", unit="article", disable=None, leave=False) as bar:
        for results in summarized(summarizer, itertools.chain([first], groups), rate, bar.update):
            # Notes on each summary follow it.
            for part in [[result] for result in results] if notes.explain else [results]:
                writer.write(part)
                for note in itertools.chain.from_iterable(map(notes.add, part)):
                    tqdm.write(note, file=sys.stderr)
    print(notes.sentence(summarizer.name), file=sys.stderr)
    return notes


@contextlib.contextmanager
def _ending(writer: Writer) -> Iterator[None]:
    """Inside, an error and an interruption say what was written; a reader that has gone is no error."""
    try:
        yield
    except BrokenPipeError:  # as with `| head -1`
        # Python flushes standard output once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)
    except SystemExit:  # SIGTERM or SIGHUP
        print(f"summarize: interrupted{writer.kept()}", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print(f"summarize: interrupted{writer.kept()}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except UserError as error:
        raise UserError(f"{error}{writer.kept()}") from error
