"""Terminals that are not UTF-8, and --output options, which are checked before any work."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [
    *(ROOT / "stages").rglob("*.py"),
    *(ROOT / "onesentence").rglob("*.py"),
    *(ROOT / "benchmarks").glob("*.py"),
]
PLAIN = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
TERMINALS = {
    "C": {"LC_ALL": "C", **PLAIN},
    "POSIX ascii": {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii", **PLAIN},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "strict ascii": {"PYTHONIOENCODING": "ascii:strict"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "UTF-8": {"PYTHONIOENCODING": "utf-8"},
}
TEXT = "Größe “x” → 北京 \U0001f600"


def run(terminal: str, *command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **TERMINALS[terminal]},
        capture_output=True,
        check=False,
    )


PROGRAM = """
import sys
from pathlib import Path
from onesentence.core import errors
from onesentence.report.terminal import print_table
from onesentence.core.errors import UserError
from onesentence.core.files import write_json
text = Path("input.txt").read_text(encoding="utf-8")
def main():
    print(text)
    print_table(text, ["system", text], [["a", text]])
    write_json(Path("out.json"), {"text": text})
    raise UserError(text)
errors.run(main)
"""


@pytest.mark.parametrize("terminal", TERMINALS)
def test_a_terminal_gets_replacements_and_files_are_utf8(tmp_path, terminal):
    (tmp_path / "input.txt").write_text(TEXT, encoding="utf-8")
    done = run(terminal, "-c", PROGRAM, cwd=tmp_path)
    assert done.returncode == 1 and b"Traceback" not in done.stderr
    assert done.stderr.startswith(b"error: Gr") and done.stderr.count(b"\n") == 1
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == {"text": TEXT}
    first = done.stdout.splitlines()[0]
    shown = {"cp1252": TEXT.encode("cp1252", "replace"), "UTF-8": TEXT.encode()}
    assert first == shown.get(terminal, TEXT.encode("ascii", "replace"))


def test_a_command_scores_texts_that_the_terminal_cannot_show(tmp_path):
    (tmp_path / "references.txt").write_text(f"Über {TEXT}\nA second reference\n", encoding="utf-8")
    (tmp_path / "a.txt").write_text(f"Über {TEXT}\nAnother one\n", encoding="utf-8")
    output = tmp_path / "new" / "out.json"

    def score(name: str) -> subprocess.CompletedProcess:
        return run(
            "POSIX ascii", "-m", "onesentence", "score",
            "--references", str(tmp_path / "references.txt"),
            f"{name}={tmp_path / 'a.txt'}", f"b={tmp_path / 'references.txt'}",
            "--resamples", "100", "--no-bertscore", "--language", "und", "--output", str(output),
        )  # fmt: skip

    # Bytes that the terminal's encoding cannot decode are not text, and could not be stored.
    refused = score("Ü")
    assert refused.returncode == 1 and refused.stderr.count(b"\n") == 1 and not output.parent.exists()
    assert refused.stderr.startswith(b"error: SYSTEM: expected a name of printable characters, found ")
    done = score("a")
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    assert "a" in json.loads(output.read_text(encoding="utf-8"))["systems"]


def test_every_program_starts_through_errors_run():
    programs = [path for path in SOURCES if '__name__ == "__main__"' in path.read_text(encoding="utf-8")]
    assert len(programs) > 20
    for path in programs:
        if path.name in ("ctranslate.py", "guard.py"):  # child processes that must not import the project
            continue
        end = path.read_text(encoding="utf-8").partition('__name__ == "__main__"')[2]
        assert "errors.run(" in end or "stage.run(" in end, path


def test_every_output_option_is_checked_before_the_work():
    options = [
        (path, option)
        for path in SOURCES
        for option in re.findall(r'"--output",[^)]*', path.read_text(encoding="utf-8"))
        if "add_argument" in path.read_text(encoding="utf-8")
    ]
    assert len(options) >= 8
    for name in ("score", "rate"):  # click commands check it in their first line
        body = (
            (ROOT / f"onesentence/commands/{name}.py")
            .read_text(encoding="utf-8")
            .partition("def command(")[2]
        )
        assert re.search(r"\) -> None:\n    target = .*output_file\(", body), name
    for path, option in options:
        assert "type=output_file" in option or '"--output", str' in option, path


@pytest.mark.parametrize(
    "command",
    [
        ("score", "--references", "r.txt", "a=r.txt", "b=p.txt"),
        ("rate", "r.txt"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_in_one_sentence(tmp_path, command):
    (tmp_path / "file").write_text("")
    done = run("UTF-8", "-m", "onesentence", *command, "--output", str(tmp_path / "file" / "out.json"))
    assert done.returncode == 1 and done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(f"error: --output: {tmp_path}/file/out.json cannot be written")
