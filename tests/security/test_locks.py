"""The locks hold what the requirements files pin, with hashes, and everything is installed from them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from onesentence.core.errors import UserError
from requirements import audit, cuda, licences
from requirements.lock import BUILDS, CUDA, LOCKS, RESOLVED, TORCH, pins, required

EVERY = [*LOCKS, TORCH, CUDA]


def lock(name: str) -> str:
    return (ROOT / f"requirements/{name}.lock").read_text()


def versions(name: str) -> dict[str, str]:
    return {pin.name: pin.version for pin in pins(lock(name))}


@pytest.mark.parametrize("name", [name for name in LOCKS if name not in RESOLVED])
def test_a_lock_holds_what_its_requirements_file_pins_and_nothing_else(name):
    wanted = {pin.name: pin.version for pin in required(ROOT / LOCKS[name])}
    locked = versions(name) | (versions(TORCH) if name == "main" else {})
    assert locked == wanted, "run `make lock`"


@pytest.mark.parametrize("name", RESOLVED)
def test_a_lock_of_tools_holds_at_least_what_is_wanted(name):
    wanted = {pin.name: pin.version for pin in required(ROOT / LOCKS[name])}
    assert wanted.items() <= versions(name).items(), "run `make lock`"
    shared = versions(name).keys() & versions("main").keys()
    assert {versions(name)[package] for package in shared} == {
        versions("main")[package] for package in shared
    }


@pytest.mark.parametrize("name", EVERY)
def test_every_package_of_a_lock_has_hashes_and_no_lock_names_an_index(name):
    locked = pins(lock(name))
    assert locked and all(pin.hashes for pin in locked)
    assert [pin.name for pin in locked] == sorted({pin.name for pin in locked})
    assert not re.search(r"https?:|--(?:extra-)?index|--find-links|\.org|@ ", lock(name))
    rewritten = "\n".join(pin.text() for pin in locked)
    assert lock(name).partition("\n")[2] == f"{rewritten}\n"


def test_builds_that_the_index_lacks_are_in_their_lock():
    for pin in pins((ROOT / BUILDS).read_text()):
        (locked,) = (other for name in EVERY for other in pins(lock(name)) if other.name == pin.name)
        assert locked.version == pin.version and set(pin.hashes) <= set(locked.hashes)


def test_the_packages_of_cuda_are_beside_the_closure_and_for_linux_alone():
    locked = pins(lock(CUDA))
    assert not {pin.name for pin in locked} & {pin.name for pin in required(ROOT / LOCKS["main"])}
    assert all("sys_platform == 'linux'" in pin.marker for pin in locked)
    assert {"triton", "nvidia-cublas", "nvidia-cudnn-cu13"} <= {pin.name for pin in locked}


@pytest.mark.parametrize(
    ("requirements", "needed"),
    [
        (["filelock", "nvidia-cublas==13.1; platform_system == 'Linux'"], True),
        (["triton==3.7.1; sys_platform == 'linux'"], True),
        (["filelock", "optree; extra == 'optree'", "nvidia-x; extra == 'cuda'"], False),
    ],
)
def test_a_build_of_torch_says_whether_it_needs_cuda(requirements, needed):
    assert cuda.needed([text.replace("'", '"') for text in requirements]) is needed
    assert cuda.needed(requirements) is needed


def test_make_installs_nothing_without_hashes_unless_asked():
    """Every line of the Makefile and the workflows that installs goes through a lock, or names no package."""
    for path in (ROOT / "Makefile", *(ROOT / ".github/workflows").glob("*.yml"), ROOT / ".ci/run"):
        for line in path.read_text().splitlines():
            if re.search(r"pip(?: --\S+)* install|\$\(PIP\)", line) and not line.startswith(("PIP :=", "#")):
                assert "--require-hashes" in line or "--editable ." in line, (path.name, line)
            assert "-r requirements.txt" not in line.replace("$(2)", ""), (path.name, line)
    text = (ROOT / "Makefile").read_text()
    for name, source in re.findall(r"\$\(call install,(\w+),([\w/.]+)\)", text):
        assert LOCKS[name] == Path(source)


def dry_run(*arguments: str) -> str:
    """What make would run for `setup` in a folder without an environment."""
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "setup", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def test_make_setup_checks_hashes_and_can_be_told_not_to():
    hashed = [line for line in dry_run().splitlines() if "pip install" in line and "--editable" not in line]
    assert len(hashed) >= 3 and all("--require-hashes" in line and "--no-deps" in line for line in hashed)
    assert [
        name for name in ("build", "main", "torch") if f"requirements/{name}.lock" not in "".join(hashed)
    ] == []
    plain = dry_run("HASHES=")
    assert "--require-hashes" not in plain and "-r requirements.txt" in plain and "download" not in plain


def test_a_wrong_hash_is_refused_by_pip(tmp_path):
    """The real pip, a real wheel of this project: one bit of the hash decides. No index is asked."""
    wheels = tmp_path / "wheels"
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    package = tmp_path / "package"
    package.mkdir()
    (package / "setup.py").write_text("from setuptools import setup\nsetup(name='planted', version='1.0')\n")
    subprocess.run([*build, "--wheel-dir", str(wheels), str(package)], check=True, capture_output=True)
    (wheel,) = wheels.iterdir()
    import hashlib

    right = hashlib.sha256(wheel.read_bytes()).hexdigest()
    wrong = right[:-1] + ("0" if right[-1] != "0" else "1")
    for digest, accepted in ((right, True), (wrong, False)):
        (tmp_path / "a.lock").write_text(f"planted==1.0 --hash=sha256:{digest}\n")
        done = subprocess.run(
            [*build[:2], "pip", "install", "--dry-run", "--no-index", "--find-links", str(wheels),
             "--no-deps", "--require-hashes", "-r", str(tmp_path / "a.lock")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode == 0) is accepted, done.stderr
        assert accepted or "DO NOT MATCH" in done.stderr


def test_an_unpinned_requirement_is_refused():
    with pytest.raises(UserError, match="numpy>=2: expected NAME==VERSION"):
        pins("numpy>=2\n")


# The audit


FLAWS = [
    {"id": "PYSEC-1", "fix_versions": ["3"], "aliases": ["CVE-1"]},
    {"id": "X", "fix_versions": [], "aliases": []},
]
REPORT = {
    "dependencies": [
        {"name": "a", "version": "1", "vulns": []},
        {"name": "b", "version": "2", "vulns": FLAWS},
    ]
}


def test_a_known_vulnerability_is_named_with_the_version_that_repairs_it():
    assert audit.findings(REPORT) == [
        "b 2: PYSEC-1 (CVE-1), repaired in 3",
        "b 2: X (no alias), repaired in no version",
    ]


def test_the_audit_asks_for_every_package_once():
    listed = audit.every_pin()
    assert len(listed) == len({entry.partition("==")[0] for entry in listed}) > 250
    assert {f"{name}=={version}" for name, version in versions("main").items()} <= set(listed)


# Licences


def test_the_page_of_licences_names_every_pinned_package():
    rows = re.findall(
        r"^\| ([\w.-]+) \| ([\w.+]+) \| (.+?) \| (.+?) \|$",
        (ROOT / "docs/licences.md").read_text(),
        re.MULTILINE,
    )
    listed = {(name, version) for name, version, *_ in rows} - {("package", "version")}
    wanted = {(name, version) for lock_ in EVERY for name, version in versions(lock_).items()}
    assert listed == wanted, "run `make licences`"
    unknown = {name for name, _, licence, _ in rows if licence == licences.UNKNOWN}
    assert unknown <= {*versions(CUDA), *versions("export")}
    assert set(licences.PURPOSES) == set(EVERY)


def test_copyleft_is_found_in_what_packages_declare():
    table = [("a", "1", "GPL-3.0-or-later", "x"), ("b", "2", "MIT", "x"), ("c", "3", "MPL-2.0 AND MIT", "x")]
    text = licences.page(table)
    assert "## Copyleft, 2 packages" in text and "- `a`: GPL-3.0-or-later" in text and "- `c`:" in text
    assert "- `b`" not in text and "| b | 2 | MIT | x |" in text
