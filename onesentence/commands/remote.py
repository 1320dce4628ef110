"""Set where `dvc push` keeps data, models and outputs: a folder, or a URL of object storage or a server.

Writes  .dvc/config.local, which git ignores, in the repository and in the folder of each preset. Nothing is
sent before `dvc push`.

A URL holds no password. DVC takes it from the place where the storage's own tools look for it (environment,
configuration files, ssh agent), or from a key of that file: dvc remote modify --local storage KEY VALUE

Run     onesentence remote /mounted/drive/dvc                (make remote DIR=/mounted/drive/dvc)
        onesentence remote s3://bucket/path                  (make remote URL=s3://bucket/path)
        onesentence remote ssh://user@host:22/path
        onesentence remote s3://bucket --set endpointurl=http://127.0.0.1:9000     a server of your own
"""

import difflib
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import click

from onesentence.commands import DVC, documented, require_pipeline
from onesentence.commands.preset import PRESETS
from onesentence.core.errors import UserError
from onesentence.study.experiments import git
from onesentence.study.remotes import has_secret

NAME = "storage"
# DVC's plugin for each kind of URL, in the version that fits requirements.txt; None: DVC needs none.
PLUGINS: dict[str, str | None] = {
    "azure": "dvc-azure==3.1.1",
    "gdrive": "dvc-gdrive==3.0.1",
    "gs": "dvc-gs==3.1.0",
    "hdfs": "dvc-hdfs==3.0.0",
    "http": None,
    "https": None,
    "oss": "dvc-oss==3.0.0",
    "s3": "dvc-s3==3.3.0",
    "ssh": "dvc-ssh==4.3.0",
    "webdav": "dvc-webdav==3.0.1",
    "webdavs": "dvc-webdav==3.0.1",
    "webhdfs": "dvc-webhdfs==3.1.0",
}
# Where each storage takes a secret from; the others have keys of their own in DVC's configuration.
ASKED = {"http", "https", "ssh", "webdav", "webdavs"}
ENVIRONMENT = {
    "azure": "AZURE_STORAGE_CONNECTION_STRING",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
}
ROOTED = {"ssh", "hdfs", "webhdfs"}  # servers with a tree of folders, of which the remote must be one
SLIP = re.compile(rf"(?P<scheme>{'|'.join(PLUGINS)})(?::/?[^/]|//)", re.IGNORECASE)  # s3:/bucket, gs//bucket
SCP = re.compile(r"(?P<host>[\w.-]+@[\w.-]+):(?P<path>.*)")  # as scp and git write a place on a server


def _is_used(folder: Path) -> bool:
    """Whether a folder, relative to the repository, is git's or DVC's, or holds files that git tracks."""
    return folder.parts[0] in (".git", str(DVC)) or bool(git("ls-files", "--", str(folder), check=False))


def require_ascii(what: str, text: str) -> None:
    """Raise a UserError for a text that DVC cannot write into its configuration: it would empty it in trying.

    what: the text's name for the error, which does not repeat the text: it may be a password.
    """
    if not text.isascii():
        raise UserError(f"{what}: expected ASCII, found other letters, which DVC's configuration cannot hold")


def folder_of(place: str) -> str:
    """The absolute path of a folder, which is made if it does not exist; a UserError if it cannot be used."""
    if match := SCP.fullmatch(place):
        path = match["path"]
        path = path if path.startswith("/") else f"/{path}"
        raise UserError(f"{place}: expected a folder or a URL; write ssh://{match['host']}{path}")
    try:
        folder = Path(place).expanduser().resolve()
    except (RuntimeError, OSError) as error:  # no such user, or links in a circle
        raise UserError(f"{place}: {error}; expected a folder or a URL") from error
    slip = SLIP.match(place)
    if slip:
        # Not the whole text: a password in it is found by its `://`, which is what is missing.
        scheme = slip["scheme"]
        raise UserError(f"{scheme}...: expected a folder or a URL; write {scheme}://HOST/PATH")
    root = Path.cwd()
    if not place or root.is_relative_to(folder) or _is_used(Path(os.path.relpath(folder))):
        raise UserError(
            f"{place!r}: is a folder of the repository itself; name another one, best outside of it"
        )
    require_ascii(str(folder), str(folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be made ({error.strerror}); name a folder that can be written to"
        ) from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: cannot be written to; name another folder, or change its permissions")
    return str(folder)


def shown(url: str, parts: SplitResult) -> str:
    """A URL without its password or token and its query, which may hold a key."""
    if has_secret(parts):
        user, _, host = parts.netloc.rpartition("@")
        known = "" if parts.password is None else f"{user.partition(':')[0]}:"
        parts = parts._replace(netloc=f"{known}***@{host}")
    elif not parts.query:
        return url
    return parts._replace(query="***" if parts.query else "").geturl()


def secret_hint(scheme: str) -> str:
    """Where to put a secret instead of in the URL."""
    if scheme in ASKED:
        keys = f"`dvc remote modify --local {NAME} ask_password true` (or the key password)"
        return f"run {keys}" + (", or use a key of ssh (its agent, or the key keyfile)" * (scheme == "ssh"))
    keys = f"use the keys of `dvc remote modify --local {NAME} KEY VALUE`"
    return f"set {ENVIRONMENT[scheme]} in the environment, or {keys}" if scheme in ENVIRONMENT else keys


def checked_url(url: str) -> str:
    """A URL that DVC can use as it is. Raises UserError for any other, and never repeats a secret in it."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # read here, because a wrong one is an error
    except ValueError:  # its message may hold a part of a password
        raise UserError(
            "URL: not valid; expected SCHEME://HOST/PATH or SCHEME://HOST:PORT/PATH with a number as the port"
        ) from None
    safe = shown(url, parts)
    if parts.scheme not in PLUGINS:
        close = difflib.get_close_matches(parts.scheme, PLUGINS, n=1)
        hint = (
            f"did you mean '{close[0]}'?" if close else f"expected a folder, or one of {', '.join(PLUGINS)}"
        )
        raise UserError(f"{safe}: unknown scheme {parts.scheme!r}; {hint}")
    if has_secret(parts):
        raise UserError(
            f"{safe}: expected no password or token in the URL (logs and shell histories keep it); leave it "
            "out and "
            f"{secret_hint(parts.scheme)}"
        )
    if parts.query or parts.fragment:
        raise UserError(
            f"{safe}: expected SCHEME://HOST/PATH without '?' and '#'; set options and keys with "
            f"`dvc remote modify --local {NAME} KEY VALUE`"
        )
    if not parts.netloc:
        raise UserError(f"{safe}: expected a host or a bucket after '{parts.scheme}://'; name it")
    if parts.scheme in ROOTED and parts.path in ("", "/"):
        raise UserError(f"{safe}: expected a folder on the server; write {safe.rstrip('/')}/PATH")
    return url


def require_plugin(url: str) -> None:
    """Raise a UserError where DVC's plugin for a URL is not installed."""
    from dvc.fs import registry

    scheme = urlsplit(url).scheme
    try:
        missing = registry[scheme].get_missing_deps()
    except ImportError:
        missing = [scheme]
    if missing:
        raise UserError(
            f"{url}: DVC needs a plugin for {scheme}://; run "
            f"`pip install --constraint requirements.txt {PLUGINS[scheme]}`"
        )


def option(text: str) -> tuple[str, str]:
    """The key and the value of KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not (key.strip() and equals and value.strip()):
        raise UserError(f"--set: expected KEY=VALUE, found {text!r}")
    if key.strip() == "url":
        raise UserError("--set: url is the argument of the command; write it there")
    return key.strip(), value.strip()


def configure(folder: Path, url: str, options: dict[str, str]) -> None:
    """Make a URL or path the default remote of the DVC repository in `folder`, in its config.local.

    Keys that were set for the same URL are kept, a password among them.
    """
    from dvc.config import Config, ConfigError

    try:
        with Config(str(folder / DVC)).edit("local") as config:
            before: dict[str, Any] = config["remote"].get(NAME, {})
            kept = before if before.get("url") == url else {}
            config["remote"][NAME] = {**kept, "url": url, **options}
            config["core"]["remote"] = NAME
    except ConfigError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder / DVC / 'config.local'}: {reason}; correct --set or that file") from None


@documented(__doc__)
@click.argument("place", metavar="FOLDER|URL")
@click.option(
    "--set", "options", multiple=True, metavar="KEY=VALUE", help="A key of DVC's remote; repeatable."
)
def command(place: str, options: tuple[str, ...]) -> None:
    require_pipeline()
    keys = dict(map(option, options))
    for key, value in keys.items():
        require_ascii("--set", key + value)
    if "://" in place:
        place = checked_url(place)
        require_ascii("URL", place)
        require_plugin(place)
    else:
        place = folder_of(place)
    folders = [Path(), *sorted(each.parent for each in PRESETS.glob(f"*/{DVC}"))]
    for folder in folders:
        configure(folder, place, keys)
    print(f"dvc push and dvc pull now use {place} (in .dvc/config.local, which git ignores)")
