"""What is refused before any work: remotes that are missing, hold a secret or lack what workers need."""

import pytest
from cluster import IDENTITY, make_small
from conftest import run

from onesentence.core.errors import UserError
from onesentence.study import remotes


@pytest.fixture
def small(tmp_path, monkeypatch):
    project = make_small(tmp_path)
    monkeypatch.chdir(project)
    monkeypatch.setattr(remotes, "PAUSES", ())
    for key, value in IDENTITY.items():
        monkeypatch.setenv(key, value)
    return project


def commit(folder) -> str:
    return run(folder, "git", "rev-parse", "HEAD").stdout.strip()


def test_remotes_that_serve_are_found(small, tmp_path):
    found = remotes.find(None, commit(small))
    assert (found.git, found.url) == ("origin", str(tmp_path / "bare"))
    assert (found.storage, found.options) == ("storage", {"url": str(tmp_path / "drive")})
    assert found.kept_back == ()
    # A path is made absolute: workers have other folders.
    run(small, "git", "remote", "set-url", "origin", "../bare")
    assert remotes.find("origin", commit(small)).url == str(tmp_path / "bare")
    run(small, "dvc", "remote", "modify", "--local", "storage", "url", "../drive")
    assert remotes.storage()[1]["url"].endswith("/drive")


def test_which_git_remote(small):
    with pytest.raises(UserError, match="no git remote is called 'there'; expected one of origin"):
        remotes.git_remote("there")
    run(small, "git", "remote", "rename", "origin", "there")
    assert remotes.git_remote(None) == "there"  # the only one
    run(small, "git", "remote", "add", "upstream", "https://localhost/x.git")
    assert remotes.git_remote("upstream") == "upstream"
    run(small, "git", "config", "--unset", "branch.main.remote", check=False)
    with pytest.raises(UserError, match="found there, upstream; name one with --git-remote"):
        remotes.git_remote(None)
    run(small, "git", "config", "branch.main.remote", "there")
    assert remotes.git_remote(None) == "there"
    for name in ("there", "upstream"):
        run(small, "git", "remote", "remove", name)
    with pytest.raises(UserError, match="found none; add one that the workers reach"):
        remotes.git_remote(None)


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        ("https://me:hunter2@localhost/x.git", True),
        ("https://hunter2@localhost/x.git", True),
        ("ssh://git:hunter2@localhost/x.git", True),
        ("ssh://git@localhost/x.git", False),
        ("git@localhost:x.git", False),
        ("https://localhost/x.git", False),
    ],
)
def test_a_secret_in_a_git_url_is_refused_and_not_repeated(small, url, refused):
    run(small, "git", "remote", "set-url", "origin", url)
    if not refused:
        assert remotes.git_url("origin") == url
        return
    with pytest.raises(UserError, match="expected a URL without user and password") as error:
        remotes.git_url("origin")
    assert "hunter2" not in str(error.value)


def test_secrets_of_dvc_s_remote_stay_here(small):
    run(small, "dvc", "remote", "add", "--local", "--default", "bucket", "s3://bucket/path")
    for key, value in (
        ("endpointurl", "http://127.0.0.1:9000"),
        ("access_key_id", "me"),
        ("secret_access_key", "hunter2"),
    ):
        run(small, "dvc", "remote", "modify", "--local", "bucket", key, value)
    name, options, kept_back = remotes.storage()
    assert (name, options) == ("bucket", {"url": "s3://bucket/path", "endpointurl": "http://127.0.0.1:9000"})
    assert kept_back == ("access_key_id", "secret_access_key")
    run(small, "dvc", "remote", "add", "--local", "--default", "server", "ssh://me:hunter2@localhost/path")
    with pytest.raises(UserError, match="server: expected a URL without a password") as error:
        remotes.storage()
    assert "hunter2" not in str(error.value)
    run(small, "dvc", "config", "--local", "--unset", "core.remote")
    with pytest.raises(UserError, match="none is set; run `onesentence remote"):
        remotes.storage()


def test_a_commit_that_is_not_pushed_and_an_input_that_is_not_stored(small, tmp_path):
    (small / "data/input.txt").write_text("another")
    run(small, "dvc", "add", "--quiet", "data/input.txt")
    run(small, "git", "commit", "--quiet", "--all", "--message=another")
    with pytest.raises(UserError, match=r"is not in the git remote origin, .* run `git push origin HEAD`"):
        remotes.find(None, commit(small))
    # A tag holds it as well as a branch.
    run(small, "git", "tag", "then")
    run(small, "git", "push", "--quiet", "origin", "then")
    run(small, "git", "tag", "--delete", "then")
    with pytest.raises(UserError, match=r"storage lacks 1 inputs, such as data/input\.txt; run `dvc push"):
        remotes.find(None, commit(small))
    run(small, "dvc", "push", "--quiet")
    assert remotes.find(None, commit(small)).git == "origin"
    (tmp_path / "bare").rename(tmp_path / "away")
    with pytest.raises(UserError, match="git fetch"):
        remotes.find(None, commit(small))


def test_a_command_that_fails_for_a_moment_is_tried_again():
    calls = []

    def fails_twice() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise UserError("no answer")
        return "done"

    assert remotes.patiently(fails_twice, (0, 0)) == "done"
    calls.clear()
    with pytest.raises(UserError, match="no answer"):
        remotes.patiently(fails_twice, (0,))
