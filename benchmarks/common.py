"""What the benchmarks share: ratios with their spread."""

import numpy as np


def ratios(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Median, smallest and largest ratio of paired runs."""
    found = ours / theirs
    return {"median": float(np.median(found)), "low": float(found.min()), "high": float(found.max())}
