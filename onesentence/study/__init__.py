"""What a study declares, its experiments, and what they show."""
