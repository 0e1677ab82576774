"""A build on the emulator: from a repository, however hostile, to the host's bucket."""
