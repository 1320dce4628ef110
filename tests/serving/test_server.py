"""`onesentence serve` as a process: how it starts, what stops it, and how it ends."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from conftest import ROOT
from running import PATIENCE, export_base, read

from onesentence.commands.serve import checked_key, exposure, read_key
from onesentence.core.errors import UserError
from onesentence.serving.guard import host_of
from onesentence.serving.limits import Limits
from onesentence.serving.server import is_loopback, listen


@contextmanager
def process(*options: str, **environment: str):
    """`onesentence serve` with options, killed whatever happens."""
    command = [sys.executable, "-u", "-m", "onesentence", "serve", *options]
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def until_ready(child) -> tuple[str, int]:
    """The address of a service, once it is ready."""
    for line in child.stdout:
        if found := re.search(r"http://([\d.]+):(\d+) is ready", line):
            return found[1], int(found[2])
    raise AssertionError(child.stderr.read())


def failure(*options: str, **environment: str) -> str:
    """The one line with which `onesentence serve` ends."""
    with process(*options, **environment) as child:
        _, errors = child.communicate(timeout=PATIENCE)
        assert child.returncode == 1 and len(errors.strip().splitlines()) == 1 and "Traceback" not in errors
        return errors


def test_sigterm_lets_accepted_requests_finish_refuses_new_ones_and_exits_with_0(tmp_path):
    exported = export_base(
        tmp_path / "tiny", max_new_tokens=100, num_beams=4
    )  # so that a request takes a while
    with process("--model", str(exported), "--port", "0", "--max-wait-ms", "0", "--max-batch", "1") as child:
        address = until_ready(child)
        articles = [f"Returns the number of rows of table {k}." for k in range(4)]
        answers: dict[int, object] = {}

        def client(k: int) -> None:
            connection = http.client.HTTPConnection(*address, timeout=PATIENCE)
            body = json.dumps({"article": articles[k]})
            connection.request("POST", "/summarize", body, {"Content-Type": "application/json"})
            answers[k] = read(connection)

        threads = [threading.Thread(target=client, args=(k,)) for k in range(len(articles))]
        for thread in threads:
            thread.start()
        time.sleep(0.2)  # all are accepted; the first is being answered
        child.send_signal(signal.SIGTERM)
        refused = False
        while not refused and len(answers) < len(articles):
            try:
                socket.create_connection(address, timeout=PATIENCE).close()
                time.sleep(0.02)
            except ConnectionRefusedError:
                refused = True
        for thread in threads:
            thread.join(PATIENCE)
        assert refused and [answers[k].status for k in range(4)] == [200] * 4
        output, errors = child.communicate(timeout=PATIENCE)
        assert (child.returncode, errors) == (0, "")
        assert output.endswith("serve: stopped; every accepted request was answered\n")


def test_a_second_interrupt_ends_it_at_once_and_does_not_claim_that_all_was_answered(tmp_path):
    exported = export_base(tmp_path / "tiny", max_new_tokens=100, num_beams=4)
    with process("--model", str(exported), "--port", "0", "--max-wait-ms", "0", "--max-batch", "1") as child:
        address = until_ready(child)
        sockets = [socket.create_connection(address, timeout=PATIENCE) for _ in range(40)]
        body = json.dumps({"article": "Returns the number of rows of a table."})
        for each in sockets:
            head = "POST /summarize HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            each.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        time.sleep(0.5)
        for _ in range(2):
            child.send_signal(signal.SIGINT)
            time.sleep(0.3)
        output, errors = child.communicate(timeout=PATIENCE)
        for each in sockets:
            each.close()
    assert child.returncode == 1 and "every accepted request was answered" not in output
    assert errors == "error: serve: stopped before every accepted request was answered\n"


def test_a_port_that_is_taken_is_an_error_before_the_model_is_loaded():
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            UserError, match=f"--port: 127.0.0.1 {port}: Address already in use; choose another"
        ):
            listen("127.0.0.1", port)


def test_a_model_that_is_not_there_ends_the_service_with_one_line(tmp_path):
    assert "no-such-folder: not found" in failure("--model", str(tmp_path / "no-such-folder"), "--port", "0")


def test_a_key_comes_from_a_file_or_the_environment_and_no_error_shows_it(tmp_path, monkeypatch):
    file, key = tmp_path / "key", "a-long-enough-key-1234"
    file.write_text(f"{key}\n")
    monkeypatch.delenv("ONESENTENCE_API_KEY", raising=False)
    assert read_key(None) is None and read_key(file) == key
    monkeypatch.setenv("ONESENTENCE_API_KEY", "another-long-enough-key")
    assert read_key(None) == "another-long-enough-key"
    with pytest.raises(UserError, match="found another in ONESENTENCE_API_KEY"):
        read_key(file)
    monkeypatch.delenv("ONESENTENCE_API_KEY")
    for bad in (
        "",
        "short",
        "a key with some blanks in it",
        "schlüssel-mit-umlaut-1234",
        "two-lines-of\n-a-long-key",
    ):
        with pytest.raises(UserError, match="expected a key of at least 16") as raised:
            checked_key(bad, "here")
        assert not bad or bad not in str(raised.value)
    with pytest.raises(UserError, match="No such file"):
        read_key(tmp_path / "none")
    file.write_bytes(b"\xff\xfe" * 20)
    with pytest.raises(UserError, match="not UTF-8"):
        read_key(file)


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"max_batch": 0}, "--max-batch: expected at least 1, found 0"),
        ({"max_wait_ms": -1}, "--max-wait-ms: expected at least 0"),
        ({"timeout": float("nan")}, "--timeout: expected at least 1, found nan"),
        ({"timeout": float("inf")}, "--timeout: expected at most 86,400 seconds"),
        ({"queue": 10, "max_articles": 11}, r"--queue: expected at least --max-articles \(11\), found 10"),
    ],
)
def test_a_bound_that_makes_no_sense_is_refused(bounds, words):
    with pytest.raises(UserError, match=words):
        Limits(**bounds)


def test_only_addresses_of_this_machine_are_loopback():
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert is_loopback(host)
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.org"):
        assert not is_loopback(host)
        assert f"--host: {host} is open to other machines" in exposure(host, None)
    assert exposure("127.0.0.1", None) is None and exposure("0.0.0.0", "a-key") is None
    assert [host_of(h) for h in ("LocalHost:80", "[::1]:80", "a.b", "")] == ["localhost", "::1", "a.b", ""]
    with pytest.raises(UserError, match="--host: 'no such name': expected a name or an address"):
        listen("no such name", 0)
