"""The base model: its files and tokenizer, how it is loaded, and the adapters that are trained on it."""
