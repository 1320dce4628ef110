"""Write summaries as text or JSON Lines, and what a person should know about them as notes."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tqdm import tqdm

from onesentence.core.checkpoints import NO_LOCKS
from onesentence.core.errors import UserError
from onesentence.core.escaping import on_one_line
from onesentence.inference.stream import NO_ARTICLE, Result

NOTES_SHOWN = 10  # notes of one kind that are shown where nobody asked for all of them
FAILURES = {"empty": "the model wrote nothing", "echo": "the model repeated its prompt"}
REASONS = {"empty": "empty", "echo": "repeated prompt", NO_ARTICLE: "no article"}
PARTIAL = ".partial"  # the end of a file's name until it is complete


def row_of(result: Result) -> dict[str, Any]:
    """A result as JSON: the keys of data/predictions, and `unsupported`; `error` where no article was."""
    item, summary = result.item, result.summary
    row: dict[str, Any] = {
        "id": item.name,
        "prediction": "" if summary is None else summary.text,
        "status": result.status,
    }
    if summary is None:
        row |= {"input_tokens": 0, "output_tokens": 0, "document_tokens_cut": 0, "stopped": False}
        return row | {"unsupported": [], "error": item.problem}
    return row | {
        "input_tokens": summary.input_tokens,
        "output_tokens": summary.output_tokens,
        "document_tokens_cut": summary.document_tokens_cut,
        "stopped": summary.stopped,
        "unsupported": list(summary.unsupported),
    }


def line_of(result: Result, jsonl: bool, terminal: bool) -> str:
    """The line of a result. As text, line k belongs to article k: it is empty where there is no summary.

    terminal: whether a person sees the line at once; then nothing in it steers the terminal. A file gets the
    model's own characters.
    """
    if jsonl:  # ASCII, so that nothing in it can steer a terminal or break an encoding
        return json.dumps(row_of(result), ensure_ascii=True)
    if result.summary is None or result.status != "ok":
        return ""
    text = " ".join(result.summary.text.split())
    return on_one_line(text) if terminal else text.encode("utf-8", "replace").decode("utf-8")


def partial_of(target: Path) -> Path:
    """The name of an output file while it is written."""
    return target.with_name(target.name + PARTIAL)


class Writer:
    """Writes lines to standard output, or to a file that has its name once it is complete.

    Until then it is called NAME.partial, and stays if the work is interrupted. The file of an earlier run
    that was interrupted is replaced at the first result, not by a run that fails before it has one.
    Raises UserError where standard output is closed, and where a folder has the partial file's name.
    """

    def __init__(self, jsonl: bool, target: Path | None) -> None:
        self.jsonl, self.target, self.written = jsonl, target, 0
        self.partial = None if target is None else partial_of(target)
        if self.partial is not None and self.partial.is_dir():
            raise UserError(f"--output: {self.partial} is a folder; results are written there first: move it")
        # What it is now: the caller may redirect it later. It is None where it was closed.
        self._file: IO[str] | None = None if self.partial else sys.stdout
        if self._file is None and self.partial is None:
            raise UserError("standard output is closed; use --output FILE")

    def __enter__(self) -> Writer:
        return self

    def _opened(self) -> IO[str]:
        if self._file is None:
            assert self.partial is not None  # else it is standard output
            self.partial.parent.mkdir(parents=True, exist_ok=True)
            self._file = _alone(self.partial)
        return self._file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.partial is None or self.target is None:
            return
        if kind is None:
            self._opened()  # a run without a result has an empty file
            self.partial.replace(self.target)  # before the file is closed, which frees its lock
        if self._file is not None:
            self._file.close()

    def write(self, results: list[Result]) -> None:
        """Write results at once; a progress bar on the same terminal makes way."""
        if not results:
            return
        file = self._opened()
        terminal = file.isatty()
        lines = "".join(line_of(result, self.jsonl, terminal) + "\n" for result in results)
        with tqdm.external_write_mode(file=sys.stderr) if terminal else nullcontext():
            file.write(lines)
            file.flush()
        self.written += len(results)

    def kept(self) -> str:
        """Where the lines are that were written before an interruption; "" where none are in a file."""
        if not (self.written and self.partial):
            return ""
        return f"; the first {self.written:,} results are in {self.partial}"


def _alone(path: Path) -> IO[str]:
    """A file, open, empty and locked. A UserError where another process is writing it."""
    while True:
        file = path.open("a", encoding="utf-8", newline="\n")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise UserError(
                f"--output: another run is writing {path}; wait until it has ended, or name another file"
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                file.close()
                raise
        # Another run may have renamed the file between the two calls above: then it is that run's output.
        if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            file.truncate(0)
            return file
        file.close()


class Notes:
    """Counts results, and writes notes on them to standard error.

    explain: all notes; None: those on failures, at most NOTES_SHOWN; False: none. max_input_tokens,
    max_new_tokens: of the model, for the words.
    """

    def __init__(self, explain: bool | None, max_input_tokens: int, max_new_tokens: int) -> None:
        self.explain = explain
        self.max_input_tokens, self.max_new_tokens = max_input_tokens, max_new_tokens
        self.count: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

    @property
    def failed(self) -> int:
        """How many articles got no summary."""
        return self.failures.total()

    def add(self, result: Result) -> list[str]:
        """The notes on a result that are shown."""
        self.count["articles"] += 1
        notes = self._notes(result)
        failed = result.status != "ok"
        if failed:
            self.failures[result.status] += 1
        if self.explain or (failed and self.explain is None and self.failed <= NOTES_SHOWN):
            return [
                f"{'failed' if failed else 'note'}: {on_one_line(f'{result.item.place}: {n}')}" for n in notes
            ]
        return []

    def _notes(self, result: Result) -> list[str]:
        """Every note on a result, counted."""
        summary = result.summary
        if summary is None:
            return [str(result.item.problem)]
        notes = [FAILURES[summary.status]] if summary.status in FAILURES else []
        if summary.document_tokens_cut:
            self.count["cut"] += 1
            notes.append(
                f"the model did not read the last {summary.document_tokens_cut:,} tokens of the article "
                f"(with the prompt, it reads {self.max_input_tokens:,})"
            )
        if summary.status == "ok" and not summary.stopped:
            self.count["unfinished"] += 1
            notes.append(f"the summary was broken off after {self.max_new_tokens:,} tokens")
        if summary.status == "ok" and summary.unsupported:
            self.count["flagged"] += 1
            notes.append(f"not in the article: {', '.join(map(repr, summary.unsupported))}")
        return notes

    def sentence(self, name: str) -> str:
        """How many articles were summarized, failed, cut and flagged."""
        articles, count = self.count["articles"], self.count
        ok = articles - self.failed
        parts = [f"{ok:,} of {articles:,} article{'s' * (articles != 1)} summarized"]
        if self.failed:
            shown = ", ".join(f"{number:,} {REASONS[status]}" for status, number in self.failures.items())
            parts.append(f"{self.failed:,} failed ({shown})")
        if count["cut"]:
            parts.append(f"{count['cut']:,} cut")
        if count["unfinished"]:
            parts.append(f"{count['unfinished']:,} broken off")
        if count["flagged"]:
            parts.append(f"{count['flagged']:,} with numbers or names that the article lacks")
        hint = " (--explain lists them)" if len(parts) > 1 and not self.explain else ""
        return f"summarize: {on_one_line(name)}: {', '.join(parts)}{hint}"
