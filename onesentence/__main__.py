"""`python -m onesentence`."""

from onesentence.cli import main

main()
