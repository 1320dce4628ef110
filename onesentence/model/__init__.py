"""The base model: its tokenizer and files, how it is loaded, what is trained of it."""
