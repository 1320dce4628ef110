"""Export: the tuned model for other programs, and the proof that it scores the same there."""
