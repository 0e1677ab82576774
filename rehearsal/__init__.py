"""AWS on this machine: what the tests and `make demo` stand on."""
