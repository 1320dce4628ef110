"""Files are written completely or not at all, with the same bytes every time."""

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onesentence.core.errors import UserError
from onesentence.core.files import (
    atomic_write,
    file_sha256,
    is_there,
    output_file,
    read_json,
    read_jsonl,
    read_parquet,
    require_other_file,
    restore,
    restoring,
    rounded,
    write_json,
    write_jsonl,
    write_parquet,
    write_text,
)


def test_atomic_write_replaces_the_file_and_leaves_no_temporary(tmp_path):
    path = tmp_path / "new folder" / "file.txt"
    for text in ("first", "second"):
        with atomic_write(path) as temporary:
            assert temporary.parent == path.parent and temporary != path
            temporary.write_text(text)
        assert path.read_text() == text
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


def test_what_a_killed_process_of_the_same_number_left_is_not_used(tmp_path):
    left = tmp_path / f".out.{os.getpid()}.tmp"
    left.mkdir()
    (left / "old").write_text("")
    with atomic_write(tmp_path / "out") as folder:
        folder.mkdir()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_name_that_is_too_long_is_not_there(tmp_path):
    assert is_there(tmp_path) and not is_there(tmp_path / "no") and not is_there("漢" * 100)


def test_the_old_file_exists_until_the_body_is_done(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_body_that_raises_leaves_the_old_file_and_no_temporary(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path) as temporary:
        temporary.write_text("half of the ne")
        raise error
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "folder"
    with atomic_write(path) as temporary:
        write_text(temporary / "old.txt", "old")
    with atomic_write(path) as temporary:
        write_text(temporary / "sub" / "new.txt", "new")
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")) == [
        "folder",
        "folder/sub",
        "folder/sub/new.txt",
    ]


def test_a_body_that_raises_leaves_the_old_folder_and_no_temporary(tmp_path):
    path = tmp_path / "folder"
    with atomic_write(path) as temporary:
        write_text(temporary / "old.txt", "old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        write_text(temporary / "old.txt", "new")
        raise RuntimeError
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]
    assert (path / "old.txt").read_text() == "old"


def test_text_is_utf8_with_unix_line_ends(tmp_path):
    write_text(tmp_path / "a.txt", "caf\u00e9\n\U0001f600\n")
    assert (tmp_path / "a.txt").read_bytes() == "caf\u00e9\n\U0001f600\n".encode()


def test_floats_are_rounded_at_every_depth_and_nothing_else_is_changed():
    value = {
        "b": [1.23456, (2.00004, 3)],
        "a": {"x": 12345678.87654321, "n": None},
        "t": True,
        "s": "1.23456",
    }
    assert rounded(value) == {
        "b": [1.2346, [2.0, 3]],
        "a": {"x": 12345678.8765, "n": None},
        "t": True,
        "s": "1.23456",
    }
    assert list(rounded(value)) == ["b", "a", "t", "s"]


@pytest.mark.parametrize("value", [-0.0, -0.00001, -4e-5])
def test_minus_zero_becomes_zero(value, tmp_path):
    assert math.copysign(1, rounded(value)) == 1
    write_json(tmp_path / "a.json", {"a": value})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 0.0\n}\n'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_nan_and_infinity_are_refused_and_the_old_file_stays(value, tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="undefined"):
        write_json(path, {"a": [{"b": value}]})
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_json_keeps_the_order_of_keys_and_text_as_it_is(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"z": 1, "a": "caf\u00e9", "m": [0.1 + 0.2]})
    assert (
        path.read_text(encoding="utf-8") == '{\n  "z": 1,\n  "a": "caf\u00e9",\n  "m": [\n    0.3\n  ]\n}\n'
    )
    assert read_json(path) == {"z": 1, "a": "caf\u00e9", "m": [0.3]}


def test_jsonl_keeps_any_text(tmp_path):
    rows = [
        {"id": "1", "text": "line\nbreak\r\u2028\u0085"},
        {"id": "2", "text": "\x00 \ud800 \U0001f600 \u05d0"},
        {"id": "3", "text": ""},
    ]
    path = tmp_path / "a.jsonl"
    write_jsonl(path, rows)
    assert read_jsonl(path) == rows
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == rows
    write_jsonl(path, [])
    assert read_jsonl(path) == []


def columns() -> dict[str, pa.Array]:
    return {
        "id": pa.array([f"r{i}" for i in range(10_000)], pa.string()),
        "value": pa.array(np.arange(10_000) / 7),
    }


def test_parquet_has_the_columns_no_metadata_and_the_same_bytes_every_time(tmp_path):
    first, second = tmp_path / "a.parquet", tmp_path / "b.parquet"
    write_parquet(first, columns())
    write_parquet(second, columns())
    assert first.read_bytes() == second.read_bytes()
    table = read_parquet(first)
    assert table.column_names == ["id", "value"] and table.schema.metadata is None
    assert all(table[name].to_pylist() == column.to_pylist() for name, column in columns().items())
    # Arrow adds the schema to every file in this form; nothing else is there.
    assert set(pq.read_metadata(first).metadata) <= {b"ARROW:schema"}
    assert read_parquet(first, columns=["value"]).column_names == ["value"]


def test_parquet_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, columns())
    before = path.read_bytes()
    with pytest.raises(pa.ArrowInvalid):
        write_parquet(path, {"a": pa.array([1, 2]), "b": pa.array([1])})
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("read", [read_json, read_jsonl, read_parquet])
def test_a_missing_file_of_an_earlier_stage_is_named(tmp_path, read):
    with pytest.raises(UserError, match=r"missing\.file: not found; run `dvc repro`"):
        read(tmp_path / "missing.file")


def test_sha256_of_a_file(tmp_path):
    content = bytes(range(256)) * 5_000
    (tmp_path / "a").write_bytes(content)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_json_can_write_a_value_on_one_line(tmp_path):
    value = {
        "n": 2,
        "systems": {"lead": {"rouge1": {"value": 1.23456, "low": None}}, "none": {}},
        "list": [1, 2.5],
    }
    write_json(tmp_path / "deep.json", value, one_line_below=3)
    text = (tmp_path / "deep.json").read_text()
    assert json.loads(text) == rounded(value)
    assert '      "rouge1": {"value": 1.2346, "low": null}\n    },\n    "none": {}\n' in text
    assert '  "list": [1, 2.5]\n}\n' in text
    with pytest.raises(ValueError, match="null"):
        write_json(tmp_path / "nan.json", {"a": float("nan")}, one_line_below=1)
    assert [path.name for path in tmp_path.iterdir()] == ["deep.json"]


def test_parquet_notes_are_kept_and_nothing_else(tmp_path):
    columns = {"id": pa.array(["a"])}
    write_parquet(tmp_path / "one.parquet", columns, {"signatures": "{}"})
    write_parquet(tmp_path / "none.parquet", columns)
    assert pq.read_schema(tmp_path / "one.parquet").metadata == {b"signatures": b"{}"}
    assert pq.read_schema(tmp_path / "none.parquet").metadata is None


def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    drive, link = tmp_path / "drive" / "data", tmp_path / "link"
    drive.mkdir(parents=True)
    (drive / "old").write_text("old")
    link.symlink_to(drive)
    with atomic_write(link) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("new")
    assert link.is_symlink() and [file.name for file in drive.iterdir()] == ["new"]
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["data", "drive", "link", "new"]


def test_a_link_to_a_file_is_replaced_and_its_target_stays(tmp_path):
    """DVC's cache may be behind a link."""
    (tmp_path / "cached").write_text("cached")
    (tmp_path / "link").symlink_to(tmp_path / "cached")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "cached").read_text() == "cached" and (tmp_path / "link").read_text() == "new"


def tree(folder: Path) -> dict[str, tuple]:
    """All files and folders in a folder, with content, mode and modification time of each file."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
        if path.is_file()
        else ()
        for path in folder.rglob("*")
    }


def workspace(folder: Path) -> list[Path]:
    """Three paths; the last one does not exist, nor does its folder."""
    (folder / "a").write_text("a")
    (folder / "b").write_bytes(b"b\r\n\xff")
    (folder / "b").chmod(0o640)
    os.utime(folder / "b", (1, 1))
    return [folder / "a", folder / "b", folder / "sub" / "deep" / "c"]


def change(paths: list[Path]) -> None:
    paths[0].write_text("other")
    paths[1].unlink()
    paths[2].parent.mkdir(parents=True)
    paths[2].write_text("new")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_restoring_undoes_all_changes_after_an_error(tmp_path, error):
    paths = workspace(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(error), restoring(paths, tmp_path / ".undo"):
        change(paths)
        raise error
    assert tree(tmp_path) == before


def test_restoring_keeps_successful_changes_and_leaves_no_journal(tmp_path):
    paths = workspace(tmp_path)
    with restoring(paths, tmp_path / ".undo"):
        change(paths)
    assert sorted(tree(tmp_path)) == ["a", "sub", "sub/deep", "sub/deep/c"]
    assert paths[0].read_text() == "other" and not restore(tmp_path / ".undo")


KILLED = """
import signal, sys, time
from pathlib import Path
from onesentence.core.files import restoring
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup, which ignores it
folder = Path(sys.argv[1])
paths = [folder / "a", folder / "b", folder / "sub" / "deep" / "c"]
with restoring(paths, folder / ".undo"):
    paths[0].write_text("other")
    paths[1].unlink()
    paths[2].parent.mkdir(parents=True)
    paths[2].write_text("new")
    print("changed", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_changes_of_a_killed_program_are_undone_at_once_or_by_the_next_call(tmp_path, number):
    workspace(tmp_path)
    before = tree(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout.readline() == "changed\n"
        process.send_signal(number)
        process.wait(10)
    if number == signal.SIGKILL:
        assert tree(tmp_path) != before
        assert restore(tmp_path / ".undo")
    assert tree(tmp_path) == before and not restore(tmp_path / ".undo")


def test_a_signal_that_is_ignored_on_purpose_stays_ignored(tmp_path):
    """As under nohup, which ignores the end of the terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with restoring([tmp_path / "a"], tmp_path / ".undo"):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_half_finished_restore_is_completed(tmp_path):
    paths = workspace(tmp_path)
    before = tree(tmp_path)
    journal = tmp_path / ".undo"
    with pytest.raises(OSError, match="full"), restoring(paths, journal):
        change(paths)
        # The state after a restore that was killed after its first file.
        (journal / "0").replace(paths[0])
        raise OSError("disk full")
    assert tree(tmp_path) == before


def test_testing_an_output_path_leaves_nothing_behind(tmp_path):
    (tmp_path / "present.json").write_text("old")
    for name in ("present.json", "new.json", "some/new/folder/out.json"):
        assert output_file(str(tmp_path / name)) == tmp_path / name
    assert {name: content[0] for name, content in tree(tmp_path).items()} == {"present.json": b"old"}


def test_a_device_or_a_pipe_is_refused_as_output(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for name in (str(tmp_path / "pipe"), str(tmp_path / "link"), "/dev/null", "/dev/new.json"):
        with pytest.raises(UserError, match="is not a regular file; expected the path of a file"):
            output_file(name)
    assert (tmp_path / "pipe").is_fifo() and Path("/dev/null").is_char_device()


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    before = tree(tmp_path)
    for name in ("file/out.json", "file/deeper/out.json", "x" * 300, "new/" + "x" * 300):
        with pytest.raises(UserError) as raised:
            output_file(str(tmp_path / name))
        message = str(raised.value)
        assert message.startswith(f"--output: {tmp_path / name} cannot be written (") and "\n" not in message
    with pytest.raises(UserError, match="is a folder; expected the path of a file"):
        output_file(str(tmp_path / "folder"))
    with pytest.raises(UserError, match=r"/proc/new/out\.json cannot be written"):
        output_file("/proc/new/out.json")
    assert tree(tmp_path) == before


def test_an_output_in_a_read_only_folder_is_refused(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="Permission denied"):
            output_file(str(tmp_path / "out.json"))
    finally:
        tmp_path.chmod(0o700)


def test_an_output_that_is_also_read_is_refused(tmp_path):
    source, link = tmp_path / "source.txt", tmp_path / "link.txt"
    source.write_text("text")
    link.symlink_to(source)
    for output in (source, link, tmp_path / "." / "source.txt"):
        with pytest.raises(UserError, match="is read by the same command; name another file"):
            require_other_file(output, [None, tmp_path / "other", source])
    require_other_file(tmp_path / "new.json", [source])
    require_other_file(None, [source])
