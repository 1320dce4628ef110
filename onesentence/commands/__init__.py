"""One module a command; `make` has a short form of most."""
