"""Secrets of the environment, of ~/.netrc and of a remote's address reach no file, log, error or experiment.

They are planted, the real pipeline runs and fails, then every byte that was written or printed is searched.
"""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, command, edit, run
from running import export_base, request, running

P = "Planted"  # the secrets are put together here, so that this file, which a project holds too, has none
PLANTED = {
    "HF_TOKEN": f"hf_{P}{P}01",
    "HUGGING_FACE_HUB_TOKEN": f"hf_{P}{P}02",
    "AWS_ACCESS_KEY_ID": f"AKIA{P.upper()}0303",
    "AWS_SECRET_ACCESS_KEY": f"{P}/secret/access+key04",
    "AWS_SESSION_TOKEN": f"{P}SessionToken05",
    "GITHUB_TOKEN": f"ghp_{P}{P}06",
    "WANDB_API_KEY": f"{P}0123456789abcdef07",
    "ONESENTENCE_API_KEY": f"{P}-service-key-08",
}
NETRC = f"{P}NetrcPassword09"
REMOTE = f"{P}RemotePassword10"
SECRETS = [*PLANTED.values(), NETRC, REMOTE]


def leaks(data: bytes) -> list[str]:
    """The secrets in some bytes."""
    return [secret for secret in SECRETS if secret.encode() in data]


@pytest.fixture
def planted(tmp_path, monkeypatch) -> Path:
    """A home with a .netrc and credentials, and the environment of a user of hubs and clouds."""
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    (home / ".netrc").write_text(f"machine huggingface.co login me password {NETRC}\n")
    (home / ".netrc").chmod(0o600)
    keys = {"aws_access_key_id": "AWS_ACCESS_KEY_ID", "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY"}
    lines = [f"{key} = {PLANTED[name]}" for key, name in keys.items()]
    (home / ".aws/credentials").write_text("\n".join(["[default]", *lines, ""]))
    monkeypatch.setenv("HOME", str(home))
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    return home


def found_in_files(folder: Path, own: set[Path]) -> list[tuple[Path, list[str]]]:
    """The files of a folder that hold a secret, without those that hold their user's `own` ones."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 5
    return [(path, found) for path in files if path not in own and (found := leaks(path.read_bytes()))]


def git_objects(folder: Path) -> bytes:
    """Every object of a repository, experiments among them, uncompressed."""
    return subprocess.run(
        ["git", "cat-file", "--batch-all-objects", "--batch"], cwd=folder, capture_output=True, check=True
    ).stdout


@pytest.mark.slow
def test_no_secret_reaches_a_file_a_log_or_an_experiment(project, planted):
    address = f"https://me:{REMOTE}@127.0.0.1:1/dvc"
    run(project, "dvc", "remote", "add", "--local", "planted", address)
    results = [run(project, "dvc", "exp", "run", "--name", "one")]
    results.append(command(project, "results"))
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--quiet", "--message=run")
    results += [command(project, "diff", "HEAD~1"), command(project, "show")]
    refused = command(project, "remote", address, check=False)
    assert refused.returncode == 1 and "https://me:***@127.0.0.1:1/dvc" in refused.stderr
    edit(project, lora__target_modules=["nothing"])
    failed = run(project, "dvc", "repro", check=False)
    assert failed.returncode and "lora.target_modules" in failed.stderr + failed.stdout
    for result in (*results, refused, failed):
        assert leaks((result.stdout + result.stderr).encode()) == [], result.args
    assert found_in_files(project, {project / ".dvc/config.local"}) == []
    objects = git_objects(project)
    assert b"refs/exps" in run(project, "git", "for-each-ref").stdout.encode() and len(objects) > 1e6
    assert leaks(objects) == []
    own = {planted / ".netrc", planted / ".aws/credentials", project / ".dvc/config.local"}
    assert found_in_files(planted.parent, own) == []


@pytest.mark.slow
@pytest.mark.long
def test_a_hub_that_fails_is_named_without_the_token(project, planted, monkeypatch):
    """The address of the hub has a password, and nothing listens there."""
    monkeypatch.setenv("HF_ENDPOINT", f"http://me:{REMOTE}@127.0.0.1:1")
    edit(project, model__name="owner/model", model__watch="requirements.txt", model__revision="abc123")

    def online(name: str) -> subprocess.CompletedProcess:
        program = "import os, runpy; os.environ['HF_HUB_OFFLINE'] = '0'; "
        run_stage = f"runpy.run_module('stages.{name}', run_name='__main__')"
        return run(project, "python", "-c", program + run_stage, check=False)

    failed = online("tokenize")
    assert failed.returncode == 1 and failed.stderr.startswith("error: model.name: 'owner/model'")
    edit(project, data__source="owner/set", data__watch="requirements.txt", data__revision="abc123")
    hub = online("prepare")
    assert hub.returncode == 1 and "data.source: 'owner/set'" in hub.stderr
    for result in (failed, hub):
        assert leaks((result.stdout + result.stderr).encode()) == []
    own = {project / ".dvc/config.local", planted / ".netrc", planted / ".aws/credentials"}
    assert found_in_files(planted.parent, own) == []


PROGRAM = """
import os, sys
from onesentence.core import errors
from onesentence.core.errors import UserError
kind = sys.argv.pop(1)
def main():
    text = f"GET https://me:{REMOTE}@hub/x?token={TOKEN} failed with {KEY}"
    raise UserError(text) if kind == "user" else RuntimeError(text)
errors.run(main)
"""


@pytest.mark.parametrize("kind", ["user", "other"])
def test_an_error_hides_secrets_even_in_a_traceback(tmp_path, planted, kind):
    names = {"REMOTE": REMOTE, "TOKEN": NETRC, "KEY": PLANTED["WANDB_API_KEY"]}
    program = "".join(f"{name} = {value!r}\n" for name, value in names.items()) + PROGRAM
    done = run(ROOT, sys.executable, "-c", program, kind, check=False)
    assert done.returncode == 1 and "GET https://me:***@hub/x?token=*** failed with ***" in done.stderr
    assert ("Traceback" in done.stderr) == (kind == "other")
    assert leaks(done.stderr.encode()) == []


def test_the_service_repeats_no_secret(planted, tmp_path, caplog):
    folder = export_base(tmp_path / "exported")
    key = PLANTED["ONESENTENCE_API_KEY"]
    with caplog.at_level(logging.DEBUG), running(folder, key=key) as serving:
        answers = [
            request(serving, "POST", path, body, {"Authorization": f"Bearer {token}"})
            for path in ("/summarize", "/v1/completions", f"/{SECRETS[0]}")
            for token in (key, SECRETS[0], "wrong")
            for body in (
                b"{",
                {"article": "Some text."},
                {SECRETS[2]: 1},
                {"model": SECRETS[3], "prompt": "a"},
            )
        ]
        answers.append(request(serving, "GET", "/metrics", None, {"Authorization": f"Bearer {key}"}))
        answers.append(request(serving, "GET", "/"))
    assert {answer.status for answer in answers} >= {200, 400, 401, 422}
    # What a client itself sent as a key of its body is repeated to it alone, never logged.
    said = [answer.text.replace(SECRETS[2], "") for answer in answers]
    assert [text for text in said if leaks(text.encode())] == []
    assert leaks(caplog.text.encode()) == []
    assert leaks(json.dumps([dict(answer.headers) for answer in answers]).encode()) == []


def test_what_is_planted_would_be_found(tmp_path):
    (tmp_path / "a").mkdir()
    for number in range(6):
        (tmp_path / f"a/{number}.txt").write_text(" ".join(SECRETS))
    assert {len(found) for _, found in found_in_files(tmp_path, set())} == {len(SECRETS)}
    assert os.environ.get("HF_TOKEN") not in SECRETS
