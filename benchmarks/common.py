"""What the benchmarks share: ratios with their spread, and the peak of this process's memory."""

from pathlib import Path

import numpy as np


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
