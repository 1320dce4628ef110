"""Training: batches, loss, trainer, checkpoints, an estimate of memory, and faster parts for a CPU."""
