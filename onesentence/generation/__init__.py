"""Generation: decoding, beam search over a shared prompt, and the smoke test."""
