"""Overlap of one output with its reference: one module per metric, each with its own library."""
