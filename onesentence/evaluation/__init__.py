"""Metrics of every article, and paired comparisons of systems."""
