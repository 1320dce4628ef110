"""Sources of article and summary pairs, their splits, and the search for near-duplicates."""
