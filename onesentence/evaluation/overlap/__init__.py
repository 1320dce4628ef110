"""Overlap of one output with its reference: one module a metric, each with its own library."""
