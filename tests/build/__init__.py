"""What a build does on the emulator: from a repository, however hostile, to the host's bucket."""
