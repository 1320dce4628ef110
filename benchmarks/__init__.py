"""Measurements. Importing it chooses the kernels, before a benchmark's own imports load numpy."""

import onesentence  # noqa: F401
