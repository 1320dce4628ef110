"""What the benchmarks share: ratios with their spread, and the peak of this process's memory."""

import os
import threading
from pathlib import Path

import numpy as np

from onesentence.commands.preset import PRESETS
from onesentence.core import params
from onesentence.core.errors import UserError


def enter_preset(name: str | None) -> None:
    """Work in presets/NAME/, a pipeline that was laid out, from here on; None: in the default's."""
    if name is None:
        return
    folder = PRESETS / name
    if not (folder / params.PARAMS_FILE).is_file():
        raise UserError(f"--preset: {folder} not found; run `make repro PRESET={name}` first")
    os.chdir(folder)


def ratios(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Median, smallest and largest ratio of paired runs."""
    found = ours / theirs
    return {"median": float(np.median(found)), "low": float(found.min()), "high": float(found.max())}


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def reset_peak() -> int:
    """Start the count of the peak resident size anew (Linux); returns the resident size now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_bytes() -> int:
    """The peak resident size since `reset_peak`."""
    return _status("VmHWM")


class AnonymousPeak:
    """The most memory of its own that this process held inside a `with`, in bytes; 50 looks a second.

    The resident size also counts pages of mapped files (safetensors' shards), which the system takes back
    whenever someone needs them: for a model of 5.6 GB that is most of the peak.
    """

    def __enter__(self) -> "AnonymousPeak":
        self.before = self.peak = _status("RssAnon")
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.done.wait(0.02):
            self.peak = max(self.peak, _status("RssAnon"))

    def __exit__(self, *_) -> None:
        self.done.set()
        self.thread.join()

    @property
    def added(self) -> int:
        """Bytes added since the start."""
        return self.peak - self.before


def mapped_bytes(model) -> int:
    """Bytes of weights that are read where they lie in a mapped file: they are needed, and no memory of the
    process's own (weights that are loaded in the format of their file)."""
    ranges = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(".safetensors"):
            start, _, end = line.split()[0].partition("-")
            ranges.append((int(start, 16), int(end, 16)))
    weights = {weight.data_ptr(): weight.nbytes for weight in model.parameters()}
    return sum(size for place, size in weights.items() if any(start <= place < end for start, end in ranges))
