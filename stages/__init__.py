"""The graph: one script for each stage of dvc.yaml."""

import onesentence  # noqa: F401  first: it chooses the kernels
from onesentence.core import errors

errors.report_while_loading()
