"""Print the lock of torch's CUDA packages where the installed torch needs them, else nothing.

torch from the index is a CUDA build on Linux, whose metadata name these packages; a build without CUDA, and
those for macOS and Windows, name none. `make setup` installs what this prints.
"""

from importlib.metadata import requires

from requirements.lock import CUDA, FOLDER


def needed(requirements: list[str]) -> bool:
    """Whether one of torch's requirements is a package of CUDA."""
    return any(
        name.startswith(("nvidia-", "cuda-", "triton")) for name in requirements if "extra ==" not in name
    )


if __name__ == "__main__":
    print(FOLDER / f"{CUDA}.lock" if needed(requires("torch") or []) else "", end="")
