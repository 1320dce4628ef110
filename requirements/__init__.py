"""The locks: every package that `make` installs, with the SHA-256 of each file that may be installed for it."""
