"""Where DVC keeps data: what is refused, and push, clone and pull over ssh and S3 on this machine."""

import asyncio
import builtins
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, run
from dvc.config import Config
from dvc.repo import Repo

from onesentence.commands import remote
from onesentence.core import errors

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # DVC asks pygtrie so
USER, SECRET = "reader", "made-up-secret"
CONFIG = Path(".dvc/config.local")


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A small git and DVC repository, and a preset's in it; DVC tracks a file in each."""
    folder = tmp_path_factory.mktemp("template")
    run(folder, "git", "init", "--quiet", "--initial-branch=main")
    for each, subdir in ((folder, False), (folder / "presets/own", True)):
        each.mkdir(parents=True, exist_ok=True)
        (each / "data.txt").write_text(f"what {each.name} keeps\n")
        (each / "params.yaml").write_text("seed: 0\n")
        with Repo.init(str(each), subdir=subdir) as repo:
            repo.add(str(each / "data.txt"))
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message=start")
    return folder


@pytest.fixture
def repository(template, tmp_path, monkeypatch) -> Path:
    """A copy of the template, which is the current folder."""
    folder = shutil.copytree(template, tmp_path / "repository", symlinks=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def set_remote(repository, capsys):
    """`onesentence remote` in this process; returns what it prints."""

    def command(*words: str) -> str:
        errors.run(lambda: remote.command.main(list(words), standalone_mode=False))
        return capsys.readouterr().out

    return command


@pytest.fixture
def refused(set_remote, repository):
    """The one sentence with which the command refuses; it has written nothing."""

    def command(*words: str) -> str:
        with pytest.raises(SystemExit) as raised:
            set_remote(*words)
        assert not CONFIG.exists()
        message = str(raised.value.code)
        assert message.startswith("error: ") and SECRET not in message
        return message

    return command


def test_a_folder_is_made_and_set_for_the_repository_and_each_preset(set_remote, repository, tmp_path):
    drive = tmp_path / "my drive/dvc"
    assert set_remote("../my drive/dvc") == (
        f"dvc push and dvc pull now use {drive} (in .dvc/config.local, which git ignores)\n"
    )
    assert drive.is_dir()
    for folder in (repository, repository / "presets/own"):
        with Repo(str(folder)) as repo:
            assert repo.config["core"]["remote"] == "storage"
            assert repo.config["remote"]["storage"]["url"] == str(drive)
    assert run(repository, "git", "status", "--porcelain").stdout == ""
    set_remote(str(tmp_path / "other"))
    assert str(drive) not in CONFIG.read_text()


def test_keys_of_the_same_url_are_kept_and_those_of_another_are_not(set_remote, repository):
    set_remote("s3://bucket/a", "--set", "endpointurl=http://127.0.0.1:9", "--set", "region=here")
    with Config(".dvc").edit("local") as config:
        config["remote"]["storage"]["profile"] = "mine"
    set_remote("s3://bucket/a", "--set", "region=there")
    text = CONFIG.read_text()
    assert "profile = mine" in text and "region = there" in text and "endpointurl = http" in text
    assert "region = there" in (repository / "presets/own" / CONFIG).read_text()
    set_remote("s3://bucket/b")
    assert "profile" not in CONFIG.read_text() and "region" not in CONFIG.read_text()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"ssh://{USER}:{SECRET}@host/path", r"ssh://reader:\*\*\*@host/path: expected no .*ask_pass"),
        (f"ssh://{USER}:{SECRET}@x@host:22/path", r":\*\*\*@host:22/path: .*`dvc remote modify --local"),
        (f"s3://key:{SECRET}@bucket/path", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the env"),
        (f"oss://key:{SECRET}@bucket", r"\*\*\*@bucket: .* use the keys of `dvc remote modify --local"),
        (f"azure://box/path?sig={SECRET}", r"azure://box/path\?\*\*\*: expected .* without '\?'"),
        (f"ssh://{USER}:{SECRET}/x@host/path", "URL: not valid; expected SCHEME://HOST"),
        ("s3:///path", "s3:///path: expected a host or a bucket after 's3://'; name it"),
        ("ssh://host", "ssh://host: expected a folder on the server; write ssh://host/PATH"),
        ("ssh://host:port/path", "URL: not valid; expected SCHEME"),
        ("ssj://host/path", "ssj://host/path: unknown scheme 'ssj'; did you mean 'ssh'?"),
        ("ftp4me://host/path", "unknown scheme 'ftp4me'; expected a folder, or one of azure, gdrive, gs, "),
        ("s3:/bucket/x", "s3...: expected a folder or a URL; write s3://HOST/PATH"),
        ("gs:bucket", "gs...: expected a folder or a URL; write gs://HOST/PATH"),
        ("s3//bucket", "s3...: expected a folder or a URL; write s3://HOST/PATH"),
        ("s3://büro/x", "URL: expected ASCII, found other letters"),
        (f"ssh://{USER}:{SECRET}ß@host/path", r"ssh://reader:\*\*\*@host/path: expected no .*ask_pass"),
        (f"https://{SECRET}@host/path", r"https://\*\*\*@host/path: expected no password or token in"),
        ("~nosuchuser/dvc", "~nosuchuser/dvc: .*; expected a folder or a URL"),
        ("me@host:data/dvc", "me@host:data/dvc: expected a folder or a URL; write ssh://me@host/data/dvc"),
    ],
)  # fmt: skip
def test_a_url_that_dvc_cannot_use_or_that_holds_a_secret_is_refused(refused, url, said):
    assert re.search(said, refused(url)), refused(url)


def test_a_place_that_cannot_be_written_to_is_refused(refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert f"{tmp_path}/file/dvc: cannot be made (Not a directory); name a folder" in refused("../file/dvc")
    assert f"{tmp_path}/file: cannot be made (File exists)" in refused("../file")


@pytest.mark.parametrize("place", [".", "..", "/", ".dvc/cache", ".git", "presets"])
def test_a_folder_of_the_repository_itself_is_refused(refused, place):
    assert "is a folder of the repository itself" in refused(place)


def test_what_dvc_cannot_write_into_its_configuration_is_refused_before_it_is_emptied(refused, tmp_path):
    assert "Größe: expected ASCII" in refused("../Größe") and not (tmp_path / "Größe").exists()
    assert "--set: expected ASCII" in refused("s3://bucket", "--set", f"password={SECRET}ß")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("region", "--set: expected KEY=VALUE, found 'region'"),
        ("url=s3://x", "--set: url is the argument of the command"),
        ("regoin=here", ".dvc/config.local: config file error: extra keys not allowed"),
    ],
)
def test_a_wrong_option_is_refused(refused, text, said):
    assert said in refused("s3://bucket", "--set", text)


def test_outside_a_repository_the_command_says_where_to_run_it(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused("s3://bucket").startswith(
        "error: .dvc: not found; run the command in the repository's root folder"
    )


def test_a_missing_plugin_is_named_with_its_version(refused, monkeypatch):
    found = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("dvc_gs"):
            raise ImportError(name)
        return found(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    said = "gs://bucket/path: DVC needs a plugin for gs://; run `pip install --constraint requirements.txt "
    assert f"{said}dvc-gs==3.1.0`" in refused("gs://bucket/path")


def test_plugins_are_those_that_dvc_names_in_the_versions_that_the_tests_install():
    from dvc.config_schema import REMOTE_SCHEMAS

    assert set(remote.PLUGINS) == set(REMOTE_SCHEMAS) - {"", "remote"}
    pins = (ROOT / "tests/requirements.txt").read_text().split()
    assert {remote.PLUGINS["s3"], remote.PLUGINS["ssh"]} <= set(pins)


def test_make_takes_a_folder_or_a_url_and_not_both():
    make = ["make", "--dry-run", "--no-print-directory", "--old-file=.venv/.installed", "remote"]
    for given, passed in (("DIR=/a b", '"/a b"'), ("URL=s3://bucket/x", '"s3://bucket/x"')):
        shown = subprocess.run([*make, given], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        assert shown.splitlines()[-1] == f"python -m onesentence remote {passed}"
    for given in ([], ["DIR=/a", "URL=s3://b"]):
        failed = subprocess.run(
            [word for word in make if word != "--dry-run"] + given, cwd=ROOT, capture_output=True, text=True
        )
        assert failed.returncode == 2 and "usage: make remote DIR=PATH, or" in failed.stdout


def push_clone_pull(repository: Path, clone: Path, place: str, option: str) -> None:
    """Push from a repository and its preset's folder; clone, set the same remote there, and pull."""
    for folder in (repository, repository / "presets/own"):
        with Repo(str(folder)) as repo:
            assert repo.push() == 1
    run(repository.parent, "git", "clone", "--quiet", str(repository), str(clone))
    os.chdir(clone)
    errors.run(lambda: remote.command.main([place, "--set", option], standalone_mode=False))
    for folder in (Path(), Path("presets/own")):
        assert not (clone / folder / "data.txt").exists()
        with Repo(str(clone / folder)) as repo:
            assert repo.pull()["stats"]["fetched"] == 1
        assert (clone / folder / "data.txt").read_bytes() == (repository / folder / "data.txt").read_bytes()


@pytest.fixture
def ssh_server(tmp_path) -> Iterator[tuple[int, Path]]:
    """The port of an ssh server on this machine, and the private key that it accepts."""
    asyncssh = pytest.importorskip("asyncssh")
    pytest.importorskip("dvc_ssh")
    own, accepted = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    accepted.write_private_key(str(tmp_path / "key"))
    accepted.write_public_key(str(tmp_path / "accepted"))
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def listen():
        options = {"authorized_client_keys": str(tmp_path / "accepted"), "sftp_factory": True}
        return await asyncssh.listen("127.0.0.1", 0, server_host_keys=[own], **options)

    server = asyncio.run_coroutine_threadsafe(listen(), loop).result(30)
    yield server.get_port(), tmp_path / "key"
    loop.call_soon_threadsafe(server.close)
    loop.call_soon_threadsafe(loop.stop)


def test_push_clone_and_pull_over_ssh(set_remote, repository, ssh_server, tmp_path):
    port, key = ssh_server
    kept = tmp_path / "server/dvc"
    kept.mkdir(parents=True)
    place, option = f"ssh://{USER}@127.0.0.1:{port}{kept}", f"keyfile={key}"
    set_remote(place, "--set", option)
    push_clone_pull(repository, tmp_path / "clone", place, option)
    assert sum(path.is_file() for path in kept.rglob("*")) == 2


@pytest.fixture
def s3_server(monkeypatch) -> Iterator[str]:
    """The address of an S3 server on this machine with a bucket, and its made-up key in the environment."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0)
    pytest.importorskip("dvc_s3")
    import boto3

    for name, value in (
        ("ACCESS_KEY_ID", USER),
        ("SECRET_ACCESS_KEY", SECRET),
        ("DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket="bucket")
    yield address
    server.stop()


def test_push_clone_and_pull_over_s3(set_remote, repository, s3_server, tmp_path):
    import boto3

    place, option = "s3://bucket/dvc", f"endpointurl={s3_server}"
    set_remote(place, "--set", option)
    push_clone_pull(repository, tmp_path / "clone", place, option)
    kept = boto3.client("s3", endpoint_url=s3_server).list_objects_v2(Bucket="bucket")["Contents"]
    assert len(kept) == 2 and all(each["Key"].startswith("dvc/files/md5/") for each in kept)
    assert SECRET not in CONFIG.read_text()
