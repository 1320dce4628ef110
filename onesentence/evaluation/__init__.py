"""Metrics for every article, and paired comparisons of systems."""
