"""Write the locks: each requirements file again, with the SHA-256 of every file of its versions.

A lock holds what its requirements file pins and nothing else: each of these files is a full closure, so that
`make setup` installs without a resolver (`--no-deps --require-hashes`). Two locks are apart. torch.lock: pip
prefers a file whose hash the index names, so it would never take a build of torch from a folder of wheels;
`make setup` downloads the build that pip is set up for, then checks its hash. cuda.lock: what torch's CUDA
build needs on Linux; `make setup` installs it only beside that build.

Run     make lock                     after any change of a requirements file
"""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from onesentence.core.errors import UserError, run
from onesentence.core.files import write_text

FOLDER = Path("requirements")
UV = Path(".venv-tools/bin/uv")
PYTHON = "3.11.5"  # the oldest that every pinned package supports
# The requirements file of each lock.
LOCKS = {
    "build": FOLDER / "build.txt",
    "main": Path("requirements.txt"),
    "tests": Path("tests/requirements.txt"),
    "docs": Path("docs/requirements.txt"),
    "models": Path("models/requirements.txt"),
    "serving": Path("onesentence/serving/requirements.txt"),
    "export": Path("onesentence/export/requirements.txt"),
    "scheduler": Path("onesentence/study/requirements.txt"),
    "benchmarks": Path("benchmarks/requirements.txt"),
    "tools": FOLDER / "tools.txt",
}
TORCH = "torch"
RESOLVED = ("tools",)  # their files name what is wanted; the lock adds what that needs
CUDA = "cuda"
BUILDS = FOLDER / "builds.txt"
NAME = re.compile(r"^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)\s*(?:;\s*([^\\]*?))?\s*\\?$")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Pin:
    """A package of a lock. marker: where it is installed, "" for everywhere; hashes: of its files, sorted."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]

    def text(self) -> str:
        """The lines of the lock."""
        where = f" ; {self.marker}" if self.marker else ""
        return " \\\n    ".join(
            [f"{self.name}=={self.version}{where}", *(f"--hash=sha256:{digest}" for digest in self.hashes)]
        )


def normalized(name: str) -> str:
    """A package's name as the index compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> list[Pin]:
    """The pins of a lock, or of a requirements file whose lines may end with hashes."""
    found = []
    for entry in re.sub(r"\\\n\s*", "", text).splitlines():
        if not entry.strip() or entry.startswith(("#", "-r ")):
            continue
        line = entry.partition(" #")[0].partition("--hash")[0].strip()
        match = NAME.match(line)
        if match is None:
            raise UserError(f"{line}: expected NAME==VERSION; pin the exact version")
        hashes = tuple(sorted(HASH.findall(entry)))
        found.append(Pin(normalized(match[1]), match[2], match[3] or "", hashes))
    return found


def required(path: Path) -> list[Pin]:
    """The pins of a requirements file and of those that it includes."""
    text = path.read_text(encoding="utf-8")
    included = [path.parent / name for name in re.findall(r"^-r (\S+)", text, re.MULTILINE)]
    return [*pins(text), *(pin for other in included for pin in required(other))]


def compile_(path: Path, *options: str) -> list[Pin]:
    """What uv makes of a requirements file: each version's hashes on every platform."""
    command = [UV, "pip", "compile", "--no-config", "--universal", "--python-version", PYTHON]
    command += ["--generate-hashes", "--no-annotate", "--no-header", "--quiet", *options, path]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if result.returncode:
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip()] or ["no message"]
        raise UserError(f"{path}: uv found no such versions, or no index: {lines[0][:300]}; check the pins")
    return pins(result.stdout)


def with_builds(locked: list[Pin]) -> list[Pin]:
    """`locked` with the hashes of builds that the index does not hold."""
    more = {(pin.name, pin.version): pin.hashes for pin in pins(BUILDS.read_text(encoding="utf-8"))}
    return [
        Pin(
            pin.name,
            pin.version,
            pin.marker,
            tuple(sorted({*pin.hashes, *more.get((pin.name, pin.version), ())})),
        )
        for pin in locked
    ]


def write(name: str, source: Path, locked: list[Pin]) -> None:
    """Write the lock `name`, sorted by package."""
    header = f"# Written by `make lock` from {source.as_posix()}: change that file, and run it again.\n"
    body = "\n".join(pin.text() for pin in sorted(locked, key=lambda pin: pin.name))
    write_text(FOLDER / f"{name}.lock", f"{header}{body}\n")
    print(f"lock: {FOLDER / name}.lock, {len(locked)} packages")


def cuda_packages(path: Path) -> list[Pin]:
    """What torch needs on Linux beyond a requirements file: the packages of its CUDA build."""
    known = {pin.name for pin in required(path)}
    return [
        pin for pin in compile_(path) if pin.name not in known and "sys_platform == 'linux'" in pin.marker
    ]


def main() -> None:
    if not UV.is_file():
        raise UserError(f"{UV}: not found; run `make lock`, which installs it")
    for name, path in LOCKS.items():
        # A package that the project pins too has one version in both.
        options = ("--constraint", str(LOCKS["main"])) if name in RESOLVED else ("--no-deps",)
        locked = with_builds(compile_(path, *options))
        write(name, path, [pin for pin in locked if pin.name != TORCH])
        if name == "main":
            write(TORCH, path, [pin for pin in locked if pin.name == TORCH])
    write(CUDA, LOCKS["main"], cuda_packages(LOCKS["main"]))


if __name__ == "__main__":
    run(main)
