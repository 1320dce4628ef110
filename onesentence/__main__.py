"""Runs the command line: `python -m onesentence` does the same as `onesentence`."""

from onesentence.cli import main

main()
