"""AWS on this machine, for the tests and `make demo`."""
