"""Decoding: beam search with a shared prompt, and the smoke test before a training."""
