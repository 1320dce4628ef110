"""Losses, dropout, memory and checkpoints of a training, and its fast parts on a CPU."""
