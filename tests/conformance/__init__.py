"""The conformance run, against the emulator and differences from AWS planted in front of it."""
