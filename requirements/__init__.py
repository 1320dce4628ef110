"""The locks: every package that `make` installs, with the SHA-256 of each of its files."""
