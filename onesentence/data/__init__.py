"""Where pairs come from, and how they are cleaned, split and freed of near duplicates."""
