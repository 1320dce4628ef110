"""Summaries of new articles, by the prompt, the decoding and the checks of the pipeline."""
